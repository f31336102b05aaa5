"""Lines of the archive as rows: the one definition of what a job reads from a line, for every engine."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import msgspec
import pyarrow as pa

from contract.events import GEOFENCE_KINDS, GeofenceEvent, InvalidEvent, geofence_event
from contract.instants import fault_at_receipt, instant, received_hour
from glue.archive import HOUR, Lines, Stored

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
UNREADABLE = "__unreadable__"  # lines whose envelope cannot be read: the archive should hold none
OTHER = "__other__"  # types are an open set, names of folders are not
_MAX_TYPE_BYTES = 120

# The columns of RAW.EVENTS, and what a reader selects and prunes by. `payload` is the line as archived.
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

# What a rebuild needs of a line. Content and place are null where conflicts are not asked for, what stands
# below them where the line is no geofence event. Times are microseconds: devices say years that pandas
# cannot hold.
FACT = pa.schema(
    [
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


class _Envelope(msgspec.Struct, rename="camel"):
    id: str = msgspec.field(name="_id")
    type: str
    created_at: str
    device_id: str | None = None
    user: _User | None = None


_envelope = msgspec.json.Decoder(_Envelope).decode


def line_rows(read: Lines) -> pa.RecordBatch:
    """Every line of an object as a row of LINE; one that cannot be read keeps its payload and place."""
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
    return event.id, event.type, (event.user and event.user.device_id) or event.device_id, created_us


def type_folder(type_: str) -> str:
    """A type as the name of a folder, percent-encoded as Hive has it; types that are too long share one."""
    name = quote(type_, safe="-_.~")
    return name if 0 < len(name) <= _MAX_TYPE_BYTES and name.strip(".") else OTHER


# --- geofence events ----------------------------------------------------------------------------------------

_NAMES = tuple(kind.encode() for kind in GEOFENCE_KINDS)


def crossing(line: bytes) -> GeofenceEvent | None:
    """The geofence event that a line is, by the contract's own reading.

    Nineteen lines of twenty are positions. A line that neither holds one of the types' names nor a
    backslash (which could spell one) cannot be one, and is passed over without being parsed.
    """
    if any(name in line for name in _NAMES) or b"\\" in line:
        try:
            return geofence_event(line)
        except InvalidEvent:
            return None  # another type that only mentions such a name: the handler rejects broken ones
    return None


def believed(event: GeofenceEvent | None, stored: Stored) -> GeofenceEvent | None:
    """None for an event whose clock cannot have been right when it was received (as in dbt's typed_events)."""
    hour = received_hour(stored.key, stored.modified_at)
    return None if event is None or fault_at_receipt(event.occurred_at, hour, hour + HOUR) else event


def _event_id(line: bytes, stored: Stored) -> str | None:
    event_id, _, _, created_us = _head(line)
    hour = received_hour(stored.key, stored.modified_at)
    if created_us is None or fault_at_receipt(from_micros(created_us), hour, hour + HOUR):
        return None
    return event_id


def fact_rows(read: Lines, conflicts: bool) -> pa.RecordBatch:
    """Rows of FACT: every line where `conflicts` are asked for, else the geofence events only."""
    rows: list[tuple[object, ...]] = []
    modified_us = micros(read.stored.modified_at)
    for number, line in zip(read.numbers or range(1, len(read.lines) + 1), read.lines, strict=True):
        event = believed(crossing(line), read.stored)
        if event is None and not conflicts:
            continue
        place = (content_hash(line), modified_us, read.stored.key, number) if conflicts else _NO_PLACE
        if event is None:
            rows.append((_event_id(line, read.stored), *place, *_NO_CROSSING))
        else:
            rows.append((event.event_id, *place, *crossing_values(event)))
    columns = zip(*rows, strict=True) if rows else [()] * len(FACT)
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, FACT, strict=True)], schema=FACT
    )


_NO_PLACE = (None,) * 4
_NO_CROSSING = (None,) * 8


def crossing_values(event: GeofenceEvent) -> tuple[object, ...]:
    """In FACT's order, from `device_id` on."""
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
    """Equal for lines that say the same, whatever the order of their names: as a VARIANT compares."""
    with suppress(msgspec.DecodeError):
        line = msgspec.json.encode(msgspec.json.decode(line), order="sorted")
    return hashlib.blake2b(line, digest_size=12).hexdigest()


def gathered(batches: Iterable[pa.RecordBatch], rows: int = 20_000) -> Iterator[pa.RecordBatch]:
    """Small batches as few: engines pay for each batch, and an object has twenty lines."""
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
    """The sum of 60 bits of each line's MD5: the same in any order, and SQL can say it too."""
    return sum(int(hashlib.md5(line, usedforsecurity=False).hexdigest()[:15], 16) for line in payloads)
