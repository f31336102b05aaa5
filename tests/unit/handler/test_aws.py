"""The adapters against S3, Kinesis and SQS as moto speaks them, and against answers moto does not give."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber
from moto.server import ThreadedMotoServer

from contract.objects import lines_object, lines_of
from handler.aws import KinesisStream, S3Archive, S3Lines, SqsRedriveQueue, client
from handler.publish import Malformed, Unavailable
from handler.sift import Record
from tests.unit.contract.test_objects import AT

LINES = lines_object("events", [b'{"a":1}'], AT)
RECORDS = [Record("van-1", b"{}", 1), Record("van-2", b"[]", 2)]


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    secrets = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    for service, call in {"s3": "list_buckets", "kinesis": "list_streams", "sqs": "list_queues"}.items():
        # With patience: moto reads half of botocore before its first answer, longer than ours would wait.
        patient = boto3.client(service, region_name="us-east-1", endpoint_url=url, **secrets)  # type: ignore[call-overload]
        getattr(patient, call)()
    yield url
    server.stop()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_an_object_is_put_once_and_found_the_second_time(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    s3 = client("s3", tries=3)
    s3.create_bucket(Bucket="archive")
    archive = S3Archive(s3, "archive")

    assert archive.store(LINES, {"request-id": "first"}) is True
    assert archive.store(LINES, {"request-id": "second"}) is False

    found = s3.get_object(Bucket="archive", Key=LINES.key)
    assert found["Metadata"] == {"request-id": "first"}
    assert lines_of(S3Lines(s3).body("archive", LINES.key)) == [b'{"a":1}']
    with pytest.raises(Unavailable, match="NoSuchBucket"):
        S3Archive(s3, "nowhere").store(LINES, {})


def test_records_arrive_on_the_stream_with_their_keys(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    kinesis = client("kinesis", tries=1)
    kinesis.create_stream(StreamName="s", ShardCount=1)

    assert KinesisStream(kinesis, "s").put(RECORDS) == []

    shard = kinesis.describe_stream(StreamName="s")["StreamDescription"]["Shards"][0]["ShardId"]
    iterator = kinesis.get_shard_iterator(StreamName="s", ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    got = kinesis.get_records(ShardIterator=iterator["ShardIterator"])["Records"]
    assert [(r["PartitionKey"], r["Data"]) for r in got] == [("van-1", b"{}"), ("van-2", b"[]")]
    with pytest.raises(Unavailable, match="ResourceNotFound"):
        KinesisStream(kinesis, "nowhere").put(RECORDS)


def test_a_claim_check_names_bucket_key_and_lines(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    sqs = client("sqs", tries=2)
    url = sqs.create_queue(QueueName="redrive")["QueueUrl"]

    SqsRedriveQueue(lambda: client("sqs", tries=2), url, "archive").leave(LINES.key, [1, 3])

    (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    assert json.loads(message["Body"]) == {"bucket": "archive", "key": LINES.key, "lines": [1, 3]}
    with pytest.raises(Unavailable, match="SQS"):
        SqsRedriveQueue(lambda: sqs, url + "-nowhere", "archive").leave(LINES.key, [1])


def test_nobody_waits_longer_than_a_function_lives() -> None:
    config = client("s3", tries=3).meta.config
    assert (config.connect_timeout, config.read_timeout) == (1, 2)
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}


def test_an_address_where_nobody_listens_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="S3: EndpointConnectionError"):
        S3Archive(client("s3", tries=1), "archive").store(LINES, {})
    with pytest.raises(Unavailable, match="Kinesis: EndpointConnectionError"):
        KinesisStream(client("kinesis", tries=1), "s").put(RECORDS)
    with pytest.raises(Unavailable, match="SQS: EndpointConnectionError"):
        SqsRedriveQueue(lambda: client("sqs", tries=1), "http://127.0.0.1:9/q", "archive").leave("k", [1])
    with pytest.raises(Unavailable, match="S3: EndpointConnectionError"):
        S3Lines(client("s3", tries=1)).body("archive", "k")


# --- answers that moto does not give ------------------------------------------------------------


@pytest.fixture
def s3() -> Iterator[tuple[Any, Stubber]]:
    real = client("s3", tries=1)
    with Stubber(real) as stub:
        yield real, stub


@pytest.fixture
def kinesis() -> Iterator[tuple[Any, Stubber]]:
    real = client("kinesis", tries=1)
    with Stubber(real) as stub:
        yield real, stub


def test_a_conflict_with_another_write_is_tried_again(s3: tuple[Any, Stubber]) -> None:
    real, stub = s3
    for _ in range(2):
        stub.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
    stub.add_client_error("put_object", "PreconditionFailed", http_status_code=412)
    pauses: list[float] = []
    assert S3Archive(real, "archive", pauses.append).store(LINES, {}) is False
    assert len(pauses) == 2


def test_a_conflict_that_does_not_end_is_an_outage(s3: tuple[Any, Stubber]) -> None:
    real, stub = s3
    for _ in range(4):
        stub.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
    with pytest.raises(Unavailable, match="Conflict"):
        S3Archive(real, "archive", lambda _: None).store(LINES, {})


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "AccessDenied"])
def test_any_other_error_of_s3_is_an_outage(s3: tuple[Any, Stubber], code: str) -> None:
    real, stub = s3
    stub.add_client_error("put_object", code, http_status_code=503)
    with pytest.raises(Unavailable, match=code):
        S3Archive(real, "archive").store(LINES, {})


def test_only_the_records_that_putrecords_names_are_refused(kinesis: tuple[Any, Stubber]) -> None:
    real, stub = kinesis
    throttled = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow down"}
    taken = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
    stub.add_response(
        "put_records",
        {"FailedRecordCount": 1, "Records": [throttled, taken]},
        {"StreamName": "s", "Records": ANY},
    )
    assert KinesisStream(real, "s").put(RECORDS) == [RECORDS[0]]


@pytest.mark.parametrize("code", ["ValidationException", "InvalidArgumentException"])
def test_what_kinesis_calls_invalid_is_malformed(kinesis: tuple[Any, Stubber], code: str) -> None:
    real, stub = kinesis
    stub.add_client_error("put_records", code)
    with pytest.raises(Malformed):
        KinesisStream(real, "s").put(RECORDS)


def test_what_botocore_itself_calls_invalid_is_malformed() -> None:
    with pytest.raises(Malformed):
        KinesisStream(client("kinesis", tries=1), "s").put([Record(7, b"{}", 1)])


@pytest.mark.parametrize(
    "code", ["ProvisionedThroughputExceededException", "KMSThrottlingException", "Other"]
)
def test_any_other_error_of_kinesis_is_an_outage(kinesis: tuple[Any, Stubber], code: str) -> None:
    real, stub = kinesis
    stub.add_client_error("put_records", code)
    with pytest.raises(Unavailable, match=code):
        KinesisStream(real, "s").put(RECORDS)


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchBucket", "AccessDenied"])
def test_an_object_that_is_gone_is_no_outage(s3: tuple[Any, Stubber], code: str) -> None:
    """AccessDenied is what S3 says of it to a role that may not list the bucket, as the redrive function's."""
    real, stub = s3
    stub.add_client_error("get_object", code, http_status_code=403 if code == "AccessDenied" else 404)
    with pytest.raises(real.exceptions.ClientError):
        S3Lines(real).body("archive", "k")
