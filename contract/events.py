"""A geofence event, the identity of every event, and the error that an invalid event raises."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from contract.geofence_event_types import Kind


class Reason(msgspec.Struct, frozen=True, gc=False):
    """A reason why an event is invalid. `code` is stable; `field` is a dotted path such as `geofence.tag`, or ""."""

    code: str
    field: str
    message: str


class InvalidEvent(ValueError):
    """Raised for an event that can never be accepted, with all reasons (at least one)."""

    def __init__(self, reasons: tuple[Reason, ...]) -> None:
        super().__init__(reasons)
        self.reasons = reasons

    def __str__(self) -> str:
        return "; ".join(f"{r.code} {r.field}: {r.message}" for r in self.reasons)


def invalid(code: str, field: str, message: str) -> InvalidEvent:
    return InvalidEvent((Reason(code, field, message),))


class Owned(msgspec.Struct, frozen=True, gc=False):
    """The identity of an event: its device and its id. An event without a device is identified by its user instead."""

    kind: Literal["d", "u"]
    owner: str
    event_id: str

    @property
    def event_key(self) -> str:
        """Return the MD5, in hexadecimal, of the three fields, each preceded by its length in characters and a colon.

        The kind distinguishes a user from a device with the same name. Because of the lengths, an id that contains a
        colon cannot produce the key of another event. The macro `event_key` of snowpipe/dbt computes the same key.
        """
        text = "".join(f"{len(part)}:{part}" for part in (self.kind, self.owner, self.event_id))
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class Fence(NamedTuple):
    """A geofence's business key. The geofence's `_id` is not stable, and Radar's sample webhooks lack it."""

    tag: str
    external_id: str


@dataclass(frozen=True, slots=True)
class GeofenceEvent:
    """An event in which a device enters a fence, stays inside it or exits from it.

    `occurred_at` is `createdAt`, the time by the device's clock: timezone-aware, in UTC, truncated to microseconds.
    `confidence` (0 none to 3 high) and `duration_minutes` are as the app sent them, or None. A duration below 0 or
    above MAX_DURATION_MINUTES is None too.
    """

    event_id: str
    type: str
    kind: Kind
    device_id: str
    fence: Fence
    occurred_at: datetime
    duration_minutes: float | None = None
    confidence: int | None = None
