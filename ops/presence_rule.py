"""The presence rule, which decides for each open visit whether a later event contradicts it.

Exit events get lost, so a truck can have open visits at several places. But a truck cannot be at two exclusive
places at the same time. A place is exclusive if its tag is in the stage setting exclusiveTags (default: `farm`
and `plant`). The result depends only on the set of geofence events, not on the current time:

1. Take the events that count under the visit rule (consumer/visits.py: one content per event id, then
   `min_confidence`). For each device, order its enter events at exclusive places as the visit rule does
   (`createdAt`, then event id by code point), then by (tag, external id).
2. An open visit at an exclusive place is contradicted if an enter event at another exclusive place follows
   the last enter event at this one. The first such event contradicts the visit (`contradicted_by_event_id`),
   and its time is the inferred exit (`exit_inferred_at`).
3. Nothing else contradicts a visit: no enter event at a place of another kind (for example a region around a
   farm), no dwell event and no exit event. The visit itself does not change.

The last enter event at a place counts, not the first one of the visit, because a visit continues after a gap of
up to two minutes (stage setting mergeGapSeconds). A truck that flaps between two fences is at the fence that it
entered last. At most one open visit of a device at exclusive places is therefore not contradicted. The mart
MARTS.CURRENT_PRESENCE implements the same rule in SQL.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from consumer.visits import Pair, Rule, Visit, counting_events, order_of, pair_of, visits_of
from contract.events import Fence, GeofenceEvent

EXCLUSIVE_TAGS = ("farm", "plant")

type Position = tuple[datetime, str, Fence]


class Presence(NamedTuple):
    """An open visit, and the enter event at another place that contradicts it, if there is one."""

    pair: Pair
    visit: Visit
    contradicted_by: GeofenceEvent | None

    @property
    def exit_inferred_at(self) -> datetime | None:
        return self.contradicted_by.occurred_at if self.contradicted_by else None


def presence(
    events: Iterable[GeofenceEvent],
    exclusive_tags: Collection[str] = EXCLUSIVE_TAGS,
    rule: Rule | None = None,
) -> list[Presence]:
    """Return the open visits of all devices, each with the event that contradicts it, if any.

    `events` may be in any order and contain duplicates.
    """
    rule, events = rule or Rule(), list(events)
    counting = counting_events(events, rule.min_confidence)
    contradicting = contradictions((e for some in counting.values() for e in some), exclusive_tags)
    return [
        Presence(pair, visit, contradicting.get(pair))
        for pair, history in visits_of(events, rule).items()
        for visit in history.visits
        if visit.is_open
    ]


def contradictions(
    events: Iterable[GeofenceEvent], exclusive_tags: Collection[str] = EXCLUSIVE_TAGS
) -> Mapping[Pair, GeofenceEvent]:
    """Return, for each (device, fence) pair, the enter event that would contradict an open visit.

    The place that a device entered last has no such event.

    `events` are the events that count under the visit rule, in any order.
    """
    enters: dict[str, list[GeofenceEvent]] = {}
    for event in events:
        if event.kind == "enter" and event.fence.tag in exclusive_tags:
            enters.setdefault(event.device_id, []).append(event)
    found: dict[Pair, GeofenceEvent] = {}
    for some in enters.values():
        # The enter event after a place's last enter event is always at another place.
        for event, following in pairwise(sorted(some, key=position_of)):
            found[pair_of(event)] = following
        found.pop(pair_of(max(some, key=position_of)), None)
    return found


def position_of(event: GeofenceEvent) -> Position:
    """Return the sort key of an enter event among the enter events of its device (step 1 above)."""
    at, _, event_id = order_of(event)
    return at, event_id, event.fence
