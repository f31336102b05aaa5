"""Test that commands fail within seconds and name the service if a service never responds."""

import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from cli.refusal import Refusal
from ops import reachable_stores
from ops.post_to_endpoint import poster
from ops.stage_outputs import Outputs
from snowpipe import warehouse
from snowpipe.settings import Connection
from tools.milkrun import app


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """Yield the port of a server that accepts connections and never responds."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    for each in held:
        each.close()


@pytest.mark.parametrize(
    ("arguments", "service"),
    [
        ("visits --device d", "DynamoDB"),
        ("visits --fence farm/1", "DynamoDB"),
        ("move-visits", "DynamoDB"),
        ("rejects", "S3"),
        ("rejects show", "S3"),
        ("rejects send --set app.version=2", "S3"),
        ("quarantine", "S3"),
        ("quarantine show", "S3"),
        ("quarantine send", "S3"),
        ("redrive", "SQS"),
        ("redrive show", "SQS"),
        ("redrive send", "SQS"),
        ("replay --from 2026-11-28", "Kinesis"),
        ("reconcile", "CloudWatch Logs"),
        ("forget --user ann --yes", "DynamoDB"),
        ("smoke", "S3"),
    ],
)
def test_command_fails_soon_and_names_an_unresponsive_service(
    arguments: str, service: str, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = output_of(arguments, stage(silent), monkeypatch)
    assert f"{service}: no answer from {service} within 0.1 s" in said


def test_report_fails_soon_if_snowflake_is_unresponsive(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = output_of("report", stage(silent), monkeypatch)
    assert re.search(rf"no answer from Snowflake at http://127\.0\.0\.1:{silent}[^\n]* within 0\.1 s", said)


def test_send_to_a_stage_that_requires_tokens_fails_if_lambda_is_unresponsive(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that send events to such a stage invoke the ingest function, because an operator has no device token."""
    monkeypatch.setattr(reachable_stores, "BUDGET_SECONDS", 0.1)
    with pytest.raises(Refusal, match=r"Lambda: no answer from Lambda within 0\.1 s"):
        poster(stage(silent).model_copy(update={"ingest_function": "ingest"}))


def stage(port: int) -> Outputs:
    """Return the outputs of a stage all of whose services are at this port of 127.0.0.1."""
    url = f"http://127.0.0.1:{port}"
    snowflake = Connection(
        account="a", user="u", password="p", host="127.0.0.1", port=port, protocol="http", role="R"
    )
    return Outputs(
        endpoint=f"{url}/v1/events",
        api_key="k",
        region="us-east-1",
        bucket="b",
        stream="s",
        visits_table="v",
        redrive_queue_url=f"{url}/q",
        dead_letter_queue_url=f"{url}/d",
        aws_endpoint_url=url,
        snowflake=snowflake,
    )


def output_of(arguments: str, of: Outputs, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command that must fail within 25 seconds; return its output."""
    monkeypatch.setattr(Outputs, "find", lambda _stage, _environment: of)
    monkeypatch.setattr(reachable_stores, "BUDGET_SECONDS", 0.1)
    monkeypatch.setattr(warehouse, "ANSWER_SECONDS", 0.1)
    began = time.monotonic()
    ended = CliRunner().invoke(app, arguments.split(), obj={}, env={"COLUMNS": "400"})
    assert time.monotonic() - began < 25  # boto3's five attempts would take 150 s
    assert ended.exit_code != 0
    return f"{ended.output}{ended.exception or ''}"
