"""The two calls that every request makes, over signed HTTP: no SDK client stands between.

A client of botocore's costs ten times what http.client does, urllib3's pool twice (docs/performance.md). What is
kept of botocore: the endpoints that it would choose, its standard retries, its certificates, and its credentials
where those have to be renewed. The body is signed by its SHA-256, which the service checks, so no further checksum
is sent.
"""

import hashlib
import hmac
import random
import re
import select
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

import botocore
import msgspec
from botocore.exceptions import BotoCoreError, NoCredentialsError

from contract.objects import LinesObject
from handler.publish import Malformed, Unavailable
from handler.sift import Record

CONFLICT_TRIES = 4
STORE_TRIES = 3
# What botocore's standard mode tries again. (AWS SDKs and Tools Reference Guide: "Retry behavior".)
PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})
PASSING_CODES = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"})

_XML_CODE = re.compile(rb"<Code>([^<]{1,128})</Code>")
CONNECT_SECONDS, READ_SECONDS = 1, 2


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
        """One try. Raises Unavailable if no answer came."""
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
            raise Unavailable(type(error).__name__) from error

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


def _trust() -> ssl.SSLContext:
    """The certificates that the SDK trusts."""
    return ssl.create_default_context(cafile=str(Path(botocore.__file__).with_name("cacert.pem")))


class S3Objects:
    """The archive. Objects are put only where none stands: their keys are hashes of what is inside."""

    def __init__(self, s3: Endpoint, path: str = "", pause: Callable[[float], None] = time.sleep) -> None:
        self._s3 = s3
        self._path = path
        self._pause = pause

    def store(self, lines: LinesObject, facts: Mapping[str, str]) -> bool:
        headers = {"content-type": "application/gzip", "if-none-match": "*"}
        headers |= {f"x-amz-meta-{name}": value for name, value in facts.items()}
        path = f"{self._path}/{quote(lines.key)}"
        failures = conflicts = 0
        while True:
            fault, passes = "", True
            try:
                answer = self._s3.send("PUT", path, headers, lines.body)
            except Unavailable as error:
                fault = str(error)
            else:
                if answer.status == 200:
                    return True
                if answer.status == 412:  # it stands there, perhaps from a try of ours that timed out
                    return False
                fault = _s3_code(answer)
                passes = answer.status in PASSING_STATUSES or fault in PASSING_CODES
                if answer.status == 409:  # while another write of the same key is under way
                    conflicts += 1
                    if conflicts < CONFLICT_TRIES:
                        self._pause(random.uniform(0, 0.05 * 2**conflicts))  # noqa: S311
                        continue
            failures += 1
            if not passes or failures == STORE_TRIES:
                raise Unavailable(f"S3: {fault}")
            self._pause(random.uniform(0, 2 ** (failures - 1)))  # noqa: S311


class KinesisRecords:
    """The stream, one PutRecords call at a time."""

    def __init__(self, kinesis: Endpoint, name: str) -> None:
        self._kinesis = kinesis
        self._name = name

    def put(self, records: Sequence[Record]) -> list[Record]:
        call = {
            "StreamName": self._name,
            "Records": [{"Data": record.data, "PartitionKey": record.partition_key} for record in records],
        }
        try:
            answer = self._kinesis.send("POST", "/", _PUT_RECORDS, msgspec.json.encode(call))
        except Unavailable as error:
            raise Unavailable(f"Kinesis: {error}") from error
        if answer.status != 200:
            code = _kinesis_code(answer)
            if code in ("ValidationException", "InvalidArgumentException"):
                raise Malformed(code)
            raise Unavailable(f"Kinesis: {code}")
        # PutRecords answers 200 even when single records were throttled, and lists results in request order.
        try:
            said = _TAKEN.decode(answer.body)
            if not said.failed:
                return []
            return [record for record, result in zip(records, said.results, strict=True) if result.code]
        except ValueError as error:
            raise Unavailable("Kinesis: unreadable answer") from error


class _Result(msgspec.Struct):
    code: str | None = msgspec.field(default=None, name="ErrorCode")


class _Taken(msgspec.Struct):
    failed: int = msgspec.field(default=0, name="FailedRecordCount")
    results: list[_Result] = msgspec.field(default=[], name="Records")


_TAKEN = msgspec.json.Decoder(_Taken)
_PUT_RECORDS = {
    "content-type": "application/x-amz-json-1.1",
    "x-amz-target": "Kinesis_20131202.PutRecords",
}


def _s3_code(answer: Answer) -> str:
    found = _XML_CODE.search(answer.body)
    return found[1].decode() if found else str(answer.status)


def _kinesis_code(answer: Answer) -> str:
    try:
        type_ = msgspec.json.decode(answer.body)["__type"]
        return str(type_).rpartition("#")[2]
    except (msgspec.MsgspecError, LookupError, TypeError):
        return str(answer.status)


def s3_objects(bucket: str, region: str, credentials: Credentials, url: str = "") -> S3Objects:
    """A bucket by its own host at AWS; by path anywhere else, and where a dot would break TLS."""
    if url or "." in bucket:
        host, path = url or endpoint_of("s3", region), f"/{bucket}"
    else:
        host, path = endpoint_of(f"{bucket}.s3", region), ""
    return S3Objects(Endpoint(host, Signer(credentials, region, "s3")), path)


def kinesis_records(stream: str, region: str, credentials: Credentials, url: str = "") -> KinesisRecords:
    host = url or endpoint_of("kinesis", region)
    return KinesisRecords(Endpoint(host, Signer(credentials, region, "kinesis")), stream)
