"""A mobile app's event, as far as Milkrun reads it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

type Kind = Literal["enter", "dwell", "exit"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an event cannot be taken. `code` is stable; `field` is a dotted path such as `geofence.tag`, or ""."""

    code: str
    field: str
    message: str


class InvalidEvent(ValueError):
    """An event that can never be taken, with every reason that was found (at least one)."""

    def __init__(self, reasons: tuple[Reason, ...]) -> None:
        super().__init__("; ".join(f"{r.code} {r.field}: {r.message}" for r in reasons))
        self.reasons = reasons


class Fence(NamedTuple):
    """A geofence's business key: stable, unlike its `_id` (Radar's webhook samples have none)."""

    tag: str
    external_id: str


@dataclass(frozen=True, slots=True)
class GeofenceEvent:
    """One device crossing, or staying inside, one fence.

    `occurred_at` is `createdAt`, the device's clock, aware and in UTC, cut to microseconds;
    `duration_minutes` and `confidence` (0 none to 3 high) are as the app sent them, or None.
    """

    event_id: str
    type: str
    kind: Kind
    device_id: str
    fence: Fence
    occurred_at: datetime
    duration_minutes: float | None = None
    confidence: int | None = None
