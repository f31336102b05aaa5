"""The address that the real connector dials, observed by a proxy that stands between it and the network."""

import socketserver
import threading
from collections.abc import Iterator, Mapping

import pytest

from snowpipe.refusal import Refusal
from snowpipe.settings import load
from snowpipe.warehouse import connect

SIGN_IN = {"SNOWFLAKE_USER": "u", "SNOWFLAKE_PASSWORD": "p", "SNOWFLAKE_DATABASE": "MILKRUN_DEV"}


class Proxy(socketserver.ThreadingTCPServer):
    """Refuses every request and remembers its first line, such as `CONNECT host:443 HTTP/1.1`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), Refusing)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def dialled(self) -> set[str]:
        """`host:port` of a TLS connection, scheme, host and port of a plain one, without metadata services."""
        lines = [line.split()[:2] for line in self.seen]
        secure = {address for verb, address in lines if verb == "CONNECT"}
        plain = {address.partition("/session/")[0] for _, address in lines if "/session/" in address}
        return secure | plain


class Refusing(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        self.server.seen.append(self.rfile.readline().decode().strip())
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, server.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        # With AWS credentials in its environment the connector would ask AWS who it is, too.
        monkeypatch.setenv("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
        yield server
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
def test_every_documented_account_form_dials_its_own_host(
    proxy: Proxy, given: Mapping[str, str], dialled: str
) -> None:
    environment = SIGN_IN | {f"SNOWFLAKE_{name}": value for name, value in given.items()}
    with (
        pytest.raises(Refusal) as refused,
        connect(load(environment).connection, give_up_after_s=1),
    ):
        pass
    assert proxy.dialled() == {dialled}
    assert dialled.removeprefix("http://") in str(refused.value)
