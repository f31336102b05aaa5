"""Signed HTTP calls to one AWS host over one connection that stays open, with one deadline for the whole call.

The endpoints and the trusted certificates are those that botocore would use. The body is signed by its SHA-256, which
the service checks, so no further checksum is sent.
"""

import hashlib
import hmac
import io
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aws.credentials import Credentials
from aws.errors import NoResponseError

# One try of a call: resolving the name, trying its addresses, TLS, sending, reading the whole answer.
CALL_SECONDS = 3.0
# Of these, the time until the connection stands. AWS answers within milliseconds, so an address gets its share and the
# next one is tried.
CONNECT_SECONDS = 1.5
ADDRESS_SECONDS = 0.25
MAX_FETCHED_BYTES = 256 * 1024

# As messages name them; every other service goes by its name in signatures.
SERVICE_NAMES = {
    "dynamodb": "DynamoDB",
    "events": "EventBridge",
    "kinesis": "Kinesis",
    "s3": "S3",
    "sqs": "SQS",
    "ssm": "SSM",
}


def endpoint_of(service: str, region: str) -> str:
    """Return the URL of a service in the partitions aws and aws-cn. (AWS General Reference: "Service endpoints".)"""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{service}.{region}.{suffix}"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes


class Signer:
    """Signature Version 4 in headers; the signing key of a day is derived once.

    botocore's own takes 0.2 ms per call, most of it in building requests and headers of its own.
    (AWS IAM User Guide: "Create a signed AWS API request".)
    """

    def __init__(self, credentials: Credentials, region: str, service: str) -> None:
        self._credentials, self._region, self.service = credentials, region, service
        self._key: tuple[str, str, bytes] = ("", "", b"")

    def signed(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> dict[str, str]:
        """Return `headers` (lower-case, `host` among them) and those that the signature adds."""
        credentials = self._credentials.get_frozen_credentials()
        moment = now.strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        signed = {**headers, "x-amz-content-sha256": digest, "x-amz-date": moment}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = sorted(signed)
        lines = "".join([f"{name}:{' '.join(signed[name].split())}\n" for name in names])
        request = f"{method}\n{path}\n\n{lines}\n{';'.join(names)}\n{digest}"
        scope = f"{moment[:8]}/{self._region}/{self.service}/aws4_request"
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
    """One host, and one connection to it per thread. Every request is signed."""

    def __init__(self, url: str, signer: Signer) -> None:
        self.url = url
        self._signer = signer
        self._name = SERVICE_NAMES.get(signer.service, signer.service)
        parts = urlsplit(url)
        self._host, self._path = parts.netloc, parts.path.rstrip("/")
        self._trust = _trust() if parts.scheme == "https" else None
        self._of_thread = threading.local()

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Try once, for at most CALL_SECONDS. Raises NoResponseError or CredentialsError."""
        target = self._path + path
        signed = self._signer.signed(method, target, {"host": self._host, **headers}, body, datetime.now(UTC))
        connection = self._connection()
        try:
            connection.begin()
            connection.request(method, target, body, signed)
            response = connection.getresponse()
            return Response(response.status, response.read())
        except (HTTPException, OSError) as error:
            connection.close()
            raise NoResponseError(f"{self._name}: {type(error).__name__}") from error

    def _connection(self) -> "_Connection":
        if not hasattr(self._of_thread, "connection"):
            self._of_thread.connection = _Connection(self._host, self._trust)
        connection: _Connection = self._of_thread.connection
        return connection


def fetch(url: str) -> Response:
    """GET a URL without signature, for at most CALL_SECONDS. Raises NoResponseError."""
    parts = urlsplit(url)
    connection = _Connection(parts.netloc, _trust() if parts.scheme == "https" else None)
    try:
        connection.begin()
        connection.request("GET", f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}")
        response = connection.getresponse()
        return Response(response.status, response.read(MAX_FETCHED_BYTES))
    except (HTTPException, OSError) as error:
        raise NoResponseError(f"{parts.hostname}: {type(error).__name__}") from error
    finally:
        connection.close()


class _Connection(HTTPConnection):
    """A connection whose every step ends at the deadline of the call."""

    def __init__(self, netloc: str, trust: ssl.SSLContext | None) -> None:
        super().__init__(netloc)
        if trust and ":" not in netloc.rpartition("]")[2]:
            self.port = 443
        self._trust = trust
        self._deadline = 0.0

    def begin(self) -> None:
        """Start the clock of a call; connect if there is no connection or the service has closed it."""
        self._deadline = time.monotonic() + CALL_SECONDS
        if self.sock and _has_news(self.sock):  # between two requests, news can only be the end
            self.close()
        if not self.sock:
            self.connect()

    def connect(self) -> None:
        connected_by = min(self._deadline, time.monotonic() + CONNECT_SECONDS)
        raw = _first_that_answers(resolved(self.host, self.port, _left(connected_by)), connected_by)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._trust:
                raw.settimeout(_left(connected_by))
                raw = self._trust.wrap_socket(raw, server_hostname=self.host)
        except OSError:
            raw.close()
            raise
        self.sock = _DeadlineSocket(raw, self)

    def left(self) -> float:
        return _left(self._deadline)


def _left(deadline: float) -> float:
    """Return the seconds until `deadline`. Raises TimeoutError if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def resolved(host: str, port: int, seconds: float) -> list[tuple[Any, ...]]:
    """Return getaddrinfo's answer. Raises TimeoutError or OSError.

    A lookup cannot be interrupted, so it runs in a thread that is left behind when the time is up.
    """
    if _is_address(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    answers: queue.SimpleQueue[list[tuple[Any, ...]] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _first_that_answers(addresses: Iterable[tuple[Any, ...]], deadline: float) -> Any:
    """Connect to the first address that answers. Each gets its share of the time. Raises OSError."""
    waiting = list(addresses)
    failure: OSError = OSError("the name has no address")
    while waiting:
        family, kind, protocol, _, address = waiting.pop(0)
        left = _left(deadline)
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(min(left, max(ADDRESS_SECONDS, left / (len(waiting) + 1))))
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


class _DeadlineSocket:
    """A socket for http.client, on which no single read or write may outlast the deadline of the call.

    A timeout of the socket itself begins anew with every byte, so a slow peer could hold a call for ever.
    """

    def __init__(self, raw: Any, connection: _Connection) -> None:
        self._raw = raw
        self._connection = connection
        self._is_read = self._is_closed = False
        self.fileno = raw.fileno

    def close(self) -> None:
        """Close, but only when the response has been read: http.client closes first if the service will."""
        self._is_closed = True
        if not self._is_read:
            self._raw.close()

    def reader_closed(self) -> None:
        self._is_read = False
        if self._is_closed:
            self._raw.close()

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._raw.settimeout(self._connection.left())
            left = left[self._raw.send(left) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        self._is_read = True
        return io.BufferedReader(_Reader(self, self._raw, self._connection))


class _Reader(io.RawIOBase):
    def __init__(self, owner: _DeadlineSocket, raw: Any, connection: _Connection) -> None:
        self._owner = owner
        self._raw = raw
        self._connection = connection

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._owner.reader_closed()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._raw.settimeout(self._connection.left())
        return int(self._raw.recv_into(buffer))


def _has_news(connection: Any) -> bool:
    readable = select.poll()
    readable.register(connection, select.POLLIN)
    return bool(readable.poll(0))


@cache
def _trust() -> ssl.SSLContext:
    """The certificates that the SDK trusts. Reading them takes 17 ms, and a function has several endpoints."""
    botocore = find_spec("botocore")
    assert botocore
    assert botocore.origin
    return ssl.create_default_context(cafile=str(Path(botocore.origin).with_name("cacert.pem")))
