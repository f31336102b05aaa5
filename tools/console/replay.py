"""The positions and visits in a time range of the archive, in a compact form for the time slider."""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import batched

from consumer import keys
from consumer.visits import Rule, visits_of
from contract.geofence_event_types import Kind
from contract.instants import instant
from ops.presence_rule import EXCLUSIVE_TAGS, presence
from snowpipe.archive import Archive, Object
from tools.console import known_visits, parse_object
from tools.console.known_visits import VisitRow
from tools.console.parse_object import Crossing, Position

LONGEST = timedelta(hours=24)
# Events received more than this long after the end of the range are not found.
LATE = timedelta(hours=12)
MAX_OBJECTS = 3000
MAX_POSITIONS = 300_000
READERS = 4

type Kinds = Callable[[], Mapping[str, Kind]]
"""A function that returns the stage's geofence event types, which are read only once."""


def replay(
    archive: Archive,
    start: datetime,
    end: datetime,
    now: datetime,
    kinds: Kinds,
    rule: Rule,
    exclusive_tags: Collection[str] = EXCLUSIVE_TAGS,
) -> dict[str, object]:
    """Return the positions, visits and crossings between these times on the devices' clocks. `truncated` is
    true if reading stopped at the maximum number of objects or positions.
    """
    positions: dict[str, list[Position]] = {}
    crossings: list[Crossing] = []
    objects = events = kept = 0
    truncated = False
    for read in _objects(archive, start, min(end + LATE, now), kinds):
        objects += 1
        events += sum(1 for event in read.events if _within(event.at, start, end))
        crossings += [crossing for crossing in read.crossings if start <= crossing.at <= end]
        for position in read.positions:
            if start.timestamp() <= position.at <= end.timestamp():
                positions.setdefault(position.device_id, []).append(position)
                kept += 1
        if objects >= MAX_OBJECTS or kept >= MAX_POSITIONS:
            truncated = True
            break
    return {
        "from": parse_object.written(start),
        "to": parse_object.written(end),
        "events": events,
        "objects": objects,
        "truncated": truncated,
        "trucks": [
            _track(device_id, points, start.timestamp()) for device_id, points in sorted(positions.items())
        ],
        "visits": _visits(crossings, rule, exclusive_tags),
        "crossings": [
            {
                "device_id": crossing.device_id,
                "fence_id": keys.fence_key(crossing.fence),
                "kind": crossing.kind,
                "t": _ms(crossing.at.timestamp() - start.timestamp()),
            }
            for crossing in sorted(crossings, key=lambda crossing: crossing.at)
        ],
    }


def days(archive: Archive, now: datetime) -> list[str]:
    """Return the UTC dates of the last year on which archived events were received."""
    oldest = f"events/dt={now - timedelta(days=366):%Y-%m-%d}/"
    return [
        prefix.removeprefix("events/dt=").rstrip("/")
        for prefix in archive.folders("events/", after=oldest)
        if prefix.startswith("events/dt=")
    ]


def _objects(archive: Archive, start: datetime, end: datetime, kinds: Kinds) -> Iterator[parse_object.Read]:
    def read(found: Object) -> parse_object.Read | None:
        body = archive.body(found.key)
        return None if body is None else parse_object.read(found.key, body, found.modified_at, kinds())

    # An event received before `start` has a later time only if its device's clock is fast; such events are left out.
    # S3's times are full seconds.
    received = (
        found
        for found in archive.received("events/", start, end)
        if found.modified_at >= start - timedelta(seconds=2)
    )
    with ThreadPoolExecutor(READERS, thread_name_prefix="console-replay") as readers:
        # Read only a few objects at a time, because each one stays in memory until it is used.
        for some in batched(received, 2 * READERS, strict=False):
            yield from (each for each in readers.map(read, some) if each is not None)


def _within(at: str | None, start: datetime, end: datetime) -> bool:
    try:
        return start <= instant(at or "") <= end
    except ValueError:
        return False


def _track(device_id: str, points: list[Position], start: float) -> dict[str, object]:
    points.sort(key=lambda point: point.at)
    return {
        "device_id": device_id,
        "t": [_ms(point.at - start) for point in points],
        "lon": [round(point.longitude, 6) for point in points],
        "lat": [round(point.latitude, 6) for point in points],
    }


def _visits(crossings: list[Crossing], rule: Rule, exclusive_tags: Collection[str]) -> list[VisitRow]:
    """Return the visits that result from these crossings, computed with the consumer's own function."""
    events = [parse_object.event_of(crossing) for crossing in crossings]
    contradicting = {
        (each.pair, each.visit.entered_event_id): each.contradicted_by
        for each in presence(events, exclusive_tags, rule)
        if each.contradicted_by
    }
    found = [
        known_visits.row(known_visits.by_rule(pair, visit), contradicting.get((pair, visit.entered_event_id)))
        for pair, history in visits_of(events, rule).items()
        for visit in history.visits
    ]
    return sorted(found, key=lambda visit: visit["entered_at"])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
