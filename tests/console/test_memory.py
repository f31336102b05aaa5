"""Measure the console's process with a large fleet: its CPU usage while 2,000 trucks send positions, and its peak
memory before and after the download of a large CSV file.

The stores are moto's S3 and a local Snowflake, so no stack is needed. `pytest -s` prints the measurements.
"""

import io
import json
import logging
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import urllib3
from moto.server import ThreadedMotoServer

from contract.archive_object import lines_object
from local_snowflake.testing import Aws, LocalProcess, free_port
from tests.console.load import QueueListener, cpu_seconds, memory_mib
from tests.e2e.pipeline import event, eventually

TRUCKS = 2000
VISITS = 50_000
MOST_MIB = 250
MOST_CPU = 0.2
SECONDS = 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Archive:
    """An archive bucket in moto's S3, in which the test stores a fleet's position events."""

    def __init__(self, aws: Aws) -> None:
        self._s3 = aws.s3
        self.bucket, _ = aws.bucket()

    def pings(self, trucks: range) -> None:
        """Store one archive object that contains one position event per truck."""
        lines = [
            json.dumps(
                event(
                    f"truck-{n:04d}",
                    location={"type": "Point", "coordinates": [5 + random.random(), 53 + random.random()]},
                )
            ).encode()
            for n in trucks
        ]
        stored = lines_object("events", lines, datetime.now(UTC))
        self._s3.put_object(Bucket=self.bucket, Key=stored.key, Body=stored.body)


def make_functions(endpoint: str) -> None:
    """Create the ingest and consume functions, because the console reads the stage's settings from the
    functions' environment variables.
    """

    def client(service: str) -> Any:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, region_name="us-east-1", endpoint_url=endpoint, **keys)

    role = client("iam").create_role(RoleName="function", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as file:
        file.writestr("main.py", "")
    names = ("ARCHIVE_BUCKET", "STREAM_NAME", "REDRIVE_QUEUE_URL", "VISITS_TABLE", "EVENT_BUS_NAME")
    for name in ("ingest", "consume"):
        client("lambda").create_function(
            FunctionName=f"milkrun-local-{name}",
            Runtime="python3.13",
            Role=role,
            Handler="main.handle",
            Code={"ZipFile": package.getvalue()},
            Environment={"Variables": dict.fromkeys(names, "name")},
        )


@pytest.fixture
def archive() -> Iterator[tuple[Aws, Archive]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    aws = Aws(f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    make_functions(aws.endpoint)
    yield aws, Archive(aws)
    server.stop()


@pytest.fixture
def warehouse(archive: tuple[Aws, Archive], tmp_path: Path) -> Iterator[LocalProcess]:
    """Yield a local Snowflake whose visits mart contains VISITS visits, all from the last 24 hours."""
    local = LocalProcess(tmp_path / "snowflake", archive[0].endpoint).start()
    with local.connect() as connection, connection.cursor() as cursor:
        for statement in (
            "CREATE WAREHOUSE MILKRUN_WH",
            "CREATE DATABASE MILKRUN",
            "CREATE SCHEMA MILKRUN.MARTS",
            "CREATE TABLE MILKRUN.MARTS.GEOFENCE_VISITS AS SELECT 'v-' || n AS visit_key,"
            f" 'truck-' || LPAD(MOD(n, {TRUCKS})::VARCHAR, 4, '0') AS device_id, 'farm' AS geofence_tag,"
            " 'farm-' || MOD(n, 300) AS geofence_external_id,"
            " DATEADD('millisecond', -n * 1700, CURRENT_TIMESTAMP()::TIMESTAMP_NTZ) AS entered_at,"
            " DATEADD('second', 600, entered_at) AS exited_at, UUID_STRING() AS entered_event_id,"
            " UUID_STRING() AS exited_event_id, FALSE AS exit_missed, 600::NUMBER(18, 6) AS dwell_seconds,"
            " exited_at AS last_seen_at, NULL::FLOAT AS app_dwell_seconds, 1 AS crossings"
            f" FROM (SELECT SEQ4() AS n FROM TABLE(GENERATOR(ROWCOUNT => {VISITS})))",
        ):
            cursor.execute(statement)
    yield local
    local.stop()


@pytest.fixture
def console(
    archive: tuple[Aws, Archive], warehouse: LocalProcess, tmp_path: Path
) -> Iterator[tuple[str, int]]:
    """Start a console; yield its URL and process id."""
    aws, stored = archive
    outputs = {
        "endpoint": f"{aws.endpoint}/v1/events",
        "api_key": "the-api-key",
        "region": "us-east-1",
        "aws_endpoint_url": aws.endpoint,
        "bucket": stored.bucket,
        "stream": "stream",
        "visits_table": "visits",
        "redrive_queue_url": f"{aws.endpoint}/q",
        "dead_letter_queue_url": f"{aws.endpoint}/d",
        "snowflake": {
            "account": "fakesnow", "host": "127.0.0.1", "port": warehouse.port, "protocol": "http",
            "user": "milkrun", "password": "milkrun", "role": "ACCOUNTADMIN",
        },
    }  # fmt: skip
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    port = free_port()
    options = ("--port", str(port), "--no-live-bus", "--reconcile-every", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.console", *options], env={"MILKRUN_LOCAL": str(tmp_path)}
    )
    yield f"http://127.0.0.1:{port}", process.pid
    process.kill()
    process.wait()


def test_console_stays_within_its_memory_and_cpu_limits_with_a_large_fleet(
    archive: tuple[Aws, Archive], console: tuple[str, int]
) -> None:
    _, stored = archive
    url, pid = console
    http = urllib3.PoolManager(timeout=300, retries=urllib3.Retry(40, backoff_factor=0.2, backoff_max=1))
    for first in range(0, TRUCKS, 100):
        stored.pings(range(first, first + 100))
    page = QueueListener(url, http)
    page.start()
    eventually(lambda: len(http.request("GET", f"{url}/api/trucks").json()["trucks"]) == TRUCKS, within=120)

    began, used = time.monotonic(), cpu_seconds(pid)
    for second in range(SECONDS):  # each truck pings every ten seconds
        some = TRUCKS // 10
        stored.pings(range(second % 10 * some, (second % 10 + 1) * some))
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))
    sent = TRUCKS + SECONDS * TRUCKS // 10
    eventually(lambda: http.request("GET", f"{url}/api/all").json()["good"] == sent, within=120)
    cpu = (cpu_seconds(pid) - used) / SECONDS
    fleet_mib = memory_mib(pid, "VmHWM")

    day = f"from={(datetime.now(UTC) - timedelta(hours=25)).isoformat()[:19]}Z"
    answer = http.request("GET", f"{url}/api/visits.csv?{day}", preload_content=False)
    assert answer.status == 200, answer.data
    lines = sum(chunk.count(b"\r\n") for chunk in answer.stream(1 << 16))
    csv_mib = memory_mib(pid, "VmHWM")
    print(
        f"CPU usage: {cpu:.0%} of a core. Peak memory: {fleet_mib:.0f} MiB before the CSV download,"
        f" {csv_mib:.0f} MiB after it."
    )
    assert lines == 1 + VISITS
    assert cpu <= MOST_CPU
    assert csv_mib <= MOST_MIB
