"""Run the pipeline without a stack: the real functions in this process, the real local Snowflake, and moto for AWS.

The ingest, redrive and consume functions call moto through the fault suite's proxy. A run takes seconds
instead of minutes, and the code can be patched to test that the checker detects bugs.
"""

import base64
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

import consumer.main
import handler.main
import handler.publish_with_retries
import handler.redrive
from local_snowflake.testing import Aws, LocalProcess, Warehouse
from ops import read_stores
from tests.faults.checker import Facts, Row
from tests.faults.fault_proxy import Proxy
from tests.faults.phones import Exchange, Phones, Try
from tests.faults.read_visits import read_indexes

BATCH_SIZE = 20
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@contextmanager
def moto() -> Iterator[str]:
    """Run moto in a thread and yield its URL.

    Calls to DynamoDB are serialized, because moto's conditional writes are not atomic.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    inner, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def app(environ: dict[str, Any], start: Any) -> Any:
        if "DynamoDB" in environ.get("HTTP_X_AMZ_TARGET", ""):
            with one_at_a_time:
                return list(inner(environ, start))
        return inner(environ, start)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()


class Snowflake(LocalProcess):
    """The local Snowflake. `bug` is a line of Python that runs before Snowflake starts, to plant a bug."""

    def __init__(self, folder: Path, endpoint: str, bug: str = "") -> None:
        super().__init__(folder, endpoint)
        self._bug = bug

    def spawn(self, *options: str, **popen: Any) -> "subprocess.Popen[str]":
        arguments = ["--port", str(self.port), "--dir", str(self.folder), "--log-file", str(self.log)]
        start = "from local_snowflake.__main__ import app; app()"
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{self._bug}\n{start}",
                *arguments,
                "--visibility-seconds",
                "1",
                *options,
            ],
            env={**os.environ, "AWS_ENDPOINT_URL": self.endpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **popen,
        )


class _Context:
    """A Lambda context with one minute of remaining time."""

    aws_request_id = "in-process"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class _Phones(Phones):
    """Phones that call the ingest function in this process, with an event like API Gateway's."""

    def _try(self, body: bytes, headers: Mapping[str, str]) -> Try:
        event = {
            "headers": dict(headers),
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
            "requestContext": {"extendedRequestId": uuid4().hex},
        }
        given = handler.main.ingest(event, _Context())
        headers_seen = {name.lower(): value for name, value in given["headers"].items()}
        # Waiting as long as Retry-After says would only slow the tests down.
        retry_after = "0" if "retry-after" in headers_seen else ""
        return Try(given["statusCode"], json.loads(given["body"]), headers_seen["content-type"], retry_after)


@dataclass
class Pipeline:
    """The pipeline in one process. `url` is moto's address, not the proxy's; `suffix` makes resource names unique."""

    url: str
    warehouse: Warehouse
    suffix: str
    _notifications: list[dict[str, object]] = field(default_factory=list)

    @property
    def bucket(self) -> str:
        return self.warehouse.bucket

    def named(self, what: str) -> str:
        return f"{what}-{self.suffix}"

    def phones(self, **options: Any) -> Phones:
        return _Phones("", "", at_once=1, timeout_s=30, **options)

    def aws(self, service: str) -> Any:
        keys = {name.lower(): value for name, value in KEYS.items()}
        client: Callable[..., Any] = boto3.client
        return client(service, endpoint_url=self.url, region_name="us-east-1", **keys)

    def drain(self, tries: int = 200) -> None:
        """Process the stream and the redrive queue until both are empty, but in at most `tries` rounds."""
        waiting = self._shards()
        for _ in range(tries):
            redriven = self._redrive()
            waiting = {shard: self._consume(shard, since) for shard, since in waiting.items()}
            if not redriven and not any(since.get("more") for since in waiting.values()):
                return

    def _shards(self) -> dict[str, dict[str, object]]:
        shards = self.aws("kinesis").list_shards(StreamName=self.named("geofence"))["Shards"]
        return {s["ShardId"]: {"ShardIteratorType": "TRIM_HORIZON"} for s in shards}

    def _consume(self, shard: str, since: Mapping[str, object]) -> dict[str, object]:
        """Process one batch like Lambda's poller, and return the position of the next batch.

        A failed record and all later records are delivered again.
        """
        kinesis = self.aws("kinesis")
        position = {name: value for name, value in since.items() if name != "more"}
        iterator = kinesis.get_shard_iterator(StreamName=self.named("geofence"), ShardId=shard, **position)[
            "ShardIterator"
        ]
        records = kinesis.get_records(ShardIterator=iterator, Limit=BATCH_SIZE)["Records"]
        if not records:
            return dict(since) | {"more": False}
        batch = {"Records": [_delivered(self.named("geofence"), shard, record) for record in records]}
        try:
            failures = consumer.main.consume(batch, _Context())["batchItemFailures"]
        except Exception:  # as in Lambda, the whole batch is delivered again
            return dict(since) | {"more": True}
        if failures:
            first = failures[0]["itemIdentifier"]
            return {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": first, "more": True}
        last = records[-1]["SequenceNumber"]
        return {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": last, "more": True}

    def _redrive(self) -> bool:
        sqs = self.aws("sqs")
        url = sqs.get_queue_url(QueueName=self.named("redrive"))["QueueUrl"]
        found = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["ApproximateReceiveCount"]
        ).get("Messages", [])
        messages = [
            {"messageId": m["MessageId"], "receiptHandle": m["ReceiptHandle"], "body": m["Body"]}
            | {"attributes": m["Attributes"]}
            for m in found
        ]
        if messages:
            answer = handler.redrive.redrive({"Records": messages}, _Context())
            failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
            for message in messages:
                one: dict[str, object] = {"QueueUrl": url, "ReceiptHandle": message["receiptHandle"]}
                if message["messageId"] in failed:
                    # Otherwise the message would stay invisible, and the queue would seem empty.
                    sqs.change_message_visibility(**one, VisibilityTimeout=0)
                else:
                    sqs.delete_message(**one)
        return bool(messages)

    def facts(self, exchanges: Sequence[Exchange]) -> Facts:
        s3, dynamodb = self.aws("s3"), self.aws("dynamodb")
        listed = s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        keys = [item["Key"] for item in listed]
        visits, there_now = read_indexes(dynamodb, self.named("visits"), exchanges)
        return Facts(
            exchanges,
            {key: read_stores.archived_lines(s3, self.bucket, key) for key in keys},
            visits,
            there_now,
            self._rows("EVENTS"),
            self._rows("REJECTED"),
            notifications=self._receive_notifications(),
            ended_at=datetime.now(UTC),
        )

    def _rows(self, table: str) -> list[Row]:
        sql = f"SELECT payload, file_name, file_row_number FROM RAW.{table}"
        return [
            Row(row["FILE_NAME"], int(row["FILE_ROW_NUMBER"]), row["PAYLOAD"])
            for row in self.warehouse.run(sql)
        ]

    def _receive_notifications(self) -> list[dict[str, object]]:
        """Return all notifications that have been received so far."""
        sqs = self.aws("sqs")
        url = sqs.get_queue_url(QueueName=self.named("notifications"))["QueueUrl"]
        while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            self._notifications += [json.loads(message["Body"]) for message in messages]
        return self._notifications


def _delivered(stream: str, shard: str, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "eventID": f"{shard}:{record['SequenceNumber']}",
        "eventSourceARN": f"arn:aws:kinesis:us-east-1:123456789012:stream/{stream}",
        "kinesis": {
            "partitionKey": record["PartitionKey"],
            "sequenceNumber": record["SequenceNumber"],
            "data": base64.b64encode(record["Data"]).decode(),
            "approximateArrivalTimestamp": record["ApproximateArrivalTimestamp"].timestamp(),
        },
    }


@contextmanager
def pipeline(url: str, proxy: Proxy, local: LocalProcess) -> Iterator[Pipeline]:
    """Yield a new pipeline on moto at `url`. Its functions call AWS through the proxy.

    The local Snowflake must have been started with the proxy as its AWS endpoint.
    """
    with ExitStack() as until_the_end:
        warehouse = Warehouse(local, Aws(url)).with_pipe()
        until_the_end.callback(warehouse.connection.close)
        until_the_end.callback(warehouse.run, f"DROP DATABASE {warehouse.database}")
        warehouse.table("REJECTED")
        warehouse.stage("REJECTED_STAGE", "rejected/")
        warehouse.pipe("REJECTED_PIPE", stage="REJECTED_STAGE", table="REJECTED")
        found = Pipeline(url, warehouse, uuid4().hex[:8])
        environment = {
            "AWS_ENDPOINT_URL": proxy.url,
            **KEYS,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "ARCHIVE_BUCKET": warehouse.bucket,
            "STREAM_NAME": found.named("geofence"),
            "REDRIVE_QUEUE_URL": _make(found),
            "VISITS_TABLE": found.named("visits"),
            "EVENT_BUS_NAME": found.named("bus"),
            "LOG_LEVEL": "ERROR",
        }
        until_the_end.enter_context(patch.dict(os.environ, environment))
        # Backoff would only slow the tests down, because no real service has to recover.
        for module in (handler.redrive, handler.publish_with_retries):
            until_the_end.enter_context(patch.object(module, "BACKOFF_BASE_SECONDS", 0))
        for app in (handler.main._app, handler.redrive._app, consumer.main.app_of):
            app.cache_clear()
            until_the_end.callback(app.cache_clear)
        yield found


def _make(made: Pipeline) -> str:
    """Create the stream, the table, the bus and the queues; return the redrive queue's URL."""
    attributes = ("pk", "sk", "fence_now", "entered_at")
    made.aws("dynamodb").create_table(
        TableName=made.named("visits"),
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in attributes],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": index,
                "KeySchema": [
                    {"AttributeName": key, "KeyType": "HASH"},
                    {"AttributeName": "entered_at", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["entered_event_id"]},
            }
            for index, key in (("there_now", "fence_now"),)
        ],
    )
    made.aws("kinesis").create_stream(StreamName=made.named("geofence"), ShardCount=2)
    sqs, events, bus = made.aws("sqs"), made.aws("events"), made.named("bus")
    sqs.create_queue(QueueName=made.named("notifications"))
    events.create_event_bus(Name=bus)
    pattern = json.dumps({"source": ["milkrun.visits"]})
    events.put_rule(Name="all", EventBusName=bus, EventPattern=pattern)
    queue_arn = f"arn:aws:sqs:us-east-1:123456789012:{made.named('notifications')}"
    target = {"Id": "notifications", "Arn": queue_arn}
    events.put_targets(Rule="all", EventBusName=bus, Targets=[target])
    redrive: str = sqs.create_queue(QueueName=made.named("redrive"))["QueueUrl"]
    return redrive
