"""Milkrun's hourly and backfill DAGs. They run the steps reconcile, repair, dbt (a group of tasks per model) and
quality in this order, and compaction in parallel with dbt.

Every task runs `python -m ops.nightly STEP` in the project's own environment. ops/nightly.py defines what each
step does and its exit codes, and works the same without Airflow. Airflow adds the graph, retries,
deadlines, alerts and history. Every task can be repeated. Each DAG has at most one active run, because concurrent runs
would repair and compact the same hours. Pause milkrun_hourly during a backfill, because only one dbt run may be active
at a time.

Environment variables of the scheduler: MILKRUN_HOME (the checkout; default: the one that contains this file),
MILKRUN_STAGE (default: local), MILKRUN_FRESHNESS_MINUTES (the stage's freshnessMinutes; default: 60),
MILKRUN_ALERT (a command that receives each alert as a line of JSON on standard input).
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
from milkrun_dbt_graph import models

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

FRESHNESS_MINUTES = int(os.environ.get("MILKRUN_FRESHNESS_MINUTES", "60"))
# Each run also processes the two hours before its interval, because objects may be stored or loaded late. Repair and
# compaction skip what is already complete.
HOURLY = (
    f"{{{{ (data_interval_end - macros.timedelta(minutes={FRESHNESS_MINUTES + 120})).isoformat() }}}}",
    "{{ data_interval_end.isoformat() }}",
)
GIVEN = ("{{ params['from'] }}", "{{ params['to'] }}")


def schedule_of(minutes: int) -> str | timedelta:
    """Return the schedule of milkrun_hourly, whose runs are `minutes` apart.

    If the interval divides an hour, or is a whole number of hours that divides a day, the runs are at fixed times that
    include 00:20, because the run in the hour after midnight tests every row (ops/nightly.py). Otherwise, the times
    depend on when Airflow first sees the DAG.
    """
    # At 20 past, because an hour's last objects are written and loaded some minutes after its end.
    if 60 % minutes == 0:
        return f"{','.join(str(n) for n in range(20 % minutes, 60, minutes))} * * * *"
    if 1440 % minutes == 0 and minutes % 60 == 0:
        return f"20 {','.join(str(n) for n in range(0, 24, minutes // 60))} * * *"
    return timedelta(minutes=minutes)


def step(name: str, hours: tuple[str, str]) -> BashOperator:
    """Return the task for one step of ops/nightly.py; the last line of its output becomes the XCom result.

    The range is passed in quoted environment variables, so that user input cannot become part of the command.
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
    """Create the tasks and set their order.

    Repair runs before dbt, so that the models include every accepted event. Compaction runs in parallel with
    dbt, because it needs no warehouse.
    """
    repaired = step("reconcile", hours) >> step("repair", hours)
    with TaskGroup("dbt") as dbt:
        tested: dict[str, BashOperator] = {}
        for name, parents in models(HOME / "snowpipe" / "dbt").items():
            with TaskGroup(name):
                built = step(f"run:{name}", hours)
                tested[name] = step(f"test:{name}", hours)
                built >> tested[name]
            for parent in parents:  # a model is built only after the tests of its parents have passed
                tested[parent] >> built
    repaired >> dbt >> step("quality", hours)
    repaired >> step("compact", hours)


with DAG(
    "milkrun_hourly",
    description="Load missing objects, run dbt, compact the archive, and count accepted and rejected events.",
    schedule=schedule_of(FRESHNESS_MINUTES),
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
    description="Run the steps of milkrun_hourly for a given range.",
    schedule=None,
    start_date=datetime(2026, 11, 16),
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
    tags=["milkrun"],
    params={
        "from": Param("2026-11-16T00:00:00+00:00", type="string", format="date-time", title="Received from"),
        "to": Param("2026-11-17T00:00:00+00:00", type="string", format="date-time", title="Received before"),
    },
):
    chain(GIVEN)
