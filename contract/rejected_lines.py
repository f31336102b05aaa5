"""The lines stored under `rejected/` (rejected events and bodies) and `set-aside/` (quarantined records)."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from contract.events import InvalidEvent, Reason
from contract.strict_json import compact, parse_json


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected event or unreadable body. `text` is strict JSON if `is_json`, otherwise as sent, perhaps compacted."""

    index: int
    event_id: str | None
    text: bytes
    is_json: bool
    reasons: Sequence[Reason]
    content_encoding: str | None = None


def reject_line(rejected: Rejected, *, content_type: str | None, app_version: str | None) -> bytes:
    """Return the line to store under `rejected/`: a rejected event or body, with the reasons."""
    line: dict[str, object] = {"reasons": rejected.reasons, "index": rejected.index}
    if rejected.is_json:
        line |= {"event_id": rejected.event_id, "event": msgspec.Raw(rejected.text)}
    else:
        line |= {
            "body_base64": base64.b64encode(rejected.text).decode(),
            "content_type": content_type,
            "content_encoding": rejected.content_encoding,
        }
    return msgspec.json.encode({**line, "app_version": app_version} if app_version else line)


def quarantine_line(reasons: Iterable[Reason], record: bytes, origin: Mapping[str, str]) -> bytes:
    """Return the line to store under `set-aside/`: a record that can never be processed, the reasons, and its origin.

    The record is stored under `event` if it is strict JSON, otherwise under `record_base64`. `origin` must be the same
    when the record is delivered again: a stream and a sequence number, never the time or id of an invocation.
    """
    line: dict[str, object] = {"reasons": tuple(reasons), "origin": dict(origin)}
    try:
        parse_json(record)
        line["event"] = msgspec.Raw(compact(record))
    except InvalidEvent:
        line["record_base64"] = base64.b64encode(record).decode()
    return msgspec.json.encode(line)
