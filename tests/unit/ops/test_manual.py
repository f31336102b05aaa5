"""Test that docs/operating.md contains the help texts of all visible commands, and explains every option."""

import re
from pathlib import Path

from tools import manual
from tools.milkrun import ENTRIES

PAGE = Path(__file__).parents[3] / "docs" / "operating.md"


def test_manual_equals_the_help_of_the_commands() -> None:
    assert PAGE.read_text() == manual.text(), (
        "regenerate it: .venv/bin/python -m tools.manual > docs/operating.md"
    )


def test_every_visible_command_and_every_option_is_explained() -> None:
    text = manual.text()
    assert all((f"## `{manual.NAME} {entry.name}`" in text) is not entry.hidden for entry in ENTRIES)
    assert re.findall(r"^\* `[^`]*`: *(?:\[.*)?$", text, re.MULTILINE) == []


def test_common_option_is_explained_only_once() -> None:
    page = "\n\n".join(
        f"## `milkrun {n}`\n\n**Options**:\n\n* `--own{n}`: Own.\n* `--json`: Print JSON.\n* `--help`: Help."
        for n in range(manual.COMMON_FROM)
    )
    shown = manual.with_common_options(f"Introduction.\n\n{page}")
    assert shown.count("Print JSON.") == 1
    assert shown.count("`--json`.") == manual.COMMON_FROM
    assert shown.count(": Own.") == manual.COMMON_FROM
