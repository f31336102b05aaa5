"""Find the events in a request body: one event, an array, the app's envelope, or NDJSON. The body may be compressed
with gzip.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


_TYPES = {
    "application/json",
    "text/json",
    "application/x-json",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
}
_CHARSETS = {"utf-8", "utf8", "csutf8", "unicode-1-1-utf-8", "us-ascii", "ascii", "csascii"}


class UnreadableBodyError(ValueError):
    """Raised if a request body cannot be decompressed or split into events."""


def unsupported(content_type: str, content_encoding: str) -> str:
    """Return the error code of the 415 with which Milkrun refuses every request with these headers, or "" if it
    accepts the headers.
    """
    given = content_type.lower().strip() or "application/json"
    media_type, *parameters = (part.strip() for part in given.split(";"))
    pairs = [parameter.partition("=") for parameter in parameters]
    charsets = {value.strip("\"' ") for name, _, value in pairs if name.strip() == "charset"}
    if not (media_type in _TYPES or media_type.endswith("+json")) or charsets - _CHARSETS:
        return "unsupported_media_type"
    codings = _codings(content_encoding)
    return "" if codings in ([], ["gzip"], ["x-gzip"]) else "unsupported_encoding"


def _codings(content_encoding: str) -> list[str]:
    codings = [coding.strip() for coding in content_encoding.lower().split(",")]
    return [coding for coding in codings if coding not in ("", "identity")]


def decompress(body: bytes, content_encoding: str) -> bytes:
    """Return the body, decompressed if its content encoding is gzip. Raise UnreadableBodyError if the gzip
    data is invalid.
    """
    # Recipients treat x-gzip as gzip. (RFC 9110, section 8.4.1.3.)
    if not {"gzip", "x-gzip"} & {*_codings(content_encoding)}:
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableBodyError(f"The body is not valid gzip: {error}") from None


def event_ids(text: bytes, content_type: str) -> tuple[str, ...]:
    """Return the id of each event, in order: its `_id`, or a hash of the event if `_id` is missing or null.

    Raise UnreadableBodyError if the text or, for NDJSON, one of its lines is not valid JSON.
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    try:
        if any(name in content_type.lower() for name in ("ndjson", "jsonl")):
            events = [_parsed(line) for each in text.splitlines() if (line := each.strip())]
        else:
            events = _events_of(_parsed(text))
        return tuple(_id_of(event) for event in events)
    except (ValueError, RecursionError) as error:
        raise UnreadableBodyError(f"The body is not JSON: {error}") from None


def digest(content: bytes) -> str:
    """Return the SHA-256 hash that serves as the id of an event without an `_id`, or of an unreadable body."""
    return hashlib.sha256(content).hexdigest()


def _parsed(text: bytes) -> object:
    value: object = json.loads(text)
    # Raises ValueError for NaN, and for 1e999, which Python reads as infinity.
    json.dumps(value, allow_nan=False)
    return value


def _events_of(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value.get("_id") is None:
        if isinstance(events := value.get("events"), list):
            return events
        if (event := value.get("event")) is not None:
            return [event]
    return [value]


def _id_of(event: object) -> str:
    if isinstance(event, Mapping) and event.get("_id") is not None:
        return str(event["_id"])
    return digest(json.dumps(event, sort_keys=True, allow_nan=False).encode())
