"""The commands of the local stack. They print progress messages with durations, and one-line errors, to stderr."""

import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from cli import command_errors
from ops import terminal
from ops.stage_outputs import ROOT
from tools.stack import console as guest
from tools.stack import identity
from tools.stack import logs as log_files
from tools.stack import memory as processes
from tools.stack.errors import StackError
from tools.stack.identity import Auth, Tokens
from tools.stack.settings import Settings
from tools.stack.stack import SERVERS, Stack

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command of the local stack.

    Exit codes: 0 (success), 1 (`status`: the stack is not up; `up`: data was lost), 2 (failure), 130 (interrupted),
    141 (the reader of the output has ended).
    """
    return command_errors.run(app, arguments, obj=environment, environment=environment, tell=_complain)


def _complain(line: str) -> None:
    typer.secho(line, err=True, fg="red")


@contextmanager
def _stack(context: typer.Context) -> Iterator[tuple[Stack, Console]]:
    """Yield the stack that the environment variables select, and a terminal for progress messages. SIGTERM
    and SIGHUP interrupt the command like Ctrl-C.
    """
    handlers = {number: signal.signal(number, _interrupt) for number in _INTERRUPTS}
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not (ROOT / "serverless.yml").exists():
        raise StackError(
            "The local stack needs a clone of Milkrun's repository: clone it, and run ./milkrun up there."
        )
    try:
        stack = Stack(Settings.of(context.obj), step=lambda what: _timed(console, what))
        try:
            yield stack, console
        except KeyboardInterrupt:
            # If the stack is up, a server or console that the command started keeps running.
            ended = (
                ""
                if stack.settings.outputs_file.exists()
                else " Everything that this command started has ended."
            )
            if context.info_name != "logs":
                _complain(f"Interrupted.{ended}")
            raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


AuthOption = Annotated[
    Auth | None,
    typer.Option(
        help=(
            "Credentials that the local stack requires: the API key (key), or the API key and a token from the "
            "stack's own issuer (jwt). Default: unchanged, or key for a new stack."
        )
    ),
]


@app.command()
def up(
    context: typer.Context,
    only: Annotated[
        Literal["localstack", "snowflake"] | None,
        typer.Option(help="Start only this service, and deploy nothing."),
    ] = None,
    *,
    discard: Annotated[
        bool,
        typer.Option("--discard", help="First delete all data of the local stack, then start it empty."),
    ] = False,
    auth: AuthOption = None,
) -> None:
    """Start or repair the local stack, and deploy everything that has changed.

    The command starts only processes that are not running. Without --discard, it deletes only what an interrupted
    `up` left. Exit code 1: a process had died, and the data that it held in memory is lost.
    """
    with _stack(context) as (stack, console):
        began = time.monotonic()
        for line in stack.up(only=only, discard=discard, auth=auth):
            console.print(line, markup=False)
        settings = stack.settings
        if only:
            console.print(f"{SERVERS[only].TITLE} listens on port {SERVERS[only].port(settings)}.")
            return
        console.print(
            f"The stack is up after {time.monotonic() - began:.1f} s. Outputs: {settings.outputs_file}"
        )
        if stack.processes.alive(guest.NAME):
            console.print(f"Web console: {settings.console_url}")
        else:
            console.print(
                f"[yellow]The console is not running. Another program may be using port {settings.console_port}."
            )


def ensure_up(context: typer.Context, auth: Auth | None = None) -> None:
    """Start the local stack if it is not running. If `auth` is given and the stack requires another kind of
    credential, deploy it again.
    """
    with _stack(context) as (stack, _):
        is_right = stack.is_up() and auth in (None, identity.current(stack.settings))
    if not is_right:
        up(context, auth=auth)


@app.command()
def token(
    context: typer.Context,
    device: Annotated[
        str,
        typer.Argument(parser=terminal.not_empty, metavar="DEVICE", help="Device id to put into the token."),
    ],
) -> None:
    """Print a token for a device. The local stack must require tokens (milkrun up --auth jwt)."""
    with _stack(context) as (stack, _):
        own = stack.outputs().token_issuer
        if own is None:
            raise StackError("This stack requires no tokens. To change that, run: milkrun up --auth jwt")
        typer.echo(Tokens(own)(device))


@app.command()
def console(context: typer.Context) -> None:
    """Start the console of the running stack if the console is not running; print its URL."""
    with _stack(context) as (stack, _):
        typer.echo(stack.console())


@app.command()
def stop(context: typer.Context) -> None:
    """Stop the local stack. Only the data of the local Snowflake is kept."""
    with _stack(context) as (stack, console):
        for line in stack.stop():
            console.print(line, markup=False)


@app.command()
def down(context: typer.Context) -> None:
    """Stop the local stack and delete its data."""
    with _stack(context) as (stack, console):
        for line in stack.down():
            console.print(line, markup=False)


@app.command()
def status(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the local stack's processes and their memory.

    Exit code 1: the stack is not up.
    """
    with _stack(context) as (stack, _):
        rows = processes.rows(stack.processes)
        if as_json:
            typer.echo(json.dumps(rows, indent=2, allow_nan=False))
        else:
            Console().print(_table(rows))
        if not stack.is_up():
            raise typer.Exit(1)


@app.command()
def logs(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help=(
                "Logs to print, such as ingest, consume, localstack or snowflake. Default: all logs except deploy "
                "and apply."
            ),
        ),
    ] = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue to print new lines until Ctrl-C.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Number of existing lines to print from each log.")
    ] = 40,
) -> None:
    """Print the logs of the functions, LocalStack, Snowflake and the console."""
    with _stack(context) as (stack, _):
        log_files.show(stack.settings, names or (), lines, follow, Console(highlight=False))


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
    """Raise KeyboardInterrupt, and ignore further interrupts so that a second Ctrl-C does not abort the clean-up."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
