"""Measure how fast the local Snowpipe loads, how long an object waits to be loaded, and the peak memory.

    python -m tests.bench.loader [--json]

Small objects (20 events) and large objects (1 MB) are loaded from a prepared queue, with a fake AWS that is
faster than LocalStack. The wait is measured with moto, at 20 objects per second. The goals are 150 objects/s, 20,000
rows/s, a 95th-percentile wait below 3 s, and a memory peak below 600 MiB with a million rows.
"""

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snowflake import connector

from local_snowflake.testing import Aws
from tests.bench import figures
from tests.bench.figures import Figures, Points, progress
from tests.bench.generated_objects import BUCKET, body_of

PIPE = """CREATE PIPE B.RAW.EVENTS_PIPE AUTO_INGEST = TRUE AS
    COPY INTO B.RAW.EVENTS (payload, file_name, file_row_number, file_modified_at, scanned_at)
    FROM (SELECT $1, METADATA$FILENAME, METADATA$FILE_ROW_NUMBER, METADATA$FILE_LAST_MODIFIED,
                 METADATA$START_SCAN_TIME FROM @B.RAW.EVENTS_STAGE)"""
SETUP = (
    "CREATE DATABASE B",
    "CREATE SCHEMA B.RAW",
    """CREATE TABLE B.RAW.EVENTS (payload VARIANT NOT NULL, file_name VARCHAR NOT NULL,
       file_row_number NUMBER, file_modified_at TIMESTAMP_NTZ, scanned_at TIMESTAMP_LTZ)""",
    f"CREATE STAGE B.RAW.EVENTS_STAGE URL = 's3://{BUCKET}/events/' FILE_FORMAT = (TYPE = JSON)",
)


class Snowflake:
    """A local Snowflake with a table and a stage. `load` creates the pipe."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.pid = process.pid
        self.cursor = connector.connect(
            account="fakesnow",
            host="127.0.0.1",
            port=port,
            protocol="http",
            user="b",
            password="b",
            session_parameters={"CLIENT_TELEMETRY_ENABLED": False},
        ).cursor()
        for sql in SETUP:
            self.cursor.execute(sql)

    def rows(self) -> int:
        found = self.cursor.execute("SELECT count(*) FROM B.RAW.EVENTS")
        assert found
        row = found.fetchone()
        assert isinstance(row, tuple)
        return int(row[0])

    def load(self, wanted: int) -> tuple[float, Points, Points]:
        """Create the pipe and wait until `wanted` rows can be queried. Return the seconds this took, and the
        CPU seconds and peak MiB by number of loaded rows.
        """
        began, idle = time.monotonic(), self.cpu_seconds()
        self.cursor.execute(PIPE)
        cpu: Points = []
        memory: Points = []
        while (rows := self.rows()) < wanted:
            assert time.monotonic() - began < 600 + wanted / 1000, (
                f"only {rows} of {wanted} rows were loaded in time"
            )
            if rows > (cpu[-1][0] if cpu else 0) + wanted / 20:
                cpu.append((rows, self.cpu_seconds() - idle))
                memory.append((rows, self.peak_mib()))
            time.sleep(0.1)
        seconds = time.monotonic() - began
        return seconds, [*cpu, (rows, self.cpu_seconds() - idle)], [*memory, (rows, self.peak_mib())]

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"/proc/{self.pid}/status has no line VmHWM")


@contextmanager
def snowflake(endpoint: str) -> Iterator[Snowflake]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "local_snowflake", "--port", "0", "--dir", f"{folder}/db"]
        options = ["--aws-endpoint-url", endpoint, "--log-file", f"{folder}/log"]
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            port = int(process.stdout.readline().rpartition(":")[2])
            yield Snowflake(process, port)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def stand_in(objects: int, rows: int) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.generated_objects", str(objects), str(rows)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def small_objects(objects: int) -> Figures:
    progress(f"loader: loading {objects} objects of 20 events")
    with stand_in(objects, 20) as endpoint, snowflake(endpoint) as local:
        seconds, cpu, _ = local.load(objects * 20)
    by_objects = [(rows / 20, spent) for rows, spent in cpu]
    return Figures(
        rates={
            "loader/objects_per_s": objects / seconds,
            "loader/cpu_ms_per_object": cpu[-1][1] / objects * 1e3,
        },
        series={"loader/cpu_s by backlog": by_objects},
    )


def large_objects(objects: int, rows: int = 2600) -> Figures:
    """Measure the loading of objects with 1 MB of JSON each."""
    progress(f"loader: loading {objects} objects of {rows} events")
    with stand_in(objects, rows) as endpoint, snowflake(endpoint) as local:
        seconds, cpu, memory = local.load(objects * rows)
    return Figures(
        rates={
            "loader/rows_per_s": objects * rows / seconds,
            "loader/rows": objects * rows,
            "loader/peak_mib": memory[-1][1],
        },
        series={"loader/cpu_s by rows": cpu, "loader/peak_mib by rows": memory},
    )


def waiting(objects: int, per_second: int = 20) -> Figures:
    """Measure the time from an object's PUT until its rows can be queried, through moto's S3 → SNS → SQS."""
    progress(f"loader: measuring the waiting times of {objects} objects at {per_second} per second")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    aws = Aws(f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    topic = aws.notifying_bucket(BUCKET)
    try:
        with snowflake(aws.endpoint) as local:
            local.cursor.execute(PIPE.replace("AUTO_INGEST", f"AWS_SNS_TOPIC = '{topic}' AUTO_INGEST"))
            return watch(local, aws, objects, per_second)
    finally:
        server.stop()


def watch(local: Snowflake, aws: Aws, objects: int, per_second: int) -> Figures:
    put: dict[str, float] = {}
    seen: dict[str, float] = {}
    began = time.monotonic()
    while len(seen) < objects:
        assert time.monotonic() - began < 300, f"only {len(seen)} of {objects} objects were loaded in time"
        while len(put) < min(objects, (time.monotonic() - began) * per_second):
            key = f"events/{len(put)}"
            put[key] = time.monotonic()
            aws.s3.put_object(Bucket=BUCKET, Key=key, Body=body_of(len(put), 20))
        found = local.cursor.execute("SELECT DISTINCT file_name FROM B.RAW.EVENTS")
        assert found
        now = time.monotonic()
        for row in found.fetchall():
            assert isinstance(row, tuple)
            seen.setdefault(row[0], now)
        time.sleep(0.02)
    waits = sorted(seen[key] - put[key] for key in put)
    return Figures(
        rates={
            f"loader/put_to_row_s p50@{per_second}": statistics.median(waits),
            f"loader/put_to_row_s p95@{per_second}": waits[int(len(waits) * 0.95)],
        }
    )


def measure() -> Figures:
    found = small_objects(2000)
    found.add(large_objects(390))
    found.add(waiting(200))
    return found


if __name__ == "__main__":
    sys.exit(figures.main(measure, sys.argv[1:]))
