"""Test that docs/threat-model.md names an existing test for every attacker."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "threat-model.md"


def attackers() -> Iterator[tuple[str, list[str]]]:
    """Yield each attacker in the table with the tests named in that row. In the table, `…` in place of a test's
    file stands for the file named before it.
    """
    table = PAGE.read_text().partition("\n## Attackers\n")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    file = ""
    for row in rows:
        attacker, _, _, tests = (cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])
        named = []
        for test in re.findall(r"`((?:[\w/]*tests/|…::)[^`]+)`", tests):
            path, _, name = test.partition("::")
            file = file if path == "…" else path
            named.append(f"{file}::{name}" if name else file)
        yield attacker, named


def exists(test: str) -> bool:
    path, _, name = test.partition("::")
    file = ROOT / path
    return file.is_file() and (not name or f"def {name}(" in file.read_text())


def test_each_attacker_in_the_threat_model_has_an_existing_test() -> None:
    table = list(attackers())
    assert len(table) >= 15
    assert [attacker for attacker, tests in table if not tests] == []
    assert [test for _, tests in table for test in tests if not exists(test)] == []


@pytest.mark.parametrize(
    "test", ["tests/unit/repo/gone.py", "tests/unit/repo/test_threat_model.py::test_gone"]
)
def test_reference_to_a_missing_test_in_the_threat_model_is_detected(test: str) -> None:
    assert not exists(test)
