"""Test that the manual equals the help of the commands and contains all of them."""

import re
from pathlib import Path

from tools import manual
from tools.milkrun import ENTRIES

PAGE = Path(__file__).parents[3] / "docs" / "operating.md"


def test_manual_equals_the_help_of_the_commands() -> None:
    assert PAGE.read_text() == manual.text(), (
        "regenerate it: .venv/bin/python -m tools.manual > docs/operating.md"
    )


def test_every_command_and_almost_every_option_is_explained() -> None:
    text = manual.text()
    assert all((f"## `{manual.NAME} {entry.name}`" in text) is not entry.hidden for entry in ENTRIES)
    plain = re.findall(r"^\* `(--[a-z-]+) [^`]*`: (?:\[|$)", text, re.MULTILINE)
    assert set(plain) <= {
        "--trucks",
        "--farms",
        "--seed",
        "--events-per-day",
        "--event-bytes",
        "--geofence-share",
    }
