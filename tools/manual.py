"""Generate docs/operating.md from the help of the commands: `python -m tools.manual > docs/operating.md`."""

import copy
import re
import sys
from collections import Counter

import typer
from typer.cli import get_docs_for_click
from typer.core import TyperCommand, TyperGroup

from tools.milkrun import loaded

NAME = "milkrun"
COMMON_FROM = 5
"""An option that at least this many commands share, with the same explanation, is explained only once."""
COMMON = """## Common options

Many commands have these options. A TIME is written in ISO 8601, such as 2026-11-16T08:00Z, or as a
phrase such as `2 hours ago`.
"""


def text() -> str:
    """Return the text of docs/operating.md: every visible command with its options."""
    command = copy.copy(loaded())
    command.commands = {name: inner for name, inner in command.commands.items() if not inner.hidden}
    _show_whole_summaries(command)
    context = typer.Context(command, info_name=NAME)
    page = get_docs_for_click(obj=command, ctx=context, name=NAME, title="Operating").strip()
    return with_common_options(page) + "\n"


def with_common_options(page: str) -> str:
    """Move the options that many commands share to one section of the page, and return the page. Each command then
    lists only the names of those options.
    """
    page = re.sub(r"^\* `--help`: .*\n?", "", page, flags=re.MULTILINE).replace(" range>`", ">`")
    page = re.sub(r"\*\*Options\*\*:\n\n(?=\n|\Z)", "", page).strip()
    options = Counter(re.findall(r"^\* `-.*", page, flags=re.MULTILINE))
    common = [line for line, number in options.items() if number >= COMMON_FROM]

    def shortened(block: re.Match[str]) -> str:
        lines = block[0].splitlines()
        names = [_name(line) for line in lines if line in common]
        own = [line for line in lines if line not in common]
        listed = [f"* [Common options](#common-options): {', '.join(names)}."] if names else []
        return "\n\n".join(own + listed) + "\n"

    page = re.sub(r"(^\* `-.*\n?)+", shortened, page, flags=re.MULTILINE)
    introduction, first, rest = page.partition(f"\n## `{NAME} ")
    explained = COMMON + "\n" + "\n\n".join(common)
    return re.sub(r"\n{3,}", "\n\n", f"{introduction}\n{explained}\n{first}{rest}".strip())


def _name(line: str) -> str:
    return f"`{re.findall('--[a-z-]+', line)[0]}`"


def _show_whole_summaries(command: TyperCommand | TyperGroup) -> None:
    """Set each command's short help to the first paragraph of its help text, because click would otherwise
    truncate the short help at 45 characters.
    """
    command.short_help = " ".join((command.help or "").partition("\n\n")[0].split())
    for inner in getattr(command, "commands", {}).values():
        _show_whole_summaries(inner)


if __name__ == "__main__":
    sys.stdout.write(text())
