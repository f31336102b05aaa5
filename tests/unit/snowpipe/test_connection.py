"""Test the addresses and the credentials that the real connector uses, as recorded by a proxy."""

import gzip
import json
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cli.deadline import NoAnswerError
from cli.refusal import Refusal
from snowpipe.settings import Connection, load
from snowpipe.warehouse import connect
from tests.unit.snowpipe.silent_port import silent_port

# A token without a signature: {"iss": "https://example.com", "sub": "ci"}
OIDC_TOKEN = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2V4YW1wbGUuY29tIiwic3ViIjoiY2kifQ."
SIGN_IN = {"SNOWFLAKE_USER": "u", "SNOWFLAKE_PASSWORD": "p", "SNOWFLAKE_DATABASE": "MILKRUN_DEV"}


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy that refuses every request and records its first line (such as `CONNECT host:443 HTTP/1.1`) and body."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Refusing)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def dialled(self) -> set[str]:
        """Return the addresses that the connector called: `host:port` for TLS, and the URL for plain HTTP.

        Calls to metadata services are omitted, and so are calls to loopback, which abandoned threads of earlier tests
        may still make.
        """
        lines = [line.split()[:2] for line in self.seen if "//127.0.0.1" not in line]
        secure = {address for verb, address in lines if verb == "CONNECT"}
        plain = {address.partition("/session/")[0] for _, address in lines if "/session/" in address}
        return secure | plain


class Refusing(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        self.server.seen.append(self.rfile.readline().decode().strip())
        length = 0
        while header := self.rfile.readline().strip():
            name, _, value = header.decode().partition(":")
            length = int(value) if name.lower() == "content-length" else length
        body = self.rfile.read(length)
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        self.server.bodies.append(body)
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    before = threading.enumerate()
    with Proxy() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, server.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        # The connector would pause for a second and then try again.
        monkeypatch.setattr("snowflake.connector.time_util.TimeoutBackoffCtx.should_retry", False)
        # With AWS credentials in its environment, the connector would also call AWS.
        monkeypatch.setenv("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
        yield server
        # A sign-in that timed out continues in its thread, and would reach the proxy of the next test.
        for thread in threading.enumerate():
            if thread.name == "within" and thread not in before:
                thread.join(30)
        server.shutdown()


# Snowflake's documentation: "Account identifiers" (forms of the name), "AWS PrivateLink and Snowflake" (the
# infix privatelink), "Python Connector API" (host, port, protocol).
@pytest.mark.parametrize(
    ("given", "dialled"),
    [
        ({"ACCOUNT": "myorg-myaccount"}, "myorg-myaccount.snowflakecomputing.com:443"),
        ({"ACCOUNT": "xy12345"}, "xy12345.snowflakecomputing.com:443"),
        ({"ACCOUNT": "xy12345.eu-central-1"}, "xy12345.eu-central-1.snowflakecomputing.com:443"),
        ({"ACCOUNT": "xy12345.us-east-2.aws"}, "xy12345.us-east-2.aws.snowflakecomputing.com:443"),
        ({"ACCOUNT": "xy12345.cn-northwest-1.aws"}, "xy12345.cn-northwest-1.aws.snowflakecomputing.cn:443"),
        (
            {"ACCOUNT": "myorg-myaccount.privatelink"},
            "myorg-myaccount.privatelink.snowflakecomputing.com:443",
        ),
        (
            {"ACCOUNT": "xy12345.eu-west-1.privatelink"},
            "xy12345.eu-west-1.privatelink.snowflakecomputing.com:443",
        ),
        ({"ACCOUNT": "xy12345", "PORT": "8443"}, "xy12345.snowflakecomputing.com:8443"),
        ({"ACCOUNT": "xy12345", "HOST": "snow.example.com"}, "snow.example.com:443"),
        ({"ACCOUNT": "xy12345", "HOST": "snow.example.com", "PORT": "8443"}, "snow.example.com:8443"),
        ({"ACCOUNT": "xy12345", "HOST": "", "PORT": "", "ROLE": ""}, "xy12345.snowflakecomputing.com:443"),
        (
            {"ACCOUNT": "local", "HOST": "snow.example.com", "PORT": "8080", "PROTOCOL": "http"},
            "http://snow.example.com:8080",
        ),
    ],
)
def test_every_documented_form_of_an_account_name_connects_to_its_host(
    proxy: Proxy, given: Mapping[str, str], dialled: str
) -> None:
    environment = SIGN_IN | {f"SNOWFLAKE_{name}": value for name, value in given.items()}
    with (
        pytest.raises(Refusal) as refused,
        connect(load(environment).connection, give_up_after_s=10),
    ):
        pass
    assert proxy.dialled() == {dialled}
    assert dialled.removeprefix("http://") in str(refused.value)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"USER": "u", "PASSWORD": "p"}, {"LOGIN_NAME": "u", "PASSWORD": "p"}),
        (
            {"USER": "u", "TOKEN": "pat"},
            {"LOGIN_NAME": "u", "AUTHENTICATOR": "PROGRAMMATIC_ACCESS_TOKEN", "TOKEN": "pat"},
        ),
        (
            {"USER": "u", "TOKEN_FILE_PATH": "FILE"},
            {"LOGIN_NAME": "u", "AUTHENTICATOR": "PROGRAMMATIC_ACCESS_TOKEN", "TOKEN": "from-file"},
        ),
        (
            {"WORKLOAD_IDENTITY_PROVIDER": "OIDC", "TOKEN": OIDC_TOKEN},
            {"AUTHENTICATOR": "WORKLOAD_IDENTITY", "PROVIDER": "OIDC", "TOKEN": OIDC_TOKEN},
        ),
    ],
)
def test_sign_in_methods_send_only_their_own_credentials(
    proxy: Proxy, tmp_path: Path, given: Mapping[str, str], sent: Mapping[str, str]
) -> None:
    (tmp_path / "token").write_text("from-file\n")
    where = {
        "ACCOUNT": "local",
        "HOST": "local.snowflakecomputing.com",
        "PROTOCOL": "http",
        "DATABASE": "MILKRUN_DEV",
    }
    environment = {
        f"SNOWFLAKE_{name}": str(tmp_path / "token") if value == "FILE" else value
        for name, value in (where | given).items()
    }
    with pytest.raises(Refusal), connect(load(environment).connection, give_up_after_s=10):
        pass
    (login, *_) = [
        json.loads(body)["data"] for body in proxy.bodies if b"LOGIN_NAME" in body or b"PROVIDER" in body
    ]
    secrets = ("PASSWORD", "TOKEN", "AUTHENTICATOR", "PROVIDER")
    assert {name: login[name] for name in sent} == sent
    assert not [name for name in secrets if login.get(name) and name not in sent]


@pytest.mark.parametrize(
    "given",
    [
        {"USER": "u"},
        {"USER": "u", "PASSWORD": "p", "TOKEN": "t"},
        {"USER": "u", "PRIVATE_KEY_FILE": "k", "WORKLOAD_IDENTITY_PROVIDER": "AWS"},
        {"TOKEN": "t"},
    ],
)
def test_missing_or_ambiguous_sign_in_settings_are_refused(
    given: Mapping[str, str],
) -> None:
    environment = {f"SNOWFLAKE_{name}": value for name, value in given.items()}
    with pytest.raises(Refusal) as refused:
        load(environment | {"SNOWFLAKE_ACCOUNT": "a", "SNOWFLAKE_DATABASE": "MILKRUN_DEV"})
    assert "SNOWFLAKE_" in str(refused.value)


def test_snowflake_that_does_not_respond_is_reported_soon_after_the_timeout() -> None:
    """The server accepts the connection and never responds, like a suspended process."""
    with silent_port() as port:
        settings = Connection(
            account="a", user="u", password="p", host="127.0.0.1", port=port, protocol="http"
        )
        began = time.monotonic()
        with (
            pytest.raises(NoAnswerError, match=f"Snowflake at http://127.0.0.1:{port}"),
            connect(settings, 1),
        ):
            pass
        assert time.monotonic() - began < 15, "connecting took far longer than its timeout of one second"
