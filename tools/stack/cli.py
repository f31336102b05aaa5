"""The command line: what is going on and how long it took, and one line for what went wrong."""

import argparse
import errno
import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from tools.stack import console as guest
from tools.stack import logs, status
from tools.stack.faults import StackError
from tools.stack.settings import Settings
from tools.stack.stack import SERVERS, Stack


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start what does not run, deploy what has changed")
    up.add_argument("--only", choices=sorted(SERVERS), help="start this part alone, deploy nothing")
    commands.add_parser(
        "console", help="start the console of the running stack if need be; print its address"
    )
    commands.add_parser("stop", help="end the stack, keep Snowflake's files")
    commands.add_parser("down", help="end the stack and wipe it")
    state = commands.add_parser("status", help="the stack's processes and their memory")
    state.add_argument("--json", action="store_true")
    log = commands.add_parser("logs", help="what the functions, LocalStack and Snowflake wrote")
    log.add_argument(
        "names", nargs="*", help="such as ingest, consume, localstack, snowflake; all if none is named"
    )
    log.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    log.add_argument("-n", "--lines", type=int, default=40, help="of each, to begin with")
    return parser


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Exit code: 0 done, 1 not, 130 interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    options = _parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    try:
        settings = Settings.of(environment)
        return _run(options, Stack(settings, step=lambda what: _timed(console, what)), console)
    except (StackError, ValueError) as error:
        console.print(f"[red]{error}", soft_wrap=True)
    except KeyboardInterrupt:
        if options.command != "logs":
            console.print("[red]Interrupted. What this command had started is ended.")
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        console.print("[red]The disk is full. Make room and run this again.")
    return 1


def _run(options: argparse.Namespace, stack: Stack, console: Console) -> int:
    settings = stack.settings
    match options.command:
        case "up":
            began = time.monotonic()
            stack.up(only=options.only)
            if options.only:
                console.print(
                    f"{SERVERS[options.only].TITLE} listens on port {SERVERS[options.only].port(settings)}."
                )
            else:
                console.print(
                    f"The stack is up, after {time.monotonic() - began:.1f} s: {settings.outputs_file}"
                )
                if stack.processes.alive(guest.NAME):
                    console.print(f"Look at it: {settings.console_url}")
                else:
                    console.print(
                        f"[yellow]Without the console: port {settings.console_port} is in use by another program."
                    )
        case "console":
            print(stack.console())  # noqa: T201
        case "stop":
            stack.stop()
        case "down":
            stack.down()
        case "status":
            rows = status.rows(stack.processes)
            if options.json:
                Console().print_json(json.dumps(rows, allow_nan=False))
            else:
                Console().print(_table(rows))
            return 0 if stack.is_up() else 1
        case "logs":
            logs.show(
                logs.sources(settings, options.names), options.lines, options.follow, Console(highlight=False)
            )
    return 0


def _table(rows: Sequence[Mapping[str, object]]) -> Table:
    table = Table("part", "process", "resident MiB", "proportional MiB", "what")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    return table


@contextmanager
def _timed(console: Console, what: str) -> Iterator[None]:
    began = time.monotonic()
    with console.status(f"{what} …"):
        if not console.is_terminal:
            console.print(f"{what} …")
        yield
    console.print(f"[green]✔[/] {what}, {time.monotonic() - began:.1f} s")


def _interrupt(*_: object) -> None:
    """Once: a second Ctrl-C must not cut short the clearing up after the first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
