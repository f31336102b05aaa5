"""The visits before and after new events. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from consumer import keys
from consumer.visits import Pair, Rule, Visit, order_of, walk
from contract.events import GeofenceEvent

type Start = tuple[datetime, str]
type Row = dict[str, str | float | bool | None]


@dataclass(frozen=True, slots=True)
class VisitDiff:
    """The visits that only one of two walks gives, and the last visit of each walk, which later events may change.

    If `last_before` equals `last_after`, both walks give the same visits for all later events.
    """

    before: Sequence[Visit]
    after: Sequence[Visit]
    last_before: Visit | None
    last_after: Visit | None
    orphan_exits: int

    @property
    def visits(self) -> int:
        """Return the number of visits that have changed, are new or no longer exist."""
        old, new = self.by_start()
        return sum(old.get(start) != new.get(start) for start in {**old, **new})

    def by_start(self) -> tuple[dict[Start, Visit], dict[Start, Visit]]:
        """Return the visits before and the visits after, each keyed by its enter event."""
        old, new = ((*self.before, self.last_before), (*self.after, self.last_after))
        return (
            {(v.entered_at, v.entered_event_id): v for v in old if v},
            {(v.entered_at, v.entered_event_id): v for v in new if v},
        )


def visit_diff(
    start: Visit | None,
    stored: Iterable[GeofenceEvent],
    added: Sequence[GeofenceEvent],
    removed: Sequence[GeofenceEvent],
    rule: Rule,
) -> VisitDiff:
    """Compare the visits without and with new events.

    `start` is the last visit before `stored`, which is in order. `removed` are the events among `stored` whose content
    `added` supersedes.
    """
    old, gone = list(stored), set(removed)
    kept = [event for event in old if event not in gone] if gone else old
    new = sorted([*kept, *added], key=order_of)
    before, last_before, orphan_exits_before = walk(start, old, rule)
    after, last_after, orphan_exits = walk(start, new, rule)
    same = set(before) & set(after)
    return VisitDiff(
        [visit for visit in before if visit not in same],
        [visit for visit in after if visit not in same],
        last_before,
        last_after,
        orphan_exits - orphan_exits_before,
    )


def row(pair: Pair, visit: Visit) -> Row:
    """Return the visit in the form that operators and subscribers get."""
    return {
        "device_id": pair.device_id,
        "geofence_tag": pair.fence.tag,
        "geofence_external_id": pair.fence.external_id,
        "entered_at": keys.timestamp(visit.entered_at),
        "exited_at": None if visit.exited_at is None else keys.timestamp(visit.exited_at),
        "dwell_seconds": visit.dwell_seconds,
        "entered_event_id": visit.entered_event_id,
        "exited_event_id": visit.exited_event_id,
        "exit_missed": visit.exit_missed,
        "last_seen_at": None if visit.last_seen_at is None else keys.timestamp(visit.last_seen_at),
        "app_dwell_seconds": visit.app_dwell_seconds,
    }
