"""Test that a partial run of the fault suite replaces its own lines in docs/reliability.md and keeps the
others.
"""

from pathlib import Path

from tests.faults.checker import Breach
from tests.faults.harness import Result
from tests.faults.report import BEGIN, END, Line, write

ORDER = {"one breaks": 0, "two breaks": 1, "three breaks": 2}


def result(name: str, recovered_s: float = 2.4, breaches: tuple[Breach, ...] = ()) -> Result:
    return Result(name, 7, "00000000", [], breaches, recovered_s, 10.0)


def test_lines_are_replaced_by_name_and_sorted_by_scenario(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    write([result("three breaks"), result("one breaks")], ORDER, document)
    lost = (Breach("lost", "x"), Breach("undelivered", "y"), Breach("notification", "z"), Breach("both", "b"))
    write([result("two breaks"), result("one breaks", 1200.0, lost)], ORDER, document)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    lines = [line for each in text.splitlines() if (line := Line.read(each))]
    assert [line.fault for line in lines] == ["one breaks", "two breaks", "three breaks"]
    assert lines[0] == Line("one breaks", 0, 0, 0, 1200, lost=2, duplicated=0, wrong_visits=1, others=1)
    assert "1,200 s | 2 | 0 | 1 | 1 |" in text.splitlines()[-6], "line of totals"


def test_line_of_a_removed_scenario_is_deleted(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"{BEGIN}\n{END}")
    write([result("old"), result("one breaks")], {"old": 0, "one breaks": 1}, document)
    write([result("one breaks")], ORDER, document)
    assert "| old |" not in document.read_text()
