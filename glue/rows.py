"""Parse archive lines into rows. All engines share this definition of the fields that the jobs read."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import msgspec
import pyarrow as pa

from contract.archive_object import hour_of
from contract.event_rules import geofence_event
from contract.events import GeofenceEvent, InvalidEvent, Owned
from contract.geofence_event_types import GEOFENCE_KINDS
from contract.instants import fault_at_receipt, instant
from glue.archive import HOUR, Lines, Stored

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
UNREADABLE = (
    "__unreadable__"  # the folder for lines without a valid id, type or time; the archive should hold none
)
OTHER = "__other__"  # the folder for rare types and for types that are not valid folder names
_MAX_TYPE_BYTES = 120

# The columns by which readers select and prune, and the columns of RAW.EVENTS except `scanned_at`. `payload` is the
# line as archived.
LINE = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("device_id", pa.string()),
        ("created_at", pa.timestamp("us", "UTC")),
        ("payload", pa.string()),
        ("file_name", pa.string()),
        ("file_row_number", pa.int64()),
        ("file_modified_at", pa.timestamp("us", "UTC")),
    ]
)

# The fields of a line that a rebuild needs. `event_key`, and the fields from `content` to `file_row_number`, are null
# unless conflicts are rebuilt. The fields from `device_id` on are null if the line is not a geofence event with a
# plausible time. Times are microseconds, because devices send years that pandas cannot represent.
FACT = pa.schema(
    [
        ("event_key", pa.string()),
        ("event_id", pa.string()),
        ("content", pa.string()),
        ("file_modified_us", pa.int64()),
        ("file_name", pa.string()),
        ("file_row_number", pa.int64()),
        ("device_id", pa.string()),
        ("tag", pa.string()),
        ("external_id", pa.string()),
        ("type", pa.string()),
        ("kind", pa.string()),
        ("occurred_us", pa.int64()),
        ("duration", pa.float64()),
        ("confidence", pa.int64()),
    ]
)


class _User(msgspec.Struct, rename="camel"):
    device_id: str | None = None
    user_id: object = None
    id: object = msgspec.field(default=None, name="_id")


class _Envelope(msgspec.Struct, rename="camel"):
    id: str = msgspec.field(name="_id")
    type: str
    created_at: str
    device_id: str | None = None
    user: _User | None = None


_envelope = msgspec.json.Decoder(_Envelope).decode


def line_rows(read: Lines) -> pa.RecordBatch:
    """Convert every line of an object to a row of LINE.

    An unreadable line has the type UNREADABLE, and its id, device and time are null.
    """
    count = len(read.lines)
    rows: list[tuple[str | None, str, str | None, int | None]] = [_head(line) for line in read.lines]
    ids, types, devices, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    modified_us = micros(read.stored.modified_at)
    return pa.record_batch(
        [
            pa.array(ids, pa.string()),
            pa.array(types, pa.string()),
            pa.array(devices, pa.string()),
            pa.array(times, pa.int64()).cast(LINE.field("created_at").type),
            pa.array([line.decode("utf-8", "replace") for line in read.lines], pa.string()),
            pa.array([read.stored.key] * count, pa.string()),
            pa.array(range(1, count + 1), pa.int64()),
            pa.array([modified_us] * count, pa.int64()).cast(LINE.field("file_modified_at").type),
        ],
        schema=LINE,
    )


def _head(line: bytes) -> tuple[str | None, str, str | None, int | None]:
    try:
        event = _envelope(line)
        created_us = micros(instant(event.created_at))
    except (msgspec.MsgspecError, ValueError):
        return None, UNREADABLE, None, None
    return event.id, event.type, _device(event), created_us


def _device(event: _Envelope) -> str | None:
    return (event.user and event.user.device_id) or event.device_id


def type_folder(type_: str) -> str:
    """Return the name of an event type's Hive folder: the percent-encoded type.

    Types that are too long, or that are not valid folder names, share the folder OTHER.
    """
    name = quote(type_, safe="-_.~")
    return name if 0 < len(name) <= _MAX_TYPE_BYTES and name.strip(".") else OTHER


# --- geofence events ----------------------------------------------------------------------------------------

_NAMES = tuple(kind.encode() for kind in GEOFENCE_KINDS)


def parse_geofence_event(line: bytes) -> GeofenceEvent | None:
    """Parse a line with the contract's own parser. Returns None if the line is not a geofence event.

    Most lines are positions, so a line is parsed only if it contains a geofence type's name, or a
    backslash, which may be an escape in that name.
    """
    if any(name in line for name in _NAMES) or b"\\" in line:
        try:
            return geofence_event(line)
        except InvalidEvent:
            return None  # such as an event of another type that mentions such a name
    return None


def with_plausible_time(event: GeofenceEvent | None, stored: Stored) -> GeofenceEvent | None:
    """Return the event, or None if there is none or its time was implausible when it was received.

    dbt's typed_events has the same rule.
    """
    hour = hour_of(stored.key) or stored.modified_at
    return None if event is None or fault_at_receipt(event.occurred_at, hour, hour + HOUR) else event


def _owned(line: bytes, stored: Stored) -> Owned | None:
    """Return the owner and the id of the event in a line; None if there is no event with an owner and a plausible time.

    dbt's typed_events has the same rule for the events that Milkrun archived.
    """
    hour = hour_of(stored.key) or stored.modified_at
    try:
        event = _envelope(line)
        created_at = instant(event.created_at)
    except (msgspec.MsgspecError, ValueError):
        return None
    if device := _device(event):
        owned = Owned("d", device, event.id)
    else:
        user = event.user and (event.user.user_id or event.user.id)
        if not isinstance(user, str):
            return None
        owned = Owned("u", user, event.id)
    return None if fault_at_receipt(created_at, hour, hour + HOUR) else owned


def fact_rows(read: Lines, conflicts: bool) -> pa.RecordBatch:
    """Convert lines to rows of FACT: all lines if `conflicts`, otherwise geofence events with a plausible time."""
    rows: list[tuple[object, ...]] = []
    modified_us = micros(read.stored.modified_at)
    for number, line in zip(read.numbers or range(1, len(read.lines) + 1), read.lines, strict=True):
        event = with_plausible_time(parse_geofence_event(line), read.stored)
        if event is None and not conflicts:
            continue
        place = (content_hash(line), modified_us, read.stored.key, number) if conflicts else _NO_PLACE
        if event is None:
            owned = _owned(line, read.stored)
            named = (owned.event_key, owned.event_id) if owned else (None, None)
            rows.append((*named, *place, *_NO_CROSSING))
        else:
            key = Owned("d", event.device_id, event.event_id).event_key if conflicts else None
            rows.append((key, event.event_id, *place, *crossing_values(event)))
    columns = zip(*rows, strict=True) if rows else [()] * len(FACT)
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, FACT, strict=True)], schema=FACT
    )


_NO_PLACE = (None,) * 4
_NO_CROSSING = (None,) * 8


def crossing_values(event: GeofenceEvent) -> tuple[object, ...]:
    """Return the event's values for the columns of FACT from `device_id` on, in column order."""
    return (
        event.device_id,
        event.fence.tag,
        event.fence.external_id,
        event.type,
        event.kind,
        micros(event.occurred_at),
        event.duration_minutes,
        event.confidence,
    )


def content_hash(line: bytes) -> str:
    """Return a hash of a line's JSON.

    The order of the members in an object does not matter, as in Snowflake's comparison of VARIANTs.
    """
    with suppress(msgspec.DecodeError):
        line = msgspec.json.encode(msgspec.json.decode(line), order="sorted")
    return hashlib.blake2b(line, digest_size=12).hexdigest()


def merge_batches(batches: Iterable[pa.RecordBatch], rows: int = 20_000) -> Iterator[pa.RecordBatch]:
    """Merge small batches into batches of at least `rows` rows, because each batch has a fixed cost, and an object has
    only about twenty rows.
    """
    some: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        some.append(batch)
        count += batch.num_rows
        if count >= rows:
            yield pa.concat_batches(some)
            some, count = [], 0
    if some:
        yield pa.concat_batches(some)


# --- times and sums -----------------------------------------------------------------------------------------


def micros(at: datetime) -> int:
    return (at - EPOCH) // MICROSECOND


def from_micros(us: int) -> datetime:
    return EPOCH + us * MICROSECOND


def checksum(payloads: Iterable[bytes]) -> int:
    """Return the sum of the first 60 bits of each line's MD5.

    The sum does not depend on the order of the lines, and SQL can compute it too.
    """
    return sum(int(hashlib.md5(line, usedforsecurity=False).hexdigest()[:15], 16) for line in payloads)
