"""The trucks and fences on the map, derived from events and from the file given with --fences.

At most MAX_TRUCKS trucks are kept, and events add fences only up to MAX_FENCES, whatever devices send.
"""

import math
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import msgspec

from consumer import keys
from contract.events import Fence
from tools.console import parse_object
from tools.console.parse_object import Crossing, Position

MAX_TRUCKS = 2000
MAX_FENCES = 5000
TRAIL_POINTS = 600
TRAIL_EVERY_S = 5.0
# The position of a stationary phone varies by up to this much.
MOVED_M = 12.0
SAMPLES = 40
MOVED_CENTRE_M = 5.0
_M_PER_DEGREE = 111_200.0


def metres(one: tuple[float, float], other: tuple[float, float]) -> float:
    return math.hypot(*_offset(one, other))


def heading_of(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the heading from the first (longitude, latitude) to the second, in degrees clockwise from north."""
    east, north = _offset(one, other)
    return round(math.degrees(math.atan2(east, north)) % 360, 1)


def _offset(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    # Use the shorter way around the earth.
    degrees = (other[0] - one[0] + 180) % 360 - 180
    narrowing = math.cos(math.radians((one[1] + other[1]) / 2))
    return degrees * narrowing * _M_PER_DEGREE, (other[1] - one[1]) * _M_PER_DEGREE


class Trail:
    """The latest positions of one truck in time order, 24 bytes each."""

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, at: float, longitude: float, latitude: float) -> None:
        """Insert a position in time order; ignore it if another position is less than TRAIL_EVERY_S seconds
        earlier or later.
        """
        times = self._values
        place = len(times)
        while place and times[place - 3] > at:
            place -= 3
        near = (place and at - times[place - 3] < TRAIL_EVERY_S) or (
            place < len(times) and times[place] - at < TRAIL_EVERY_S
        )
        if near:
            return
        self._values[place:place] = array("d", (at, longitude, latitude))
        if len(self._values) > 3 * TRAIL_POINTS:
            del self._values[:3]

    def points(self) -> list[tuple[int, float, float]]:
        values = iter(self._values)
        return [(int(at * 1000), lon, lat) for at, lon, lat in zip(values, values, values, strict=True)]


class Truck:
    def __init__(self, position: Position) -> None:
        self.last = position
        self.heading = position.heading
        self.speed_kmh: float | None = None
        # The position at which the heading was last computed, and the time until which the truck was there.
        self._anchor, self._anchored_until = position, position.at
        self.trail = Trail()
        self.trail.add(position.at, position.longitude, position.latitude)

        # The time and type of the device's latest event, with or without a position.
        self.heard = (position.at, position.type)

    def hear(self, at: float, type_: str) -> bool:
        """Record that the device sent an event at this time; return whether it is the device's latest event so far."""
        if at <= self.heard[0]:
            return False
        self.heard = (at, type_)
        return True

    def move(self, position: Position) -> bool:
        """Add a position; return whether it is the truck's latest. An earlier position is only added to the trail."""
        self.hear(position.at, position.type)
        self.trail.add(position.at, position.longitude, position.latitude)
        if position.at < self.last.at:
            return False
        here, before = (position.longitude, position.latitude), self._anchor
        moved, seconds = metres((before.longitude, before.latitude), here), position.at - self._anchored_until
        if moved >= MOVED_M:
            self.heading = heading_of((before.longitude, before.latitude), here)
            self.speed_kmh = round(moved / seconds * 3.6, 1) if seconds > 0 else None
            self._anchor, self._anchored_until = position, position.at
        elif seconds > 30:
            self.speed_kmh, self._anchored_until = 0.0, position.at
        if position.heading is not None:
            self.heading = position.heading
        self.last = position
        return True


class Fleet:
    def __init__(self, known: Iterable["Place"] = ()) -> None:
        self._trucks: OrderedDict[str, Truck] = OrderedDict()
        self.forgotten = 0
        self.changed: set[str] = set()
        self.places: dict[str, Place] = {place.fence_id: place for place in known}
        self.places_changed = False

    def moved(self, position: Position) -> None:
        truck = self._trucks.get(position.device_id)
        if truck is None:
            self._trucks[position.device_id] = Truck(position)
            self.changed.add(position.device_id)
            if len(self._trucks) > MAX_TRUCKS:
                gone, _ = self._trucks.popitem(last=False)
                self.changed.discard(gone)
                self.forgotten += 1
            return
        self._trucks.move_to_end(position.device_id)
        if truck.move(position):
            self.changed.add(position.device_id)

    def heard(self, device_id: str, at: float, type_: str) -> None:
        """Record an event without a position. The event is ignored if no truck is kept for the device."""
        truck = self._trucks.get(device_id)
        if truck and truck.hear(at, type_):
            self.changed.add(device_id)

    def crossed(self, crossing: Crossing) -> None:
        if place := self.know(crossing.fence):
            self.places_changed |= place.learn(crossing)

    def know(self, fence: Fence) -> "Place | None":
        """Return the place of a fence; add the place if it is unknown. Return None if it is unknown and there
        are already MAX_FENCES places.
        """
        fence_id = keys.fence_key(fence)
        if fence_id not in self.places and len(self.places) < MAX_FENCES:
            self.places[fence_id] = Place(fence)
            self.places_changed = True
        return self.places.get(fence_id)

    def place_name(self, fence: Fence) -> str:
        place = self.places.get(keys.fence_key(fence))
        return (place and place.name) or fence.external_id

    def devices(self) -> list[str]:
        """Return the device ids of the trucks, sorted by the arrival of their latest positions, the latest first."""
        return list(reversed(self._trucks))

    def trail(self, device_id: str) -> list[tuple[int, float, float]] | None:
        truck = self._trucks.get(device_id)
        return None if truck is None else truck.trail.points()

    def rows(self, inside: Mapping[str, list[str]], only: set[str] | None = None) -> list[dict[str, object]]:
        return list(self._rows(inside, self._trucks.keys() if only is None else only))

    def _rows(self, inside: Mapping[str, list[str]], which: Iterable[str]) -> Iterator[dict[str, object]]:
        for device_id in which:
            truck = self._trucks.get(device_id)
            if truck is None:
                continue
            last = truck.last
            yield {
                "device_id": device_id,
                "position": (last.longitude, last.latitude),
                "heading": truck.heading,
                "speed_kmh": truck.speed_kmh,
                "at": parse_object.written(datetime.fromtimestamp(last.at, UTC)),
                "received_at": parse_object.written(datetime.fromtimestamp(last.received_at, UTC)),
                "type": last.type,
                "accuracy_m": last.accuracy_m,
                "inside": inside.get(device_id, []),
                "heard_at": parse_object.written(datetime.fromtimestamp(truck.heard[0], UTC)),
                "last_type": truck.heard[1],
                "silence": silence_of(truck, bool(inside.get(device_id))),
            }


# Substring of an event type → the likely reason for silence after it. Apps choose their types, so these are
# guesses.
_SILENCES = (
    (("logout", "logged_out", "signed_out"), "the driver signed out"),
    (("permission", "location_disabled", "location_off"), "the app can no longer read the phone's location"),
    (("battery", "power"), "the phone's battery was low"),
    (("background", "closed", "terminated", "killed"), "the app was closed or in the background"),
    (("offline", "disconnected", "no_network"), "the phone lost its network connection"),
    (("stopped_trip", "trip.ended", "trip_ended", "arrived_at_trip"), "its trip ended"),
)
POOR_ACCURACY_M = 100.0


def silence_of(truck: Truck, is_inside: bool) -> str:
    """Return the likely reason why the truck has sent nothing since its last event."""
    type_ = truck.heard[1].lower()
    for parts, reason in _SILENCES:
        if any(part in type_ for part in parts):
            return reason
    if is_inside:
        return "at a place, where phones send few events"
    if truck.last.accuracy_m is not None and truck.last.accuracy_m > POOR_ACCURACY_M:
        return f"poor location signal (± {truck.last.accuracy_m:.0f} m)"
    if truck.speed_kmh:
        return "probably no network, or the phone is off (the truck was moving)"
    return "probably parked, or the phone is off (the truck was stationary)"


class PlaceRow(TypedDict):
    """A fence as sent to the page, with the number of trucks inside."""

    fence_id: str
    tag: str
    external_id: str
    kind: str
    name: str
    centre: tuple[float, float] | None
    radius_m: float | None
    polygon: list[list[float]] | None
    source: str
    samples: int
    there: int


class Place:
    """A fence on the map. Its shape comes from the file given with --fences, otherwise from the geometry in
    an event. If there is neither, the shape is estimated from the positions in its geofence events.
    """

    def __init__(
        self,
        fence: Fence,
        name: str | None = None,
        centre: tuple[float, float] | None = None,
        radius_m: float | None = None,
        polygon: list[list[float]] | None = None,
        source: str = "events",
    ) -> None:
        self.fence = fence
        self.fence_id = keys.fence_key(fence)
        self.name = name
        self.centre = centre
        self.radius_m = radius_m
        self.polygon = polygon
        self.source = source
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self.samples = 0

    def learn(self, crossing: Crossing) -> bool:
        """Update the place's name and shape from a geofence event; return whether either has changed."""
        named = self.name is None and crossing.name is not None
        self.name = self.name or crossing.name
        if self.source == "file":
            return named
        if crossing.centre or crossing.polygon:
            before = (self.centre, self.radius_m, self.polygon)
            self.centre = crossing.centre or (crossing.polygon and _middle(crossing.polygon)) or self.centre
            self.radius_m, self.polygon = crossing.radius_m, crossing.polygon
            self.source = "geometry"
            return named or before != (self.centre, self.radius_m, self.polygon)
        if self.source == "geometry" or crossing.position is None:
            return named
        self.samples += 1
        self._samples.append(crossing.position)
        centre = (median(lon for lon, _ in self._samples), median(lat for _, lat in self._samples))
        far = median(metres(centre, sample) for sample in self._samples)
        moved = self.centre is None or metres(self.centre, centre) > MOVED_CENTRE_M
        if moved:
            # Enter and exit events occur at the edge and dwell events in the middle, so this is an
            # estimate, and the page shows it as one.
            self.centre, self.radius_m = centre, round(min(max(1.5 * far, 60.0), 1000.0))
        return moved or named

    def row(self, there: int) -> PlaceRow:
        return {
            "fence_id": self.fence_id,
            "tag": self.fence.tag,
            "external_id": self.fence.external_id,
            "kind": kind_of(self.fence.tag),
            "name": self.name or self.fence.external_id,
            "centre": self.centre,
            "radius_m": self.radius_m,
            "polygon": self.polygon,
            "source": self.source,
            "samples": self.samples,
            "there": there,
        }


def kind_of(tag: str) -> str:
    plain = tag.lower()
    if "farm" in plain:
        return "farm"
    return "plant" if any(word in plain for word in ("plant", "dairy", "depot", "factory")) else "other"


def places_in(file: Path) -> list[Place]:
    """Read fences from a GeoJSON FeatureCollection. Raises ValueError for invalid content.

    Each feature is a point or a polygon with the properties `tag` and `externalId`, and optionally `name` and, for a
    point, `radius` (in metres; default: 100).
    """
    try:
        collection = msgspec.json.decode(file.read_bytes())
        return [_place(feature) for feature in collection["features"]]
    except (msgspec.MsgspecError, LookupError, TypeError) as error:
        raise ValueError(f"{file} is not a GeoJSON file with fences: {error}") from None


def _place(feature: dict[str, Any]) -> Place:
    says, shape = feature["properties"], feature["geometry"]
    fence = Fence(str(says["tag"]), str(says["externalId"]))
    named = f"fence {'/'.join(fence)}"
    if not isinstance(shape, dict):
        raise ValueError(f"{named} has no geometry")
    polygon = parse_object.ring(shape)
    centre = _middle(polygon) if polygon else parse_object.point(shape["coordinates"])
    if centre is None:
        raise ValueError(f"{named} has neither a point nor a polygon with at most 1,000 corners")
    given = says.get("radius")
    radius = 100.0 if given is None else parse_object.number_of(given, 1, 100_000)
    if radius is None and not polygon:
        raise ValueError(f"{named} has a radius that is not a number of metres from 1 to 100,000")
    return Place(
        fence, parse_object.text(says.get("name")), centre, None if polygon else radius, polygon, "file"
    )


def _middle(ring: list[list[float]]) -> tuple[float, float]:
    corners = ring[:-1] if ring[0] == ring[-1] else ring
    return sum(c[0] for c in corners) / len(corners), sum(c[1] for c in corners) / len(corners)
