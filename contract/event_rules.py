"""The fields of events, geofence events and positions, and their rules. They cover only what Milkrun reads.

Unknown types and fields are stored as sent, because apps may send them before Milkrun supports them.
`contract.reasons` applies the same rules and names the reason for each violation.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated

import msgspec

from contract.event_limits import MAX_DURATION_MINUTES, MAX_ID_BYTES, MAX_ID_CHARS
from contract.events import Fence, GeofenceEvent, InvalidEvent, Owned, invalid
from contract.geofence_event_types import GEOFENCE_KINDS, Kind
from contract.instants import PATTERN, instant
from contract.strict_json import parse_json

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]
# Readers of the archive and the JSON Schema check times with this pattern; `instant` checks the calendar too.
Instant = Annotated[
    str,
    msgspec.Meta(
        description="A time with an offset from UTC: RFC 3339, or a variant of it that the pattern allows.",
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
_MINUTES = f"Minutes, from 0 to {MAX_DURATION_MINUTES}; any other number counts as unknown."


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
    """The fields that Milkrun reads from a geofence event. `confidence` may have a decimal point, as in 2.0."""

    geofence: GeofenceFields
    duration: Annotated[float | None, msgspec.Meta(description=_MINUTES)] = None
    confidence: Annotated[float, msgspec.Meta(ge=0, le=3)] | None = None


class LocationPing(msgspec.Struct, rename="camel"):
    """The fields of a ping, which is a position; other fields are stored as sent."""

    device_id: Id
    latitude: float
    longitude: float
    updated_at: Instant
    type: None = None
    created_at: None = None


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
    """Validate an event (a geofence event if its `type` is in `kinds`), and return its values. Raises InvalidEvent."""
    type_ = value.get("type") if isinstance(value, dict) else None
    is_crossing = isinstance(type_, str) and type_ in kinds
    try:
        return _checked(msgspec.convert(value, CrossingFields if is_crossing else EventFields))
    except ValueError:
        from contract.reasons import reasons_of  # valid requests do not need it

        raise InvalidEvent(tuple(reasons_of(value, is_crossing))) from None


def _checked(event: EventFields) -> Checked:
    """Return an event's values. Raises ValueError if a rule that the field types cannot express is violated."""
    created_at = instant(event.created_at)
    user = event.user or _NOBODY
    device_id, user_id = user.device_id or event.top_device_id, user.user_id or user.id
    ids = (event.id, event.top_device_id or "", user.user_id or "", user.device_id or "")
    if not ("".join(ids).isascii() or _fit(ids)):
        raise ValueError("an id is too long")
    if not isinstance(event, CrossingFields):
        if not (device_id or user_id):
            raise ValueError("the event has neither a device nor a user")
        return Checked(event.id, event.type, created_at, device_id, None, None, None, user_id)
    fence, confidence = Fence(event.geofence.tag, event.geofence.external_id), event.confidence
    if not device_id or not _fit(fence) or (confidence is not None and confidence % 1):
        raise ValueError("a device id is missing, a geofence id is too long, or confidence is fractional")
    minutes, level = event.duration, None if confidence is None else int(confidence)
    if minutes is not None and not 0 <= minutes <= MAX_DURATION_MINUTES:
        minutes = None
    return Checked(event.id, event.type, created_at, device_id, fence, minutes, level, user_id)


def _fit(ids: Iterable[str]) -> bool:
    """Return whether each id has at most MAX_ID_BYTES bytes. `Id` limits the number of characters, so ASCII ids fit."""
    return not [each for each in ids if not each.isascii() and len(each.encode()) > MAX_ID_BYTES]


def is_id(value: object) -> bool:
    """Return whether a value is a valid id. With longer ids, PutRecords and DynamoDB writes would fail."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and len(value.encode()) <= MAX_ID_BYTES


def geofence_event(raw: bytes, kinds: Mapping[str, Kind] = GEOFENCE_KINDS) -> GeofenceEvent:
    """Parse a geofence event from a Kinesis record. Raises InvalidEvent with all reasons."""
    event = check(parse_json(raw), kinds)
    if event.fence is None:
        raise invalid("not_a_geofence_event", "type", "This type is not one of the geofence event types.")
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
