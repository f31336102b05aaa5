"""What all commands share: where they print, their common options, and how they give up."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import botocore.exceptions
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from ops.outputs import NoStackError, Outputs
from ops.times import instant
from snowpipe.refusal import Refusal

# Results go to stdout, whatever only accompanies them to stderr: `… --json | jq` sees results alone.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# Code 1 has a meaning of its own in most commands ("some are left"): nobody may take a failure for it.
AWS_ERRORS = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)

Stage = Annotated[str, typer.Option(help="local, or a deployed stage.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def run(app: typer.Typer, environment: Mapping[str, str]) -> int:
    """The exit code of the process: 2, and one line on stderr, where something stands in the way."""
    try:
        app(obj=environment, standalone_mode=True)
    except (NoStackError, Refusal, *AWS_ERRORS) as problem:
        fail(str(problem))
        return 2
    return 0


def fail(problem: str) -> None:
    """One red line on stderr. Never markup: ids and messages of others hold brackets."""
    err.print(Text(problem, style="red"))


def time(text: str) -> datetime:
    """A parser for options that take a time."""
    try:
        return instant(text, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def check_range(start: datetime, end: datetime) -> None:
    """An empty range would be answered with "nothing is missing"."""
    if start > end + timedelta(seconds=1):  # `now` of --from may be read after that of --to
        raise typer.BadParameter(f"--from ({in_words(start)}) is after --to ({in_words(end)})")


def outputs_of(context: typer.Context, stage: str) -> Outputs:
    """`context.obj` is the environment: the entry point put it there."""
    environment: Mapping[str, str] = context.obj
    return Outputs.find(stage, environment)


def progress() -> Progress:
    """Bars on stderr; they vanish when done, and never appear where nobody looks (a pipe, a log)."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def counted[T](items: Iterable[T], what: str) -> Iterator[T]:
    """The same items, and meanwhile a bar that counts them."""
    with progress() as bars:
        task = bars.add_task(what, total=None)
        for item in items:
            yield item
            bars.advance(task)


def show(result: Mapping[str, Any], as_json: bool) -> None:
    """One result, as JSON or as a table of two columns."""
    if as_json:
        print_json(result)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in result.items():
        table.add_row(name.replace("_", " "), cell(value))
    out.print(table)


def show_rows(rows: Sequence[Mapping[str, Any]], as_json: bool, *, title: str = "") -> None:
    """Many results of one shape."""
    if as_json:
        print_json(list(rows))
        return
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in rows[0] if rows else ():
        # Never cut short: a key is there to be copied.
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row.values()))
    out.print(table)


def cell(value: object) -> Text:
    """Of a table, as it is: a device may be called `[red]`."""
    return Text(in_words(value))


def print_json(value: object) -> None:
    # Not through rich, which would wrap and colour it.
    typer.echo(json.dumps(value, default=in_words, indent=2, ensure_ascii=False))


def in_words(value: object) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case Mapping():
            return ", ".join(f"{name} {in_words(inner)}" for name, inner in value.items()) or "none"
        case float():
            return f"{value:g}" if abs(value) < 100 else f"{value:.0f}"
        case _:
            return str(value)
