"""The local Snowflake: one process, whose files are in the stack's folder and remain there after the process
has ended.
"""

import secrets
import socket
import sys
from pathlib import Path

from ops.stage_outputs import ROOT
from tools.stack import private_files
from tools.stack.processes import Process, Processes
from tools.stack.settings import LOOPBACK, Settings

NAME = "snowflake"
TITLE = "Snowflake"
READY_S = 120.0
USER = "milkrun"


def port(settings: Settings) -> int:
    return settings.snowflake_port


def check_tools() -> None:
    """Do nothing, because the local Snowflake needs only this Python interpreter."""


def launch(settings: Settings, processes: Processes) -> Process:
    settings.snowflake_folder.mkdir(parents=True, exist_ok=True)
    port, folder = str(settings.snowflake_port), settings.snowflake_folder
    command: list[str | Path] = [sys.executable, "-m", "local_snowflake", "--port", port, "--dir", folder]
    return processes.start(NAME, command, environment(settings), ROOT, grace_s=10)


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables of the local Snowflake's process. They include the login, which is not
    a command-line option because `ps` shows options to every user.
    """
    return {**settings.aws_environment, "LOCAL_SNOWFLAKE_LOGIN": f"{USER}/{password(settings)}"}


def password_file(settings: Settings) -> Path:
    return settings.snowflake_folder / "password"


def new_password() -> str:
    return secrets.token_urlsafe(24)


def is_password(text: str) -> bool:
    return len(text) == 32


def password(settings: Settings) -> str:
    """Return the stack's Snowflake password, and create it if it does not exist. The password is deleted
    together with the warehouse's folder.
    """
    file = password_file(settings)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        private_files.write(file, new_password())
    return file.read_text()


def is_ready(settings: Settings) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, settings.snowflake_port)) == 0


def connection(settings: Settings) -> dict[str, str | int]:
    """Return the parameters with which the Snowflake connector connects to the local Snowflake."""
    return {
        "account": "milkrun",
        "host": LOOPBACK,
        "port": settings.snowflake_port,
        "protocol": "http",
        "user": USER,
        "password": password(settings),
        "database": "MILKRUN",
        "warehouse": "MILKRUN_WH",
    }
