"""Options and output that the commands in `ops` and `tools` share.

The package `cli` contains the parts that the commands of all packages share.
"""

import contextlib
import json
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import botocore.exceptions
import typer
from rich.cells import cell_len
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
from typer.core import TyperGroup

from aws.errors import PermanentError, RetryableError
from cli import command_errors
from cli.json_numbers import finite
from cli.parse_time import parse_time
from cli.printable import SafeConsole, printable
from ops.stage_outputs import Outputs

# Results go to stdout, all else to stderr, so that `… --json | jq` gets only results.
out = SafeConsole(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = SafeConsole(stderr=True, highlight=False, soft_wrap=True)

# In most commands exit code 1 is a result, such as "there are differences", so failures exit with 2.
AWS_ERRORS = (
    botocore.exceptions.BotoCoreError,
    botocore.exceptions.ClientError,
    RetryableError,
    PermanentError,
)

HEARTBEAT_SECONDS = 5.0
NARROWEST_DETAIL = 24  # characters
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
MAX_SECONDS = 7 * 86_400  # the maximum of a timeout; without one, the option parser would accept "inf"


def stage_name(text: str) -> str:
    """Parse an option or argument that names a stage. Longer names would make bucket names of over 63 characters."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,18}", text):
        raise typer.BadParameter(
            f"{text!r} is not a stage name: use a lowercase letter, followed by at most 18 lowercase letters, "
            "digits and hyphens"
        )
    return text


def not_empty(text: str) -> str:
    """Parse an option that must not be empty, such as the id of a device."""
    if not text.strip():
        raise typer.BadParameter(f"{text!r} is empty")
    return text


def writable(text: str) -> Path:
    """Parse an option that names a file to write. Raises typer.BadParameter for a folder and an invalid path."""
    path = Path(text)
    try:
        if not text or path.is_dir() or not path.parent.is_dir():
            raise typer.BadParameter(
                f"{text!r} cannot be written: it is a folder, or its parent folder does not exist"
            )
        with contextlib.suppress(FileNotFoundError):
            path.stat()
    except OSError as error:
        raise typer.BadParameter(f"{text!r} cannot be written: {command_errors.explain(error)[0]}") from None
    return path


Stage = Annotated[
    str,
    typer.Option(parser=stage_name, metavar="STAGE", help="Name of the stage: local, or a deployed stage."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Wide = Annotated[
    bool,
    typer.Option("--wide", help="Print all columns and full timestamps, even if the terminal is narrow."),
]


# typer parses these defaults like any other value.
NOW: Any = "now"
A_DAY_AGO: Any = "24 hours ago"
TWO_DAYS_AGO: Any = "48 hours ago"


class Verbs(TyperGroup):
    """A command whose first subcommand is the default: `milkrun rejects` runs `list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


def group() -> typer.Typer:
    """Return a command group whose default is the first subcommand that is added."""
    return typer.Typer(cls=Verbs, pretty_exceptions_enable=False, add_completion=False)


def run(app: typer.Typer, environment: Mapping[str, str], arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: sys.argv) and return its exit code.

    An error is printed on one line; its exit code is 2, unless a Refusal sets another one. If the user declines a
    confirmation, the exit code is 1.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return command_errors.run(app, given, obj=environment, environment=environment, tell=fail)


def fail(problem: str) -> None:
    """Print one red line to stderr, with markup disabled, because ids and messages may contain brackets."""
    err.print(Text(printable(problem), style="red"))


def time(text: str) -> datetime:
    """Parse an option that is a time: ISO 8601, or a phrase such as `2 hours ago`."""
    try:
        return parse_time(text, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def text_option(metavar: str, help_: str, *names: str) -> Any:
    """Return a typer option whose value must not be empty, for use in a type annotation."""
    return typer.Option(*names, parser=not_empty, metavar=metavar, help=help_)


def time_option(help_: str, *names: str) -> Any:
    """Return a typer option whose value is a time, for use in a type annotation."""
    return typer.Option(*names, parser=time, metavar="TIME", help=help_)


def is_given(context: typer.Context, parameter: str) -> bool:
    """Return whether the command line contains the option with this parameter name."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


FIRST_HOUR = "First hour to include (time of receipt)."
LAST_HOUR = "Last hour to include (time of receipt)."
From = Annotated[datetime, time_option(FIRST_HOUR, "--from")]
To = Annotated[datetime, time_option(LAST_HOUR, "--to")]


def check_range(start: datetime, end: datetime) -> None:
    """Raise typer.BadParameter for an empty range, because a command would report that nothing is missing in it."""
    if start > end + timedelta(seconds=1):  # `now` in --from may be resolved after `now` in --to
        raise typer.BadParameter(f"--from ({in_words(start)}) is after --to ({in_words(end)})")


def shell_word(text: str) -> str:
    r"""Quote a string from an event for bash and zsh. Unprintable characters become `\U........` in `$'…'`."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.replace("\\", r"\\").replace("'", r"\'")
    return "$'" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + "'"


def stage_option(stage: str) -> str:
    """Return the option ` --stage NAME` for a printed command; "" for the local stack."""
    return "" if stage == "local" else f" --stage {shlex.quote(stage)}"


def confirm_sample_traffic(stage: str, yes: bool) -> None:
    """Ask for confirmation before sample traffic is sent to a deployed stage.

    Raises typer.Abort if the user declines.
    """
    if stage != "local" and not yes:
        typer.confirm(f"Send events of sample trucks and farms to stage {stage}?", abort=True, err=True)


def outputs_of(context: typer.Context, stage: str) -> Outputs:
    """Return the outputs of a stage. `context.obj` contains the environment variables of the process."""
    environment: Mapping[str, str] = context.obj
    return Outputs.find(stage, environment)


@contextlib.contextmanager
def stopped_by_ctrl_c(stop: Callable[[], object]) -> Iterator[threading.Event]:
    """Call `stop` and set the yielded event on the first Ctrl-C. A second Ctrl-C raises KeyboardInterrupt as usual.

    The handler is necessary because Python may raise KeyboardInterrupt where it is ignored, such as in a
    finalizer.
    """
    pressed = threading.Event()
    previous = signal.getsignal(signal.SIGINT)

    def handle(*_: object) -> None:
        signal.signal(signal.SIGINT, previous)
        pressed.set()
        stop()

    if previous is not signal.SIG_IGN:  # a shell's background process ignores Ctrl-C
        signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Yield progress bars that are shown on stderr until the context ends.

    If stderr is not a terminal, print a line every few seconds.
    """
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(bars, ended), daemon=True, name="heartbeat")
    with bars:
        if bars.disable:
            heart.start()
        try:
            yield bars
        finally:
            ended.set()


def _beat(bars: Progress, ended: threading.Event) -> None:
    began = monotonic()
    while not ended.wait(HEARTBEAT_SECONDS):
        unfinished = [task for task in bars.tasks if not task.finished]
        if unfinished:
            task = unfinished[-1]
            of = "" if task.total is None else f" of {task.total:g}"
            note(f"{task.description}: {task.completed:g}{of} after {monotonic() - began:.0f} s")


def note(line: str) -> None:
    """Print one line to stderr, with markup disabled."""
    err.print(Text(printable(line)))


def counted[T](items: Iterable[T], what: str) -> Iterator[T]:
    """Yield the items unchanged, and show their number as progress."""
    with progress() as bars:
        task = bars.add_task(what, total=None)
        for item in items:
            yield item
            bars.advance(task)


def show(result: Mapping[str, object], as_json: bool) -> None:
    """Print one result, as JSON or as a table of two columns."""
    if as_json:
        print_json(result)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in result.items():
        table.add_row(name.replace("_", " "), cell(value))
    out.print(table)


def show_rows(
    rows: Sequence[Mapping[str, object]],
    as_json: bool,
    *,
    title: str = "",
    wide: bool = False,
    empty: str = "",
) -> None:
    """Print rows as JSON or as a table, or print the sentence `empty` if there are no rows.

    On a terminal, timestamps are shortened and columns that do not fit are omitted, unless `wide` is set.
    """
    if as_json:
        print_json(list(rows))
        return
    if empty and not rows:
        out.print(empty, markup=False)
        return
    names = list(rows[0]) if rows else []
    fit = out.is_terminal and not wide
    if fit:
        now = datetime.now(UTC)
        rows = [{name: short_time(value, now) for name, value in row.items()} for row in rows]
    shown = fitting(names, rows, out.width) if fit else names
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in shown:
        # Keys are never truncated, so that they can be copied.
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row[name]) for name in shown))
    out.print(table)
    if left_out := [name for name in names if name not in shown]:
        note(f"omitted, because the terminal is narrow: {', '.join(left_out)} (use --wide or --json)")


def short_time(value: object, now: datetime) -> object:
    """Shorten a timestamp of today to, for example, `06:30:12Z`, and one of another day to `2026-11-27 06:30Z`."""
    if isinstance(value, str) and _TIMESTAMP.fullmatch(value):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return value
    at = value.astimezone(UTC)
    return f"{at:%H:%M:%SZ}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%MZ}"


def fitting(names: Sequence[str], rows: Sequence[Mapping[str, object]], width: int) -> list[str]:
    """Return the columns whose values fit side by side into a width, without line breaks.

    The first column is always included. Columns that are too wide are omitted. The last column, which often
    contains details, may have line breaks if enough width remains.
    """
    shown: list[str] = []
    left = width
    for name in names:
        needs = max([len(name), *(cell_len(printable(in_words(row[name]))) for row in rows)]) + 2
        if not shown or needs <= left:
            shown.append(name)
            left -= needs
    if names and names[-1] not in shown and left >= NARROWEST_DETAIL:
        shown.append(names[-1])
    return shown


def cell(value: object) -> Text:
    """Return a table cell with markup disabled, because a device may be named `[red]`, and without control
    characters.
    """
    return Text(printable(in_words(value)))


def print_json(value: object) -> None:
    # Printed without rich, which would wrap and colour the text.
    text = json.dumps(finite(value), default=in_words, indent=2, ensure_ascii=False, allow_nan=False)
    typer.echo(printable(text))


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
