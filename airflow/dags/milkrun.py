"""Milkrun's hourly and back-fill runs: reconcile → repair → dbt, model by model → compact → quality.

Every task is `python -m ops.nightly STEP` in the project's own environment: what a step does, its exit
codes and its secrets are there, and the same without Airflow. Airflow adds the graph, retries, deadlines,
alerts and history. Tasks may run again at any time; one run at a time, because two would repair and compact
the same hours.

Environment of the scheduler: MILKRUN_HOME (the checkout; default: the one this file is in), MILKRUN_STAGE
(default: local), MILKRUN_ALERT (a command that gets a line of JSON on standard input when something is
wrong).
"""

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param, TaskGroup
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

sys.path.insert(0, str(Path(__file__).parent))
from milkrun_alerts import task_failed
from milkrun_models import models

HOME = Path(os.environ.get("MILKRUN_HOME", Path(__file__).resolve().parents[2]))
STAGE = os.environ.get("MILKRUN_STAGE", "local")

RETRIES = {
    "retries": 3,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=15),
    "execution_timeout": timedelta(hours=1),
    "on_failure_callback": task_failed,
}

# Each hour is looked at three times: objects and their loading may take a while. What is done is left alone.
HOURLY = (
    "{{ (data_interval_end - macros.timedelta(hours=3)).isoformat() }}",
    "{{ data_interval_end.isoformat() }}",
)
GIVEN = ("{{ params['from'] }}", "{{ params['to'] }}")


def step(name: str, hours: tuple[str, str]) -> BashOperator:
    """A step of ops/nightly.py as a task; its last line, what it did, is kept as its result.

    The range goes through the environment, in quotes: what somebody typed is no part of a command.
    """
    range_ = '--stage "$STAGE" --from "$START" --to "$END"'
    return BashOperator(
        task_id=name.replace(":", "_"),
        bash_command=f"exec .venv/bin/python -m ops.nightly {name} {range_}",
        env={"START": hours[0], "END": hours[1], "STAGE": STAGE},
        append_env=True,
        cwd=str(HOME),
        do_xcom_push=True,
    )


def chain(hours: tuple[str, str]) -> None:
    """Repair comes before dbt, so that it builds on all that was accepted; compaction needs no warehouse."""
    repaired = step("reconcile", hours) >> step("repair", hours)
    with TaskGroup("dbt") as dbt:
        tested: dict[str, BashOperator] = {}
        for name, parents in models(HOME / "snowpipe" / "dbt").items():
            with TaskGroup(name):
                built = step(f"run:{name}", hours)
                tested[name] = step(f"test:{name}", hours)
                built >> tested[name]
            for parent in parents:  # nothing is built on what has not passed its tests
                tested[parent] >> built
    repaired >> dbt >> step("quality", hours)
    repaired >> step("compact", hours)


with DAG(
    "milkrun_hourly",
    description="Is all there? Repair, transform, compact, report.",
    schedule="20 * * * *",  # an hour's last objects and their loading take minutes
    start_date=datetime(2026, 11, 16),
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    doc_md=__doc__,
    tags=["milkrun"],
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=50),
        callback=SyncCallback("milkrun_alerts.deadline_missed"),
    ),
):
    chain(HOURLY)

with DAG(
    "milkrun_backfill",
    description="The same for a range that somebody names.",
    schedule=None,
    start_date=datetime(2026, 11, 16),
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    tags=["milkrun"],
    params={
        "from": Param("2026-11-16T00:00:00+00:00", type="string", format="date-time", title="Received from"),
        "to": Param("2026-11-17T00:00:00+00:00", type="string", format="date-time", title="and before"),
    },
):
    chain(GIVEN)
