"""The command line: one line for what went wrong, and how long each step took."""

import argparse
import signal
from collections.abc import Mapping, Sequence
from types import FrameType

from rich.console import Console

from ops.stack.faults import StackError
from ops.stack.settings import Settings
from ops.stack.stack import PARTS, Stack


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ops.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start what is not running, deploy what has changed")
    up.add_argument("--only", choices=PARTS, help="this part alone")
    commands.add_parser("stop", help="end the stack, keep Snowflake's files")
    commands.add_parser("down", help="end the stack and wipe it")
    return parser


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    options = parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    try:
        stack = Stack(Settings.of(environment), say=lambda line: console.print(line))
        match options.command:
            case "up":
                stack.up(only=options.only)
            case "stop":
                stack.stop()
            case "down":
                stack.down()
    except (StackError, ValueError) as error:
        console.print(f"[red]{error}")
        return 1
    except KeyboardInterrupt:
        console.print("[red]Interrupted; what this command had started is ended.")
        return 130
    return 0


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
