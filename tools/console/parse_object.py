"""Parse an archived object for the page. The functions have no side effects.

Events are untrusted, so the type of every value is checked before the value is used.
"""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeIs

import msgspec

from consumer import keys
from contract.event_limits import MAX_DURATION_MINUTES
from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import GEOFENCE_KINDS, Kind
from contract.instants import instant
from ops.read_stores import readable_lines

# Longer texts are truncated in lists; the event's own page shows the whole text.
MAX_SHOWN = 200


class Event(msgspec.Struct, gc=False):
    """One line of an object in `events/` or `rejected/`. `RecentEvents` assigns `seq`; `stored`
    contains the line's bytes.
    """

    kind: str
    event_id: str | None
    type: str | None
    device_id: str | None
    at: str | None
    received_at: str
    key: str
    line: int
    size: int
    stored: bytes
    fence_id: str | None = None
    codes: tuple[str, ...] = ()
    reasons: tuple[Mapping[str, str], ...] = ()
    app_version: str | None = None
    seq: int = 0


class Position(msgspec.Struct, gc=False):
    """A device's position. `at` is the time on the device's clock in epoch seconds, but at most the time of
    receipt.
    """

    device_id: str
    at: float
    received_at: float
    longitude: float
    latitude: float
    type: str
    heading: float | None = None
    accuracy_m: float | None = None


class Crossing(msgspec.Struct, gc=False):
    """A geofence event, with the fence's name and shape if the event contains them."""

    event_id: str
    device_id: str
    fence: Fence
    kind: Kind
    type: str
    at: datetime
    duration_minutes: float | None = None
    confidence: int | None = None
    position: tuple[float, float] | None = None
    name: str | None = None
    centre: tuple[float, float] | None = None
    radius_m: float | None = None
    polygon: list[list[float]] | None = None


def event_of(crossing: Crossing) -> GeofenceEvent:
    return GeofenceEvent(
        crossing.event_id,
        crossing.type,
        crossing.kind,
        crossing.device_id,
        crossing.fence,
        crossing.at,
        crossing.duration_minutes,
        crossing.confidence,
    )


class _Kept(msgspec.Struct):
    """A line of an object in `rejected/`. The event stays unparsed JSON text, so that 1.50 does not become 1.5."""

    event: msgspec.Raw = msgspec.Raw(b"null")
    body_base64: str | None = None


class Read(msgspec.Struct, gc=False):
    """The events, positions and crossings in one object."""

    events: list[Event]
    positions: list[Position]
    crossings: list[Crossing]
    heard: list[tuple[str, float, str]]
    """Events of a device without a position: (device, time in epoch seconds, type).

    The time is the device's, but at most the time of receipt.
    """


def read(key: str, body: bytes, received_at: datetime, kinds: Mapping[str, Kind] = GEOFENCE_KINDS) -> Read:
    """Parse the lines of an archived object. `kinds` maps the stage's geofence event types to their kinds."""
    found = Read([], [], [], [])
    rejected = key.startswith("rejected/")
    for number, line in enumerate(readable_lines(body, key) or (), 1):
        if rejected:
            found.events.append(_bad(key, number, line, received_at))
        else:
            _good(key, number, line, received_at, found, kinds)
    return found


def _good(
    key: str, number: int, line: bytes, received_at: datetime, found: Read, kinds: Mapping[str, Kind]
) -> None:
    try:
        event = msgspec.json.decode(line)
    except msgspec.MsgspecError:  # possible in an object that was stored by hand
        event = {}
    if not isinstance(event, dict):
        event = {}
    event_id, type_, device = text(event.get("_id")), text(event.get("type")), device_of(event)
    fence = fence_of(event) if type_ in kinds else None
    found.events.append(
        Event(
            "good",
            cut(event_id),
            cut(type_),
            cut(device),
            cut(text(event.get("createdAt"))),
            written(received_at),
            key,
            number,
            len(line),
            line,
            fence and keys.fence_key(fence),
        )
    )
    try:
        at = instant(event["createdAt"])
    except (KeyError, TypeError, ValueError):
        return
    position = position_of(event)
    if device and position:
        # Limit the time to the time of receipt. Otherwise a position from a clock that is ahead would stay the
        # truck's latest position until the actual time has reached it.
        found.positions.append(
            Position(
                device,
                min(at.timestamp(), received_at.timestamp()),
                received_at.timestamp(),
                *position,
                cut(type_) or "",
                number_of(event.get("heading", event.get("course")), 0, 360),
                number_of(event.get("locationAccuracy", event.get("accuracy")), 0, 1e6),
            )
        )
    elif device and type_:
        found.heard.append((device, min(at.timestamp(), received_at.timestamp()), cut(type_) or ""))
    if fence and device and event_id and type_:
        found.crossings.append(_crossing(event, event_id, type_, device, fence, kinds[type_], at, position))


def _crossing(
    event: Mapping[str, object],
    event_id: str,
    type_: str,
    device: str,
    fence: Fence,
    kind: Kind,
    at: datetime,
    position: tuple[float, float] | None,
) -> Crossing:
    geofence = event.get("geofence")
    assert _is(geofence)  # because the event has a fence
    metadata = geofence.get("metadata")
    named = text(geofence.get("description")) or text(metadata.get("name") if _is(metadata) else None)
    confidence = number_of(event.get("confidence"), 0, 3)
    centre = geofence.get("geometryCenter")
    shape = geofence.get("geometry")
    return Crossing(
        event_id,
        device,
        fence,
        kind,
        type_,
        at,
        number_of(event.get("duration"), 0, MAX_DURATION_MINUTES),
        None if confidence is None else int(confidence),
        position,
        cut(named),
        point(centre.get("coordinates")) if _is(centre) else None,
        number_of(geofence.get("geometryRadius"), 1, 100_000),
        ring(shape) if _is(shape) else None,
    )


def _bad(key: str, number: int, line: bytes, received_at: datetime) -> Event:
    try:
        kept = msgspec.json.decode(line)
    except msgspec.MsgspecError:
        kept = {}
    if not isinstance(kept, dict):
        kept = {}
    event = kept.get("event")
    event = event if isinstance(event, dict) else {}
    given = kept.get("reasons")
    reasons = tuple(
        {name: str(reason.get(name, "")) for name in ("code", "field", "message")}
        for reason in (given if isinstance(given, list) else ())
        if isinstance(reason, dict)
    )
    return Event(
        "bad",
        cut(text(kept.get("event_id")) or text(event.get("_id"))),
        cut(text(event.get("type"))),
        cut(device_of(event)),
        cut(text(event.get("createdAt"))),
        written(received_at),
        key,
        number,
        len(line),
        line,
        codes=tuple(dict.fromkeys(reason["code"] for reason in reasons)),
        reasons=reasons,
        app_version=cut(text(kept.get("app_version"))),
    )


# --- values from untrusted input


def text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def cut(value: str | None) -> str | None:
    return value if value is None or len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "…"


def device_of(event: Mapping[str, object]) -> str | None:
    user = event.get("user")
    return (text(user.get("deviceId")) if _is(user) else None) or text(event.get("deviceId"))


def fence_of(event: Mapping[str, object]) -> Fence | None:
    geofence = event.get("geofence")
    if not _is(geofence):
        return None
    tag, external_id = text(geofence.get("tag")), text(geofence.get("externalId"))
    return Fence(tag, external_id) if tag and external_id else None


def position_of(event: Mapping[str, object]) -> tuple[float, float] | None:
    """Return the (longitude, latitude) of an event from its GeoJSON `location`, otherwise from a ping's
    `longitude` and `latitude`; None if the position is missing or invalid.
    """
    location = event.get("location")
    if _is(location):
        return point(location.get("coordinates"))
    return point([event.get("longitude"), event.get("latitude")])


def point(coordinates: object) -> tuple[float, float] | None:
    """Return GeoJSON coordinates as (longitude, latitude); None if they are invalid."""
    if not isinstance(coordinates, list) or len(coordinates) < 2:
        return None
    longitude, latitude = number_of(coordinates[0], -180, 180), number_of(coordinates[1], -90, 90)
    return None if longitude is None or latitude is None else (longitude, latitude)


def ring(shape: Mapping[str, object]) -> list[list[float]] | None:
    """Return the outer ring of a GeoJSON polygon; None if it is invalid or has more than a thousand corners."""
    rings = shape.get("coordinates")
    if shape.get("type") != "Polygon" or not isinstance(rings, list) or not rings:
        return None
    corners = [point(corner) for corner in rings[0]] if isinstance(rings[0], list) else []
    if not 3 < len(corners) <= 1000 or None in corners:
        return None
    return [list(corner) for corner in corners if corner]


def number_of(value: object, least: float, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if least <= value <= most else None


def raw_of(stored: bytes) -> tuple[str, str | None]:
    """Return the text of a rejected event and None; or, if a whole body was rejected, the body as text and in
    base64.
    """
    try:
        kept = msgspec.json.decode(stored, type=_Kept)
        if kept.body_base64 is not None:
            return base64.b64decode(kept.body_base64).decode(errors="replace"), kept.body_base64
    except (msgspec.MsgspecError, ValueError):
        return stored.decode(errors="replace"), None
    return bytes(kept.event).decode(errors="replace"), None


def sent_of(stored: bytes) -> dict[str, object]:
    """Return the `event` and the `body_base64` in a line of a `rejected/` object; at least one of the two is null."""
    try:
        kept = msgspec.json.decode(stored, type=_Kept)
    except msgspec.MsgspecError:
        kept = _Kept()
    return {"event": kept.event, "body_base64": kept.body_base64}


def written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is(value: object) -> TypeIs[dict[str, object]]:
    return isinstance(value, dict)
