"""Test the adapters with moto's S3, Kinesis and SQS."""

import json
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from aws import http
from aws.access import Access
from aws.credentials import FixedCredentials
from aws.errors import MissingObjectError, RetryableError
from aws.queue import RedriveQueue
from aws.stream import KinesisStream
from contract.archive_object import lines_object
from contract.stream_record import StreamRecord
from tests.unit.contract.test_archive_object import AT

REGION = "us-east-1"
LINES = lines_object("events", [b'{"a":1}'], AT)
RECORDS = [StreamRecord("van-1", b"{}", 1), StreamRecord("van \u00fc 2", b"[]", 2)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def sdk(service: str, url: str) -> object:
    """Return a boto3 client. Its default timeouts are long enough for moto's slow first response."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, region_name=REGION, endpoint_url=url, **keys)


@pytest.fixture
def access(url: str, monkeypatch: pytest.MonkeyPatch) -> Access:
    # moto's first responses are slow on a busy machine.
    monkeypatch.setattr(http, "CALL_SECONDS", 30.0)
    return Access(REGION, FixedCredentials("test", "test", None), {"AWS_ENDPOINT_URL": url})


def test_object_is_stored_once_and_then_reported_as_existing(url: str, access: Access) -> None:
    s3 = sdk("s3", url)
    s3.create_bucket(Bucket="archive")
    archive = access.archive("archive")

    assert archive.store(LINES, {"request-id": "first"}) is True
    assert archive.store(LINES, {"request-id": "second"}) is False

    found = s3.get_object(Bucket="archive", Key=LINES.key)
    assert (found["Metadata"], found["ContentType"]) == ({"request-id": "first"}, "application/gzip")
    assert archive.read(LINES.key) == LINES.body
    with pytest.raises(MissingObjectError):
        archive.read("events/none")
    with pytest.raises(RetryableError, match="NoSuchBucket"):
        access.archive("nowhere").store(LINES, {})


def test_records_arrive_on_the_stream_with_their_partition_keys(url: str, access: Access) -> None:
    kinesis = sdk("kinesis", url)
    kinesis.create_stream(StreamName="s", ShardCount=1)

    assert KinesisStream(access.client("kinesis"), "s").put(RECORDS) == []

    shard = kinesis.describe_stream(StreamName="s")["StreamDescription"]["Shards"][0]["ShardId"]
    iterator = kinesis.get_shard_iterator(StreamName="s", ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    got = kinesis.get_records(ShardIterator=iterator["ShardIterator"])["Records"]
    assert [(r["PartitionKey"], r["Data"]) for r in got] == [(r.partition_key, r.data) for r in RECORDS]
    with pytest.raises(RetryableError, match="ResourceNotFound"):
        KinesisStream(access.client("kinesis"), "nowhere").put(RECORDS)


def test_claim_check_contains_the_bucket_the_key_and_the_line_numbers(url: str, access: Access) -> None:
    sqs = sdk("sqs", url)
    queue_url = sqs.create_queue(QueueName="redrive", Attributes={"VisibilityTimeout": "30"})["QueueUrl"]
    queue = RedriveQueue(access.client("sqs"), queue_url, "archive")

    queue.enqueue(LINES.key, [1, 3])

    (message,) = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    assert json.loads(message["Body"]) == {"bucket": "archive", "key": LINES.key, "lines": [1, 3]}
    assert "Messages" not in sqs.receive_message(QueueUrl=queue_url)
    queue.postpone(message["ReceiptHandle"], 0)
    assert len(sqs.receive_message(QueueUrl=queue_url)["Messages"]) == 1
    with pytest.raises(RetryableError, match="SQS"):
        RedriveQueue(access.client("sqs"), queue_url + "-nowhere", "archive").enqueue(LINES.key, [1])
