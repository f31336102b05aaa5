"""Signed calls to AWS over HTTP, with no SDK client between: a function, one host, one connection kept open.

A client of botocore's costs ten times what http.client does, urllib3's pool twice (docs/performance.md). What is
kept of botocore: the endpoints that it would choose, its standard retries, its certificates, and its credentials
where those have to be renewed. The body is signed by its SHA-256, which the service checks, so no further checksum
is sent.
"""

import hashlib
import hmac
import select
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import botocore
import msgspec
from botocore.exceptions import BotoCoreError, NoCredentialsError

# What botocore's standard mode tries again. (AWS SDKs and Tools Reference Guide: "Retry behavior".)
PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})
PASSING_CODES = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)

CONNECT_SECONDS, READ_SECONDS = 1, 2


class NoAnswer(Exception):  # noqa: N818
    """None came, or none could be asked for. The message is the name of what happened."""


def endpoint_of(service: str, region: str) -> str:
    """Where AWS itself has a service. (AWS General Reference: "Service endpoints".)"""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{service}.{region}.{suffix}"


class Credentials(Protocol):
    """botocore's, which renew themselves when it is time."""

    def get_frozen_credentials(self) -> Any: ...


class FixedCredentials(NamedTuple):
    """As long as the execution environment lives, and no longer, Lambda's own are good."""

    access_key: str
    secret_key: str
    token: str | None

    def get_frozen_credentials(self) -> "FixedCredentials":
        return self


def function_credentials(environment: Mapping[str, str]) -> Credentials:
    """Those that Lambda gives a function: in its environment or, under SnapStart, from a local address.

    botocore's session would look in six more places, and importing it is half of a cold start.
    """
    key, secret = (environment.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    if key and secret:
        return FixedCredentials(key, secret, environment.get("AWS_SESSION_TOKEN"))
    from botocore.credentials import ContainerProvider  # noqa: PLC0415 - a sixth of a cold start

    credentials = ContainerProvider(environment).load()
    if credentials is None:
        raise NoCredentialsError
    found: Credentials = credentials
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Signer:
    """Signature Version 4, headers only; the key of a day is made once.

    botocore's own takes 0.2 ms a call, most of it in making up requests and headers of its own.
    (AWS IAM User Guide: "Create a signed AWS API request".)
    """

    def __init__(self, credentials: Credentials, region: str, service: str) -> None:
        self._credentials, self._region, self._service = credentials, region, service
        self._key: tuple[str, str, bytes] = ("", "", b"")

    def signed(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> dict[str, str]:
        """`headers` (lower-case, `host` among them) and those that the signature adds."""
        credentials = self._credentials.get_frozen_credentials()
        moment = now.strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        signed = {**headers, "x-amz-content-sha256": digest, "x-amz-date": moment}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = sorted(signed)
        lines = "".join([f"{name}:{' '.join(signed[name].split())}\n" for name in names])
        request = f"{method}\n{path}\n\n{lines}\n{';'.join(names)}\n{digest}"
        scope = f"{moment[:8]}/{self._region}/{self._service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = self._key_of(scope, credentials.secret_key)
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"
        )
        return signed

    def _key_of(self, scope: str, secret: str) -> bytes:
        if self._key[:2] != (scope, secret):
            key = b"AWS4" + secret.encode()
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (scope, secret, key)
        return self._key[2]


class Endpoint:
    """One host and one connection to it, kept open; every request to it signed. For one request at a time."""

    def __init__(self, url: str, signer: Signer) -> None:
        self.url = url
        self._signer = signer
        parts = urlsplit(url)
        self._host, self._path = parts.netloc, parts.path.rstrip("/")
        if parts.scheme == "https":
            self._connection: HTTPConnection = HTTPSConnection(self._host, context=_trust())
        else:
            self._connection = HTTPConnection(self._host)

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One try. Raises NoAnswer."""
        target = self._path + path
        try:
            signed = self._signer.signed(
                method, target, {"host": self._host, **headers}, body, datetime.now(UTC)
            )
            self._connect()
            self._connection.request(method, target, body, signed)
            response = self._connection.getresponse()
            return Answer(response.status, response.read())
        except (BotoCoreError, HTTPException, OSError) as error:
            self._connection.close()
            raise NoAnswer(type(error).__name__) from error

    def _connect(self) -> None:
        """If there is no connection, or the service has closed it while the function slept."""
        kept = self._connection.sock
        if kept and _has_news(kept):  # between two requests that can only be its end
            self._connection.close()
            kept = None
        if not kept:
            self._connection.timeout = CONNECT_SECONDS
            self._connection.connect()
            self._connection.sock.settimeout(READ_SECONDS)


def _has_news(connection: Any) -> bool:
    readable = select.poll()
    readable.register(connection, select.POLLIN)
    return bool(readable.poll(0))


@cache
def _trust() -> ssl.SSLContext:
    """The certificates that the SDK trusts. To read them takes 17 ms, and the consumer has an endpoint a thread."""
    return ssl.create_default_context(cafile=str(Path(botocore.__file__).with_name("cacert.pem")))


def json_code(answer: Answer) -> str:
    """The error of a service that speaks JSON."""
    try:
        type_ = msgspec.json.decode(answer.body)["__type"]
        return str(type_).rpartition("#")[2]
    except (msgspec.MsgspecError, LookupError, TypeError):
        return str(answer.status)
