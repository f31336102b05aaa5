"""Test that the DAGs load, run their tasks in the documented order, and run only steps that exist."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "airflow" / "dags"


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    bag = DagBag(str(DAGS), safe_mode=False)
    assert bag.import_errors == {}
    return dict(bag.dags)


def upstream(dag: DAG, task: str) -> set[str]:
    return dag.get_task(task).get_flat_relative_ids(upstream=True)


def test_hourly_dag_is_scheduled_and_backfill_dag_runs_only_on_demand(dags: dict[str, DAG]) -> None:
    assert set(dags) == {"milkrun_hourly", "milkrun_backfill"}
    assert dags["milkrun_hourly"].schedule == "20 * * * *"
    assert dags["milkrun_backfill"].schedule is None
    assert all(dag.max_active_runs == 1 and not dag.catchup for dag in dags.values())


@pytest.mark.parametrize(
    ("minutes", "schedule"),
    [
        ("15", "5,20,35,50 * * * *"),
        ("30", "20,50 * * * *"),
        ("120", "20 0,2,4,6,8,10,12,14,16,18,20,22 * * *"),
        ("1440", "20 0 * * *"),
        ("90", timedelta(minutes=90)),
    ],
)
def test_schedule_is_a_cron_expression_with_a_run_at_00_20_unless_the_interval_does_not_fit_into_a_day(
    monkeypatch: pytest.MonkeyPatch, minutes: str, schedule: str | timedelta
) -> None:
    """A run at 00:20 is required because only the run in the hour after midnight tests every row. With a timedelta, the
    times of the runs depend on when Airflow first sees the DAG.
    """
    monkeypatch.setenv("MILKRUN_FRESHNESS_MINUTES", minutes)
    bag = DagBag(str(DAGS / "milkrun_hourly.py"), safe_mode=False)
    assert bag.dags["milkrun_hourly"].schedule == schedule


@pytest.mark.parametrize("name", ["milkrun_hourly", "milkrun_backfill"])
def test_compaction_follows_repair_and_quality_follows_all_tasks_except_compaction(
    dags: dict[str, DAG], name: str
) -> None:
    dag = dags[name]
    assert upstream(dag, "repair") == {"reconcile"}
    assert upstream(dag, "compact") == {"reconcile", "repair"}
    assert upstream(dag, "quality") == set(dag.task_ids) - {"quality", "compact"}


def test_every_model_has_a_run_and_a_test_task_in_dependency_order(dags: dict[str, DAG]) -> None:
    dag = dags["milkrun_hourly"]
    names = {path.stem for path in (ROOT / "snowpipe" / "dbt" / "models").rglob("*.sql")}
    of_dbt = {each for each in dag.task_ids if each.startswith("dbt.")}
    assert of_dbt == {f"dbt.{name}.{verb}_{name}" for name in names for verb in ("run", "test")}
    visits = upstream(dag, "dbt.geofence_visits.run_geofence_visits")
    assert "dbt.stg_geofence_events.test_stg_geofence_events" in visits
    assert "dbt.fleet_daily.run_fleet_daily" not in visits


def test_every_task_has_retries_a_timeout_and_an_alert(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        for task in dag.tasks:
            assert task.retries >= 2
            assert task.execution_timeout is not None
            assert task.has_on_failure_callback or task.on_failure_callback
    assert dags["milkrun_hourly"].deadline


def test_every_task_runs_a_step_of_ops_nightly(dags: dict[str, DAG]) -> None:
    steps = {re.search(r"ops\.nightly (\S+)", t.bash_command)[1] for d in dags.values() for t in d.tasks}
    check = "import sys; from ops.nightly import step_of; [step_of(each) for each in sys.argv[1:]]"
    subprocess.run([ROOT / ".venv/bin/python", "-c", check, *sorted(steps)], cwd=ROOT, check=True)


def test_range_entered_by_the_user_is_never_part_of_a_shell_command(dags: dict[str, DAG]) -> None:
    for task in dags["milkrun_backfill"].tasks:
        assert "params" not in task.bash_command
        assert "params['from']" in task.env["START"]


def test_alert_reaches_the_configured_command(tmp_path: Path) -> None:
    script = (
        "from types import SimpleNamespace as S; import milkrun_alerts as a;"
        "a.task_failed({'ti': S(dag_id='d', task_id='t', run_id='r')});"
        "a.deadline_missed(context={'dag_run': {'dag_id': 'd', 'run_id': 'r'}})"
    )
    received = tmp_path / "received"
    environment = {"MILKRUN_ALERT": f"tee -a {received}", "PYTHONPATH": str(DAGS), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    assert [json.loads(line)["event"] for line in received.read_text().splitlines()] == [
        "task_failed",
        "deadline_missed",
    ]


@pytest.mark.parametrize("alert", ["grep -q secret", "no-such-command secret", "echo 'secret"])
def test_alert_command_that_fails_is_logged_without_its_arguments(alert: str) -> None:
    script = "import milkrun_alerts as a; a.deadline_missed()"
    environment = {"MILKRUN_ALERT": alert, "PYTHONPATH": str(DAGS), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert "the command in MILKRUN_ALERT failed" in ended.stderr
    assert "secret" not in ended.stderr
