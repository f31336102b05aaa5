"""Run dbt many times in one process, for tests and benchmarks."""

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from snowpipe.run_dbt import DBT, environment_of
from snowpipe.settings import Settings
from tests import statements

WORKER = Path(__file__).with_name("model_worker.py")


class DbtFailedError(AssertionError):
    """dbt failed to build a model, or a dbt test failed; the message names the model or the test."""


class Dbt:
    def __init__(self, settings: Settings) -> None:
        command = [str(DBT.with_name("python")), "-P", str(WORKER)]
        self._log = (settings.folder / "dbt.err").open("w")
        self._process = subprocess.Popen(
            command,
            env=environment_of(settings, os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def run(self, *arguments: str) -> dict[str, float]:
        """Run dbt and return the run time of each model in seconds. Raises DbtFailedError if a model or a
        test fails.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(["--quiet", *arguments]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        for sql in answer["statements"]:
            statements.note(sql)
        if not answer["ok"]:
            raise DbtFailedError("\n".join(answer["messages"]))
        seconds: dict[str, float] = answer["seconds"]
        return seconds
