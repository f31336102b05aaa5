"""Fixtures for testing an execution environment without LocalStack.

The functions run under MILKRUN_LAMBDA_PYTHON, a Python interpreter with awslambdaric. If the variable is not set, a
fixture creates a virtual environment with the packages in tests/lambda-python.txt.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import uv

from localstack_lambda_executor.execution_environment import ExecutionEnvironment
from localstack_lambda_executor.process import Function

ARN = "arn:aws:lambda:us-east-1:000000000000:function:trial"
LAMBDA_PACKAGES = Path(__file__).with_name("lambda-python.txt")


@pytest.fixture(scope="session")
def lambda_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("MILKRUN_LAMBDA_PYTHON"):
        return Path(given).absolute()
    folder = tmp_path_factory.mktemp("lambda") / "environment"
    python = folder / "bin" / "python"
    for command in (
        ["venv", "-q", "--python", sys.executable, str(folder)],
        ["pip", "install", "-q", "--python", str(python), "-r", str(LAMBDA_PACKAGES)],
    ):
        subprocess.run([uv.find_uv_bin(), *command], check=True)
    return python


class Trial:
    """A Lambda function whose code is given as a string, and its execution environment."""

    def __init__(self, code: Path, source: str, python: Path, **settings: Any) -> None:
        code.mkdir(parents=True, exist_ok=True)
        (code / "trial.py").write_text(dedent(source))
        self.execution_environment = ExecutionEnvironment(
            Function(
                **{
                    "handler": "trial.handler",
                    "code": code,
                    "timeout_s": 5,
                    "memory_mb": 512,
                    "version": "$LATEST",
                    "environment": {},
                    "python": python,
                    **settings,
                }
            )
        )

    def invoke(self, payload: bytes = b"{}", request_id: str | None = None) -> Any:
        return self.execution_environment.invoke(request_id or str(uuid.uuid4()), ARN, payload, "Root=1-0-0")


@pytest.fixture
def trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lambda_python: Path
) -> Iterator[Callable[..., Trial]]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made: list[Trial] = []

    def make(source: str, **settings: object) -> Trial:
        made.append(Trial(tmp_path / f"code-{len(made)}", source, lambda_python, **settings))
        made[-1].execution_environment.start()
        return made[-1]

    yield make
    for each in made:
        each.execution_environment.stop()
