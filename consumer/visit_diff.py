"""The visits before and after new events, and the notifications for the difference. Pure functions."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import merge
from operator import attrgetter
from typing import Literal, NamedTuple, Protocol, get_args

from consumer import keys
from consumer.visits import MERGE_GAP, Order, Pair, Visit, counts, order_of, step
from contract.events import GeofenceEvent

NotificationKind = Literal["arrived", "departed", "visit_restated"]
ALL_KINDS: frozenset[NotificationKind] = frozenset(get_args(NotificationKind))
type Start = tuple[datetime, str]
# A kind, the visit as it is now, and as it was
type News = tuple[NotificationKind, Visit | None, Visit | None]
type Row = dict[str, str | float | bool | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """The settings of the rule. Stored visits depend on them, so changing them requires a rebuild."""

    merge_gap: timedelta = MERGE_GAP
    min_confidence: int = 0


@dataclass(frozen=True, slots=True)
class VisitDiff:
    """The visits that differ and are followed by another one, and the last visit of each walk.

    If `last_before` equals `last_after`, both walks agree on everything later.
    """

    before: Sequence[Visit]
    after: Sequence[Visit]
    last_before: Visit | None
    last_after: Visit | None
    orphan_exits: int

    @property
    def visits(self) -> int:
        """Return how many visits are changed, new or gone."""
        old, new = self.by_start()
        return sum(old.get(start) != new.get(start) for start in {**old, **new})

    def by_start(self) -> tuple[dict[Start, Visit], dict[Start, Visit]]:
        """Return the visits before and after by their identity: the enter event."""
        old, new = ((*self.before, self.last_before), (*self.after, self.last_after))
        return (
            {(v.entered_at, v.entered_event_id): v for v in old if v},
            {(v.entered_at, v.entered_event_id): v for v in new if v},
        )


class Notification(NamedTuple):
    """An event on the bus. Its `id` is the same however often it is published."""

    id: str
    kind: NotificationKind
    detail: dict[str, object]


class Bus(Protocol):
    def publish(self, notifications: Sequence[Notification]) -> dict[str, Exception]:
        """Publish all. Returns the failures by the notification's id."""


class _Taken(NamedTuple):
    order: Order
    event: GeofenceEvent
    was_there: bool
    is_there: bool


def visit_diff(
    start: Visit | None,
    stored: Iterable[GeofenceEvent],
    added: Sequence[GeofenceEvent],
    removed: Sequence[GeofenceEvent],
    rule: Rule,
) -> VisitDiff:
    """Walk twice at once, without and with the new events, until both walks agree again.

    `start` is the last visit before `stored`, which is in order and read only as far as needed. `removed` are the
    events among `stored` whose content `added` supersedes.
    """
    was = will_be = start
    before: list[Visit] = []
    after: list[Visit] = []
    orphan_exits = 0
    to_come = len(added) + len(removed)
    for _, event, was_there, is_there in _in_order(stored, added, removed):
        to_come -= was_there != is_there
        if counts(event, rule.min_confidence):
            if was_there:
                ended, was, outcome = step(was, event, rule.merge_gap)
                orphan_exits -= outcome == "orphan_exit"
                before += [ended] if ended else []
            if is_there:
                ended, will_be, outcome = step(will_be, event, rule.merge_gap)
                orphan_exits += outcome == "orphan_exit"
                after += [ended] if ended else []
        if not to_come and was == will_be:
            break
    same = set(before) & set(after)
    return VisitDiff(
        [visit for visit in before if visit not in same],
        [visit for visit in after if visit not in same],
        was,
        will_be,
        orphan_exits,
    )


def _in_order(
    stored: Iterable[GeofenceEvent], added: Sequence[GeofenceEvent], removed: Sequence[GeofenceEvent]
) -> Iterator[_Taken]:
    displaced = set(removed)
    old = (_Taken(order_of(e), e, True, e not in displaced) for e in stored)
    new = (_Taken(order_of(e), e, False, True) for e in sorted(added, key=order_of))
    return merge(old, new, key=attrgetter("order"))


def row(pair: Pair, visit: Visit) -> Row:
    """Return a visit as operators and receivers see it."""
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


def news_of(diff: VisitDiff) -> list[News]:
    """Return the notifications that turn the visits before into the visits after.

    - `arrived`: a new visit. `departed`: a visit that was open, or is new, is closed.
    - `visit_restated`: an earlier notification of the visit no longer holds in another way: a closed one differs, is
      open again or is gone (then the visit now is its replacement, or None), or an open one ended unclosed.
    """
    old, new = diff.by_start()
    news: list[News] = [
        ("visit_restated", _successor(was, new.values()), was)
        for start, was in old.items()
        if start not in new
    ]
    for start, now in new.items():
        earlier = old.get(start)
        if earlier is None:
            news.append(("arrived", now, None))
            if now.exited_at is not None:
                news.append(("departed", now, None))
        elif _notified(earlier) != _notified(now):
            if earlier.is_open and now.exited_at is not None:
                news.append(("departed", now, None))
            else:
                news.append(("visit_restated", now, earlier))
    return news


def notification(pair: Pair, version: int, news: News) -> Notification:
    kind, now, was = news
    about = was or now
    assert about is not None
    visit_key = f"v#{keys.timestamp(about.entered_at)}#{keys.quoted(about.entered_event_id)}"
    id_ = hashlib.sha256(f"{kind}#{version}#{keys.pair_key(pair)}#{visit_key}".encode()).hexdigest()
    detail: dict[str, object] = {
        "id": id_,
        "device_id": pair.device_id,
        "geofence_tag": pair.fence.tag,
        "geofence_external_id": pair.fence.external_id,
        "version": version,
        "visit": now and row(pair, now),
    }
    return Notification(id_, kind, {**detail, "previous": row(pair, was)} if was else detail)


def _notified(visit: Visit) -> tuple[object, ...]:
    return visit.exited_at, visit.exited_event_id, visit.exit_missed


def _successor(gone: Visit, visits: Iterable[Visit]) -> Visit | None:
    """Return the visit during which the other one began."""
    return next(
        (
            v
            for v in visits
            if v.entered_at <= gone.entered_at and (v.exited_at is None or v.exited_at >= gone.entered_at)
        ),
        None,
    )
