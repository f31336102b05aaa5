"""S3 objects: what their keys say, how lines are packed, and the shape of a reject and of what was set aside.

    events/dt=2026-11-16/hh=08/<SHA-256 of the uncompressed lines>.<number of lines>.ndjson.gz

Hash and bytes depend on nothing but the lines, so that the same request stored again is the same object.
"""

import base64
import gzip
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

import msgspec

from contract.events import InvalidEvent, Reason, compact, parse_json

Prefix = Literal["events", "rejected", "set-aside"]

MAX_METADATA_BYTES = 64
_PLAIN = "-._~:"

_KEY = re.compile(
    r"(?P<prefix>events|rejected|set-aside)/dt=(?P<date>\d{4}-\d\d-\d\d)/hh=(?P<hour>\d\d)/"
    r"(?P<digest>[0-9a-f]{64})\.(?P<lines>\d+)\.ndjson\.gz"
)

_FOLDER = re.compile(r"[a-z-]+/dt=(?P<date>\d{4}-\d\d-\d\d)/hh=(?P<hour>\d\d)/")


@dataclass(frozen=True, slots=True)
class ObjectName:
    """What a key says: where, the hour (UTC) its lines were received in, their SHA-256, their number."""

    prefix: Prefix
    hour: datetime
    digest: str
    lines: int

    @property
    def key(self) -> str:
        return f"{self.prefix}/dt={self.hour:%Y-%m-%d}/hh={self.hour:%H}/{self.digest}.{self.lines}.ndjson.gz"


def object_name(key: str) -> ObjectName | None:
    """None for a key that is not one of ours."""
    found = _KEY.fullmatch(key)
    if not found:
        return None
    try:
        hour = datetime.strptime(found["date"] + found["hour"], "%Y-%m-%d%H").replace(tzinfo=UTC)
    except ValueError:
        return None
    return ObjectName(found["prefix"], hour, found["digest"], int(found["lines"]))  # type: ignore[arg-type]


def is_content(key: str, size: int) -> bool:
    """Whether an object holds anything. A folder marker that a console made, and an empty upload, do not.

    A key of ours names a number of lines, so an empty object there is damaged and counts as content. The rule for
    keys that are not ours: what holds nothing is skipped, what can be read as lines is processed, and the rest is
    named.
    """
    return object_name(key) is not None or (size > 0 and not key.endswith("/"))


def prefix_of(key: str) -> Prefix | None:
    """The prefix under which a key lies, also one that others chose."""
    first = key.partition("/")[0]
    return first if first in ("events", "rejected", "set-aside") else None  # type: ignore[return-value]


def hour_of(key: str) -> datetime | None:
    """The hour that a key's folders name, also of a key that others chose below them."""
    found = _FOLDER.match(key)
    if not found:
        return None
    try:
        return datetime.strptime(found["date"] + found["hour"], "%Y-%m-%d%H").replace(tzinfo=UTC)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class LinesObject:
    """Lines ready to be put under `key`."""

    key: str
    body: bytes
    lines: int


def lines_object(prefix: Prefix, lines: Sequence[bytes], received_at: datetime) -> LinesObject:
    """NDJSON, each line ended by a line feed, gzip level 1 without a time stamp inside."""
    text = b"\n".join([*lines, b""])
    hour = received_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    name = ObjectName(prefix, hour, hashlib.sha256(text).hexdigest(), len(lines))
    return LinesObject(name.key, gzip.compress(text, 1, mtime=0), len(lines))


def lines_of(body: bytes) -> list[bytes]:
    """The lines of an object's body: the inverse of `lines_object`. Several gzip members are read as one."""
    return gzip.decompress(body).splitlines()


def reject_line(
    reasons: Iterable[Reason],
    event: bytes,
    *,
    index: int,
    event_id: str | None,
    app_version: str | None = None,
) -> bytes:
    """One line of `rejected/`: an event that is strict JSON, as sent, and why it was not taken."""
    line = {"reasons": tuple(reasons), "index": index, "event_id": event_id, "event": msgspec.Raw(event)}
    return _line(line, app_version)


def unreadable_line(
    reasons: Iterable[Reason],
    body: bytes,
    *,
    content_type: str | None,
    content_encoding: str | None,
    index: int = 0,
    app_version: str | None = None,
) -> bytes:
    """One line of `rejected/`: bytes that are not strict JSON (a whole body, or one event's part of it)."""
    line = {
        "reasons": tuple(reasons),
        "index": index,
        "body_base64": base64.b64encode(body).decode(),
        "content_type": content_type,
        "content_encoding": content_encoding,
    }
    return _line(line, app_version)


def quarantine_line(reasons: Iterable[Reason], record: bytes, origin: Mapping[str, str]) -> bytes:
    """One line of `set-aside/`: what can never succeed, why, and where it was found.

    `record` stands under `event` if it is strict JSON, else under `record_base64`. `origin` must be the same
    when the same record is met again (a stream and a sequence number, never a time or a request id).
    """
    line: dict[str, object] = {"reasons": tuple(reasons), "origin": dict(origin)}
    try:
        parse_json(record)
        line["event"] = msgspec.Raw(compact(record))
    except InvalidEvent:
        line["record_base64"] = base64.b64encode(record).decode()
    return msgspec.json.encode(line)


def metadata(values: Mapping[str, str | None]) -> dict[str, str]:
    """Object metadata: percent-encoded (S3's is ASCII, a client's text is anything) and cut to size."""
    return {name: _cut(value) for name, value in values.items() if value}


def _cut(value: str) -> str:
    """As many whole characters as fit into MAX_METADATA_BYTES of percent-encoded text."""
    whole = quote(value[: MAX_METADATA_BYTES + 1], safe=_PLAIN, errors="replace")
    if len(whole) <= MAX_METADATA_BYTES:
        return whole
    encoded = ""
    for character in value[:MAX_METADATA_BYTES]:
        escaped = quote(character, safe=_PLAIN, errors="replace")
        if len(encoded) + len(escaped) > MAX_METADATA_BYTES:
            break
        encoded += escaped
    return encoded


def _line(line: Mapping[str, object], app_version: str | None) -> bytes:
    return msgspec.json.encode({**line, "app_version": app_version} if app_version else line)
