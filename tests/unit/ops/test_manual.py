"""The manual is what the commands say of themselves, and all commands are in it."""

import re
from pathlib import Path

from tools import manual
from tools.milkrun import ENTRIES

PAGE = Path(__file__).parents[3] / "docs" / "operating.md"


def test_the_manual_is_what_the_commands_say() -> None:
    assert PAGE.read_text() == manual.text(), (
        "write it anew: .venv/bin/python -m tools.manual > docs/operating.md"
    )


def test_every_command_and_every_option_but_the_plainest_is_explained() -> None:
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
