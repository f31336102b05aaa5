"""Test that every row of docs/reference/assumptions.md names a source and only tests and files that exist."""

import re

import pytest

from tools.check import ROOT

PAGE = (ROOT / "docs" / "reference" / "assumptions.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| claim", "|---"))
]


def test_every_row_of_the_assumptions_table_has_five_nonempty_cells():
    assert len(ROWS) > 20
    assert [row for row in ROWS if len(row) != 5 or not all(row)] == []


@pytest.mark.parametrize("row", ROWS, ids=[str(n) for n in range(len(ROWS))])
def test_row_of_the_assumptions_table_names_only_existing_tests_and_files(row):
    _, source, relied_on, pinned, _ = row
    assert re.search(r"✓|\(title\)|\(not confirmed\)|metrics\.yml|resource schemas", source), source
    for path in re.findall(r"`((?:[\w.-]+/)[\w./-]+)(?:::\w+)?`", f"{relied_on} {pinned}"):
        assert (ROOT / path).exists(), path
    for path, test in re.findall(r"`(tests/[\w./]+)::(\w+)`", pinned):
        assert f"def {test}(" in (ROOT / path).read_text(), test


def test_assumption_checked_by_milkrun_verify_names_a_test_that_milkrun_verify_runs():
    for row in ROWS:
        if "`milkrun verify`" not in row[4]:
            continue
        named = re.findall(r"`(tests/e2e/\w+\.py)::(\w+)`", f"{row[3]} {row[4]}")
        assert named, row[0]
        for path, test in named:
            text = (ROOT / path).read_text()
            marked = "pytestmark = pytest.mark.stage" in text or re.search(
                rf"@pytest\.mark\.stage\n(@pytest[^\n]*\n)*def {test}\(", text
            )
            assert marked, test
