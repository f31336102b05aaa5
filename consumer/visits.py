"""The rule that turns a set of geofence events into visits. Pure functions without a clock.

A device's visits at a fence are a function of the *set* of its events there: any order, any repetition and
any batching of the same events give the same visits. The warehouse's SQL states the same rule:

1. Events belong together by (device id, fence tag, fence external id).
2. Of several contents of one event id, only the least by (`createdAt` in microseconds, `type`, `duration`,
   `confidence`) counts. A missing duration or confidence sorts first; `type` is compared as sent, by code point.
3. After that, events whose confidence is known and below `min_confidence` do not count.
4. Order: `createdAt`, then enter before dwell before exit, then event id by code point.
5. Walk in that order.
   - enter: an open visit ends unclosed (`exit_missed`), and a new one opens.
   - exit: closes the open visit; with none open it changes nothing and is counted as an orphan.
   - dwell: sets `last_seen_at` of the open visit; with none open it changes nothing.
6. Neighbours with enter - exit <= `merge_gap` become one visit, in chains: the first enter, the last exit (or none)
   with its duration, the latest `last_seen_at`. A visit that ended unclosed has no exit, so nothing merges with it.

So only the last visit can be open. If it is, the device is at the fence now.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from contract.events import Fence, GeofenceEvent, Kind

MERGE_GAP = timedelta(seconds=120)

Content = tuple[datetime, str, float, int]
Order = tuple[datetime, int, str]

KINDS: tuple[Kind, ...] = ("enter", "dwell", "exit")
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


class Pair(NamedTuple):
    """One device at one fence: all visits belong to a pair."""

    device_id: str
    fence: Fence


@dataclass(frozen=True, slots=True)
class Visit:
    """One stay. `exited_at` is None while the visit is open, and stays None if `exit_missed`.

    `app_dwell_seconds` is the app's own measurement in the exit event. For a merged visit it covers the last part.
    """

    entered_at: datetime
    entered_event_id: str
    exited_at: datetime | None = None
    exited_event_id: str | None = None
    exit_missed: bool = False
    last_seen_at: datetime | None = None
    app_dwell_seconds: float | None = None

    @property
    def is_open(self) -> bool:
        return self.exited_at is None and not self.exit_missed

    @property
    def dwell_seconds(self) -> float | None:
        return None if self.exited_at is None else (self.exited_at - self.entered_at).total_seconds()


@dataclass(frozen=True, slots=True)
class History:
    """All visits of one pair in order, and the number of exits without an open visit."""

    visits: tuple[Visit, ...] = ()
    orphan_exits: int = 0


class Step(NamedTuple):
    """The effect of one event on the last visit."""

    ended: Visit | None
    visit: Visit | None
    outcome: Literal["entered", "seen", "exited", "orphan_exit", "nothing"]


def pair_of(event: GeofenceEvent) -> Pair:
    return Pair(event.device_id, event.fence)


def content_of(event: GeofenceEvent) -> Content:
    """Return the sort key of rule 2."""
    return (
        event.occurred_at,
        event.type,
        float("-inf") if event.duration_minutes is None else event.duration_minutes,
        -1 if event.confidence is None else event.confidence,
    )


def order_of(event: GeofenceEvent) -> Order:
    """Return the sort key of rule 4."""
    return event.occurred_at, _RANK[event.kind], event.event_id


def counts(event: GeofenceEvent, min_confidence: int) -> bool:
    return event.confidence is None or event.confidence >= min_confidence


def step(visit: Visit | None, event: GeofenceEvent, merge_gap: timedelta = MERGE_GAP) -> Step:
    """Apply the next event in order. `visit` is the last one so far, open or not."""
    at = event.occurred_at
    if event.kind == "enter":
        if visit is not None and visit.exited_at is not None and at - visit.exited_at <= merge_gap:
            return Step(
                None,
                Visit(visit.entered_at, visit.entered_event_id, last_seen_at=visit.last_seen_at),
                "entered",
            )
        return Step(_ended(visit), Visit(at, event.event_id), "entered")
    if visit is None or not visit.is_open:
        return Step(None, visit, "orphan_exit" if event.kind == "exit" else "nothing")
    if event.kind == "dwell":
        return Step(None, Visit(visit.entered_at, visit.entered_event_id, last_seen_at=at), "seen")
    return Step(
        None,
        Visit(
            visit.entered_at,
            visit.entered_event_id,
            exited_at=at,
            exited_event_id=event.event_id,
            last_seen_at=visit.last_seen_at,
            app_dwell_seconds=None if event.duration_minutes is None else event.duration_minutes * 60,
        ),
        "exited",
    )


def counting_events(
    events: Iterable[GeofenceEvent], min_confidence: int = 0
) -> dict[Pair, list[GeofenceEvent]]:
    """Return the events of each pair that count after rules 2 and 3, in the order of rule 4."""
    contents: dict[Pair, dict[str, GeofenceEvent]] = {}
    for event in events:
        known = contents.setdefault(pair_of(event), {})
        other = known.get(event.event_id)
        if other is None or content_of(event) < content_of(other):
            known[event.event_id] = event
    return {
        pair: sorted((e for e in known.values() if counts(e, min_confidence)), key=order_of)
        for pair, known in contents.items()
    }


def visits_of(
    events: Iterable[GeofenceEvent], merge_gap: timedelta = MERGE_GAP, min_confidence: int = 0
) -> dict[Pair, History]:
    """Return the visits of every pair in `events`, which may be in any order and repeated."""
    found = {}
    for pair, some in counting_events(events, min_confidence).items():
        visits, last, orphan_exits = walk(None, some, merge_gap)
        found[pair] = History((*visits, last) if last else tuple(visits), orphan_exits)
    return found


def walk(
    visit: Visit | None,
    events: Iterable[GeofenceEvent],
    merge_gap: timedelta = MERGE_GAP,
    min_confidence: int = 0,
) -> tuple[list[Visit], Visit | None, int]:
    """Take events in order, one content per id. Returns the visits that ended, the last one, and the orphan exits."""
    visits: list[Visit] = []
    orphan_exits = 0
    for event in events:
        if counts(event, min_confidence):
            ended, visit, outcome = step(visit, event, merge_gap)
            orphan_exits += outcome == "orphan_exit"
            if ended is not None:
                visits.append(ended)
    return visits, visit, orphan_exits


def _ended(visit: Visit | None) -> Visit | None:
    """Return a visit that is followed by another one: if it was open, its exit was missed."""
    if visit is None or not visit.is_open:
        return visit
    return Visit(visit.entered_at, visit.entered_event_id, exit_missed=True, last_seen_at=visit.last_seen_at)
