"""The local Snowflake: one process; its files are in the stack's folder and outlive it."""

import socket
import sys
from pathlib import Path

from ops.outputs import ROOT
from tools.stack.processes import Process, Processes
from tools.stack.settings import LOOPBACK, Settings

NAME = "snowflake"
TITLE = "Snowflake"


def port(settings: Settings) -> int:
    return settings.snowflake_port


def check_tools() -> None:
    """Do nothing, because the local Snowflake needs only the Python that runs this."""


def launch(settings: Settings, processes: Processes) -> Process:
    settings.snowflake_folder.mkdir(parents=True, exist_ok=True)
    port, folder = str(settings.snowflake_port), settings.snowflake_folder
    command: list[str | Path] = [sys.executable, "-m", "local_snowflake", "--port", port, "--dir", folder]
    return processes.start(NAME, command, settings.aws_environment, ROOT, grace_s=10)


def is_ready(settings: Settings) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, settings.snowflake_port)) == 0


def connection(settings: Settings) -> dict[str, str | int]:
    """Return the settings for the Snowflake connector; the local Snowflake accepts any user and password."""
    return {
        "account": "milkrun",
        "host": LOOPBACK,
        "port": settings.snowflake_port,
        "protocol": "http",
        "user": "milkrun",
        "password": "milkrun",
        "database": "MILKRUN",
        "warehouse": "MILKRUN_WH",
    }
