"""The console of the local stack.

The console starts in the background. No other part of the stack waits for the console or fails if the console fails.
"""

import json
import socket
import sys
from http.client import HTTPException

from ops.stage_outputs import ROOT
from tools.stack.processes import Process, Processes
from tools.stack.settings import LOOPBACK, WITHOUT_PROXY, Settings

NAME = "console"
READY_S = 120.0


def launch(settings: Settings, processes: Processes) -> Process | None:
    """Start the console if it is not running, and return its process; return None if another program uses the
    console's port.
    """
    if running := processes.alive(NAME):
        return running
    if not _is_free(settings.console_port):
        return None
    command: list[str] = [sys.executable, "-m", "tools.console", "--port", str(settings.console_port)]
    return processes.start(NAME, command, settings.aws_environment, ROOT, grace_s=5)


def is_ready(settings: Settings) -> bool:
    """Return whether the console of a local stage answers; the port may belong to the console of a deployed stage."""
    try:
        with WITHOUT_PROXY.open(f"{settings.console_url}/api/health", timeout=2) as answer:
            return bool(json.load(answer).get("stage", "local") == "local")
    except (OSError, ValueError, AttributeError, HTTPException):
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
