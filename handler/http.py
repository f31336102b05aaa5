"""HTTP requests and responses of REST APIs (payload format 1.0), HTTP APIs and function URLs (2.0)."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypedDict

import msgspec

from contract.invocation import LambdaEvent
from handler.request_limits import MAX_BODY_BYTES

MAX_KEPT_HEADER_CHARS = 64
RETRY_AFTER_SECONDS = 5


class Refused(Exception):
    """Raised to refuse a request with an error response. Nothing in the request is stored."""

    def __init__(self, status: int, code: str, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.facts = status, code, detail, facts


class Unreadable(ValueError):
    """Raised for a body that cannot be split into events."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Request:
    """A request. Header names are in lower case. `body` is as sent, unless the gateway has already inflated it."""

    headers: Mapping[str, str]
    body: bytes

    def stored_header(self, name: str) -> str | None:
        """Return the first MAX_KEPT_HEADER_CHARS characters of a header, or None if it is absent or empty."""
        return self.headers.get(name, "")[:MAX_KEPT_HEADER_CHARS] or None

    @property
    def codings(self) -> list[str]:
        """Return the registered names of the content codings, without `identity`."""
        names = [coding.strip() for coding in self.headers.get("content-encoding", "").lower().split(",")]
        # x-gzip is equivalent to gzip. (RFC 9110, section 8.4.1.3.)
        return [name.removeprefix("x-") for name in names if name not in ("", "identity")]


def request_of(event: LambdaEvent) -> Request:
    """Parse Lambda's event in either payload format. Raises Refused (413) if the body is over MAX_BODY_BYTES."""
    headers = {name.lower(): _sound(value) for name, value in (event.get("headers") or {}).items() if value}
    body = event.get("body") or ""
    raw = b""
    if len(body) <= MAX_BODY_BYTES * 2:  # longer texts are too large anyway, as base64 adds only a third
        raw = _from_base64(body) if event.get("isBase64Encoded") else body.encode("utf-8", "surrogatepass")
    if len(body) > MAX_BODY_BYTES * 2 or len(raw) > MAX_BODY_BYTES:
        detail = f"The body is larger than {MAX_BODY_BYTES} bytes: split the batch and send its parts."
        raise Refused(413, "body_too_large", detail, limit=MAX_BODY_BYTES)
    return Request(headers, raw)


def _sound(value: str) -> str:
    """Replace lone surrogates with "?", because they cannot be encoded in UTF-8."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _from_base64(body: str) -> bytes:
    try:
        return msgspec.convert(body, bytes)  # as strict as b64decode(validate=True), but four times as fast
    except ValueError:
        return body.encode("utf-8", "surrogatepass")  # not base64, so not from a gateway; use the text itself


class Answer(TypedDict):
    """The function's response, which is valid in both payload formats (1.0 and 2.0)."""

    statusCode: int
    headers: Mapping[str, str]
    body: str
    isBase64Encoded: bool


def answer(status: int, body: Mapping[str, object], content_type: str, headers: Mapping[str, str]) -> Answer:
    return {
        "statusCode": status,
        "headers": {"Content-Type": content_type, **headers},
        "body": msgspec.json.encode(body).decode(),
        "isBase64Encoded": False,
    }


def problem(
    status: int, code: str, detail: str, facts: Mapping[str, object], headers: Mapping[str, str]
) -> Answer:
    """Return a response with problem details (RFC 9457): a stable `code` for programs, and `detail` for people."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail, **facts}
    return answer(status, body, "application/problem+json", headers)


def unavailable(request_id: str) -> Answer:
    """Return a 503 response, after which the phone keeps its batch and sends it again."""
    detail = "The request could not be completed now. Send the identical batch again."
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return problem(503, "unavailable", detail, {"request_id": request_id}, headers)
