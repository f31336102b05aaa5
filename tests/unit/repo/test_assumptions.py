"""Every assumption names a test that exists, a file that exists, and a source."""

import re

import pytest

from tools.check import ROOT

PAGE = (ROOT / "docs" / "reference" / "assumptions.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| claim", "|---"))
]


def test_the_page_has_rows_of_five_cells():
    assert len(ROWS) > 20
    assert [row for row in ROWS if len(row) != 5 or not all(row)] == []


@pytest.mark.parametrize("row", ROWS, ids=[str(n) for n in range(len(ROWS))])
def test_a_row_names_tests_and_files_that_exist(row):
    _, source, relied_on, pinned, _ = row
    assert '"' in source or "](" in source or "schemas" in source
    for path in re.findall(r"`((?:[\w.-]+/)[\w./-]+)(?:::\w+)?`", f"{relied_on} {pinned}"):
        assert (ROOT / path).exists(), path
    for path, test in re.findall(r"`(tests/[\w./]+)::(\w+)`", pinned):
        assert f"def {test}(" in (ROOT / path).read_text(), test
