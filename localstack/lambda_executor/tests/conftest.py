"""The LocalStack plugin's sandbox, driven directly: it needs no LocalStack, only the Lambda interpreter."""

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from ops.outputs import ROOT
from tools.stack.localstack import LAMBDA_PYTHON

sys.path.append(str(ROOT / "localstack" / "lambda_executor" / "src"))

ARN = "arn:aws:lambda:us-east-1:000000000000:function:trial"


class Trial:
    """A function made of a few lines, and its sandbox."""

    def __init__(self, code: Path, source: str, **settings: Any) -> None:
        from localstack_lambda_executor.process import Function
        from localstack_lambda_executor.sandbox import Sandbox

        code.mkdir(parents=True, exist_ok=True)
        (code / "trial.py").write_text(dedent(source))
        self.sandbox = Sandbox(
            Function(
                **{
                    "handler": "trial.handler",
                    "code": code,
                    "timeout_s": 5,
                    "memory_mb": 512,
                    "version": "$LATEST",
                    "environment": {},
                    "python": LAMBDA_PYTHON,
                    **settings,
                }
            )
        )

    def invoke(self, payload: bytes = b"{}", request_id: str | None = None) -> Any:
        return self.sandbox.invoke(request_id or str(uuid.uuid4()), ARN, payload, "Root=1-0-0")


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Trial]]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made: list[Trial] = []

    def make(source: str, **settings: Any) -> Trial:
        made.append(Trial(tmp_path / f"code-{len(made)}", source, **settings))
        made[-1].sandbox.start()
        return made[-1]

    yield make
    for each in made:
        each.sandbox.stop()
