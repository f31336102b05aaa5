"""The parts of a mobile app's event that Milkrun reads: strict JSON, common fields, geofence events.

Unknown types and fields are stored without being read, because apps send them before Milkrun supports them.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

import jiter
import msgspec

from contract.instants import PATTERN, instant

Kind = Literal["enter", "dwell", "exit"]

MAX_EVENT_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ID_CHARS = 128
MAX_ID_BYTES = 256

# The maximum number of contents of one event (same `Owned.event_key`) that a store keeps: for visits the first in
# the order of consumer.visits.content_of, for conflicts the first ones. The others change no visit and no staging row;
# the archive and RAW contain them.
MAX_CONTENTS_PER_EVENT = 16

# The consumer skips geofence events that are older on arrival. The visits table keeps events for 90 days, so an event
# always finds its neighbours.
MAX_AGE = timedelta(days=80)

# Other durations count as unknown, because they would make sums and averages infinite.
MAX_DURATION_MINUTES = 400 * 24 * 60

# Some senders write an underscore after `user`. A stage may configure other types (GEOFENCE_KINDS).
GEOFENCE_KINDS: Mapping[str, Kind] = {
    "user.entered_geofence": "enter",
    "user_entered_geofence": "enter",
    "user.dwelled_in_geofence": "dwell",
    "user_dwelled_in_geofence": "dwell",
    "user.exited_geofence": "exit",
    "user_exited_geofence": "exit",
}


class Reason(msgspec.Struct, frozen=True, gc=False):
    """Why an event is invalid. `code` is stable; `field` is a dotted path such as `geofence.tag`, or ""."""

    code: str
    field: str
    message: str


class InvalidEvent(ValueError):
    """An event that can never be accepted, with all reasons (at least one)."""

    def __init__(self, reasons: tuple[Reason, ...]) -> None:
        super().__init__(reasons)
        self.reasons = reasons

    def __str__(self) -> str:
        return "; ".join(f"{r.code} {r.field}: {r.message}" for r in self.reasons)


class Owned(msgspec.Struct, frozen=True, gc=False):
    """The identity of an event: its device and its id. An event without a device is identified by its user instead."""

    kind: Literal["d", "u"]
    owner: str
    event_id: str

    @property
    def event_key(self) -> str:
        """Return the MD5, in hexadecimal, of the three fields, each preceded by its length in characters and a colon.

        Because of the lengths, a user with the same name as a device, or an id that contains a colon, cannot produce
        the key of another event. The macro `event_key` of snowpipe/dbt computes the same key in SQL.
        """
        text = "".join(f"{len(part)}:{part}" for part in (self.kind, self.owner, self.event_id))
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class Fence(NamedTuple):
    """A geofence's business key. It is stable, unlike the geofence's `_id`, which Radar's webhook samples lack."""

    tag: str
    external_id: str


@dataclass(frozen=True, slots=True)
class GeofenceEvent:
    """A device enters, exits or stays inside a fence.

    `occurred_at` is `createdAt`, the time by the device's clock: timezone-aware, in UTC, truncated to microseconds.
    `confidence` (0 none to 3 high) and `duration_minutes` are as the app sent them, or None. A duration that is not
    from 0 to MAX_DURATION_MINUTES is None too.
    """

    event_id: str
    type: str
    kind: Kind
    device_id: str
    fence: Fence
    occurred_at: datetime
    duration_minutes: float | None = None
    confidence: int | None = None


# --- strict JSON ----------------------------------------------------------------------------------


def parse_json(raw: bytes, *, integers_fit: bool = False) -> Any:
    """Parse one JSON value that both warehouses can load. Raises InvalidEvent (`invalid_json_value`) otherwise.

    Rejects bytes that are not UTF-8, duplicate names in an object, NaN and Infinity, lone surrogates, numbers too large
    for a double, and more than MAX_DEPTH levels. Python's own `json` accepts most of these, and one such line makes
    Snowpipe reject the whole file of up to 500 lines. No step loops in Python, because malicious texts must not take
    much CPU. With `integers_fit`, the caller knows from `all_integers_fit` that no integer is too large.
    """
    # These two read the brackets and digits of a valid text; any other text is rejected below.
    if not integers_fit and not all_integers_fit(raw) and _has_huge_integer(raw):
        raise invalid("invalid_json_value", "", "A number is too large for a double.")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_too_deep(raw):
        raise invalid("invalid_json_value", "", f"Values are nested deeper than {MAX_DEPTH} levels.")
    try:
        value = _DECODER.decode(raw)
    except (ValueError, RecursionError) as error:
        raise invalid("invalid_json_value", "", f"This is not strict JSON: {error}.") from None
    # A text that a strict encoder would write identically is strict. Nearly all are, and this takes half jiter's time.
    if _ENCODER.encode(value) != raw:
        _check_strictly(raw)
    return value


def compact(raw: bytes) -> bytes:
    """Remove whitespace outside strings from a JSON text; nothing else changes (1.50 stays 1.50)."""
    return msgspec.json.format(raw, indent=-1)


_DECODER, _ENCODER = msgspec.json.Decoder(), msgspec.json.Encoder()
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_LONG_BY_20 = b"0" * 15  # every twentieth byte of the 309 digits that an integer beyond a double has
_LONG_INTEGER = re.compile(rb"(?<![-+.0-9eE])-?[0-9]{309,}+(?![.eE])")
_BRACES_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _check_strictly(raw: bytes) -> None:
    try:
        jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise invalid("invalid_json_value", "", f"This is not strict JSON: {error}.") from None


def all_integers_fit(text: bytes) -> bool:
    """Return False if an integer in the text may be too large for a double.

    To check several texts at once, join them with spaces.
    """
    # `find` takes a third of the time of `in`, which first asks whether these bytes are a number.
    return text[::20].translate(_DIGITS_AS_0).find(_LONG_BY_20) < 0


def _has_huge_integer(raw: bytes) -> bool:
    return any(math.isinf(float(digits)) for digits in _LONG_INTEGER.findall(_outside_strings(raw)))


def _is_too_deep(raw: bytes) -> bool:
    """Return whether a text is nested deeper than MAX_DEPTH levels.

    That is so if brackets are left after removing the innermost pairs MAX_DEPTH times.
    """
    brackets = _outside_strings(raw).translate(_BRACES_AS_BRACKETS, _NOT_BRACKETS)
    if b"[" * (MAX_DEPTH + 1) in brackets:
        return True
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _outside_strings(raw: bytes) -> bytes:
    """Return the parts of a valid JSON text that are outside its strings."""
    return b" ".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])


# --- the envelope, and geofence events ------------------------------------------------------------

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]
# Readers of the archive and the JSON Schema check times with this pattern; `instant` checks the calendar too.
Instant = Annotated[
    str,
    msgspec.Meta(
        description="A time with an offset from UTC: RFC 3339, or another unambiguous form of ISO 8601.",
        examples=["2026-11-16T08:00:00.000Z", "2026-11-16T09:30:00+0130"],
        extra_json_schema={"pattern": f"^{PATTERN}$"},
    ),
]


class User(msgspec.Struct, kw_only=True, gc=False):
    """The fields of `user` that identify the sender; no others are read."""

    id: str | None = msgspec.field(default=None, name="_id")
    user_id: Id | None = msgspec.field(default=None, name="userId")
    device_id: Id | None = msgspec.field(default=None, name="deviceId")


_NOBODY = User()


class GeofenceFields(msgspec.Struct, gc=False):
    tag: Id
    external_id: Id = msgspec.field(name="externalId")


class EventFields(msgspec.Struct, kw_only=True, gc=False):
    """The fields that Milkrun reads from every event. `createdAt` is the time by the device's clock."""

    id: Id = msgspec.field(name="_id")
    type: Annotated[str, msgspec.Meta(min_length=1)]
    created_at: Instant = msgspec.field(name="createdAt")
    top_device_id: Id | None = msgspec.field(default=None, name="deviceId")
    user: User | None = None


class CrossingFields(EventFields, kw_only=True, gc=False):
    """The fields that Milkrun reads from a geofence event. A confidence may be written as 2.0."""

    geofence: GeofenceFields
    duration: Annotated[
        float | None,
        msgspec.Meta(
            description=f"Minutes, from 0 to {MAX_DURATION_MINUTES}; any other number counts as unknown."
        ),
    ] = None
    confidence: Annotated[float, msgspec.Meta(ge=0, le=3)] | None = None


class Checked(msgspec.Struct, frozen=True, gc=False):
    """The values that Milkrun reads from an event.

    `device_id` is `user.deviceId`, otherwise the event's own `deviceId`; `user_id` is `user.userId`, otherwise
    `user._id`. Only geofence events have a `fence`, and they always have a device.
    """

    id: str
    type: str
    created_at: datetime
    device_id: str | None
    fence: Fence | None = None
    duration_minutes: float | None = None
    confidence: int | None = None
    user_id: str | None = None

    @property
    def owned(self) -> Owned:
        if self.device_id:
            return Owned("d", self.device_id, self.id)
        return Owned("u", self.user_id or "", self.id)


def check(value: object, kinds: Mapping[str, Kind] = GEOFENCE_KINDS) -> Checked:
    """Validate one event, and return its values. Raises InvalidEvent with every reason.

    The event is a geofence event if its `type` is among `kinds`.
    """
    type_ = value.get("type") if isinstance(value, dict) else None
    is_crossing = isinstance(type_, str) and type_ in kinds
    try:
        return _checked(msgspec.convert(value, CrossingFields if is_crossing else EventFields))
    except ValueError:
        from contract.reasons import reasons_of  # valid requests do not need it

        raise InvalidEvent(tuple(reasons_of(value, is_crossing))) from None


def _checked(event: EventFields) -> Checked:
    """Apply the rules that the field types cannot express, and return the event's values.

    Raises ValueError if a rule is violated.
    """
    created_at = instant(event.created_at)
    user = event.user or _NOBODY
    device_id, user_id = user.device_id or event.top_device_id, user.user_id or user.id
    ids = (event.id, event.top_device_id or "", user.user_id or "", user.device_id or "")
    if not ("".join(ids).isascii() or _fit(ids)):
        raise ValueError("an id is too long")
    if not isinstance(event, CrossingFields):
        if not (device_id or user_id):
            raise ValueError("no device and no user")
        return Checked(event.id, event.type, created_at, device_id, None, None, None, user_id)
    fence, confidence = Fence(event.geofence.tag, event.geofence.external_id), event.confidence
    if not device_id or not _fit(fence) or (confidence is not None and confidence % 1):
        raise ValueError("no device, a fence whose id is too long, or a fractional confidence")
    return Checked(
        event.id,
        event.type,
        created_at,
        device_id,
        fence,
        plausible_minutes(event.duration),
        None if confidence is None else int(confidence),
        user_id,
    )


def _fit(ids: Iterable[str]) -> bool:
    """Return whether each id has at most MAX_ID_BYTES bytes. `Id` limits the characters, so ASCII ids always do."""
    return not [each for each in ids if not each.isascii() and len(each.encode()) > MAX_ID_BYTES]


def is_id(value: object) -> bool:
    """Return whether a value is a valid id. Longer ids would make PutRecords and DynamoDB writes fail."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and len(value.encode()) <= MAX_ID_BYTES


def plausible_minutes(duration: float | None) -> float | None:
    return duration if duration is not None and 0 <= duration <= MAX_DURATION_MINUTES else None


def geofence_event(raw: bytes, kinds: Mapping[str, Kind] = GEOFENCE_KINDS) -> GeofenceEvent:
    """Parse a geofence event from a Kinesis record. Raises InvalidEvent with all reasons."""
    event = check(parse_json(raw), kinds)
    if event.fence is None:
        raise invalid("not_a_geofence_event", "type", "This type is not one of the geofence types.")
    assert event.device_id is not None
    return GeofenceEvent(
        event_id=event.id,
        type=event.type,
        kind=kinds[event.type],
        device_id=event.device_id,
        fence=event.fence,
        occurred_at=event.created_at,
        duration_minutes=event.duration_minutes,
        confidence=event.confidence,
    )


def invalid(code: str, field: str, message: str) -> InvalidEvent:
    return InvalidEvent((Reason(code, field, message),))
