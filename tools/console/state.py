"""The console's whole state, which is limited in size and kept in memory.

Only the event loop's thread changes the state, so no locks are needed.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from ops.presence_rule import EXCLUSIVE_TAGS
from tools.console import parse_object, recent_events
from tools.console.fleet import Fleet, Place, PlaceRow
from tools.console.known_visits import Change, KnownVisits, VisitRow, known
from tools.console.parse_object import Read
from tools.console.pipeline import Pipeline
from tools.console.recent_events import RecentEvents
from tools.console.source_states import Sources


@dataclass(frozen=True, slots=True)
class MartPlace:
    """Statistics of a place's visits in the marts that began in the last 35 days: the number of closed visits, their
    median dwell time, the latest entry and exit times, and the number of visits that began at or after `midnight` (in
    the fleet's time zone).
    """

    closed: int
    usual_dwell_s: float | None
    last_entered_at: datetime
    last_exited_at: datetime | None
    today: int = 0
    midnight: datetime | None = None


SNAPSHOT_EVENTS = 100
EVENTS_A_MESSAGE = 100
# While no page is open, expensive sources are still read for this long after the latest request.
LINGER_S = 60.0


class ConsoleState:
    def __init__(
        self,
        stage: Mapping[str, object],
        *,
        places: Iterable[Place] = (),
        secrets: Iterable[str] = (),
        marts_max_wait_s: float | None = None,
        exclusive_tags: Collection[str] = EXCLUSIVE_TAGS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stage = stage
        self._clock = clock
        self.sources = Sources(self.now, secrets)
        self.fleet = Fleet(places)
        self.events = RecentEvents()
        self.visits = KnownVisits(exclusive_tags)
        # From the stage's visit rule; set after the rule has been read.
        self.min_confidence = 0
        # Fence id → the statistics of the place's visits in the marts.
        self.mart_places: dict[str, MartPlace] = {}
        self.pipeline = Pipeline(
            self.sources.why_unknown, marts_max_wait_s, clock, str(stage.get("stage", "local"))
        )
        self.viewers = 0
        self._looked_at = 0.0
        self._reset_at = 0
        self.was_reset = False
        # Devices that crossed a fence since the last read, so their visits may have changed.
        self._crossed: dict[str, None] = {}
        self.seen_from: float | None = None
        self.seen_to: float | None = None
        # Set when the changes should be sent to the pages immediately.
        self.urgent = asyncio.Event()

    def now(self) -> str:
        return parse_object.written(datetime.fromtimestamp(self._clock(), UTC))

    def stage(self) -> dict[str, object]:
        return {**self._stage, "now": self.now()}

    # --- input

    def take(self, read: Read, received_at: float) -> None:
        """Add the events, positions and crossings of an archived object. Events received before the last
        reset are not listed.
        """
        if received_at >= self._reset_at:
            for event in read.events:
                self.events.add(event)
        for position in read.positions:
            self.fleet.moved(position)
            self.seen_from = min(self.seen_from or position.at, position.at)
            self.seen_to = max(self.seen_to or position.at, position.at)
        for device_id, at, type_ in read.heard:
            self.fleet.heard(device_id, at, type_)
        for crossing in read.crossings:
            self.fleet.crossed(crossing)
            if crossing.kind == "enter" and (
                crossing.confidence is None or crossing.confidence >= self.min_confidence
            ):
                self.visits.entered(parse_object.event_of(crossing))
            if len(self._crossed) < 1000:
                self._crossed[crossing.device_id] = None

    def tell_visit(self, kind: str, detail: Mapping[str, object]) -> None:
        """Apply a visit notification from the event bus."""
        # Ignore events of another form, because other producers may use the bus, too.
        with suppress(LookupError, TypeError, ValueError):
            self.visits.tell(kind, detail)
            self.urgent.set()
            # The bus may be faster than the archive, so a new place becomes searchable here.
            if isinstance(visit := detail["visit"], dict):
                self.fleet.know(known(visit).fence)

    def skip(self, kind: str, lines: int, received_at: float) -> None:
        if received_at >= self._reset_at:
            self.events.skipped(kind, lines)

    def take_crossed(self) -> list[str]:
        crossed, self._crossed = list(self._crossed), {}
        return crossed

    def reset(self) -> None:
        # S3's times are full seconds, so events that were stored in the second of the reset are shown.
        self._reset_at = int(self._clock())
        self.events.forget()
        self.was_reset = True

    # --- whether a page is open

    def look(self) -> None:
        self._looked_at = self._clock()

    @property
    def is_watched(self) -> bool:
        return self.viewers > 0 or self._clock() - self._looked_at < LINGER_S

    # --- output

    def trucks(self, only: set[str] | None = None) -> list[dict[str, object]]:
        return self.fleet.rows(self.visits.inside(), only)

    def fences(self) -> list[PlaceRow]:
        at = self.visits.at()
        return [place.row(at.get(fence_id, 0)) for fence_id, place in self.fleet.places.items()]

    def snapshot(self) -> dict[str, object]:
        newest = {
            kind: [recent_events.row(event) for event in self.events.matching(kind, limit=SNAPSHOT_EVENTS)]
            for kind in ("good", "bad")
        }
        return {
            "stage": self.stage(),
            "sources": self.sources.rows(),
            "fences": self.fences(),
            "trucks": self.trucks(),
            "there": self.visits.there(),
            "pipeline": self.pipeline.row(),
            "events": newest | {"counted": dict(self.events.counted)},
        }

    def news(self) -> list[tuple[str, dict[str, object]]]:
        """Return the changes since the last call, as the names and data of messages for the pages' event stream."""
        messages: list[tuple[str, dict[str, object]]] = []
        if self.was_reset:
            self.was_reset = False
            messages.append(("reset", {}))
        changes, is_other = self.visits.take_changes()
        # A truck's row contains its fences, so it changes with its visits, too.
        moved = self.fleet.changed | {visit["device_id"] for visit in _visits_in(changes)}
        if is_other:
            moved |= self.visits.open_devices()
        self.fleet.changed = set()
        if trucks := self.trucks(moved):
            messages.append(("trucks", {"trucks": trucks}))
        if is_other:
            messages.append(("visits", {"changes": changes[-500:], "there": self.visits.there()}))
        fresh, left_out = self.events.take_fresh(EVENTS_A_MESSAGE)
        if any(fresh.values()):
            rows = {kind: [recent_events.row(event) for event in events] for kind, events in fresh.items()}
            messages.append(("events", rows | {"counted": dict(self.events.counted), "left_out": left_out}))
        if self.fleet.places_changed:
            self.fleet.places_changed = False
            messages.append(("fences", {"fences": self.fences()}))
        if self.sources.changed:
            self.sources.changed = False
            messages.append(("sources", {"sources": self.sources.rows()}))
        return messages

    def drop_news(self) -> None:
        """Discard the changes since the last call, because no page is open."""
        self.was_reset = self.sources.changed = self.fleet.places_changed = False
        self.visits.take_changes()
        self.fleet.changed = set()
        self.events.take_fresh(0)


def _visits_in(changes: Iterable[Change]) -> Iterator[VisitRow]:
    for change in changes:
        yield from (visit for visit in (change["visit"], change["previous"]) if visit)
