"""Test signatures, the source of credentials, the verification of certificates and the reuse of connections."""

import json
import os
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import ContainerProvider, Credentials
from botocore.exceptions import CredentialRetrievalError
from hypothesis import given, settings
from hypothesis import strategies as st

from aws import http
from aws.credentials import FixedCredentials, function_credentials
from aws.errors import CredentialsError, NoResponseError
from aws.http import Endpoint, Signer
from tests.unit.aws.strict import Strict, strict_service

REGION = "eu-west-1"
CREDENTIALS = FixedCredentials("AKID", "secret/+", "token==")

HEADERS = st.dictionaries(
    st.from_regex(r"x-amz-meta-[a-z]{1,8}", fullmatch=True), st.text("ab %~:=", max_size=9)
)


@given(
    HEADERS, st.binary(max_size=64), st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)), st.booleans()
)
@settings(deadline=None, max_examples=60)
def test_signatures_match_botocore(
    headers: dict[str, str], body: bytes, moment: datetime, with_token: bool
) -> None:
    token = "token==" if with_token else None
    credentials = FixedCredentials("AKID", "secret/+", token)
    path = "/archive/events/dt%3D2026-11-16/hh%3D08/x.1.ndjson.gz"
    now = moment.replace(microsecond=0, tzinfo=UTC)
    sent = {"host": "h:1", "if-none-match": "*", **headers}
    ours = Signer(credentials, REGION, "s3").signed("PUT", path, sent, body, now)

    theirs = AWSRequest("PUT", f"http://h:1{path}", dict(sent), body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: now.replace(tzinfo=None))
        botocore.auth.S3SigV4Auth(Credentials("AKID", "secret/+", token), "s3", REGION).add_auth(theirs)
    assert ours["authorization"] == theirs.headers["Authorization"]


def test_example_request_from_the_aws_documentation_gets_the_documented_signature() -> None:
    """The example is "PUT Object" in the Amazon S3 API Reference: "Signature Calculations: Transferring Payload in a
    Single Chunk".
    """
    credentials = FixedCredentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None)
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


def test_function_credentials_come_from_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert function_credentials(os.environ) == FixedCredentials("a", "s", "t")
    for name in given:
        monkeypatch.delenv(name)
    with pytest.raises(CredentialsError):
        function_credentials(os.environ)


def test_failure_to_load_credentials_raises_credentials_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CredentialsError is retryable. After any other error, the handler would log a traceback, as for a bug."""

    def fails(_: ContainerProvider) -> None:
        raise CredentialRetrievalError(provider="container-role", error_msg="timed out")

    monkeypatch.setattr(ContainerProvider, "load", fails)
    with pytest.raises(CredentialsError, match=r": CredentialRetrievalError$"):
        function_credentials({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1/"})


def test_function_credentials_come_from_a_local_endpoint_under_snapstart() -> None:
    """See AWS_CONTAINER_CREDENTIALS_FULL_URI in the AWS Lambda Developer Guide: "Defined runtime environment
    variables".
    """
    expires = datetime.now(UTC) + timedelta(hours=6)
    answer = {"AccessKeyId": "a", "SecretAccessKey": "s", "Token": "t", "Expiration": expires.isoformat()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            authorized = self.headers["Authorization"] == "word"
            self.send_response(200 if authorized else 403)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode() if authorized else b"{}")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        environment = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{server.server_port}/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "word",
        }
        found = function_credentials(environment)()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (found.access_key, found.secret_key, found.token) == ("a", "s", "t")


# --- connections --------------------------------------------------------------------------------


@pytest.fixture
def over_tls(certificate: Path) -> Iterator[Strict]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with strict_service(context) as service:
        yield service


def post(endpoint: Endpoint) -> int:
    return endpoint.send("POST", "/", {"x-amz-target": "T.Call"}, b"{}").status


def endpoint_at(service: Strict) -> Endpoint:
    return Endpoint("S3", service.url, Signer(CREDENTIALS, REGION, "s3"))


@pytest.mark.usefixtures("trusted")
def test_call_over_tls_to_a_trusted_host_succeeds(over_tls: Strict) -> None:
    endpoint = endpoint_at(over_tls)
    assert [post(endpoint), post(endpoint)] == [200, 200]


def test_call_to_a_host_with_an_untrusted_certificate_fails(over_tls: Strict) -> None:
    with pytest.raises(NoResponseError, match="SSLCertVerificationError"):
        post(endpoint_at(over_tls))
    assert over_tls.requests == []


def test_certificates_are_loaded_once_for_all_endpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = []
    plain = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda **given: read.append(given) or plain(**given))
    http._trust.cache_clear()
    for service in ("dynamodb", "events") * 16:
        Endpoint(service, f"https://{service}.eu-west-1.amazonaws.com", Signer(CREDENTIALS, REGION, service))
    assert len(read) == 1


def test_consecutive_calls_use_one_connection() -> None:
    with strict_service() as service:
        endpoint = endpoint_at(service)
        post(endpoint)
        first = endpoint._connection.sock
        assert first is not None
        assert post(endpoint) == 200
        assert endpoint._connection.sock is first


def test_connection_closed_by_the_service_is_reopened() -> None:
    with strict_service() as service:
        service.closes = True
        endpoint = endpoint_at(service)
        for _ in range(3):
            assert post(endpoint) == 200
            readable = http.select.poll()
            readable.register(endpoint._connection.sock, http.select.POLLIN)
            assert readable.poll(5000), "the service did not close the connection"
    assert len(service.requests) == 3


def test_call_after_a_timeout_does_not_receive_the_late_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "CALL_SECONDS", 0.3)
    released = threading.Event()
    with strict_service() as service:
        immediate_answer = service.answer

        def first_answer_late(*request: object) -> tuple[int, bytes] | None:
            answer = immediate_answer(*request)
            if len(service.requests) == 1:
                released.wait(10)
            return answer

        monkeypatch.setattr(service, "answer", first_answer_late)
        service.answers = [(500, b"too late"), (200, b"")]
        endpoint = endpoint_at(service)
        with pytest.raises(NoResponseError, match="TimeoutError"):
            post(endpoint)
        released.set()
        assert post(endpoint) == 200
