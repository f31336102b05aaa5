"""Helpers for tests: a local Snowflake in its own process, an emulated AWS for it, and a separate database and
bucket for each test.
"""

import gzip
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import boto3
import pytest
from snowflake import connector

TIMEOUT_SECONDS = 60

type Found = dict[str, Any]


def eventually[T](
    look: Callable[[], T], wanted: Callable[[T], bool] = bool, seconds: float = TIMEOUT_SECONDS
) -> T:
    """Poll until the condition holds and return the value; after a timeout, the error message shows the last value."""
    until = time.monotonic() + seconds
    while True:
        seen = look()
        if wanted(seen):
            return seen
        assert time.monotonic() < until, f"the value is still {seen!r} after {seconds} s"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class LocalProcess:
    """A `python -m local_snowflake` process whose queue has a visibility timeout of one second by default."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.endpoint = endpoint
        self.port = free_port()
        self.log = folder.with_suffix(".log")
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> "LocalProcess":
        self.process = self.spawn(*options)
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert "ready" in line, self.process.stderr and self.process.stderr.read()
        return self

    def spawn(self, *options: str) -> "subprocess.Popen[str]":
        arguments = ["--port", str(self.port), "--dir", str(self.folder), "--log-file", str(self.log)]
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "local_snowflake",
                *arguments,
                "--visibility-seconds",
                "1",
                *options,
            ],
            env={**os.environ, "AWS_ENDPOINT_URL": self.endpoint, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def connect(self, **options: object) -> "connector.SnowflakeConnection":
        options = {"user": "milkrun", "password": "milkrun", **options}
        return connector.connect(
            account="fakesnow",
            host="127.0.0.1",
            port=self.port,
            protocol="http",
            session_parameters={"CLIENT_TELEMETRY_ENABLED": False},
            login_timeout=10,
            network_timeout=10,
            **options,
        )

    def kill(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=20)

    @contextmanager
    def days_later(self, days: float) -> Iterator[None]:
        self._set_clock(days)
        try:
            yield
        finally:
            self._set_clock(0)

    def _set_clock(self, days_ahead: float) -> None:
        call = HTTPConnection("127.0.0.1", self.port)
        call.request("PUT", "/clock", json.dumps({"days_ahead": days_ahead}))
        assert call.getresponse().status == 200
        call.close()

    def logged(self, event: str) -> list[Found]:
        lines = self.log.read_text().splitlines()
        return [entry for line in lines if (entry := json.loads(line))["event"] == event]


class Aws:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        options: Found = {
            "endpoint_url": endpoint,
            "region_name": "us-east-1",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }
        self.s3 = boto3.client("s3", **options)
        self.sns = boto3.client("sns", **options)
        self.sqs = boto3.client("sqs", **options)

    @classmethod
    @contextmanager
    def running(cls) -> "Iterator[Aws]":
        """Run moto's S3, SNS and SQS inside the `with` block."""
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            yield cls(f"http://127.0.0.1:{server.get_host_and_port()[1]}")
        finally:
            server.stop()

    def bucket(self) -> tuple[str, str]:
        """Create a bucket, and the topic to which the bucket sends notifications of new objects. Return the
        bucket's name and the topic's ARN.
        """
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        return name, self.notifying_bucket(name)

    def notifying_bucket(self, name: str) -> str:
        self.s3.create_bucket(Bucket=name)
        topic: str = self.sns.create_topic(Name=name)["TopicArn"]
        self.s3.put_bucket_notification_configuration(
            Bucket=name,
            NotificationConfiguration={
                "TopicConfigurations": [{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}]
            },
        )
        return topic

    def announce(self, queue_url: str, body: str) -> None:
        self.sqs.send_message(QueueUrl=queue_url, MessageBody=body)


class Warehouse:
    """A test's own database in a local Snowflake, accessed through the connector, with the test's own bucket
    and topic.
    """

    def __init__(self, local: LocalProcess, aws: Aws) -> None:
        self.local = local
        self.aws = aws
        self.bucket, self.topic = aws.bucket()
        self.database = f"DB_{uuid.uuid4().hex[:8].upper()}"
        self.connection = local.connect()
        self.run(f"CREATE DATABASE {self.database}")
        self.run(f"CREATE SCHEMA {self.database}.RAW")

    @contextmanager
    def as_role(self, role: str, **options: object) -> Iterator["Warehouse"]:
        """Yield a copy of this object whose connection uses another role; the connection is closed at the end of
        the `with` block.
        """
        other = copy(self)
        other.connection = self.local.connect(database=self.database, role=role, **options)
        try:
            yield other
        finally:
            other.connection.close()

    def with_pipe(self) -> "Warehouse":
        self.table()
        self.stage()
        self.pipe()
        return self

    def reconnect(self) -> None:
        """Connect again after the local Snowflake was restarted."""
        self.connection = self.local.connect(database=self.database)

    def run(self, sql: str) -> list[Found]:
        """Execute a statement and return its rows as dictionaries, keyed by the connector's column names."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def refused(self, sql: str) -> str:
        """Run a statement that must fail within five seconds, and return the error message."""
        began = time.monotonic()
        with pytest.raises(connector.errors.DatabaseError) as error:
            self.run(sql)
        assert time.monotonic() - began < 5, "the connector retried"
        return str(error.value)

    def table(self, name: str = "EVENTS") -> None:
        self.run(
            f"""CREATE TABLE RAW.{name} (payload VARIANT NOT NULL, file_name VARCHAR NOT NULL,
                file_row_number NUMBER NOT NULL, file_modified_at TIMESTAMP_NTZ, scanned_at TIMESTAMP_LTZ)"""
        )

    def stage(self, name: str = "EVENTS_STAGE", path: str = "events/", extra: str = "") -> None:
        self.run(
            f"CREATE STAGE RAW.{name} URL = 's3://{self.bucket}/{path}' FILE_FORMAT = (TYPE = JSON) {extra}"
        )

    def copy(self, *, options: str = "", stage: str = "EVENTS_STAGE", table: str = "EVENTS") -> str:
        return f"""COPY INTO RAW.{table} (payload, file_name, file_row_number, file_modified_at, scanned_at)
            FROM (SELECT $1, METADATA$FILENAME, METADATA$FILE_ROW_NUMBER, METADATA$FILE_LAST_MODIFIED,
                         METADATA$START_SCAN_TIME FROM @RAW.{stage}) {options}"""

    def pipe(self, name: str = "EVENTS_PIPE", *, replace: bool = False, **copy: str) -> None:
        self.run(
            f"""CREATE {"OR REPLACE" if replace else ""} PIPE RAW.{name} AUTO_INGEST = TRUE
                AWS_SNS_TOPIC = '{self.topic}' AS {self.copy(**copy)}"""
        )

    def put(self, key: str, *lines: object, body: bytes | None = None) -> str:
        if body is None:
            text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
            body = gzip.compress(text.encode())
        self.aws.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        return key

    def count(self, table: str = "EVENTS") -> int:
        found: int = self.run(f"SELECT count(*) AS N FROM RAW.{table}")[0]["N"]
        return found

    def has_rows(self, number: int, table: str = "EVENTS") -> None:
        assert eventually(lambda: self.count(table), lambda count: count >= number) == number

    def history(self, table: str = "EVENTS") -> dict[str, Found]:
        rows = self.run(
            f"""SELECT * FROM TABLE(INFORMATION_SCHEMA.COPY_HISTORY(
                TABLE_NAME => 'RAW.{table}', START_TIME => DATEADD(hours, -1, CURRENT_TIMESTAMP())))
                ORDER BY LAST_LOAD_TIME"""
        )
        return {row["FILE_NAME"]: row for row in rows}

    def fate(self, file_name: str) -> dict[str, object]:
        return eventually(lambda: self.history().get(file_name) or {})

    def status(self, name: str = "EVENTS_PIPE") -> Found:
        rows = self.run(f"SELECT SYSTEM$PIPE_STATUS('RAW.{name}') AS S")
        read: Found = json.loads(rows[0]["S"])
        return read

    def has_waiting(self, number: int, name: str = "EVENTS_PIPE") -> None:
        """Wait until `number` files are recorded as waiting and their messages are deleted. From then on, no
        redelivered message can record the files again with a later time.
        """
        pipe = f"{self.database}.RAW.{name}"
        eventually(
            lambda: sum(e["files"] for e in self.local.logged("files_waiting") if e["pipe"] == pipe),
            lambda files: files >= number,
        )
        eventually(self.messages, lambda messages: messages == 0)

    def messages(self) -> int:
        """Return the number of messages in Snowflake's queue, including those in flight."""
        found = self.aws.sqs.get_queue_attributes(
            QueueUrl=self.queue_url(),
            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
        )
        return sum(int(value) for value in found["Attributes"].values())

    def queue_url(self) -> str:
        """Return the URL of Snowflake's own queue. Its name is the last part of the pipe's notification channel, which
        is the queue's ARN.
        """
        name = self.status()["notificationChannelName"].rpartition(":")[2]
        url: str = self.aws.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return url
