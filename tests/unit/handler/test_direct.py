"""Calls without an SDK client: moto takes them, a strict server checks every signature, odd answers are told."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import boto3
import pytest
from botocore.credentials import Credentials, RefreshableCredentials
from moto.server import ThreadedMotoServer

from contract.objects import lines_object
from contract.signed import endpoint_of
from handler.aws import client
from handler.direct import KinesisRecords, S3Objects, kinesis_records, s3_objects
from handler.publish import Malformed, Unavailable
from handler.settings import Settings
from handler.sift import Record
from tests.unit.contract.strict import Strict, strict_service
from tests.unit.contract.test_objects import AT

REGION = "eu-west-1"
CREDENTIALS = Credentials("AKID", "secret/+", "token==")
LINES = lines_object("events", [b'{"a":1}'], AT)
RECORDS = [Record("van-1", b"{}", 1), Record("van ü 2", b"[1]", 2)]


def no_pause(_: float) -> None: ...


def archive(service: Strict, credentials: Any = CREDENTIALS) -> S3Objects:
    objects = s3_objects("archive", REGION, credentials, service.url)
    objects._pause = no_pause
    return objects


def stream(service: Strict) -> KinesisRecords:
    return kinesis_records("s", REGION, CREDENTIALS, service.url)


@pytest.fixture
def strict() -> Iterator[Strict]:
    with strict_service() as service:
        yield service


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>…</Message></Error>".encode()


# --- S3 -----------------------------------------------------------------------------------------


def test_an_object_is_put_signed_whole_and_only_where_none_stands(strict: Strict) -> None:
    assert archive(strict).store(LINES, {"request-id": "a%20b", "app-version": "1.0  beta"}) is True
    ((method, path, headers, body),) = strict.requests
    assert (method, unquote(path), body) == ("PUT", f"/archive/{LINES.key}", LINES.body)
    assert headers["if-none-match"] == "*"
    assert headers["content-type"] == "application/gzip"
    assert headers["x-amz-meta-request-id"] == "a%20b"
    assert headers["x-amz-content-sha256"] == hashlib.sha256(LINES.body).hexdigest()
    assert headers["x-amz-security-token"] == "token=="


def test_an_object_that_stands_there_is_no_failure(strict: Strict) -> None:
    strict.answers = [(412, error("PreconditionFailed"))]
    assert archive(strict).store(LINES, {}) is False


@pytest.mark.parametrize(
    "passing", [None, (503, error("SlowDown")), (500, b""), (400, error("RequestTimeout"))]
)
def test_what_passes_is_tried_three_times(strict: Strict, passing: tuple[int, bytes] | None) -> None:
    strict.answers = [passing, passing, (200, b"")]
    assert archive(strict).store(LINES, {}) is True
    strict.answers = [passing] * 3
    with pytest.raises(Unavailable, match=r"S3: (SlowDown|500|RequestTimeout|RemoteDisconnected)"):
        archive(strict).store(LINES, {})
    assert len(strict.requests) == 6


def test_what_does_not_pass_is_tried_once(strict: Strict) -> None:
    strict.answers = [(403, error("AccessDenied"))]
    with pytest.raises(Unavailable, match="S3: AccessDenied"):
        archive(strict).store(LINES, {})
    assert len(strict.requests) == 1


def test_a_conflict_with_another_write_is_tried_again_and_ends(strict: Strict) -> None:
    conflict = (409, error("ConditionalRequestConflict"))
    strict.answers = [conflict, conflict, (412, b"")]
    assert archive(strict).store(LINES, {}) is False
    strict.answers = [conflict] * 9
    with pytest.raises(Unavailable, match="S3: ConditionalRequestConflict"):
        archive(strict).store(LINES, {})
    assert len(strict.requests) == 3 + 4


def test_credentials_of_a_role_are_renewed_between_calls(strict: Strict) -> None:
    strict.secrets = {"first": "one", "second": "two"}

    def role(key: str, secret: str, lives: timedelta) -> dict[str, str]:
        expiry = datetime.now(UTC) + lives
        return {"access_key": key, "secret_key": secret, "token": "t", "expiry_time": expiry.isoformat()}

    first = role("first", "one", timedelta(minutes=20))
    renewed = RefreshableCredentials.create_from_metadata(
        first, lambda: role("second", "two", timedelta(hours=1)), "test"
    )
    objects = archive(strict, renewed)
    assert objects.store(LINES, {})
    renewed._expiry_time = datetime.now(UTC) + timedelta(minutes=1)  # type: ignore[attr-defined]
    assert objects.store(LINES, {})
    used = [headers["authorization"].split("Credential=")[1] for _, _, headers, _ in strict.requests]
    assert [credential.split("/")[0] for credential in used] == ["first", "second"]


# --- Kinesis ------------------------------------------------------------------------------------


def test_records_are_sent_in_one_signed_call(strict: Strict) -> None:
    strict.answers = [(200, b'{"FailedRecordCount":0,"Records":[{},{}],"EncryptionType":"KMS"}')]
    assert stream(strict).put(RECORDS) == []
    ((method, path, headers, body),) = strict.requests
    assert (method, path) == ("POST", "/")
    assert headers["x-amz-target"] == "Kinesis_20131202.PutRecords"
    assert json.loads(body) == {
        "StreamName": "s",
        "Records": [
            {"Data": "e30=", "PartitionKey": "van-1"},
            {"Data": "WzFd", "PartitionKey": "van ü 2"},
        ],
    }


def test_only_the_records_that_putrecords_names_are_refused(strict: Strict) -> None:
    throttled = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow down"}
    taken = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
    strict.answers = [(200, json.dumps({"FailedRecordCount": 1, "Records": [throttled, taken]}).encode())]
    assert stream(strict).put(RECORDS) == [RECORDS[0]]


@pytest.mark.parametrize("code", ["ValidationException", "com.amazonaws.kinesis#InvalidArgumentException"])
def test_what_kinesis_calls_invalid_is_malformed(strict: Strict, code: str) -> None:
    strict.answers = [(400, json.dumps({"__type": code}).encode())]
    with pytest.raises(Malformed):
        stream(strict).put(RECORDS)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((400, b'{"__type":"ProvisionedThroughputExceededException"}'), "ProvisionedThroughputExceeded"),
        ((500, b"<html>"), "500"),
        ((400, b"[]"), "400"),
        ((200, b"<html>"), "unreadable"),
        ((200, b'{"FailedRecordCount":1,"Records":[{}]}'), "unreadable"),
        (None, "RemoteDisconnected"),
    ],
)
def test_any_other_answer_is_an_outage(strict: Strict, answer: tuple[int, bytes] | None, told: str) -> None:
    strict.answers = [answer]
    with pytest.raises(Unavailable, match=f"Kinesis: .*{told}"):
        stream(strict).put(RECORDS)


# --- where they are -----------------------------------------------------------------------------


def test_an_address_where_nobody_listens_is_an_outage() -> None:
    objects = s3_objects("archive", REGION, CREDENTIALS, "http://127.0.0.1:9")
    objects._pause = no_pause
    with pytest.raises(Unavailable, match="S3: ConnectionRefusedError"):
        objects.store(LINES, {})
    with pytest.raises(Unavailable, match="Kinesis: ConnectionRefusedError"):
        kinesis_records("s", REGION, CREDENTIALS, "http://127.0.0.1:9").put(RECORDS)


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "cn-north-1"])
@pytest.mark.parametrize("service", ["s3", "kinesis", "dynamodb", "events"])
def test_at_aws_the_endpoints_are_the_sdks(
    region: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    assert endpoint_of(service, region) in (
        client(service, tries=1).meta.endpoint_url,
        "https://s3.us-east-1.amazonaws.com",  # S3's global name has no region in it: ours has
    )


def test_a_bucket_has_its_own_host_at_aws_unless_a_dot_is_in_its_name() -> None:
    plain = s3_objects("archive", REGION, CREDENTIALS)
    dotted = s3_objects("my.archive", REGION, CREDENTIALS)
    assert (plain._s3.url, plain._path) == ("https://archive.s3.eu-west-1.amazonaws.com", "")
    assert (dotted._s3.url, dotted._path) == ("https://s3.eu-west-1.amazonaws.com", "/my.archive")


def test_settings_name_endpoints_as_the_sdk_does() -> None:
    named = {"ARCHIVE_BUCKET": "archive", "STREAM_NAME": "s", "REDRIVE_QUEUE_URL": "q", "AWS_REGION": REGION}
    everywhere = Settings.of(named | {"AWS_ENDPOINT_URL": "http://all"})
    assert [everywhere.endpoint("s3"), everywhere.endpoint("kinesis")] == ["http://all", "http://all"]
    one = Settings.of(named | {"AWS_ENDPOINT_URL_KINESIS": "http://k"})
    assert [one.endpoint("s3"), one.endpoint("kinesis")] == ["", "http://k"]


def test_moto_takes_both_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {"ENDPOINT_URL": f"http://{host}:{port}", "DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        # Patient ones: moto reads half of botocore before its first answer.
        s3, kinesis = boto3.client("s3"), boto3.client("kinesis")
        s3.create_bucket(Bucket="direct")
        kinesis.create_stream(StreamName="direct", ShardCount=1)

        objects = s3_objects("direct", "us-east-1", CREDENTIALS, f"http://{host}:{port}")
        assert objects.store(LINES, {"request-id": "first"}) is True
        assert objects.store(LINES, {"request-id": "second"}) is False
        found = s3.get_object(Bucket="direct", Key=LINES.key)
        assert (found["Metadata"], found["ContentType"]) == ({"request-id": "first"}, "application/gzip")
        assert found["Body"].read() == LINES.body

        records = kinesis_records("direct", "us-east-1", CREDENTIALS, f"http://{host}:{port}")
        assert records.put(RECORDS) == []
        shard = kinesis.describe_stream(StreamName="direct")["StreamDescription"]["Shards"][0]["ShardId"]
        at = kinesis.get_shard_iterator(StreamName="direct", ShardId=shard, ShardIteratorType="TRIM_HORIZON")
        got = kinesis.get_records(ShardIterator=at["ShardIterator"])["Records"]
        assert [(r["PartitionKey"], r["Data"]) for r in got] == [(r.partition_key, r.data) for r in RECORDS]
    finally:
        server.stop()
