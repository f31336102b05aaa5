"""Test that the performance page shows the figures of a run, and dashes for figures that were not measured."""

import json
import re
from pathlib import Path

import pytest

from tests.bench import __main__ as runner
from tests.bench import page
from tests.bench.figures import Figures, exponent


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(runner, "LATEST", tmp_path / "latest.json")
    return tmp_path


@pytest.mark.parametrize("k", [0.0, 0.5, 1.0, 2.0])
def test_exponent_is_fitted_despite_fixed_costs(k: float) -> None:
    assert exponent([(x, 3 * x**k) for x in (1, 10, 100, 1000)]) == pytest.approx(k)
    assert exponent([(x, 5 + 3 * x**k) for x in (1, 10, 1000, 5000, 10_000)]) == pytest.approx(k, abs=0.05)


def test_placeholders_become_figures_or_dashes(written: Path) -> None:
    page.write({"ratios": {"handler/naive@100": 0.331}, "rates": {"handler/ms@100": 1.5}, "parts": {}})
    text = page.PAGE.read_text()
    assert "| naive | – | – | 0.33 | – |" in text
    assert "| `handler/naive@100` | 0.33 | ≤ 0.5 | met |" in text
    assert "{{" not in text


def test_missed_goal_and_superlinear_growth_are_marked(written: Path) -> None:
    page.write(
        {"ratios": {"handler/limit@100": 2.15}, "series": {"x by y": [[1, 1], [10, 100], [100, 10_000]]}}
    )
    text = page.PAGE.read_text()
    assert "| `handler/limit@100` | 2.15 | ≤ 2 | **missed** |" in text
    assert re.search(r"x by y .* 2\.00 \| \*\*worse than linear\*\*", text)


def test_rerun_of_one_part_keeps_the_figures_of_the_others(written: Path) -> None:
    runner.keep("handler", Figures(ratios={"handler/naive@100": 0.5}), 1)
    runner.keep("consumer", Figures(ratios={"consumer/powertools@500": 0.1}), 1)
    runner.keep("handler", Figures(ratios={"handler/naive@100": 0.4}), 1)
    kept = json.loads(runner.LATEST.read_text())
    assert kept["ratios"] == {"handler/naive@100": 0.4, "consumer/powertools@500": 0.1}
