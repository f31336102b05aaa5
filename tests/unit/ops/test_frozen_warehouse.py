"""Test that commands end soon if Snowflake freezes after the login, and warehouse commands also if S3 does not answer.

A Freezer suspends the local Snowflake (SIGSTOP) when the first statement arrives, so a connection is open and a cursor
is waiting for a response. Each command then reports that Snowflake does not answer. `trace` and `reconcile` also
report what they found in the other stores.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.deadline import NoAnswerError
from contract.geofence_event_types import GEOFENCE_KINDS
from local_snowflake.testing import Aws, LocalProcess
from ops import reachable_stores
from ops.stage_outputs import ROOT
from snowpipe import warehouse
from tests.unit.ops.stage import Stage
from tests.unit.snowpipe.silent_port import silent_port
from tools.milkrun import app

STATEMENT = b"POST /queries/v1/query-request"
LIMIT_SECONDS = 2.0  # more than a login takes on a busy machine
SLACK_SECONDS = 15.0  # the delay of a busy machine; without a limit, the connector would wait for minutes
# Only slow runs test these commands, because they call Snowflake in the same way as `milkrun warehouse status`.
SIMILAR = (
    ["validate"],
    ["backfill", "--from", "2026-11-16"],
    ["query", "SELECT 1"],
    ["history"],
    ["refresh"],
    ["pause"],
    ["resume"],
    ["recreate", "--all"],
    ["apply"],
    ["diff"],
    ["bootstrap"],
    ["trust-policy"],
    ["sns-policy"],
)


class Freezer:
    """A TCP proxy that suspends the local Snowflake (SIGSTOP) when the first statement arrives."""

    def __init__(self, snowflake: LocalProcess) -> None:
        assert snowflake.process
        self._pid = snowflake.process.pid
        self._target = ("127.0.0.1", snowflake.port)
        self._open = ExitStack()
        self._server = self._open.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        self.port = self._server.getsockname()[1]
        self.frozen_at: float | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._open.close()
        os.kill(self._pid, signal.SIGCONT)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client = self._open.enter_context(self._server.accept()[0])
                server = self._open.enter_context(socket.create_connection(self._target))
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while some := source.recv(65536):
                if some.startswith(STATEMENT) and self.frozen_at is None:
                    os.kill(self._pid, signal.SIGSTOP)
                    self.frozen_at = time.monotonic()
                target.sendall(some)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, LocalProcess]]:
    with Aws.running() as aws:
        process = LocalProcess(tmp_path_factory.mktemp("local") / "snowflake", aws.endpoint).start()
        of = Stage(aws, process)
        of.put(b'{"_id": "e"}')
        of.outputs.aws("logs").create_log_group(logGroupName="/aws/lambda/milkrun-local-ingest")
        yield of, process
        assert process.stop() == 0


@pytest.fixture
def freezer(stage: tuple[Stage, LocalProcess], tmp_path: Path) -> Iterator[Freezer]:
    """Yield a Freezer, and write an outputs.json with its port to `tmp_path`."""
    of, process = stage
    freezer = Freezer(process)
    outputs = json.loads(of.outputs.model_dump_json())
    outputs["snowflake"] |= {"port": freezer.port, "password": "milkrun"}
    outputs["topic_arn"] = "arn:aws:sns:us-east-1:123456789012:milkrun-local-archive"
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    yield freezer
    freezer.close()


@pytest.mark.parametrize(
    ("arguments", "answer", "code"),
    [
        (["trace", "0123456789abcdef01234567", "--from", "now"], "NOT FOUND in the stores that answered", 2),
        (
            ["reconcile", "--from", "2026-11-16T08:00Z", "--to", "2026-11-16T09:00Z", "--settle", "3600"],
            "nothing is missing in the stores that answered",
            2,
        ),
        (["report"], "", 2),
        (["forget", "--device", "d", "--yes"], "", 2),
        (["warehouse", "status"], "", 2),
        *(pytest.param(["warehouse", *words], "", 2, marks=pytest.mark.slow) for words in SIMILAR),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_command_ends_even_if_snowflake_freezes_after_the_login(
    arguments: list[str],
    answer: str,
    code: int,
    freezer: Freezer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warehouse, "ANSWER_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(reachable_stores, "geofence_kinds", lambda _outputs, _stage: GEOFENCE_KINDS)
    ended = CliRunner().invoke(app, arguments, obj={"MILKRUN_LOCAL": str(tmp_path)}, env={"COLUMNS": "400"})
    assert freezer.frozen_at is not None, (ended.output, ended.exception)
    assert time.monotonic() - freezer.frozen_at < LIMIT_SECONDS + SLACK_SECONDS
    said = f"{ended.output}{ended.exception or ''}"
    assert f"no answer from Snowflake at http://127.0.0.1:{freezer.port}" in said
    assert answer in said
    assert ended.exit_code == code or isinstance(ended.exception, NoAnswerError)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["status"], "it is therefore unknown whether the pipes received"),
        pytest.param(["refresh"], "no answer from S3 within 2 s", marks=pytest.mark.slow),
        pytest.param(["apply"], "no answer from S3 within 2 s", marks=pytest.mark.slow),
    ],
    ids=["status", "refresh", "apply"],
)
def test_warehouse_command_ends_even_if_s3_does_not_answer(
    arguments: list[str],
    answer: str,
    stage: tuple[Stage, LocalProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warehouse, "ANSWER_SECONDS", LIMIT_SECONDS)
    outputs = json.loads(stage[0].outputs.model_dump_json())
    outputs["snowflake"] |= {"password": "milkrun"}
    with silent_port() as port:
        outputs["aws_endpoint_url"] = f"http://127.0.0.1:{port}"
        (tmp_path / "outputs.json").write_text(json.dumps(outputs))
        ended = CliRunner().invoke(app, ["warehouse", *arguments], obj={"MILKRUN_LOCAL": str(tmp_path)})
    said = f"{ended.output}{ended.exception or ''}"
    assert answer in said
    assert ("EVENTS_PIPE" in said) is (arguments == ["status"])
    assert ended.exit_code == 2 or isinstance(ended.exception, NoAnswerError)


@pytest.mark.slow
def test_statement_slower_than_the_limit_is_not_mistaken_for_a_frozen_snowflake(
    stage: tuple[Stage, LocalProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warehouse, "ANSWER_SECONDS", 2)
    rows, seconds = 6_000_000, 0.0
    with stage[0].outputs.warehouse() as session:
        while seconds <= 2:
            rows *= 2
            sql = f"SELECT COUNT(MD5(SEQ4()::VARCHAR)) AS n FROM TABLE(GENERATOR(ROWCOUNT => {rows}))"
            began = time.monotonic()
            assert session.query(sql) == [{"n": rows}]
            seconds = time.monotonic() - began


def test_command_ends_even_if_a_statement_hangs(freezer: Freezer, tmp_path: Path) -> None:
    """At exit, the connector tries to close its session. The process must not wait for that."""
    program = (
        "import os, sys; from snowpipe import warehouse; from tools.milkrun import app, complain\n"
        "from cli.command_errors import run\n"
        f"warehouse.ANSWER_SECONDS = {LIMIT_SECONDS}\n"
        "sys.exit(run(app, sys.argv[1:], obj=os.environ, environment=os.environ, tell=complain))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "warehouse", "query", "SELECT 1"],
        cwd=ROOT,
        env=os.environ | {"MILKRUN_LOCAL": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert freezer.frozen_at is not None, ended.stderr
    assert time.monotonic() - freezer.frozen_at < LIMIT_SECONDS + SLACK_SECONDS
    assert ended.returncode == 2
    assert "the statement may have run" in ended.stderr
