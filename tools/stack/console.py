"""The console of the local stack.

It starts in the background; no other part waits for it or fails with it.
"""

import socket
import sys

from ops.outputs import ROOT
from tools.stack.processes import Process, Processes
from tools.stack.settings import LOOPBACK, WITHOUT_PROXY, Settings

NAME = "console"
READY_S = 120.0


def launch(settings: Settings, processes: Processes) -> Process | None:
    """Return the running console, or a new one; None if another program has its port."""
    if running := processes.alive(NAME):
        return running
    if not _is_free(settings.console_port):
        return None
    command: list[str] = [sys.executable, "-m", "tools.console", "--port", str(settings.console_port)]
    return processes.start(NAME, command, settings.aws_environment, ROOT, grace_s=5)


def is_ready(settings: Settings) -> bool:
    try:
        with WITHOUT_PROXY.open(f"{settings.console_url}/api/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
