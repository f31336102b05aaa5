"""Test that the nightly steps run in order and report their results, and that the first failure ends the run.

tests/airflow runs the real steps.
"""

import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from typer import BadParameter
from typer.testing import CliRunner

from ops import nightly
from ops.stage_outputs import NoStackError

NIGHT = nightly.Night(
    datetime(2026, 11, 16, tzinfo=UTC), datetime(2026, 11, 17, tzinfo=UTC), "local", os.environ
)


def steps_of(monkeypatch: pytest.MonkeyPatch, **steps: object) -> None:
    monkeypatch.setattr(nightly, "STEPS", steps)


def raising(problem: Exception) -> nightly.Step:
    def step(_: nightly.Night) -> nightly.Facts:
        raise problem

    return step


def run(names: list[str]) -> tuple[int, list[dict[str, Any]]]:
    reports: list[dict[str, Any]] = []
    return nightly.run(names, NIGHT, reports.append), reports


def test_nightly_steps_run_in_order_and_each_reports_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    steps_of(monkeypatch, one=lambda night: {"lines": 3}, two=lambda night: {"from": night.range[1]})
    code, reports = run(["one", "two"])
    assert code == 0
    assert [(each["step"], each["ok"]) for each in reports] == [("one", True), ("two", True)]
    assert (reports[0]["lines"], reports[1]["from"]) == (3, "2026-11-16T00:00:00+00:00")


@pytest.mark.parametrize(
    ("problem", "code"), [(nightly.StepFailedError("still differs", 1), 1), (NoStackError("no stack"), 2)]
)
def test_first_failed_step_ends_the_nightly_run_and_is_reported(
    monkeypatch: pytest.MonkeyPatch, problem: Exception, code: int
) -> None:
    steps_of(monkeypatch, one=raising(problem), two=lambda night: {})
    ended, reports = run(["one", "two"])
    assert ended == code
    assert [(each["step"], each["ok"], each["problem"]) for each in reports] == [("one", False, str(problem))]


def test_repair_step_fails_if_a_difference_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def differing(night: nightly.Night, command: list[str], to_terminal: bool = False) -> tuple[int, None]:
        ran.append(command)
        return 1, None

    monkeypatch.setattr(nightly, "_run", differing)
    with pytest.raises(nightly.StepFailedError, match="still differ after the repair"):
        nightly.repair(NIGHT)
    assert ["--repair" in command for command in ran] == [False, True, False]


def test_repair_step_does_nothing_if_there_are_no_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nightly, "_run", lambda *_: (0, {"equal": True}))
    assert nightly.repair(NIGHT) == {"repaired": False}


def test_reconcile_step_fails_if_a_store_could_not_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nightly, "_run", lambda *_: (2, None))
    code, [report] = run(["reconcile"])
    assert (code, report["ok"]) == (2, False)


@pytest.mark.parametrize(
    ("ended", "expected"),
    [((0, {"lines": 1}), 0), ((1, {"unreadable": 1}), 0), ((1, None), 1), ((2, None), 2)],
)
def test_compaction_step_fails_only_if_the_job_prints_no_result(
    monkeypatch: pytest.MonkeyPatch, ended: tuple[int, dict[str, int] | None], expected: int
) -> None:
    monkeypatch.setattr(nightly, "_run", lambda *_: ended)
    monkeypatch.setattr(nightly.Outputs, "find", lambda *_: SimpleNamespace(bucket="b"))
    code, [report] = run(["compact"])
    assert (code, report["ok"]) == (expected, expected == 0)


@pytest.mark.parametrize("ended", [1, 2])
def test_nightly_run_ends_with_the_exit_code_of_a_failed_dbt_step(
    monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    monkeypatch.setattr(nightly, "_run", lambda *_, **__: (ended, None))
    assert run(["transform"])[0] == ended


def test_quality_step_counts_the_whole_hour_in_which_the_range_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs, start = MagicMock(), datetime(2026, 11, 16, 8, 30, tzinfo=UTC)
    query = outputs.warehouse.return_value.__enter__.return_value.query
    query.return_value = []
    monkeypatch.setattr(nightly.Outputs, "find", lambda *_: outputs)
    nightly.quality(replace(NIGHT, start=start, end=start + timedelta(hours=1)))
    assert query.call_args.args[1] == ("2026-11-16 08:00:00", "2026-11-16 09:30:00")


def test_dbt_step_for_a_model_selects_only_that_model(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(nightly, "_run", lambda _, command, **__: (ran.append(command), (0, None))[1])
    assert run(["run:stg_events", "test:stg_events"])[0] == 0
    assert [command[3:6] for command in ran] == [
        ["run", "--select", "stg_events"],
        ["test", "--select", "stg_events"],
    ]


def test_unknown_step_or_invalid_range_is_rejected_with_exit_code_2() -> None:
    with pytest.raises(BadParameter):
        nightly.step_of("drop:everything")
    app = nightly.typer.Typer()
    app.command()(nightly.command)
    assert CliRunner().invoke(app, ["reconcile", "nonsense"]).exit_code == 2
    assert CliRunner().invoke(app, ["compact", "--from", "now", "--to", "2 hours ago"]).exit_code == 2


def test_dbt_ignores_a_snowflake_account_on_stage_local_and_requires_one_on_a_deployed_stage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[dict[str, str]] = []

    def ran(*_: object, env: dict[str, str], **__: object) -> subprocess.CompletedProcess[str]:
        given.append(env)
        return subprocess.CompletedProcess([], 0, "")

    monkeypatch.setattr(nightly, "run_to_end", ran)
    monkeypatch.setattr(nightly, "_aws", lambda _: {})
    night = replace(NIGHT, environment={"SNOWFLAKE_ACCOUNT": "acme-prod", "MILKRUN_LOCAL": str(tmp_path)})
    assert nightly.run(["transform"], night, lambda _: None) == 0
    assert given == [{"MILKRUN_LOCAL": str(tmp_path)}]
    assert nightly.run(["transform"], replace(night, stage="prod", environment={}), lambda _: None) == 2
