"""Alerts about tasks that have failed after their last retry, and about runs that have missed their deadline."""

import json
import logging
import os
import shlex
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)


def task_failed(context: "Context") -> None:
    """Send an alert. Airflow calls this after a task's last retry has failed."""
    task = context["ti"]
    _alert({"event": "task_failed", "dag": task.dag_id, "task": task.task_id, "run": task.run_id})


def deadline_missed(*, context: Mapping[str, Mapping[str, str]] | None = None, **_: object) -> None:
    run = (context or {}).get("dag_run") or {}
    _alert(
        {
            "event": "deadline_missed",
            "dag": run.get("dag_id"),
            "run": run.get("dag_run_id") or run.get("run_id"),
        }
    )


def _alert(line: Mapping[str, object]) -> None:
    """Log the alert, and pass it to the command in MILKRUN_ALERT as one line of JSON on standard input."""
    text = json.dumps(line, default=str, allow_nan=False)
    log.error("%s", text)
    if command := os.environ.get("MILKRUN_ALERT"):
        try:
            subprocess.run(shlex.split(command), input=text + "\n", text=True, check=True, timeout=60)
        except subprocess.CalledProcessError as error:
            log.error("the command in MILKRUN_ALERT failed with exit code %d", error.returncode)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            # The command itself is not logged, because it may contain the secret address of a webhook.
            log.error("the command in MILKRUN_ALERT failed: %s", type(error).__name__)
