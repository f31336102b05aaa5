"""The notifications for a difference of visits: which ones, and what they contain. Pure functions."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol, get_args

from consumer import keys
from consumer.visit_diff import VisitDiff, row
from consumer.visits import Pair, Visit

NotificationKind = Literal["arrived", "departed", "visit_restated"]
ALL_KINDS: frozenset[NotificationKind] = frozenset(get_args(NotificationKind))
# A kind, the visit as it is now, and as it was
type News = tuple[NotificationKind, Visit | None, Visit | None]


class Notification(NamedTuple):
    """An event on the bus. Its `id` is the same however often it is published."""

    id: str
    kind: NotificationKind
    detail: dict[str, object]


class Bus(Protocol):
    def publish(self, notifications: Sequence[Notification]) -> dict[str, Exception]:
        """Publish all. Returns the failures by the notification's id."""


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
