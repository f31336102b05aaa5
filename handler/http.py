"""HTTP requests and responses of REST APIs (payload format 1.0), HTTP APIs and function URLs (2.0)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from types import MappingProxyType
from typing import Literal, TypedDict

import msgspec

from contract.invocation import LambdaEvent
from handler.request_limits import MAX_BODY_BYTES

type Form = Literal["json", "ndjson"]

MAX_KEPT_HEADER_CHARS = 64

_FORMS: Mapping[str, Form] = {
    "application/json": "json",
    "text/json": "json",
    "application/x-json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/x-jsonl": "ndjson",
    "application/jsonlines": "ndjson",
    "application/x-jsonlines": "ndjson",
}
# UTF-8 under its names, and its subset ASCII. (Encoding Standard: "Names and labels"; IANA: "Character Sets".)
_CHARSETS = frozenset(["utf-8", "utf8", "csutf8", "unicode-1-1-utf-8", "us-ascii", "ascii", "csascii"])
_LIST_MEMBERS = re.compile(r'(?:"(?:[^"\\]++|\\.)*+"?|[^",])+', re.DOTALL)


class Refused(Exception):
    """The error response to a request; nothing in the request is stored."""

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
    """`headers` have lower-case names. `body` is as sent: compressed, unless the gateway has inflated it."""

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
    if len(body) <= MAX_BODY_BYTES * 2:  # base64 adds a third; decoding a larger text would only cost time
        raw = _from_base64(body) if event.get("isBase64Encoded") else body.encode("utf-8", "surrogatepass")
    if len(body) > MAX_BODY_BYTES * 2 or len(raw) > MAX_BODY_BYTES:
        detail = f"The body is larger than {MAX_BODY_BYTES} bytes: split the batch and send its parts."
        raise Refused(413, "body_too_large", detail, limit=MAX_BODY_BYTES)
    return Request(headers, raw)


def _sound(value: str) -> str:
    """Replace lone surrogates, because they cannot be encoded for storage."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def form_of(request: Request) -> Form:
    """Return the body format that the content type names, or JSON if there is none. Raises Refused (415).

    Names are case-insensitive, and parameters may be quoted. (RFC 9110, sections 5.6.6 and 8.3.) A header that was
    sent twice arrives as a list, whose members must name the same format.
    """
    given = request.headers.get("content-type", "").strip() or "application/json"
    form = _FORMS.get(given)
    if form is None:
        forms = {_form_of_one(each) for each in _LIST_MEMBERS.findall(given.lower()) if each.strip()}
        form = forms.pop() if len(forms) == 1 else None
    if form is None:
        detail = "Send application/json or application/x-ndjson, in UTF-8."
        raise Refused(415, "unsupported_media_type", detail)
    if request.codings not in ([], ["gzip"]):
        raise Refused(415, "unsupported_encoding", "Send the body plain or with Content-Encoding: gzip.")
    return form


def _form_of_one(content_type: str) -> Form | None:
    header = Message()
    # In parameter names with an asterisk `Message` would decode RFC 2231, which Content-Type in HTTP does not use.
    header["content-type"] = content_type.replace("*", "_")
    (media_type, _), *parameters = header.get_params([("", "")])
    charsets = {value.strip("'\"").replace("\\", "") for name, value in parameters if name == "charset"}
    # Every type that ends with +json is JSON. (MIME Sniffing Standard: "JSON MIME type".)
    form = _FORMS.get(media_type) or ("json" if media_type.endswith("+json") else None)
    return form if charsets <= _CHARSETS else None


def _from_base64(body: str) -> bytes:
    try:
        return msgspec.convert(body, bytes)  # as strict as b64decode(validate=True), in a quarter of its time
    except ValueError:
        return body.encode("utf-8", "surrogatepass")  # not from a gateway; the text is stored as unreadable


# --- responses ------------------------------------------------------------------------------------


# Lambda's return value for both payload formats.
class Answer(TypedDict):
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
    status: int,
    code: str,
    detail: str,
    facts: Mapping[str, object],
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Answer:
    """Return a response with problem details (RFC 9457): a stable `code` for programs, and `detail` for people."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **facts,
    }
    return answer(status, body, "application/problem+json", headers)
