"""Test `milkrun up` after one or two processes of a stack were killed: each process, and each pair in both orders.

`up` must restart them. If LocalStack or its Kinesis mock dies, however, the data in its memory is lost; then `up`
must only report the loss and delete nothing, and `up --discard` starts an empty stack. All cases use the same stack.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import psutil
import pytest

from cli.counts import count
from ops.stage_outputs import ROOT
from tests.e2e.pipeline import eventually
from tools.stack import console, localstack
from tools.stack.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROCESSES = ("console", "snowflake", "kinesis", "localstack")
KEPT_IN_MEMORY = {"kinesis": "LocalStack's Kinesis mock has died", "localstack": "LocalStack has died"}
KILLS = [*((name,) for name in PROCESSES), *permutations(PROCESSES, 2)]


@dataclass(frozen=True)
class State:
    address: tuple[str, str]
    objects: frozenset[str]
    rows: int


class Lab:
    """A stack with its console. The method `milkrun` runs one of the CLI's commands on it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.stack = Stack.of(environment)
        self._environment = environment

    def milkrun(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.milkrun", *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def kill(self, name: str) -> None:
        [process] = [each for each in self.stack.processes.recorded() if each.name == name]
        with contextlib.suppress(ProcessLookupError):  # the mock ends with LocalStack
            os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: not process.is_alive())

    def address(self) -> tuple[str, str]:
        outputs = self.stack.outputs()
        return outputs.endpoint, outputs.api_key

    def objects(self) -> frozenset[str]:
        outputs = self.stack.outputs()
        pages = outputs.aws("s3").get_paginator("list_objects_v2").paginate(Bucket=outputs.bucket)
        return frozenset(found["Key"] for page in pages for found in page.get("Contents", ()))

    def rows(self) -> int:
        outputs = self.stack.outputs()
        with outputs.warehouse(20) as warehouse:
            return int(warehouse.query(f"SELECT COUNT(*) AS n FROM {outputs.database}.RAW.EVENTS")[0]["n"])

    def state(self) -> State:
        return State(self.address(), self.objects(), self.rows())

    def mocks(self) -> set[int]:
        """Return the process ids of this stack's Kinesis mocks, including orphans."""
        folder = str(self.stack.settings.folder)
        commands = {each.pid: each.info["cmdline"] or () for each in psutil.process_iter(["cmdline"])}
        return {
            pid
            for pid, words in commands.items()
            if any(folder in word and "kinesis-local" in word for word in words)
        }

    def runs_one_mock(self) -> bool:
        top = self.stack.processes.alive("localstack")
        return top is not None and self.mocks() == {localstack.kinesis_mock(top)}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    port = int(os.environ.get("MILKRUN_PORT", "4666")) + 150
    folder = tmp_path_factory.mktemp("kills") / "stack"
    lab = Lab({**os.environ, "MILKRUN_LOCAL": str(folder), "MILKRUN_PORT": str(port)})
    with lab.stack:
        assert lab.milkrun("smoke").returncode == 0
        yield lab
    assert lab.mocks() == set()


@pytest.mark.parametrize("names", KILLS, ids="-".join)
def test_up_restarts_killed_processes_or_reports_lost_data_and_deletes_nothing(
    lab: Lab, names: tuple[str, ...]
) -> None:
    if not lab.stack.is_up():  # because an earlier case failed
        lab.stack.up(discard=True)
    before = lab.state()
    for name in names:
        lab.kill(name)
    ran = lab.milkrun("up")
    lost = [said for name, said in KEPT_IN_MEMORY.items() if name in names]
    if lost:
        assert ran.returncode == 1, ran.stderr
        # If both died, only LocalStack is named, because the mock ends with it.
        assert lost[-1] in ran.stderr
        assert f"the warehouse still has {count(before.rows, 'row')} in RAW.EVENTS" in ran.stderr
        assert lab.rows() == before.rows
        if "localstack" not in names:
            assert lab.objects() == before.objects
        discarded = lab.milkrun("up", "--discard")
        assert discarded.returncode == 0, discarded.stderr
        assert "Deleted: the warehouse" in discarded.stderr
        assert lab.state() == State(before.address, frozenset(), 0)
    else:
        assert ran.returncode == 0, ran.stderr
        assert ("Snowflake had died and runs again with all its data" in ran.stderr) == ("snowflake" in names)
        assert lab.state() == before
    assert all(lab.stack.processes.alive(name) for name in PROCESSES)
    eventually(lambda: console.is_ready(lab.stack.settings))
    eventually(lab.runs_one_mock)
    smoke = lab.milkrun("smoke")
    assert smoke.returncode == 0, smoke.stdout + smoke.stderr
