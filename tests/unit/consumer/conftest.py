"""Run moto's server on loopback. It handles one request at a time, because moto's conditional writes are not atomic."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


@dataclass(frozen=True)
class Aws:
    url: str
    table: str = "visits"
    bucket: str = "archive"
    bus: str = "visits-bus"
    stream: str = "geofence"

    def client(self, service: str) -> Any:
        client: Callable[..., Any] = boto3.client
        return client(service, endpoint_url=self.url, region_name="us-east-1")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "VISITS_TABLE": self.table,
            "ARCHIVE_BUCKET": self.bucket,
            "EVENT_BUS_NAME": self.bus,
            "STREAM_NAME": self.stream,
        }

    def received_notifications(self) -> list[dict[str, object]]:
        """Receive, delete and return all notifications in the queue to which the event bus sends them."""
        sqs = self.client("sqs")
        url = sqs.get_queue_url(QueueName="received")["QueueUrl"]
        found = []
        while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def aws(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Aws:
    found = Aws(moto_url)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    # On a busy machine, a call may wait for seconds until moto has handled the calls before it.
    monkeypatch.setattr("aws.http.CALL_SECONDS", 60.0)
    monkeypatch.setattr("ops.reachable_stores.BUDGET_SECONDS", 60.0)
    import requests

    requests.post(f"{moto_url}/moto-api/reset", timeout=60)
    attribute = [{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk", "fence_now", "entered_at")]
    found.client("dynamodb").create_table(
        TableName=found.table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=attribute,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "there_now",
                "KeySchema": [
                    {"AttributeName": "fence_now", "KeyType": "HASH"},
                    {"AttributeName": "entered_at", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["entered_event_id"]},
            }
        ],
    )
    found.client("s3").create_bucket(Bucket=found.bucket)
    found.client("kinesis").create_stream(StreamName=found.stream, ShardCount=2)
    found.client("sqs").create_queue(QueueName="received")
    events = found.client("events")
    events.create_event_bus(Name=found.bus)
    events.put_rule(
        Name="all", EventBusName=found.bus, EventPattern=json.dumps({"source": ["milkrun.visits"]})
    )
    arn = "arn:aws:sqs:us-east-1:123456789012:received"
    events.put_targets(Rule="all", EventBusName=found.bus, Targets=[{"Id": "received", "Arn": arn}])
    return found
