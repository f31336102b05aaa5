"""Compare the sets of objects in the handler's log, in S3 and in RAW, using an SQLite file."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from contract.archive_object import hour_of, object_name, prefix_of
from snowpipe.warehouse import Row

# One query for geofence events in RAW covers objects with at most this many lines in total, or a single object.
LINES_A_QUERY = 25_000
LAST_RESULT = "reports/reconcile.json"
"""The key of the object that contains the result of the last comparison."""
MAX_NAMED = 1000

_TABLES = """
CREATE TABLE object (
    key TEXT PRIMARY KEY, prefix TEXT, hour TEXT, lines INT,
    logged_at REAL, archived_at REAL, rows INT, explained INT
) WITHOUT ROWID;
"""

# Selects each object that differs, with the first difference that applies. Objects newer than `at` may still be in
# transit.
_DIFFERENCES = """
SELECT kind, key, COALESCE(lines, 0), COALESCE(rows, 0) FROM (
    SELECT *, CASE
        WHEN logged_at IS NOT NULL AND archived_at IS NULL THEN 'not_archived'
        WHEN archived_at IS NULL THEN 'not_in_s3'
        WHEN rows IS NULL AND :raw THEN 'not_loaded'
        WHEN rows != lines THEN 'rows_differ'
        WHEN logged_at IS NULL AND explained IS NULL AND hour >= :log THEN 'not_logged'
    END AS kind
    FROM object WHERE COALESCE(archived_at, logged_at, 0) <= :at
        AND (archived_at IS NOT NULL OR hour >= CASE prefix WHEN 'events' THEN :events ELSE :rejected END)
)
WHERE kind IS NOT NULL ORDER BY key
"""

_HOURS = """
SELECT hour, prefix,
    SUM(CASE WHEN logged_at IS NOT NULL THEN lines ELSE 0 END),
    SUM(CASE WHEN archived_at IS NOT NULL THEN COALESCE(lines, rows, 0) ELSE 0 END),
    SUM(COALESCE(rows, 0))
FROM object WHERE COALESCE(archived_at, logged_at, 0) <= :at GROUP BY hour, prefix ORDER BY hour
"""

# How long the bucket keeps objects (serverless/storage.yml). Expired objects are not missing.
KEPT_DAYS = {"events": 400, "rejected": 90}

MEANINGS = {
    "not_archived": "in a request's log line, but not in S3",
    "not_in_s3": "rows in RAW of an object that is in neither the log nor S3",
    "not_loaded": "in S3, but without a row in RAW",
    "rows_differ": "the number of rows in RAW differs from the object's number of lines",
    "not_logged": "in S3, but not in any request's log line",
    "not_consumed": "archived, but not in the visits table",
}
MENDABLE = ("not_loaded", "rows_differ", "not_consumed")


@dataclass(frozen=True, slots=True)
class Reach:
    """For each store, the oldest hour whose data has not expired; "" if nothing in the store has expired."""

    log: str = ""
    events: str = ""
    rejected: str = ""

    @staticmethod
    def at(now: datetime, log_days: int | None) -> "Reach":
        """Return, for each store, the oldest hour whose data has not expired at `now`. If `log_days` is None, the
        log never expires.
        """
        kept = {prefix: hour_name(now - timedelta(days=days)) for prefix, days in KEPT_DAYS.items()}
        return Reach(hour_name(now - timedelta(days=log_days)) if log_days else "", **kept)


def hour_name(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%HZ}"


EVER = Reach()


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between the stores in one object or, if `line` is set, in one of its events.

    `events` lists the ids of the missing events.
    """

    kind: str
    key: str
    lines: int = 0
    rows: int = 0
    line: int | None = None
    events: tuple[str, ...] = ()


@dataclass(slots=True)
class Crossings:
    """Counts of geofence events: archived, in the visits table, and too old to be compared."""

    archived: int = 0
    consumed: int = 0
    too_old: int = 0


@dataclass(slots=True)
class Found:
    """The result of one comparison of the stores."""

    hours: list[Row] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    more: int = 0
    in_flight: int = 0
    log_reaches: str = ""
    crossings: Crossings = field(default_factory=Crossings)
    foreign: list[Row] = field(default_factory=list)  # objects whose keys do not have Milkrun's format
    invalid_rows: list[Row] = field(default_factory=list)  # rows of RAW that are not events
    unasked: dict[str, str] = field(default_factory=dict)  # the stores that did not answer, with the reason

    @property
    def equal(self) -> bool | None:
        """Return True if there is no difference, False if there is one, and None if no difference was found, but a
        store did not answer.
        """
        return False if self.differences else None if self.unasked else True

    def add(self, difference: Difference) -> None:
        if len(self.differences) < MAX_NAMED:
            self.differences.append(difference)
        else:
            self.more += 1


class ObjectSets:
    """The logged, archived and loaded objects of a range of hours. `end` is exclusive."""

    def __init__(self, path: Path | None, start: datetime, end: datetime) -> None:
        self.start, self.end = start, end
        self._strays: dict[str, datetime] = {}
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def logged(self, keys: Iterable[tuple[str, datetime]]) -> None:
        self._enter("logged_at", ((key, at.timestamp()) for key, at in keys))

    def archived(self, keys: Iterable[tuple[str, datetime]]) -> None:
        """Add the keys in S3. A key without an hour belongs to the hour in which S3 stored the object."""
        self._enter("archived_at", ((key, at.timestamp()) for key, at in self._noting_strays(keys)))

    def _noting_strays(self, keys: Iterable[tuple[str, datetime]]) -> Iterator[tuple[str, datetime]]:
        for key, at in keys:
            if hour_of(key) is None:
                self._strays[key] = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            yield key, at

    @property
    def strays(self) -> Sequence[str]:
        """Return the keys in S3 that contain no hour."""
        return sorted(self._strays)

    def loaded(self, files: Iterable[tuple[str, int]]) -> None:
        self._enter("rows", files)

    def unlogged(self) -> list[str]:
        """Return at most MAX_NAMED keys (in Milkrun's format) of objects in S3 that no log line names."""
        sql = """SELECT key FROM object WHERE archived_at IS NOT NULL AND logged_at IS NULL AND explained IS NULL
            ORDER BY key LIMIT ?"""
        return [key for (key,) in self._db.execute(sql, (MAX_NAMED,))]

    def explain(self, keys: Iterable[str]) -> None:
        """Mark objects that an operator stored, so that their missing log line does not count as a difference."""
        self._db.executemany("UPDATE object SET explained = 1 WHERE key = ?", ((key,) for key in keys))

    def foreign(self) -> list[Row]:
        """Return at most MAX_NAMED keys in S3 that do not have Milkrun's format, each with its number of RAW rows."""
        sql = "SELECT key, COALESCE(rows, 0) FROM object WHERE lines IS NULL AND archived_at IS NOT NULL ORDER BY key"
        return [{"key": key, "rows": rows} for key, rows in self._db.execute(f"{sql} LIMIT ?", (MAX_NAMED,))]

    def rewritten(self, anew: Mapping[str, str | None]) -> None:
        """In the logged objects, replace each object that `forget` rewrote with the new object.

        `anew` maps each old key to the new key, or to None if no lines were left.
        """
        for old in anew:
            row = self._db.execute("SELECT logged_at FROM object WHERE key = ?", (old,)).fetchone()
            if row is None or row[0] is None:
                continue
            self._db.execute(
                "DELETE FROM object WHERE key = ? AND archived_at IS NULL AND rows IS NULL", (old,)
            )
            new = anew[old]
            while new is not None and new in anew:  # a later run of `forget` rewrote it again
                new = anew[new]
            if new is not None:
                self.logged([(new, datetime.fromtimestamp(row[0], UTC))])

    def _enter(self, column: str, values: Iterable[tuple[str, float]]) -> None:
        sql = (
            f"INSERT INTO object (key, prefix, hour, lines, explained, {column}) VALUES (?, ?, ?, ?, ?, ?)"
            f" ON CONFLICT DO UPDATE SET {column} = excluded.{column}"
        )
        self._db.execute("BEGIN")
        self._db.executemany(sql, self._rows(values))
        self._db.execute("COMMIT")

    def _rows(self, values: Iterable[tuple[str, float]]) -> Iterator[tuple[object, ...]]:
        for key, value in values:
            prefix, hour, name = prefix_of(key), self._hour_of(key), object_name(key)
            if prefix is not None and hour is not None and self.start <= hour < self.end:
                yield key, prefix, hour_name(hour), name and name.lines, None if name else 1, value

    def _hour_of(self, key: str) -> datetime | None:
        """Return the hour in the key or, if the key contains none, the hour in which S3 stored the object."""
        return hour_of(key) or self._strays.get(key)

    def differences(self, at: datetime, reach: Reach = EVER, *, raw: bool = True) -> Iterator[Difference]:
        """Yield the differences in the objects that were stored no later than `at`. With `raw=False`, which
        means that RAW could not be read, no object is reported as not loaded.
        """
        parameters = {"at": at.timestamp(), "raw": raw, **asdict(reach)}
        for kind, key, lines, rows in self._db.execute(_DIFFERENCES, parameters):
            yield Difference(kind, key, lines, rows)

    def hours(self, at: datetime) -> list[Row]:
        found: dict[str, Row] = {}
        names = {
            "events": ("accepted", "archived", "loaded"),
            "rejected": ("rejected", "rejects_kept", "rejects_loaded"),
        }
        for hour, prefix, *counts in self._db.execute(_HOURS, {"at": at.timestamp()}):
            row = found.setdefault(
                hour, {"hour": hour} | dict.fromkeys(names["events"] + names["rejected"], 0)
            )
            row |= dict(zip(names[prefix], counts, strict=True))
        return list(found.values())

    def in_flight(self, at: datetime) -> int:
        sql = "SELECT COUNT(*) FROM object WHERE COALESCE(archived_at, logged_at, 0) > ?"
        return int(self._db.execute(sql, (at.timestamp(),)).fetchone()[0])

    def in_transit(self, first: str, last: str, at: datetime) -> set[str]:
        """Return the keys in a range that were stored after `at`."""
        sql = "SELECT key FROM object WHERE key BETWEEN ? AND ? AND COALESCE(archived_at, logged_at, 0) > ?"
        return {key for (key,) in self._db.execute(sql, (first, last, at.timestamp()))}

    def spans(self, at: datetime) -> Iterator[tuple[str, str]]:
        """Yield ranges of keys, as (first, last), that together cover the loaded objects under `events/` that were
        stored by `at`.

        A range has at most LINES_A_QUERY lines, unless a single object has more. A key without an hour gets its own
        range, because a range from it to another key could include hours that are not compared.
        """
        sql = """SELECT key, COALESCE(lines, rows) FROM object WHERE prefix = 'events' AND rows IS NOT NULL
            AND COALESCE(archived_at, logged_at, 0) <= ? ORDER BY key"""
        first = last = ""
        lines = 0
        for key, n in self._db.execute(sql, (at.timestamp(),)):
            has_hour = hour_of(key) is not None
            if first and (not has_hour or lines + n > LINES_A_QUERY):
                yield first, last
                first, lines = "", 0
            if has_hour:
                first, last, lines = first or key, key, lines + n
            else:
                yield key, key
        if first:
            yield first, last
