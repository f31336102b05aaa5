"""The rule that turns a set of geofence events into visits. Pure functions without a clock.

A device's visits at a fence are a function of the *set* of its events there: any order, any repetition and
any batching of the same events give the same visits. dbt's model visits_by_rule.sql states the same rule:

1. Events are grouped by (device id, fence tag, fence external id).
2. If events with one id differ in content, only the first counts when they are sorted by (`createdAt` in microseconds,
   `type`, `duration`, `confidence`). A missing duration or confidence sorts first; `type` is compared as sent, by code
   point.
3. After that, events whose confidence is known and below `min_confidence` do not count.
4. Events are ordered by `createdAt`, then enter before dwell before exit, then by event id (by code point).
5. Apply the events in that order:
   - enter: an open visit ends without an exit (`exit_missed`), and a new one opens.
   - exit: closes the open visit. If none is open, it changes nothing and is counted as an orphan.
   - dwell: sets `last_seen_at` of the open visit. If none is open, it changes nothing.
6. All consecutive visits at most `merge_gap` apart (from exit to enter) become one visit. It has the first enter, the
   last exit (or none) with the `duration` of that event, and the latest `last_seen_at`. No visit is merged with one
   that ended without an exit.

So only the last visit can be open. If it is, the device is at the fence now.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import Kind

Content = tuple[datetime, str, float, int]
Order = tuple[datetime, int, str]

KINDS: tuple[Kind, ...] = ("enter", "dwell", "exit")
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Rule:
    """The settings of the visit rule. Stored visits depend on them, so changing them requires a rebuild.

    A stage may have other values (serverless/stage_settings.yml). dbt_project.yml must have the same ones.
    """

    merge_gap: timedelta = timedelta(seconds=120)
    min_confidence: int = 0


DEFAULT_RULE = Rule()


class Pair(NamedTuple):
    """A device and a fence. Every visit belongs to one pair."""

    device_id: str
    fence: Fence


class Visit(msgspec.Struct, frozen=True):
    """One stay of a device at a fence. `exited_at` is None while the visit is open, and stays None if `exit_missed`.

    `app_dwell_seconds` is the app's own measurement in the exit event. For a merged visit it covers only the last part.
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


def pair_of(event: GeofenceEvent) -> Pair:
    return Pair(event.device_id, event.fence)


def content_of(event: GeofenceEvent) -> Content:
    """Return the sort key of the visit rule's point 2, which chooses one of the events that share an id."""
    minutes = float("-inf") if event.duration_minutes is None else event.duration_minutes
    return event.occurred_at, event.type, minutes, -1 if event.confidence is None else event.confidence


def first_contents(events: Iterable[GeofenceEvent]) -> Iterable[GeofenceEvent]:
    """Return one event for each event id of a pair: the one that counts under the visit rule's point 2."""
    first: dict[str, GeofenceEvent] = {}
    for event in events:
        other = first.setdefault(event.event_id, event)
        if other is not event and content_of(event) < content_of(other):
            first[event.event_id] = event
    return first.values()


def order_of(event: GeofenceEvent) -> Order:
    """Return the sort key of the visit rule's point 4, which orders events by time, kind and id."""
    return event.occurred_at, _RANK[event.kind], event.event_id


def counts(event: GeofenceEvent, min_confidence: int) -> bool:
    return event.confidence is None or event.confidence >= min_confidence


def step(
    visit: Visit | None, event: GeofenceEvent, merge_gap: timedelta
) -> tuple[Visit | None, Visit | None, bool]:
    """Apply the next event to the last visit before it.

    Returns the visit that can no longer change (or None), the new last visit, and whether the event is an orphan exit.
    """
    at = event.occurred_at
    if event.kind == "enter":
        if visit and visit.exited_at and at - visit.exited_at <= merge_gap:
            return None, replace(visit, exited_at=None, exited_event_id=None, app_dwell_seconds=None), False
        if visit and visit.is_open:
            visit = replace(visit, exit_missed=True)
        return visit, Visit(at, event.event_id), False
    if visit is None or not visit.is_open:
        return None, visit, event.kind == "exit"
    if event.kind == "dwell":
        return None, replace(visit, last_seen_at=at), False
    app_seconds = None if event.duration_minutes is None else event.duration_minutes * 60
    ended = replace(visit, exited_at=at, exited_event_id=event.event_id, app_dwell_seconds=app_seconds)
    return None, ended, False


def counting_events(
    events: Iterable[GeofenceEvent], min_confidence: int = 0
) -> dict[Pair, list[GeofenceEvent]]:
    """Return the events of each pair that count under the visit rule's points 2 and 3, in the order of point 4."""
    pairs: dict[Pair, list[GeofenceEvent]] = {}
    for event in events:
        pairs.setdefault(pair_of(event), []).append(event)
    return {
        pair: sorted((e for e in first_contents(some) if counts(e, min_confidence)), key=order_of)
        for pair, some in pairs.items()
    }


def visits_of(events: Iterable[GeofenceEvent], rule: Rule = DEFAULT_RULE) -> dict[Pair, History]:
    """Return the visits of every pair in `events`, which may be in any order and contain repetitions."""
    found = {}
    for pair, some in counting_events(events, rule.min_confidence).items():
        visits, last, orphan_exits = walk(None, some, rule)
        found[pair] = History((*visits, last) if last else tuple(visits), orphan_exits)
    return found


def walk(
    visit: Visit | None, events: Iterable[GeofenceEvent], rule: Rule
) -> tuple[list[Visit], Visit | None, int]:
    """Apply the rule to sorted events with different ids, starting from `visit`, the last visit before them.

    Returns the visits that can no longer change, the last visit, and the number of orphan exits.
    """
    visits: list[Visit] = []
    orphan_exits = 0
    for event in events:
        if counts(event, rule.min_confidence):
            ended, visit, is_orphan = step(visit, event, rule.merge_gap)
            orphan_exits += is_orphan
            if ended is not None:
                visits.append(ended)
    return visits, visit, orphan_exits
