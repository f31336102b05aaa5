"""The ids of the events that the demo sent, each with its expected outcome and the stores in which it was found.

The demo counts only these ids, so events of earlier runs and other senders on the same stack do not matter.
The ids are kept on disk, because a file of events may be of any size.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Literal, Self, cast

from consumer.visits import DEFAULT_RULE, Pair, Rule, visits_of
from contract.event_limits import MAX_AGE
from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import Kind
from ops.read_stores import Stay, stay
from tools.fleet.client import Delivery, count_in, rejects_in, unlisted_rejects
from tools.fleet.event_file import TOO_LARGE
from tools.fleet.rounds import Planned

# Where an event's id can be found: in a response (`answered`), in a store or in the stream.
type Place = Literal["answered", "archived", "published", "consumed", "loaded", "staged"]
PLACES: tuple[Place, ...] = ("answered", "archived", "published", "consumed", "loaded", "staged")
# The expected properties of an event (accepted, a geofence event, recent enough for the consumer)
type Truth = Literal["accepted", "crossing", "recent"]

_TABLES = f"""
CREATE TABLE event (
    event_id TEXT PRIMARY KEY,
    accepted INT NOT NULL DEFAULT 0, crossing INT NOT NULL DEFAULT 0, recent INT NOT NULL DEFAULT 0,
    {", ".join(f"{place} INT NOT NULL DEFAULT 0" for place in PLACES)}
) WITHOUT ROWID;
CREATE TABLE crossing (
    device_id TEXT, tag TEXT, external_id TEXT, event_id TEXT, occurred_at TEXT, type TEXT, kind TEXT,
    duration REAL, confidence INT
);
CREATE TABLE refusal (
    digest BLOB, rejected_key TEXT, rejects INT, PRIMARY KEY (digest, rejected_key)
) WITHOUT ROWID;
CREATE TABLE object (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Ledger:
    """The expected and the actual outcome of each event sent. A ledger may be used from only one thread. The
    file `path` must not exist; if `path` is None, the ledger is kept in memory.
    """

    def __init__(
        self, path: Path | None = None, *, now: datetime | None = None, rule: Rule = DEFAULT_RULE
    ) -> None:
        self._rule = rule
        self._recent_from = (now or datetime.now(UTC)) - MAX_AGE
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        # Write without a journal, because the data is not needed after a crash.
        self._db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES)
        self.sent = 0
        self.received = 0
        self.accepted_copies = 0
        self.answered_copies = 0
        self.undelivered = 0
        self.dropped_truth = 0  # events that alone make a request too large, and are stored nowhere
        self.dropped_found = 0
        self.wrong_receipts = 0
        self.rejected_truth: Counter[str] = Counter()
        self.rejected_found: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, delivery: Delivery) -> list[str]:
        """Record a delivery: the expected outcome of each event, and the response. Return the keys of objects
        that no earlier response named.
        """
        events, answer = delivery.post.events, delivery.answer
        self.sent += len(events)
        self.received += count_in(answer, "received")
        self.undelivered += len(events) if delivery.fate == "kept" else 0
        self.dropped_found += len(events) if delivery.status == 413 else 0
        self.dropped_truth += sum(event.code == TOO_LARGE for event in events)
        codes = dict(rejects_in(answer))
        # A response that would become too long omits some reasons. If it omits as many as expected, count the expected
        # reasons as found.
        unlisted = {i: str(e.code) for i, e in enumerate(events) if _is_rejected(e) and i not in codes}
        if unlisted and len(unlisted) == unlisted_rejects(answer):
            codes |= unlisted
        self.rejected_found.update(codes.values())
        truly_accepted = [event for event in events if event.code is None]
        self.rejected_truth.update(str(event.code) for event in events if _is_rejected(event))
        self.accepted_copies += len(truly_accepted)
        self._db.execute("BEGIN")
        self._db.executemany(
            """INSERT INTO event (event_id, accepted, crossing, recent) VALUES (?, 1, ?, ?)
            ON CONFLICT DO UPDATE SET accepted = 1""",
            [(e.event_id, e.crossing is not None, self._is_recent(e.crossing)) for e in truly_accepted],
        )
        self._db.executemany(
            "INSERT INTO crossing VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_row(event.crossing) for event in truly_accepted if event.crossing],
        )
        self._note_rejects(events, answer.get("rejected_key"))
        if delivery.fate == "delivered":
            answered = [event.event_id for i, event in enumerate(events) if i not in codes]
            self.answered_copies += len(answered)
            self._mark("answered", answered)
            self.wrong_receipts += not _adds_up(delivery, len(codes))
        self._db.execute("COMMIT")
        keys = [str(answer[name]) for name in ("object_key", "rejected_key") if answer.get(name)]
        return [key for key in keys if self._is_new(key)]

    @property
    def distinct_rejects(self) -> int:
        """Return the number of rejected events expected in `rejected/`. A resent request counts again only if its
        response names another object.
        """
        return int(self._db.execute("SELECT SUM(rejects) FROM refusal").fetchone()[0] or 0)

    def _note_rejects(self, events: Sequence[Planned], rejected_key: object) -> None:
        rejects = [f"{i} {event.text}" for i, event in enumerate(events) if _is_rejected(event)]
        if rejects:
            digest = hashlib.sha256("\n".join(rejects).encode("utf-8", "surrogateescape")).digest()
            row = (digest, str(rejected_key or ""), len(rejects))
            self._db.execute("INSERT OR IGNORE INTO refusal VALUES (?, ?, ?)", row)

    def mark(self, place: Place, event_ids: Iterable[str], *, only_ours: bool = False) -> None:
        """Mark the event ids as found in a store.

        An id that was never sent counts as a difference, unless `only_ours` is true.
        """
        self._db.execute("BEGIN")
        self._mark(place, event_ids, only_ours=only_ours)
        self._db.execute("COMMIT")

    def _mark(self, place: Place, event_ids: Iterable[str], *, only_ours: bool = False) -> None:
        sql = f"UPDATE event SET {place} = 1 WHERE event_id = ?"
        if not only_ours:
            sql = f"INSERT INTO event (event_id, {place}) VALUES (?, 1) ON CONFLICT DO UPDATE SET {place} = 1"
        self._db.executemany(sql, ((event_id,) for event_id in event_ids))

    def count(self, what: Place | Truth) -> int:
        return int(self._db.execute(f"SELECT SUM({what}) FROM event").fetchone()[0] or 0)

    def differences(self, truth: Truth, place: Place, limit: int = 5) -> list[str]:
        """Return up to `limit` event ids that are unexpectedly present in a store or missing from it."""
        sql = f"SELECT event_id FROM event WHERE {truth} != {place} LIMIT ?"
        return [event_id for (event_id,) in self._db.execute(sql, (limit,))]

    def keys(self, prefix: str) -> list[str]:
        """Return the object keys that the responses named and that begin with `prefix`."""
        rows = self._db.execute("SELECT key FROM object WHERE key LIKE ? || '%' ORDER BY key", (prefix,))
        return [key for (key,) in rows]

    def event_ids(self) -> Iterator[str]:
        """Yield the ids of the events that should be accepted."""
        for (event_id,) in self._db.execute("SELECT event_id FROM event WHERE accepted"):
            yield event_id

    def devices(self) -> list[str]:
        """Return the device ids in the geofence events that should be accepted."""
        return [d for (d,) in self._db.execute("SELECT DISTINCT device_id FROM crossing ORDER BY 1")]

    def pairs(self) -> list[Pair]:
        """Return the (device, fence) pairs in the geofence events that should be accepted."""
        return self._pairs("SELECT DISTINCT device_id, tag, external_id FROM crossing ORDER BY 1, 2, 3", ())

    def pairs_not_consumed(self, limit: int) -> list[Pair]:
        """Return up to `limit` (device, fence) pairs with an event that is recent enough for the consumer but not yet
        marked as consumed.
        """
        sql = """SELECT DISTINCT device_id, tag, external_id FROM crossing JOIN event USING (event_id)
            WHERE recent AND NOT consumed LIMIT ?"""
        return self._pairs(sql, (limit,))

    def _pairs(self, sql: str, parameters: Sequence[object]) -> list[Pair]:
        rows = self._db.execute(sql, parameters)
        return [Pair(device_id, Fence(tag, external_id)) for device_id, tag, external_id in rows]

    def stays(self, *, recent: bool = False) -> Iterator[Stay]:
        """Yield the visits that the stage's visit rule derives from the events that should be accepted, with one
        (device, fence) pair in memory at a time. If `recent` is true, events that are too old for the consumer
        are left out.
        """
        rows = self._db.execute("SELECT * FROM crossing ORDER BY device_id, tag, external_id")
        events = (_event(row) for row in rows)
        for _, group in groupby(events, key=lambda event: (event.device_id, event.fence)):
            taken = [e for e in group if not recent or self._is_recent(e)]
            for pair, history in visits_of(taken, self._rule).items():
                yield from (stay(pair, visit) for visit in history.visits)

    def _is_recent(self, crossing: GeofenceEvent | None) -> bool:
        return crossing is not None and crossing.occurred_at >= self._recent_from

    def _is_new(self, key: str) -> bool:
        return self._db.execute("INSERT OR IGNORE INTO object VALUES (?)", (key,)).rowcount == 1


def _is_rejected(event: Planned) -> bool:
    return event.code is not None and event.code != TOO_LARGE


def _adds_up(delivery: Delivery, rejected: int) -> bool:
    """Return whether the counts in the receipt add up to the number of events sent, and its count of rejected
    events equals `rejected`.
    """
    answer = delivery.answer
    received = count_in(answer, "received")
    parts = sum(count_in(answer, name) for name in ("accepted", "duplicates", "rejected"))
    return received == parts == len(delivery.post.events) and count_in(answer, "rejected") == rejected


def _row(event: GeofenceEvent) -> tuple[object, ...]:
    return (
        event.device_id,
        *event.fence,
        event.event_id,
        event.occurred_at.isoformat(),
        event.type,
        event.kind,
        event.duration_minutes,
        event.confidence,
    )


def _event(row: tuple[object, ...]) -> GeofenceEvent:
    device_id, tag, external_id, event_id, occurred_at, type_, kind, duration, confidence = row
    return GeofenceEvent(
        event_id=str(event_id),
        type=str(type_),
        kind=cast("Kind", kind),
        device_id=str(device_id),
        fence=Fence(str(tag), str(external_id)),
        occurred_at=datetime.fromisoformat(str(occurred_at)),
        duration_minutes=cast("float | None", duration),
        confidence=cast("int | None", confidence),
    )
