"""Test that the first request imports no modules, whether Lambda starts the function or restores a snapshot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FUNCTION = {
    "STAGE": "test",
    "LOG_LEVEL": "WARNING",
    "AWS_REGION": "us-east-1",
    "ARCHIVE_BUCKET": "bucket",
    "STREAM_NAME": "stream",
    "REDRIVE_QUEUE_URL": "http://127.0.0.1:1/queue",
    "SIGNATURE_SCHEME": "off",
    "SIGNATURE_SECRETS": "ssm:/x",
    "PYTHONPATH": str(ROOT),
}
ON_DEMAND = {
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
}
# With SnapStart, credentials come from a local endpoint that the process learns only after the restore.
SNAP_START = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}


def first_request(environment: dict[str, str]) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.handler.first_request"],
        cwd=ROOT,
        env=FUNCTION | environment | {"PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("environment", [ON_DEMAND, SNAP_START], ids=["on-demand", "snap-start"])
def test_first_request_imports_no_further_modules(environment):
    first = first_request(environment)
    assert first["status"] == 202
    assert first["loaded"] == []
