"""Test that the Kinesis mock exits if LocalStack died before the mock started, and otherwise keeps running.
These tests need Node.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from localstack_lambda_executor import process

PRELOAD = Path(process.__file__).with_name("kinesis_mock_preload.cjs")
LISTENS = "require('node:net').createServer().listen(0); console.log('ready')"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")


def start(parent: int) -> subprocess.Popen[str]:
    command = ["node", f"--require={PRELOAD}", "-e", LISTENS]
    environment = os.environ | {"KINESIS_MOCK_PARENT": str(parent)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_kinesis_mock_ends_if_localstack_has_already_died() -> None:
    """LocalStack restarts a mock that has died. Previously, if LocalStack was killed during such a restart, the new
    mock ran forever.
    """
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mock = start(parent=ended.pid)
    try:
        assert mock.wait(20) != 0
    finally:
        mock.kill()
        mock.communicate()


def test_kinesis_mock_keeps_running_while_localstack_runs() -> None:
    mock = start(parent=os.getpid())
    try:
        assert mock.stdout is not None
        assert mock.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            mock.wait(1.5)
    finally:
        mock.kill()
        mock.communicate()
