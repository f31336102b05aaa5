"""Test that a complete Airflow run, on its own stack, reloads rows that were deleted from the warehouse.

With MILKRUN_E2E_OUTPUTS=<outputs.json>, the test uses the running stack that this file describes, and does not stop it.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = str(ROOT / ".venv/bin/python")
AIRFLOW = str(ROOT / ".venvs/airflow/bin/airflow")


class Stack:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        folder = ROOT / environment["MILKRUN_LOCAL"]
        self.outputs: dict[str, Any] = json.loads((folder / "outputs.json").read_text())

    def run(self, *command: str, code: int | None = 0) -> str:
        ended = subprocess.run(
            command, cwd=ROOT, env=self.environment, check=False, capture_output=True, text=True
        )
        if code is not None:
            assert ended.returncode == code, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout

    def ops(self, *words: str, code: int | None = 0) -> str:
        return self.run(PYTHON, "-m", "ops", *words, code=code)

    def airflow(self, *words: str) -> list[dict[str, object]]:
        """Run an Airflow command, and return its JSON output.

        The JSON is the last line, because Airflow also prints warnings to standard output.
        """
        answer: list[dict[str, object]] = json.loads(self.run(AIRFLOW, *words).splitlines()[-1])
        return answer

    def query(self, sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.run(PYTHON, "-m", "snowpipe", "query", sql, "--json"))
        return rows

    def reconciled(self, code: int, since: str) -> None:
        """Run `ops reconcile` until it exits with `code`. This takes several runs, because each ignores events of the
        last minute.
        """
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            ended = subprocess.run(
                [PYTHON, "-m", "ops", "reconcile", "--from", since, "--json"],
                cwd=ROOT, env=self.environment, check=False, capture_output=True, text=True,
            )  # fmt: skip
            if ended.returncode == code:
                return
            time.sleep(2)
        raise AssertionError(ended.stdout[-3000:] + ended.stderr[-1000:])


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    named = os.environ.get("MILKRUN_E2E_OUTPUTS")
    if named:
        yield Stack({**os.environ, "MILKRUN_LOCAL": str(Path(named).resolve().parent)})
        return
    environment = {"MILKRUN_LOCAL": ".local-airflow", "MILKRUN_PORT": "4866", **os.environ}
    subprocess.run([PYTHON, "-m", "tools.stack", "up"], cwd=ROOT, env=environment, check=True)
    try:
        yield Stack(environment)
    finally:
        subprocess.run([PYTHON, "-m", "tools.stack", "down"], cwd=ROOT, env=environment, check=True)


@pytest.mark.timeout(1500)
def test_backfill_repairs_and_transforms_the_warehouse_and_compacts_the_archive(stack: Stack) -> None:
    since = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    stack.ops("send", "--events", "400", "--trucks", "6", "--json")
    stack.reconciled(0, since)
    by_file = "SELECT file_name AS name, COUNT(*) AS lines FROM MILKRUN.RAW.EVENTS GROUP BY file_name"
    lost = stack.query(f"{by_file} ORDER BY 1")[0]
    stack.query(f"DELETE FROM MILKRUN.RAW.EVENTS WHERE file_name = '{lost['name']}'")
    stack.reconciled(1, since)

    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    range_ = {"from": (hour - timedelta(hours=1)).isoformat(), "to": (hour + timedelta(hours=1)).isoformat()}
    stack.run(AIRFLOW, "db", "migrate")
    stack.run(AIRFLOW, "dags", "test", "milkrun_backfill", "--conf", json.dumps(range_))
    [run] = stack.airflow("dags", "list-runs", "milkrun_backfill", "-o", "json")
    assert run["state"] == "success"
    tasks = stack.airflow("tasks", "states-for-dag-run", "milkrun_backfill", run["run_id"], "-o", "json")
    assert {task["state"] for task in tasks} == {"success"}

    [back] = stack.query(f"SELECT COUNT(*) AS n FROM MILKRUN.RAW.EVENTS WHERE file_name = '{lost['name']}'")
    assert back["n"] == lost["lines"]
    stack.reconciled(0, since)
    stack.environment |= {
        "AWS_ENDPOINT_URL": stack.outputs["aws_endpoint_url"],
        "AWS_DEFAULT_REGION": stack.outputs["region"],
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    archive = ("--archive", f"s3://{stack.outputs['bucket']}", "--name", "compared")
    # The comparison covers visits that began in the range, and the sample morning begins hours before it is sent.
    day = ("--from", (hour - timedelta(days=2)).isoformat(), "--to", (hour + timedelta(days=2)).isoformat())
    rebuilt = json.loads(stack.run(PYTHON, "-m", "glue.rebuild", *archive, *day))
    assert rebuilt["visits"] > 0
    compared = json.loads(stack.run(PYTHON, "-m", "glue.compare", *archive).splitlines()[0])
    assert (compared["missing"], compared["extra"], compared["different"]) == (0, 0, 0)

    # Run the same steps again without Airflow: nothing is left to repair or compact.
    night = stack.run(PYTHON, "-m", "ops.nightly", "--from", range_["from"], "--to", range_["to"])
    steps = {step["step"]: step for step in map(json.loads, night.splitlines())}
    assert list(steps) == ["reconcile", "repair", "transform", "compact", "quality"]
    assert all(step["ok"] for step in steps.values())
    assert steps["repair"]["repaired"] is False
    assert (steps["compact"]["hours"], steps["compact"]["set_aside"]) == (0, 0)
    assert steps["quality"]["accepted"] > 0
