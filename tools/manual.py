"""Generate docs/operating.md from the help of the commands: `python -m tools.manual > docs/operating.md`."""

import copy
import sys

import typer
from typer.cli import get_docs_for_click
from typer.core import TyperCommand, TyperGroup

from tools.milkrun import loaded

NAME = "milkrun"


def text() -> str:
    """Return the manual page: every visible command with its options."""
    command = copy.copy(loaded())
    command.commands = {name: inner for name, inner in command.commands.items() if not inner.hidden}
    _show_whole_summaries(command)
    context = typer.Context(command, info_name=NAME)
    return get_docs_for_click(obj=command, ctx=context, name=NAME, title="Operating").strip() + "\n"


def _show_whole_summaries(command: TyperCommand | TyperGroup) -> None:
    """Use the first paragraph of each help text as its short help, because click truncates it at 45 characters."""
    command.short_help = " ".join((command.help or "").partition("\n\n")[0].split())
    for inner in getattr(command, "commands", {}).values():
        _show_whole_summaries(inner)


if __name__ == "__main__":
    sys.stdout.write(text())
