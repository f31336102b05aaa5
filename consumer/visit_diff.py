"""Compare a pair's visits before and after adding new events. Pure functions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from consumer.visits import Rule, Visit, order_of, walk
from contract.events import GeofenceEvent

type Start = tuple[datetime, str]
type Events = Iterable[GeofenceEvent]


@dataclass(frozen=True, slots=True)
class VisitDiff:
    """The visits before and after adding events, by enter event. Unchanged visits are omitted, except the last."""

    before: Mapping[Start, Visit]
    after: Mapping[Start, Visit]
    orphan_exits: int

    @property
    def visits(self) -> int:
        """Return the number of visits that have changed, are new or no longer exist."""
        starts = {**self.before, **self.after}
        return sum(self.before.get(start) != self.after.get(start) for start in starts)


def visit_diff(start: Visit | None, stored: Events, added: Events, removed: Events, rule: Rule) -> VisitDiff:
    """Compare the visits without and with the new events.

    `stored` is in order, and `start` is the last visit before it. `added` are the new events, and `removed` the stored
    events whose contents they supersede.
    """
    old, gone = list(stored), set(removed)
    kept = [event for event in old if event not in gone] if gone else old
    new = sorted([*kept, *added], key=order_of)
    before, last_before, orphan_exits_before = walk(start, old, rule)
    after, last_after, orphan_exits = walk(start, new, rule)
    same = set(before) & set(after)
    old_by_start, new_by_start = (
        {(v.entered_at, v.entered_event_id): v for v in visits if v and v not in same}
        for visits in ((*before, last_before), (*after, last_after))
    )
    return VisitDiff(old_by_start, new_by_start, orphan_exits - orphan_exits_before)
