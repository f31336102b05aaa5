"""Decide which notifications a change of visits requires, and what they contain. Pure functions."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol, get_args

from consumer import keys
from consumer.visit_diff import VisitDiff
from consumer.visits import Pair, Visit

NotificationKind = Literal["arrived", "departed", "visit_restated"]
ALL_KINDS: frozenset[NotificationKind] = frozenset(get_args(NotificationKind))
# A visit in the form that subscribers of notifications, operators and the console receive
type VisitFields = dict[str, str | float | bool | None]
# The kind, the visit after the change, and the visit before it
type News = tuple[NotificationKind, Visit | None, Visit | None]


class Notification(NamedTuple):
    """A notification for the event bus. Its `id` is the same each time that it is published."""

    id: str
    kind: NotificationKind
    detail: dict[str, object]


class Bus(Protocol):
    def publish(self, notifications: Sequence[Notification]) -> dict[str, Exception]:
        """Publish all notifications. Returns the failures by notification id."""


def news_of(diff: VisitDiff) -> list[News]:
    """Return the notifications with which a subscriber can update its visits after a change.

    - `arrived`: a visit is new. `departed`: a new or previously open visit has an exit.
    - `visit_restated`: a visit's end changed in another way (for example, a closed visit has another exit or is open
      again, or an open visit ended without an exit), or a visit no longer exists. In the latter case, the notification
      contains the visit that replaces it, or None.
    """
    old, new = diff.before, diff.after
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
        "visit": now and fields_of(pair, now),
    }
    return Notification(id_, kind, {**detail, "previous": fields_of(pair, was)} if was else detail)


def fields_of(pair: Pair, visit: Visit) -> VisitFields:
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


def _notified(visit: Visit) -> tuple[object, ...]:
    return visit.exited_at, visit.exited_event_id, visit.exit_missed


def _successor(gone: Visit, visits: Iterable[Visit]) -> Visit | None:
    """Return the visit that replaces a removed one, because the removed one began during it; None if there is none."""
    at = gone.entered_at
    during = (v for v in visits if v.entered_at <= at and (v.exited_at is None or v.exited_at >= at))
    return next(during, None)
