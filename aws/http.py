"""Signed HTTP calls to one AWS host over a persistent connection, with one deadline for the whole call.

Endpoints and trusted certificates are the same as botocore's. The signature covers the body's SHA-256, which the
service verifies, so no other checksum is sent.
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

# One try of a call: name resolution, connecting to its addresses in turn, TLS, sending, and reading the response.
CALL_SECONDS = 3.0
# The part of CALL_SECONDS for connecting. AWS responds within milliseconds, so each address gets a share of this time
# before the next one is tried.
CONNECT_SECONDS = 1.5
ADDRESS_SECONDS = 0.25
MAX_FETCHED_BYTES = 256 * 1024

# Names in messages; other services are called by the name that they have in signatures.
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
    """Signature Version 4 in headers. The signing key is derived once per day.

    botocore's signer takes 0.2 ms per call, mostly to build its own request and header objects.
    (AWS IAM User Guide: "Create a signed AWS API request".)
    """

    def __init__(self, credentials: Credentials, region: str, service: str) -> None:
        self._credentials, self._region, self.service = credentials, region, service
        self._key: tuple[str, str, bytes] = ("", "", b"")

    def signed(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> dict[str, str]:
        """Return `headers` (lower-case, including `host`) together with the headers of the signature."""
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
    """One host, with one connection per thread. Every request is signed."""

    def __init__(self, url: str, signer: Signer) -> None:
        self.url = url
        self._signer = signer
        self._name = SERVICE_NAMES.get(signer.service, signer.service)
        parts = urlsplit(url)
        self._host, self._path = parts.netloc, parts.path.rstrip("/")
        self._trust = _trust() if parts.scheme == "https" else None
        self._of_thread = threading.local()

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Send one request without retries, for at most CALL_SECONDS. Raises NoResponseError or CredentialsError."""
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
    """Send an unsigned GET request, for at most CALL_SECONDS. Raises NoResponseError."""
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
    """A connection on which every step ends at the call's deadline."""

    def __init__(self, netloc: str, trust: ssl.SSLContext | None) -> None:
        super().__init__(netloc)
        if trust and ":" not in netloc.rpartition("]")[2]:
            self.port = 443
        self._trust = trust
        self._deadline = 0.0

    def begin(self) -> None:
        """Start the call's deadline, and connect if there is no connection or the service has closed it."""
        self._deadline = time.monotonic() + CALL_SECONDS
        if self.sock and _is_readable(
            self.sock
        ):  # between two requests, this means that the service closed it
            self.close()
        if not self.sock:
            self.connect()

    def connect(self) -> None:
        connected_by = min(self._deadline, time.monotonic() + CONNECT_SECONDS)
        raw = _connect_to_any(resolve(self.host, self.port, _remaining(connected_by)), connected_by)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._trust:
                raw.settimeout(_remaining(connected_by))
                raw = self._trust.wrap_socket(raw, server_hostname=self.host)
        except OSError:
            raw.close()
            raise
        self.sock = _DeadlineSocket(raw, self)

    def remaining(self) -> float:
        return _remaining(self._deadline)


def _remaining(deadline: float) -> float:
    """Return the seconds until `deadline`. Raises TimeoutError if it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def resolve(host: str, port: int, seconds: float) -> list[tuple[Any, ...]]:
    """Return the result of getaddrinfo. Raises TimeoutError or OSError.

    A lookup cannot be interrupted, so it runs in a daemon thread, which is abandoned after the timeout.
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


def _connect_to_any(addresses: Iterable[tuple[Any, ...]], deadline: float) -> Any:
    """Return a connection to the first address that accepts one. Each gets a share of the time. Raises OSError."""
    waiting = list(addresses)
    failure: OSError = OSError("the name has no address")
    while waiting:
        family, kind, protocol, _, address = waiting.pop(0)
        left = _remaining(deadline)
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
    """A socket for http.client whose every read and write ends at the call's deadline.

    A socket's own timeout restarts with every byte, so a slow peer could block a call indefinitely.
    """

    def __init__(self, raw: Any, connection: _Connection) -> None:
        self._raw = raw
        self._connection = connection
        self._has_reader = self._is_closed = False
        self.fileno = raw.fileno

    def close(self) -> None:
        """Close after the response has been read: http.client closes the socket before that on "Connection: close"."""
        self._is_closed = True
        if not self._has_reader:
            self._raw.close()

    def reader_closed(self) -> None:
        self._has_reader = False
        if self._is_closed:
            self._raw.close()

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._raw.settimeout(self._connection.remaining())
            left = left[self._raw.send(left) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        self._has_reader = True
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
        self._raw.settimeout(self._connection.remaining())
        return int(self._raw.recv_into(buffer))


def _is_readable(connection: Any) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


@cache
def _trust() -> ssl.SSLContext:
    """Return a context with the SDK's certificates. Loading takes 17 ms, and a function has several endpoints."""
    botocore = find_spec("botocore")
    assert botocore
    assert botocore.origin
    return ssl.create_default_context(cafile=str(Path(botocore.origin).with_name("cacert.pem")))
