"""HTTP calls with one deadline for all steps: signed calls to AWS over persistent connections, and unsigned GETs.

The trusted certificates are those of botocore, and no proxy is used. The signature covers the body's SHA-256, which
AWS verifies, so no other checksum is sent.
"""

import hashlib
import hmac
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from aws.credentials import Credentials
from aws.errors import NoResponseError, ServiceError

# The deadline of one attempt: name resolution, connecting to the addresses in turn, TLS, sending, reading the response.
CALL_SECONDS = 3.0
# The part of CALL_SECONDS for resolving the name, connecting to the addresses in turn, and TLS. AWS takes milliseconds.
CONNECT_SECONDS = 1.5
ADDRESS_SECONDS = 0.25  # the minimum timeout for connecting to one address, within CONNECT_SECONDS
MAX_FETCHED_BYTES = 256 * 1024

type Address = tuple[int, int, int, str, tuple[object, ...]]  # as socket.getaddrinfo returns it


def endpoint_of(service: str, region: str) -> str:
    """Return a service's URL in a region of partition aws or aws-cn. (AWS General Reference: "Service endpoints".)"""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{service}.{region}.{suffix}"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes


@lru_cache(maxsize=16)
def _signing_key(scope: str, secret: str) -> bytes:
    """Return the signing key for one day, region and service, which `scope` names."""
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class Signer:
    """Signs requests with Signature Version 4. (AWS IAM User Guide: "Create a signed AWS API request".)"""

    def __init__(self, credentials: Credentials, region: str, service: str) -> None:
        self._credentials, self._region, self._service = credentials, region, service

    def signed(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> dict[str, str]:
        """Return `headers` (lower-case, including `host`) together with the signature headers."""
        credentials = self._credentials()
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
        signature = hmac.digest(_signing_key(scope, credentials.secret_key), text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        return signed


class Endpoint(threading.local):
    """An AWS host, with one connection per thread, because `__init__` runs once in each thread that uses it."""

    def __init__(self, name: str, url: str, signer: Signer) -> None:
        self.name, self._signer, self._parts = name, signer, urlsplit(url)
        self._connection = _Connection(name, self._parts)

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Send a request within CALL_SECONDS, without retries. Raises NoResponseError or CredentialsError."""
        target = self._parts.path.rstrip("/") + path
        unsigned = {"host": self._parts.netloc, **headers}
        signed = self._signer.signed(method, target, unsigned, body, datetime.now(UTC))
        return self._connection.call(method, target, body, signed)


def fetch(url: str) -> bytes:
    """Send an unsigned GET request; return at most MAX_FETCHED_BYTES of the response's body. Raises RetryableError."""
    parts, host = urlsplit(url), str(urlsplit(url).hostname)
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    with closing(_Connection(host, parts, MAX_FETCHED_BYTES)) as connection:
        response = connection.call("GET", target, None, {"user-agent": "milkrun"})
    if response.status != 200:
        raise ServiceError(host, str(response.status), response.status)
    return response.body


class _Connection(HTTPConnection):
    """An HTTP connection. Each call has one deadline for all its steps, and reads at most `max_bytes` of a body."""

    sock: "_DeadlineSocket | None"

    def __init__(self, name: str, url: SplitResult, max_bytes: int | None = None) -> None:
        self._name, self._max_bytes = name, max_bytes
        self._trust = _trust() if url.scheme == "https" else None
        self.default_port = 443 if self._trust else 80
        self._unsent: list[bytes] = []
        super().__init__(url.netloc)

    def send(self, data: Any) -> None:
        """Buffer a part of a request (its head or its body), so that `call` can send both at once."""
        self._unsent.append(data)

    def call(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        """Send a request, and return the response within CALL_SECONDS. Raises NoResponseError."""
        deadline = time.monotonic() + CALL_SECONDS
        try:
            # A connection that is readable between two requests was closed by the service.
            if self.sock and _is_readable(self.sock):
                self.close()
            if not self.sock:
                self.sock = self._connected(min(deadline, time.monotonic() + CONNECT_SECONDS))
            self.sock.deadline = deadline
            self.request(method, target, body, headers)
            self.sock.sendall(b"".join(self._unsent))
            response = self.getresponse()
            return Response(response.status, response.read(self._max_bytes))
        except (HTTPException, OSError) as error:
            self.close()
            raise NoResponseError(f"{self._name}: {type(error).__name__}") from error
        finally:
            self._unsent.clear()

    def _connected(self, deadline: float) -> "_DeadlineSocket":
        plain = _connect_to_any(resolve(self.host, self.port, _remaining(deadline)), deadline)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._trust is None:
                return plain
            plain.settimeout(_remaining(deadline))
            return cast("_TlsSocket", self._trust.wrap_socket(plain, server_hostname=self.host))
        except OSError:
            plain.close()
            raise


def _remaining(deadline: float) -> float:
    """Return the seconds until `deadline`. Raises TimeoutError if it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def resolve(host: str, port: int, seconds: float) -> Sequence[Address]:
    """Resolve a host in a daemon thread, because a lookup cannot be interrupted. Raises TimeoutError or OSError."""
    answer: Future[Sequence[Address]] = Future()

    def look_up() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            answer.set_exception(error)

    threading.Thread(target=look_up, daemon=True).start()
    return answer.result(timeout=seconds)


def _connect_to_any(addresses: Sequence[Address], deadline: float) -> "_DeadlineSocket":
    """Connect to the first address that accepts. The addresses share the time until `deadline`. Raises OSError."""
    failure: OSError = OSError("the name has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        left = _remaining(deadline)
        connection = _DeadlineSocket(family, kind, protocol)
        connection.settimeout(min(left, max(ADDRESS_SECONDS, left / (len(addresses) - number))))
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def _is_readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


class _DeadlineSocket(socket.socket):
    """A socket whose reads and writes time out at the call's deadline; a normal timeout would restart at each read."""

    deadline = 0.0

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(_remaining(self.deadline))
        return super().recv_into(*arguments)

    def send(self, *arguments: Any) -> int:
        self.settimeout(_remaining(self.deadline))
        return super().send(*arguments)

    def sendall(self, *arguments: Any) -> None:
        self.settimeout(_remaining(self.deadline))  # for a plain socket, this limits the whole call
        super().sendall(*arguments)


class _TlsSocket(_DeadlineSocket, ssl.SSLSocket):
    """A TLS socket. Its `sendall` calls `send`, which checks the deadline, for each part of the data."""


@cache
def _trust() -> ssl.SSLContext:
    """Return a TLS context with the SDK's certificates. It is cached, because loading them takes 17 ms."""
    botocore = find_spec("botocore")
    assert botocore
    assert botocore.origin
    trust = ssl.create_default_context(cafile=str(Path(botocore.origin).with_name("cacert.pem")))
    trust.sslsocket_class = _TlsSocket
    return trust
