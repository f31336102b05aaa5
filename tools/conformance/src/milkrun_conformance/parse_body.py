"""Find the events in a request body, plain or gzip: one event, an array, the app's envelope, or NDJSON."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnreadableBodyError(ValueError):
    """The body cannot be split into events."""


def decompress(body: bytes, content_encoding: str) -> bytes:
    """Return the body without its gzip coding, if it has one. Raise UnreadableBodyError for invalid gzip."""
    codings = [coding.strip() for coding in content_encoding.lower().split(",")]
    # Recipients treat x-gzip as gzip. (RFC 9110, section 8.4.1.3.)
    if not {"gzip", "x-gzip"} & set(codings):
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableBodyError(f"The body is not gzip: {error}") from None


def event_ids(text: bytes, content_type: str) -> tuple[str, ...]:
    """Return one id per event, in order: its `_id`, or a hash of the event if it has none.

    Raise UnreadableBodyError if the text is not JSON, or not NDJSON where the content type says so.
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    try:
        if any(name in content_type.lower() for name in ("ndjson", "jsonl")):
            events = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            events = _events_of(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UnreadableBodyError(f"The body is not JSON: {error}") from None
    return tuple(_id_of(event) for event in events)


def digest(content: bytes) -> str:
    """Return the id of something that has no `_id` of its own."""
    return hashlib.sha256(content).hexdigest()


def _events_of(value: Any) -> list[Any]:
    match value:
        case list():
            return value
        case {"_id": _}:
            return [value]
        case {"events": list(events)}:
            return events
        case {"event": event}:
            return [event]
        case _:
            return [value]


def _id_of(event: Any) -> str:
    if isinstance(event, Mapping) and "_id" in event:
        return str(event["_id"])
    return digest(json.dumps(event, sort_keys=True, allow_nan=False).encode())
