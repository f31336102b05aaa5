"""The visits in the console's memory, at most MAX_VISITS. They come from the visits table and from the event bus."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from statistics import median
from typing import Any, TypedDict

import msgspec

from consumer import keys, notifications
from consumer.visits import Pair, Visit
from contract.events import Fence, GeofenceEvent
from ops.presence_rule import EXCLUSIVE_TAGS
from tools.console import parse_object
from tools.console.presence_index import PresenceIndex

MAX_VISITS = 10_000
# For a place with fewer visits, the median dwell time of the visits to all places with its tag is used instead.
FEW_VISITS = 3


class Known(msgspec.Struct, gc=False):
    """A visit. `version` is the version in the latest notification from the event bus, or -1 if the visit is known
    only from a table.
    """

    device_id: str
    fence: Fence
    entered_at: str
    entered_event_id: str
    exited_at: str | None
    exited_event_id: str | None
    exit_missed: bool
    dwell_seconds: float | None
    last_seen_at: str | None = None
    app_dwell_seconds: float | None = None
    version: int = -1
    restated: bool = False
    crossings: int | None = None

    @property
    def is_open(self) -> bool:
        return self.exited_at is None and not self.exit_missed


type Start = tuple[str, Fence, str, str]


class VisitRow(TypedDict):
    """A visit as sent to the page."""

    device_id: str
    geofence_tag: str
    geofence_external_id: str
    fence_id: str
    entered_at: str
    exited_at: str | None
    dwell_seconds: float | None
    entered_event_id: str
    exited_event_id: str | None
    exit_missed: bool
    open: bool
    last_seen_at: str | None
    app_dwell_seconds: float | None
    restated: bool
    crossings: int | None
    contradicted_by_event_id: str | None
    exit_inferred_at: str | None
    seen_at_fence_id: str | None
    usual_dwell_seconds: float | None


class Change(TypedDict):
    """A change to a visit, as sent to the pages: the visit is new, has changed or was deleted."""

    kind: str
    visit: VisitRow | None
    previous: VisitRow | None
    id: str


def known(row: Mapping[str, Any], version: int = -1, restated: bool = False) -> Known:
    """Parse a visit in the form that `milkrun visits` and the event bus use (`consumer.notifications.fields_of`)."""
    return Known(
        device_id=str(row["device_id"]),
        fence=Fence(str(row["geofence_tag"]), str(row["geofence_external_id"])),
        entered_at=str(row["entered_at"]),
        entered_event_id=str(row["entered_event_id"]),
        exited_at=row["exited_at"],
        exited_event_id=row["exited_event_id"],
        exit_missed=bool(row["exit_missed"]),
        dwell_seconds=row["dwell_seconds"],
        last_seen_at=row.get("last_seen_at"),
        app_dwell_seconds=row.get("app_dwell_seconds"),
        version=version,
        restated=restated,
        crossings=row.get("crossings"),
    )


def by_rule(pair: Pair, visit: Visit) -> Known:
    return known(notifications.fields_of(pair, visit))


def start_of(visit: Known) -> Start:
    return visit.device_id, visit.fence, visit.entered_at, visit.entered_event_id


def row(visit: Known, by: GeofenceEvent | None = None, usual_dwell_s: float | None = None) -> VisitRow:
    """Return a visit in the form that is sent to the page, with the event that contradicts it, if any, and
    the median dwell time at its place.
    """
    return {
        "device_id": visit.device_id,
        "geofence_tag": visit.fence.tag,
        "geofence_external_id": visit.fence.external_id,
        "fence_id": keys.fence_key(visit.fence),
        "entered_at": _plain(visit.entered_at),
        "exited_at": visit.exited_at and _plain(visit.exited_at),
        "dwell_seconds": visit.dwell_seconds,
        "entered_event_id": visit.entered_event_id,
        "exited_event_id": visit.exited_event_id,
        "exit_missed": visit.exit_missed,
        "open": visit.is_open,
        "last_seen_at": visit.last_seen_at and _plain(visit.last_seen_at),
        "app_dwell_seconds": visit.app_dwell_seconds,
        "restated": visit.restated,
        "crossings": visit.crossings,
        "contradicted_by_event_id": by.event_id if by else None,
        "exit_inferred_at": parse_object.written(by.occurred_at) if by else None,
        "seen_at_fence_id": keys.fence_key(by.fence) if by else None,
        "usual_dwell_seconds": usual_dwell_s,
    }


class KnownVisits:
    def __init__(self, exclusive_tags: Collection[str] = EXCLUSIVE_TAGS) -> None:
        self.presence = PresenceIndex(exclusive_tags)
        # Fence → median dwell time in seconds; tag → median dwell time at all places with the tag.
        self._usual: dict[str, float] = {}
        self._usual_of_tag: dict[str, float] = {}
        self._marts_usual: Mapping[str, float] = {}
        self._visits: dict[Start, Known] = {}
        self._open: dict[Start, Known] = {}
        # The versions of deleted visits, so that an older message does not restore them.
        self._gone: dict[Start, int] = {}
        self._told: dict[str, None] = {}
        self._changes: list[Change] = []
        self._is_other = False

    def row(self, visit: Known) -> VisitRow:
        usual = self.usual_dwell(keys.fence_key(visit.fence), visit.fence.tag)
        return row(visit, self.contradicted_by(visit), usual)

    def usual_dwell(self, fence_id: str, tag: str) -> float | None:
        """Return the median dwell time at the place in seconds; if unknown, the median for all places with
        the tag; None if that is also unknown.
        """
        return self._usual.get(fence_id, self._usual_of_tag.get(tag))

    def rows(self) -> Iterator[VisitRow]:
        return (self.row(visit) for visit in self._visits.values())

    def contradicted_by(self, visit: Known) -> GeofenceEvent | None:
        return self.presence.contradicted_by(Pair(visit.device_id, visit.fence)) if visit.is_open else None

    def entered(self, event: GeofenceEvent) -> None:
        """Record an enter event from the archive. The caller has checked its confidence against the visit rule."""
        self._is_other |= self.presence.learn(event)

    def verified(self, device_id: str, enters: Iterable[GeofenceEvent]) -> None:
        """Replace a device's enter events at exclusive places with those from the visits table."""
        self._is_other |= self.presence.replace(device_id, enters)

    def doubtful(self) -> dict[str, str]:
        """Map each device with a contradicted open visit to a string that changes when its contradictions change. The
        poller compares the strings, so that it verifies each contradiction only once.
        """
        found: dict[str, str] = {}
        for visit in self._open.values():
            if by := self.contradicted_by(visit):
                found[visit.device_id] = f"{found.get(visit.device_id, '')} {start_of(visit)} {by.event_id}"
        return found

    def learn_usual(self, marts: Mapping[str, float] | None = None) -> None:
        """Set the median dwell time at each place: the median from the marts, otherwise the median of the
        visits in memory if there are at least FEW_VISITS. If `marts` is None, the marts' medians from the previous call
        are used again.
        """
        self._marts_usual = self._marts_usual if marts is None else marts
        by_fence: dict[str, list[float]] = {}
        by_tag: dict[str, list[float]] = {}
        for visit in self._visits.values():
            if visit.dwell_seconds is not None:
                by_fence.setdefault(keys.fence_key(visit.fence), []).append(visit.dwell_seconds)
                by_tag.setdefault(visit.fence.tag, []).append(visit.dwell_seconds)
        before = (self._usual, self._usual_of_tag)
        self._usual = {
            name: round(median(some)) for name, some in by_fence.items() if len(some) >= FEW_VISITS
        } | dict(self._marts_usual)
        self._usual_of_tag = {
            tag: round(median(some)) for tag, some in by_tag.items() if len(some) >= FEW_VISITS
        }
        self._is_other |= before != (self._usual, self._usual_of_tag)

    def tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        """Apply a notification from the event bus. A notification with a repeated id is ignored, and the
        highest version of a visit wins.

        Raises LookupError, TypeError or ValueError, and changes nothing, if the notification or a visit in it is
        invalid.
        """
        id_, version = str(detail["id"]), int(detail["version"])
        if id_ in self._told:
            return
        for each in filter(None, (detail.get("visit"), detail.get("previous"))):
            _check(known(each))
        self._told[id_] = None
        while len(self._told) > MAX_VISITS:
            del self._told[next(iter(self._told))]
        now, was = detail.get("visit"), detail.get("previous")
        visit = known(now, version, kind == "visit_restated") if now else None
        previous = known(was, version) if was else None
        if previous and (visit is None or start_of(visit) != start_of(previous)):
            self._forget(start_of(previous), version)
        if visit and not self._put(visit):
            return
        self._changes.append(
            {
                "kind": kind,
                "visit": self.row(visit) if visit else None,
                "previous": self.row(previous) if previous else None,
                "id": id_,
            }
        )

    def read(self, rows: Iterable[Mapping[str, object]], *, as_news: bool = True) -> None:
        """Add visits that were read from a table, except those that the event bus has reported and those that have been
        deleted. If `as_news` is true, new and changed visits are also reported to the pages.
        """
        for each in rows:
            visit = known(each)
            start = start_of(visit)
            held = self._visits.get(start)
            if (held is None or held.version < 0) and start not in self._gone:
                if as_news:
                    self._news(held, visit)
                self._is_other |= held is None
                self._put(visit)

    def reread(self, device_id: str, rows: Iterable[Mapping[str, object]], since: str) -> None:
        """Replace the visits of a device that began at `since` (in the format of `keys.timestamp`) or later with
        those that were read from the visits table.
        """
        there = {start_of(visit): visit for visit in map(known, rows)}
        for start in [start for start in self._visits if start[0] == device_id and start not in there]:
            if start[2] < since:
                continue
            gone = self._visits[start]
            self._forget(start, gone.version)
            self._changes.append(self._polled(None, gone))
        for start, visit in there.items():
            held = self._visits.get(start)
            visit.version = held.version if held else -1
            visit.restated = bool(held and held.restated)
            self._news(held, visit)
            self._put(visit)

    def _news(self, held: Known | None, visit: Known) -> None:
        if held is None or (held.exited_at, held.exit_missed) != (visit.exited_at, visit.exit_missed):
            self._changes.append(self._polled(visit, held))

    def _put(self, visit: Known) -> bool:
        start = start_of(visit)
        held = self._visits.get(start)
        if (held and held.version > visit.version) or self._gone.get(start, -1) > visit.version:
            return False
        visit.restated |= bool(held and held.restated)
        visit.last_seen_at = visit.last_seen_at or (held.last_seen_at if held else None)
        self._visits.pop(start, None)
        self._visits[start] = visit
        self._gone.pop(start, None)
        if self.presence.is_exclusive(visit.fence):
            self.presence.learn(_enter_of(visit))
        if visit.is_open:
            self._open[start] = visit
        else:
            self._open.pop(start, None)
        if len(self._visits) > MAX_VISITS:
            # Delete a closed visit if there is one, because the oldest open visits are those of overdue trucks.
            oldest = next(
                (start for start in self._visits if start not in self._open), next(iter(self._visits))
            )
            del self._visits[oldest]
            self._open.pop(oldest, None)
        return True

    def _forget(self, start: Start, version: int) -> None:
        held = self._visits.get(start)
        if held and held.version > version:
            return
        self._visits.pop(start, None)
        self._open.pop(start, None)
        self._gone[start] = max(version, self._gone.get(start, -1))
        while len(self._gone) > MAX_VISITS:
            del self._gone[next(iter(self._gone))]

    def take_changes(self) -> tuple[list[Change], bool]:
        """Return the visits that have changed since the last call, and whether anything at all has changed: a
        visit, a contradiction or a median dwell time.
        """
        changes, is_other = self._changes, self._is_other or bool(self._changes)
        self._changes, self._is_other = [], False
        return changes, is_other

    def there(self) -> list[VisitRow]:
        """Return the open visits, the longest first; visits that an event contradicts come last."""
        rows = [self.row(visit) for visit in sorted(self._open.values(), key=lambda visit: visit.entered_at)]
        return sorted(rows, key=lambda each: each["contradicted_by_event_id"] is not None)

    def _present(self) -> Iterable[Known]:
        """Return the open visits that no event contradicts."""
        return (visit for visit in self._open.values() if self.contradicted_by(visit) is None)

    def is_gone(self, start: Start) -> bool:
        """Return whether the visit was deleted or replaced; the mart contains it until the next dbt run."""
        return start in self._gone

    def open_devices(self) -> set[str]:
        return {start[0] for start in self._open}

    def open_starts(self) -> set[Start]:
        return set(self._open)

    def inside(self) -> dict[str, list[str]]:
        """Return the ids of the fences that each device is inside, keyed by device id."""
        found: dict[str, list[str]] = {}
        for visit in self._present():
            found.setdefault(visit.device_id, []).append(keys.fence_key(visit.fence))
        return found

    def at(self) -> dict[str, int]:
        """Return the number of devices inside each fence, keyed by fence id."""
        found: dict[str, int] = {}
        for visit in self._present():
            fence_id = keys.fence_key(visit.fence)
            found[fence_id] = found.get(fence_id, 0) + 1
        return found

    def between(
        self, first: str, last: str, device_id: str | None, fence: Fence | None
    ) -> dict[Start, Known]:
        """Return the visits of the device at the fence (None: of all devices, at all fences) that began between these
        times (in the format of `keys.timestamp`), and their open visits that began before `first`.
        """
        return {
            start: visit
            for start, visit in self._visits.items()
            if (device_id is None or visit.device_id == device_id)
            and (fence is None or visit.fence == fence)
            and (first <= visit.entered_at <= last or (visit.is_open and visit.entered_at <= last))
        }

    def _polled(self, visit: Known | None, previous: Known | None) -> Change:
        about = visit or previous
        return {
            "kind": "polled",
            "visit": self.row(visit) if visit else None,
            "previous": self.row(previous) if previous else None,
            "id": f"polled#{about.entered_event_id}" if about else "polled",
        }


def _check(visit: Known) -> None:
    """Raise ValueError for an invalid time or a value of the wrong type."""
    msgspec.convert(msgspec.structs.asdict(visit), Known)
    row(visit)


def _enter_of(visit: Known) -> GeofenceEvent:
    return GeofenceEvent(
        visit.entered_event_id, "", "enter", visit.device_id, visit.fence, keys.instant(visit.entered_at)
    )


def _plain(at: str) -> str:
    """Return a time as text with milliseconds, the format used on the page."""
    return parse_object.written(keys.instant(at))
