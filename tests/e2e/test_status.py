"""Test `milkrun status` on a running stack: it reports each problem with the next command to run, and a frozen
store does not delay the report on the other parts.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from snowpipe.warehouse import Row
from tests.e2e.pipeline import Pipeline, eventually
from tools.stack.stack import Stack

ROOT = Path(__file__).parents[2]


def parts(pipeline: Pipeline) -> dict[str, Row]:
    found = pipeline.ops("status", "--json").result
    return {part["part"]: part for part in found["parts"]}


def failed(pipeline: Pipeline, part: str) -> dict[str, object] | None:
    found = parts(pipeline)[part]
    return found if found["level"] == "FAIL" else None


def test_status_reports_each_part_of_a_running_stack(pipeline: Pipeline) -> None:
    found = parts(pipeline)
    # The other parts depend on the state that other tests leave on this stack.
    for part in ("gateway", "archive", "stream", "event source mapping", "visits", "pipes"):
        assert found[part]["level"] == "OK", found[part]
    assert {
        "ingest",
        "given up",
        "dead letters",
        "consumer",
        "quarantine",
        "redrive",
        "failed loads",
        "staging",
        "marts",
    } <= set(found)


def test_status_reports_a_paused_pipe_and_the_next_command(pipeline: Pipeline) -> None:
    pipe = f"{pipeline.outputs.database}.RAW.EVENTS_PIPE"
    pipeline.rows(f"ALTER PIPE {pipe} SET PIPE_EXECUTION_PAUSED = TRUE")
    try:
        found = parts(pipeline)["pipes"]
    finally:
        pipeline.rows(f"ALTER PIPE {pipe} SET PIPE_EXECUTION_PAUSED = FALSE")
    assert found["level"] == "WARN"  # not FAIL, because the alarm snowpipe-stopped pages nobody
    assert "paused" in found["cause"]
    assert found["next"].startswith("milkrun warehouse")


def test_status_reports_a_dead_letter_as_a_failure_until_it_is_deleted(pipeline: Pipeline) -> None:
    sqs, url = pipeline.aws("sqs"), pipeline.outputs.dead_letter_queue_url
    sqs.send_message(QueueUrl=url, MessageBody="of a test")
    try:
        found = eventually(lambda: failed(pipeline, "dead letters"))
        assert found["next"] == "milkrun redrive"
    finally:
        for message in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=2).get("Messages", ()):
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    assert eventually(lambda: failed(pipeline, "dead letters") is None)


@pytest.mark.slow
def test_status_reports_a_row_that_is_not_an_event_and_trace_finds_its_object(pipeline: Pipeline) -> None:
    key = f"events/by-hand-{uuid4().hex[:8]}.json"
    s3, bucket = pipeline.aws("s3"), pipeline.outputs.bucket
    # Snowpipe loads any JSON, and an array becomes one row.
    s3.put_object(Bucket=bucket, Key=key, Body=b'[{"_id": "in-an-array"}]\n')
    try:
        count = "SELECT COUNT(*) AS n FROM {db}.RAW.EVENTS WHERE file_name = %s"
        eventually(lambda: pipeline.rows(count, key)[0]["n"] == 1)
        if not pipeline.rows("SHOW VIEWS LIKE 'INVALID_ROWS' IN SCHEMA {db}.STAGING"):
            pipeline.build_marts()
        found = parts(pipeline)["invalid rows"]
        assert found["level"] == "WARN"
        assert "line 1: not_an_object" in found["cause"]
        reconciled = pipeline.ops("reconcile", "--from", "1 hour ago", "--settle", "0", "--json").result
        last = parts(pipeline)["last reconcile"]
        assert last["level"] == ("OK" if reconciled["equal"] else "FAIL")
        assert {"file": key, "line": 1, "reason": "not_an_object"} in reconciled["invalid_rows"]
        assert {"key": key, "rows": 1} in reconciled["foreign_objects"]
        assert key not in [difference["key"] for difference in reconciled["differences"]]
        steps = {step["what"] for step in pipeline.ops("trace", key, "--json").result["steps"]}
        assert {"archived", "loaded"} <= steps
    finally:
        s3.delete_object(Bucket=bucket, Key=key)
        pipeline.rows("DELETE FROM {db}.RAW.EVENTS WHERE file_name = %s", key)


@contextmanager
def frozen(pipeline: Pipeline, name: str) -> Iterator[None]:
    process = Stack.of(dict(pipeline.environment)).processes.alive(name)
    if process is None:
        pytest.skip("the stack was started elsewhere, so its processes are unknown")
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


@pytest.mark.slow
def test_frozen_snowflake_does_not_delay_the_report_of_the_other_parts(pipeline: Pipeline) -> None:
    with frozen(pipeline, "snowflake"):
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "tools.milkrun", "status", "--json"],
            cwd=ROOT,
            env=dict(pipeline.environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        took = time.monotonic() - began
    found = {part["part"]: part for part in json.loads(ended.stdout)["parts"]}
    assert ended.returncode == 2
    assert found["archive"]["level"] == "OK"
    assert found["pipes"]["level"] == "FAIL"
    assert "Snowflake: no answer" in found["pipes"]["cause"]
    assert took < 40, (
        "`status` must wait only 5 s for Snowflake; this limit allows for imports on a busy machine"
    )
