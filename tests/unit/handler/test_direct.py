"""Calls without an SDK client: moto takes them, a strict server checks every signature, odd answers are told."""

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import NoCredentialsError
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from contract.objects import lines_object
from contract.signed import Signer, endpoint_of, function_credentials
from handler.aws import client
from handler.direct import KinesisRecords, S3Objects, kinesis_records, s3_objects
from handler.publish import Malformed, Unavailable
from handler.settings import Settings
from handler.sift import Record
from tests.unit.contract.test_objects import AT

REGION = "eu-west-1"
CREDENTIALS = Credentials("AKID", "secret/+", "token==")
LINES = lines_object("events", [b'{"a":1}'], AT)
RECORDS = [Record("van-1", b"{}", 1), Record("van ü 2", b"[1]", 2)]


def no_pause(_: float) -> None: ...


# --- a server that believes nobody --------------------------------------------------------------


@dataclass
class Strict:
    """Answers from a list (None: hangs up), once the signature of what came is right."""

    answers: list[tuple[int, bytes] | None] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=lambda: {"AKID": "secret/+"})
    url: str = ""

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes] | None:
        self.requests.append((method, path, headers, body))
        if headers["authorization"] != self.authorization(method, path, headers, body):
            return 403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
        return self.answers.pop(0) if self.answers else (200, b"{}")

    def authorization(self, method: str, path: str, headers: dict[str, str], body: bytes) -> str:
        """As the service computes it. (AWS IAM User Guide: "Create a signed AWS API request".)"""
        given = dict(part.split("=", 1) for part in headers["authorization"].split(" ", 1)[1].split(", "))
        access_key, day, region, service, _ = given["Credential"].split("/")
        names = given["SignedHeaders"].split(";")
        assert {"host", "x-amz-date", "x-amz-security-token"} <= {*names}
        digest = hashlib.sha256(body).hexdigest()
        assert headers.get("x-amz-content-sha256", digest) == digest
        lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
        canonical = f"{method}\n{path}\n\n{lines}\n{';'.join(names)}\n{digest}"
        scope = f"{day}/{region}/{service}/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = b"AWS4" + self.secrets[access_key].encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashed}"
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        return (
            f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, "
            f"SignedHeaders={given['SignedHeaders']}, Signature={signature}"
        )


@pytest.fixture
def strict() -> Iterator[Strict]:
    service = Strict()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = service.answer(self.command, self.path, headers, body)
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        do_POST = do_PUT  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield service
    server.shutdown()
    thread.join()
    server.server_close()


def archive(service: Strict, credentials: Any = CREDENTIALS) -> S3Objects:
    objects = s3_objects("archive", REGION, credentials, service.url)
    objects._pause = no_pause
    return objects


def stream(service: Strict) -> KinesisRecords:
    return kinesis_records("s", REGION, CREDENTIALS, service.url)


def error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>…</Message></Error>".encode()


HEADERS = st.dictionaries(
    st.from_regex(r"x-amz-meta-[a-z]{1,8}", fullmatch=True), st.text("ab %~:=", max_size=9)
)


@given(
    HEADERS, st.binary(max_size=64), st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)), st.booleans()
)
@settings(deadline=None, max_examples=60)
def test_signatures_are_botocores(
    headers: dict[str, str], body: bytes, moment: datetime, with_token: bool
) -> None:
    credentials = Credentials("AKID", "secret/+", "token==" if with_token else None)
    path = "/archive/events/dt%3D2026-11-16/hh%3D08/x.1.ndjson.gz"
    now = moment.replace(microsecond=0, tzinfo=UTC)
    sent = {"host": "h:1", "if-none-match": "*", **headers}
    ours = Signer(credentials, REGION, "s3").signed("PUT", path, sent, body, now)

    theirs = AWSRequest("PUT", f"http://h:1{path}", dict(sent), body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: now.replace(tzinfo=None))
        botocore.auth.S3SigV4Auth(credentials, "s3", REGION).add_auth(theirs)
    assert ours["authorization"] == theirs.headers["Authorization"]


def test_the_published_example_has_its_published_signature() -> None:
    """Amazon S3 API Reference: "Signature Calculations: Transferring Payload in a Single Chunk", PUT Object."""
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "date": "Fri, 24 May 2013 00:00:00 GMT",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    signed = Signer(credentials, "us-east-1", "s3").signed(
        "PUT", "/test%24file.text", headers, b"Welcome to Amazon S3.", datetime(2013, 5, 24, tzinfo=UTC)
    )
    assert signed["authorization"].endswith(
        "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )


def test_a_functions_credentials_are_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert tuple(function_credentials(os.environ).get_frozen_credentials())[:3] == ("a", "s", "t")
    for name in given:
        monkeypatch.delenv(name)
    with pytest.raises(NoCredentialsError):
        function_credentials(os.environ)


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
@pytest.mark.parametrize("service", ["s3", "kinesis"])
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
        s3, kinesis = client("s3", tries=5), client("kinesis", tries=5)
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
