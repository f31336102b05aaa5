"""Test that `make bench` refuses unknown parts, missing files and options without effect, and that it checks each goal
that the text of the performance page names.
"""

import re
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.goals import CEILINGS, FLOORS, RATIOS
from tests.bench.performance_page import TEMPLATE


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """Record the parts that would be run, instead of running them. Return the list of their names and options."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(bench, "measured", lambda *call: (calls.append(call), (None, True))[1])
    monkeypatch.setattr(bench.performance_page, "write", lambda *_: None)
    return calls


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "1000"], "--rows"),
        (["--only", "loader", "--rows", "1000"], "--rows"),
        (["--only", "lodaer"], "lodaer"),
        (["--compare", "missing.json"], "missing.json"),
    ],
)
def test_options_without_effect_and_unknown_parts_are_refused(
    measured: list[tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert (ended.value.code, measured) == (2, [])
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_number_of_rows_is_passed_only_to_the_part_that_uses_it(measured: list[tuple[str, ...]]) -> None:
    assert bench.main(["--only", "dbt,marts", "--rows", "1000"]) == 0
    assert measured == [("dbt",), ("marts", "--rows", "1000")]


def test_every_goal_in_the_text_of_the_performance_page_is_checked() -> None:
    text = TEMPLATE.read_text()
    named = [float(goal) for goal in re.findall(r"\(goal: ([\d.]+)", text)]
    assert len(named) == text.count("goal: ") > 0
    assert {*named} <= {goal for _, goal in (*RATIOS, *FLOORS, *CEILINGS)}
