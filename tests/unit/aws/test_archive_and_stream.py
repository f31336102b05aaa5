"""Test the archive and stream adapters with a service that checks signatures and returns unusual responses."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import boto3
import pytest
from botocore.credentials import RefreshableCredentials

from aws.access import Access
from aws.archive import Archive
from aws.credentials import Credentials, FixedCredentials, renewed_by_botocore
from aws.errors import MissingObjectError, PermanentError, RetryableError
from aws.http import endpoint_of
from aws.json_client import JsonClient
from aws.stream import KinesisStream
from contract.archive_object import lines_object
from contract.stream_record import StreamRecord
from tests.unit.aws.strict import Strict, strict_service
from tests.unit.contract.test_archive_object import AT

REGION = "eu-west-1"
CREDENTIALS = FixedCredentials("AKID", "secret/+", "token==")
LINES = lines_object("events", [b'{"a":1}'], AT)
RECORDS = [StreamRecord("van-1", b"{}", 1), StreamRecord("van ü 2", b"[1]", 2)]


def archive(service: Strict, credentials: Credentials = CREDENTIALS) -> Archive:
    return Archive("archive", region=REGION, credentials=credentials, url=service.url)


def stream(url: str) -> KinesisStream:
    kinesis = JsonClient("kinesis", region=REGION, credentials=CREDENTIALS, url=url, tries=1)
    return KinesisStream(kinesis, "s")


@pytest.fixture
def strict() -> Iterator[Strict]:
    with strict_service() as service:
        yield service


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>…</Message></Error>".encode()


# --- S3 -----------------------------------------------------------------------------------------


def test_s3_put_is_signed_and_conditional(strict: Strict) -> None:
    assert archive(strict).store(LINES, {"request-id": "a%20b", "app-version": "1.0  beta"}) is True
    ((method, path, headers, body),) = strict.requests
    assert (method, unquote(path), body) == ("PUT", f"/archive/{LINES.key}", LINES.body)
    assert headers["if-none-match"] == "*"
    assert headers["content-type"] == "application/gzip"
    assert headers["x-amz-meta-request-id"] == "a%20b"
    assert headers["x-amz-content-sha256"] == hashlib.sha256(LINES.body).hexdigest()
    assert headers["x-amz-security-token"] == "token=="


def test_put_of_an_existing_object_returns_false(strict: Strict) -> None:
    strict.answers = [(412, error("PreconditionFailed"))]
    assert archive(strict).store(LINES, {}) is False


@pytest.mark.parametrize(
    "transient", [None, (503, error("SlowDown")), (500, b""), (400, error("RequestTimeout"))]
)
def test_s3_put_with_transient_errors_is_attempted_three_times(
    strict: Strict, transient: tuple[int, bytes] | None
) -> None:
    strict.answers = [transient, transient, (200, b"")]
    assert archive(strict).store(LINES, {}) is True
    strict.answers = [transient] * 3
    with pytest.raises(RetryableError, match=r"S3: (SlowDown|500|RequestTimeout|RemoteDisconnected)"):
        archive(strict).store(LINES, {})
    assert len(strict.requests) == 6


def test_s3_put_with_an_error_that_is_not_transient_is_attempted_once(strict: Strict) -> None:
    strict.answers = [(403, error("AccessDenied"))]
    with pytest.raises(RetryableError, match="S3: AccessDenied"):
        archive(strict).store(LINES, {})
    assert len(strict.requests) == 1


def test_put_that_conflicts_with_a_concurrent_write_is_retried(strict: Strict) -> None:
    conflict = (409, error("ConditionalRequestConflict"))
    strict.answers = [conflict, conflict, (412, b"")]
    assert archive(strict).store(LINES, {}) is False
    strict.answers = [conflict] * 9
    with pytest.raises(RetryableError, match="S3: ConditionalRequestConflict"):
        archive(strict).store(LINES, {})
    assert len(strict.requests) == 3 + 3


def test_expiring_role_credentials_are_renewed_before_the_next_call(strict: Strict) -> None:
    strict.secrets = {"first": "one", "second": "two"}

    def role(key: str, secret: str, lives: timedelta) -> dict[str, str]:
        expiry = datetime.now(UTC) + lives
        return {"access_key": key, "secret_key": secret, "token": "t", "expiry_time": expiry.isoformat()}

    first = role("first", "one", timedelta(minutes=20))
    refreshable = RefreshableCredentials.create_from_metadata(
        first, lambda: role("second", "two", timedelta(hours=1)), "test"
    )
    objects = archive(strict, renewed_by_botocore(lambda: refreshable))
    assert objects.store(LINES, {})
    refreshable._expiry_time = datetime.now(UTC) + timedelta(minutes=1)
    assert objects.store(LINES, {})
    used = [headers["authorization"].split("Credential=")[1] for _, _, headers, _ in strict.requests]
    assert [credential.split("/")[0] for credential in used] == ["first", "second"]


def test_read_returns_the_content_of_the_object(strict: Strict) -> None:
    strict.answers = [(200, LINES.body)]
    assert archive(strict).read(LINES.key) == LINES.body
    ((method, path, _, _),) = strict.requests
    assert (method, unquote(path)) == ("GET", f"/archive/{LINES.key}")


@pytest.mark.parametrize(
    ("status", "code"), [(404, "NoSuchKey"), (404, "NoSuchBucket"), (403, "AccessDenied")]
)
def test_reading_a_missing_object_raises_missing_object_error(strict: Strict, status: int, code: str) -> None:
    """S3 returns AccessDenied to a role that may not list the bucket, such as the role of the redrive function."""
    strict.answers = [(status, error(code))]
    with pytest.raises(MissingObjectError):
        archive(strict).read(LINES.key)
    assert len(strict.requests) == 1


# --- Kinesis ------------------------------------------------------------------------------------


def test_records_are_sent_in_one_signed_call(strict: Strict) -> None:
    strict.answers = [(200, b'{"FailedRecordCount":0,"Records":[{},{}],"EncryptionType":"KMS"}')]
    assert stream(strict.url).put(RECORDS) == []
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


def test_kinesis_put_returns_only_the_throttled_records(strict: Strict) -> None:
    throttled = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow down"}
    accepted = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
    strict.answers = [(200, json.dumps({"FailedRecordCount": 1, "Records": [throttled, accepted]}).encode())]
    assert stream(strict.url).put(RECORDS) == [RECORDS[0]]


@pytest.mark.parametrize("code", ["ValidationException", "com.amazonaws.kinesis#InvalidArgumentException"])
def test_invalid_request_to_kinesis_raises_permanent_error(strict: Strict, code: str) -> None:
    strict.answers = [(400, json.dumps({"__type": code}).encode())]
    with pytest.raises(PermanentError):
        stream(strict.url).put(RECORDS)


@pytest.mark.wrong_answer
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, b'{"__type":"ProvisionedThroughputExceededException"}'), "ProvisionedThroughputExceeded"),
        ((500, b"<html>"), "500"),
        ((400, b"[]"), "400"),
        ((200, b"<html>"), "unreadable"),
        ((200, b'{"FailedRecordCount":1,"Records":[{}]}'), "unreadable"),
        (None, "RemoteDisconnected"),
    ],
)
def test_kinesis_failure_of_a_valid_request_raises_retryable_error(
    strict: Strict, answer: tuple[int, bytes] | None, message: str
) -> None:
    strict.answers = [answer]
    with pytest.raises(RetryableError, match=f"Kinesis: .*{message}"):
        stream(strict.url).put(RECORDS)


# --- endpoints ----------------------------------------------------------------------------------


def test_refused_connection_raises_retryable_error() -> None:
    closed_port = "http://127.0.0.1:9"
    objects = Archive("archive", region=REGION, credentials=CREDENTIALS, url=closed_port)
    with pytest.raises(RetryableError, match="S3: ConnectionRefusedError"):
        objects.store(LINES, {})
    with pytest.raises(RetryableError, match="Kinesis: ConnectionRefusedError"):
        stream(closed_port).put(RECORDS)


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "cn-north-1"])
@pytest.mark.parametrize("service", ["s3", "kinesis", "dynamodb", "events", "sqs", "ssm"])
def test_default_endpoints_match_the_sdk(region: str, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    sdk: Any = boto3.client(service, region_name=region)
    # The SDK still uses S3's global name in us-east-1; we use the regional one.
    expected = sdk.meta.endpoint_url.replace("//s3.amazonaws.com", "//s3.us-east-1.amazonaws.com")
    assert endpoint_of(service, region) == expected


def test_bucket_has_its_own_host_unless_its_name_contains_a_dot() -> None:
    plain = Archive("archive", region=REGION, credentials=CREDENTIALS)
    dotted = Archive("my.archive", region=REGION, credentials=CREDENTIALS)
    assert (plain.url, plain.path) == ("https://archive.s3.eu-west-1.amazonaws.com", "")
    assert (dotted.url, dotted.path) == ("https://s3.eu-west-1.amazonaws.com", "/my.archive")


@pytest.mark.parametrize(
    ("service", "variable"),
    [
        ("s3", "AWS_ENDPOINT_URL_S3"),
        ("kinesis", "AWS_ENDPOINT_URL_KINESIS"),
        ("events", "AWS_ENDPOINT_URL_EVENTBRIDGE"),
    ],
)
def test_sdk_environment_variables_set_the_endpoints(service: str, variable: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": REGION}
    everywhere = Access.of_function(keys | {"AWS_ENDPOINT_URL": "http://all"})
    own = Access.of_function(keys | {"AWS_ENDPOINT_URL": "http://all", variable: "http://own"})
    none = Access.of_function(keys)
    assert (everywhere.url(service), own.url(service), none.url(service)) == ("http://all", "http://own", "")


def test_error_for_a_missing_region_names_the_environment_variable() -> None:
    with pytest.raises(ValueError, match="AWS_REGION"):
        Access.of_function({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"})
