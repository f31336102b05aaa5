"""Test commands against AWS services that never respond: one line within the budget, and exit code 2."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from ops import reach, terminal
from ops.outputs import Outputs
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
    ],
)
def test_unresponsive_service_ends_a_command_within_the_budget(
    arguments: str, service: str, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{silent}"
    stage = Outputs(
        endpoint=f"{url}/v1/events",
        api_key="k",
        region="us-east-1",
        bucket="b",
        stream="s",
        visits_table="v",
        redrive_queue_url=f"{url}/q",
        dead_letter_queue_url=f"{url}/d",
        aws_endpoint_url=url,
        snowflake=Connection(account="a", user="u", password="p", host="127.0.0.1", port=1, protocol="http"),
    )
    monkeypatch.setattr(terminal, "outputs_of", lambda _context, _stage: stage)
    monkeypatch.setattr(reach, "BUDGET_SECONDS", 0.1)
    began = time.monotonic()
    ended = CliRunner().invoke(app, arguments.split(), obj={}, env={"COLUMNS": "400"})
    assert time.monotonic() - began < 25  # the five attempts of boto3 take 150 s
    said = f"{ended.output}{ended.exception or ''}"
    assert f"{service}: no answer from {service} within 0.1 s" in said
    assert ended.exit_code != 0
