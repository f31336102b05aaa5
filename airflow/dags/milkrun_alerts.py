"""Tells a person: a task failed for good, or a run missed its deadline."""

import json
import logging
import os
import shlex
import subprocess
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


def task_failed(context: Mapping[str, Any]) -> None:
    """After the last retry."""
    task = context["ti"]
    _tell({"event": "task_failed", "dag": task.dag_id, "task": task.task_id, "run": task.run_id})


def deadline_missed(**details: Any) -> None:
    run = (details.get("context") or {}).get("dag_run") or {}
    _tell(
        {
            "event": "deadline_missed",
            "dag": run.get("dag_id"),
            "run": run.get("dag_run_id") or run.get("run_id"),
        }
    )


def _tell(line: Mapping[str, Any]) -> None:
    """To the command that MILKRUN_ALERT names, as one line of JSON on its standard input; and to the log."""
    text = json.dumps(line, default=str, allow_nan=False)
    log.error("%s", text)
    if command := os.environ.get("MILKRUN_ALERT"):
        subprocess.run(shlex.split(command), input=text + "\n", text=True, check=False, timeout=60)
