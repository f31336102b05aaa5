"""Test the function that checks the pipes: its interpretation of a pipe's status, its login to Snowflake, and the
metrics that it logs.
"""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import boto3
import pytest
import urllib3
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from moto import mock_aws

from contract import logs
from snowpipe.pipe_check import main
from snowpipe.pipe_check.metrics import Health, failed_loads_sql, health, parse
from snowpipe.pipe_check.sqlapi import Signer, SnowflakeError, SqlApi, log_in_token

NOW = datetime(2026, 11, 16, 8, 30, tzinfo=UTC)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def status(**fields: object) -> str:
    return json.dumps({"executionState": "RUNNING", "pendingFileCount": 0} | fields)


def found(text: str, archived_at=()) -> Health:
    return health(parse(text), archived_at, NOW)


def test_pipe_that_was_notified_of_every_object_and_has_no_backlog_is_healthy():
    received = status(lastReceivedMessageTimestamp="2026-11-16T08:29:59.002Z")
    assert found(received, [ago(seconds=5)]) == Health("RUNNING", 0, 0.0, 0.0)


def test_pipe_lag_is_the_age_of_the_oldest_queued_file():
    waiting = status(pendingFileCount=7, oldestFileTimestamp="2026-11-16T08:10:00.000Z")
    assert found(waiting).lag_seconds == 1200
    assert found(waiting).pending_files == 7


def test_pipe_deaf_seconds_metric_is_the_age_of_the_oldest_object_without_a_notification():
    received = status(lastReceivedMessageTimestamp="2026-11-16T08:00:00.000Z")
    assert found(received, [ago(minutes=45), ago(minutes=25), ago(minutes=1)]).deaf_seconds == 25 * 60


def test_pipe_deaf_seconds_metric_is_the_age_of_the_oldest_object_if_the_pipe_was_never_notified():
    assert found(status(), [ago(minutes=50), ago(minutes=2)]).deaf_seconds == 50 * 60
    assert found(status()).deaf_seconds == 0


@pytest.mark.parametrize("state", ["PAUSED", "STOPPED_MISSING_TABLE", "STALLED_EXECUTION_ERROR"])
def test_pipe_in_any_state_other_than_running_counts_as_stopped(state):
    assert found(status(executionState=state)).stopped
    assert not found(status()).stopped


@pytest.fixture
def aws(monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


@pytest.fixture
def signer(aws):
    kms = boto3.client("kms")
    key = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    return Signer(kms, key)


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def verified(token: str, public_key: bytes) -> dict:
    """Verify the RS256 signature of a JSON Web Token, and return the token's claims."""
    head, claims, signature = token.split(".")
    assert json.loads(decoded(head)) == {"alg": "RS256", "typ": "JWT"}
    serialization.load_der_public_key(public_key).verify(
        decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    return json.loads(decoded(claims))


@pytest.mark.parametrize(
    ("account", "host"),
    [
        ("myorg-myaccount", "myorg-myaccount.snowflakecomputing.com"),
        ("xy12345.eu-west-1.privatelink", "xy12345.eu-west-1.privatelink.snowflakecomputing.com"),
        ("xy12345.cn-northwest-1.aws", "xy12345.cn-northwest-1.aws.snowflakecomputing.cn"),
        ("myorg-my_account", "myorg-my-account.snowflakecomputing.com"),
    ],
)
def test_snowflake_api_url_is_derived_from_the_account_identifier(account, host):
    settings = main.Settings.model_validate(
        {
            "STAGE": "dev",
            "ARCHIVE_BUCKET": "b",
            "SIGNING_KEY_ID": "k",
            "SNOWFLAKE_ACCOUNT": account,
            "SNOWFLAKE_USER": "u",
            "SNOWFLAKE_DATABASE": "MILKRUN_DEV",
            "SNOWFLAKE_URL": "",
        }
    )
    assert settings.api_url == f"https://{host}"


@pytest.mark.parametrize(
    ("account", "name"),
    [
        ("milk-org", "MILK-ORG"),
        ("xy12345.eu-west-1", "XY12345"),
        ("xy12345.west-europe.azure", "XY12345"),
        ("xy12345-ab1.global", "XY12345"),
    ],
)
def test_snowflake_login_token_has_the_documented_claims_and_a_valid_signature(signer, account, name):
    token = log_in_token(account, "milkrun_watcher", signer, NOW)
    claims = verified(token, signer.public_key())
    fingerprint = base64.b64encode(hashlib.sha256(signer.public_key()).digest()).decode()
    assert claims == {
        "iss": f"{name}.MILKRUN_WATCHER.SHA256:{fingerprint}",
        "sub": f"{name}.MILKRUN_WATCHER",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 300,
    }


class Snowflake(ThreadingHTTPServer):
    """A fake Snowflake SQL API that verifies the token and responds to each statement with its entry in `answers`."""

    def __init__(self, public_key, answers):
        self.public_key, self.answers = public_key, answers
        self.clients, self.purged = set(), set()
        super().__init__(("127.0.0.1", 0), _Answers)
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self):
        self.server.clients.add(self.client_address)
        if self.client_address in self.server.purged:
            self.close_connection = True
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        scheme, token = self.headers["Authorization"].split()
        try:
            assert (scheme, self.path) == ("Bearer", "/api/v2/statements")
            assert self.headers["X-Snowflake-Authorization-Token-Type"] == "KEYPAIR_JWT"
            verified(token, self.server.public_key)
        except Exception:
            self.respond(401, {"code": "390144", "message": "JWT token is invalid."})
            return
        if body["statement"] in self.server.answers:
            self.respond(200, {"code": "090001", "data": [[self.server.answers[body["statement"]]]]})
            return
        self.respond(422, {"code": "002003", "message": "Pipe does not exist or not authorized."})

    def respond(self, code, body):
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


EVENTS, REJECTED = "MILKRUN_DEV.RAW.EVENTS_PIPE", "MILKRUN_DEV.RAW.REJECTED_PIPE"


@pytest.fixture
def snowflake(signer):
    statuses = {EVENTS: status(), REJECTED: status(executionState="PAUSED")}
    server = Snowflake(
        signer.public_key(),
        {f"SELECT SYSTEM$PIPE_STATUS('{pipe}')": text for pipe, text in statuses.items()},
    )
    yield server
    server.shutdown()
    server.server_close()


class Context:
    aws_request_id = "request-1"


@pytest.fixture
def deployed(signer, snowflake, monkeypatch):
    boto3.client("s3").create_bucket(Bucket="archive")
    environment = {
        "STAGE": "dev",
        "ARCHIVE_BUCKET": "archive",
        "SIGNING_KEY_ID": signer.key_id,
        "SNOWFLAKE_ACCOUNT": "milk-org",
        "SNOWFLAKE_URL": snowflake.url,
        "SNOWFLAKE_DATABASE": "MILKRUN_DEV",
        "SNOWFLAKE_USER": "MILKRUN_DEV_WATCHER",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    main.parts.cache_clear()
    yield
    main.parts.cache_clear()


def test_check_logs_one_line_with_metrics_per_pipe(deployed, capsys):
    now = datetime.now(UTC)
    boto3.client("s3").put_object(Bucket="archive", Key=f"events/dt={now:%Y-%m-%d}/hh={now:%H}/a.1.ndjson.gz")
    main.check({}, Context())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == [logs.PIPE_CHECKED] * 2
    events, rejected = lines
    assert (events["pipe"], events["pipe_stopped"], rejected["pipe_stopped"]) == (EVENTS, 0, 1)
    assert (
        events["pipe_deaf_seconds"] > 0
    )  # an object is archived, but this pipe has received no notification
    assert rejected["pipe_deaf_seconds"] == 0
    for line in lines:
        names = {m["Name"] for m in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
        assert names == {"pipe_lag_seconds", "pipe_deaf_seconds", "pipe_pending_files", "pipe_stopped"}


def test_load_check_logs_the_number_of_recent_failed_loads(deployed, snowflake, capsys):
    snowflake.answers[failed_loads_sql("MILKRUN_DEV")] = "2"
    main.check({"look_at": "loads"}, Context())
    [line] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (line["event"], line["failed_loads"]) == (logs.LOADS_CHECKED, 2)
    [directive] = line["_aws"]["CloudWatchMetrics"]
    assert directive["Metrics"] == [{"Name": "failed_loads", "Unit": "Count"}]


def test_check_opens_a_new_connection_because_lambda_purges_idle_ones(deployed, snowflake, capsys):
    main.check({}, Context())
    snowflake.purged = snowflake.clients.copy()
    main.check({}, Context())
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_error_response_of_the_snowflake_sql_api_raises_an_error(deployed, snowflake):
    snowflake.answers.clear()
    with pytest.raises(SnowflakeError, match="422 002003 Pipe does not exist"):
        main.check({}, Context())


class Proxy:
    """An HTTP client that gets an HTML page for every request, as from a proxy or an overloaded gateway."""

    def __init__(self, status: int) -> None:
        self.status = status

    def request(self, *_: object, **__: object) -> urllib3.HTTPResponse:
        return urllib3.HTTPResponse(b"<html>Service unavailable</html>", status=self.status)


@pytest.mark.parametrize("status", [200, 503])
def test_response_that_is_not_json_is_reported_with_its_status(status: int) -> None:
    with pytest.raises(SnowflakeError, match=f"{status} <html>Service unavailable"):
        SqlApi("https://milk-org.snowflakecomputing.com", "token", Proxy(status)).value("SELECT 1")


def test_snowflake_login_token_signed_with_another_key_is_rejected(deployed, snowflake):
    kms = boto3.client("kms")
    other = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    token = log_in_token("milk-org", "MILKRUN_DEV_WATCHER", Signer(kms, other), NOW)
    with pytest.raises(SnowflakeError, match="401 390144"):
        SqlApi(snowflake.url, token, urllib3.PoolManager()).value("SELECT 1")


def test_missing_setting_is_named_in_the_error(deployed, monkeypatch):
    monkeypatch.setenv("SNOWFLAKE_ACCOUNT", "")
    with pytest.raises(ValueError, match="SNOWFLAKE_ACCOUNT"):
        main.check({}, Context())
