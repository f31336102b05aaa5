"""S3 objects of the archive: keys, compressed lines and metadata.

    events/dt=2026-11-16/hh=08/<SHA-256 of the uncompressed lines>.<number of lines>.ndjson.gz

The hash depends only on the lines, so storing the same request again in the same hour creates no second object.
"""

import gzip
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args
from urllib.parse import quote

Prefix = Literal["events", "rejected", "set-aside"]

MAX_METADATA_BYTES = 64

_PREFIXES = get_args(Prefix)
_FOLDER = re.compile(r"[a-z-]+/dt=([0-9]{4}-[0-9]{2}-[0-9]{2})/hh=([0-9]{2})/")
_NAME = re.compile(r"/([0-9a-f]{64})\.([0-9]+)\.ndjson\.gz")


@dataclass(frozen=True, slots=True)
class ObjectName:
    """The parts of a key: prefix, hour of receipt (UTC), SHA-256 of the lines, and number of lines."""

    prefix: Prefix
    hour: datetime
    digest: str
    lines: int

    @property
    def key(self) -> str:
        return f"{self.prefix}/{hour_folder(self.hour)}/{self.digest}.{self.lines}.ndjson.gz"


def hour_folder(hour: datetime) -> str:
    """Return the folder of an hour (UTC), relative to the prefix."""
    return f"dt={hour:%Y-%m-%d}/hh={hour:%H}"


def object_name(key: str) -> ObjectName | None:
    """Parse an object's key; return None if the key is not in Milkrun's format."""
    prefix, hour, found = prefix_of(key), hour_of(key), _NAME.search(key)
    if not (prefix and hour and found):
        return None
    name = ObjectName(prefix, hour, found[1], int(found[2]))
    return name if name.key == key else None


def is_content(key: str, size: int) -> bool:
    """Return whether readers of the archive must process an object. They skip empty uploads and folder markers.

    A key in Milkrun's format contains the number of lines, so an empty object with such a key is damaged and is not
    skipped. If the key has another format, readers process the lines that they can parse and report the rest.
    """
    return object_name(key) is not None or (size > 0 and not key.endswith("/"))


def prefix_of(key: str) -> Prefix | None:
    """Return the prefix of a key, or None if it is not one of Milkrun's. The rest of the key may have any format."""
    return next((prefix for prefix in _PREFIXES if key.startswith(f"{prefix}/")), None)


def hour_of(key: str) -> datetime | None:
    """Return the hour in the folders of an object key (`dt=…/hh=…`), or None. The file name may have any format."""
    found = _FOLDER.match(key)
    try:
        return datetime.fromisoformat(f"{found[1]}T{found[2]}:00Z") if found else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class LinesObject:
    key: str
    body: bytes
    lines: int


def lines_object(
    prefix: Prefix,
    lines: Sequence[bytes],
    received_at: datetime,
    gzipped: Callable[[bytes], bytes] = lambda text: gzip.compress(text, 1, mtime=0),
) -> LinesObject:
    """Return an object with the lines as gzipped NDJSON. Equal lines in the same hour give the same key and bytes."""
    text = b"\n".join([*lines, b""])
    hour = received_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    name = ObjectName(prefix, hour, hashlib.sha256(text).hexdigest(), len(lines))
    return LinesObject(name.key, gzipped(text), len(lines))


def lines_of(body: bytes) -> list[bytes]:
    """Return the lines of an object's body, which may consist of several gzip members."""
    return gzip.decompress(body).splitlines()


def metadata(values: Mapping[str, str | None]) -> dict[str, str]:
    """Return the non-empty values as object metadata: percent-encoded, because S3 accepts only ASCII, and truncated."""
    return {name: _cut(value) for name, value in values.items() if value}


def _cut(value: str) -> str:
    """Percent-encode as many whole characters as fit into MAX_METADATA_BYTES."""
    beginnings = (value[:end] for end in range(MAX_METADATA_BYTES, -1, -1))
    encoded = (quote(beginning, safe="-._~:", errors="replace") for beginning in beginnings)
    return next(text for text in encoded if len(text) <= MAX_METADATA_BYTES)
