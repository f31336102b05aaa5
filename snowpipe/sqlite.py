"""The smallest warehouse: the archive's events in one table of an SQLite file.

Each object is loaded in one transaction with its row in `loads`, so loading again adds nothing and an
interruption leaves no object half loaded. An object with a line that is not strict JSON is skipped as a
whole, as Snowpipe does with ON_ERROR = SKIP_FILE.

The columns that the queries in snowpipe/sql need are filled by the contract's parser, because SQLite's own
functions read "1,5" as the number 1 and truncate a string at its first NUL.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from cli.refusal import Refusal
from contract.archive_object import hour_of, is_content
from contract.event_limits import MAX_LITRES
from contract.event_rules import check
from contract.events import InvalidEvent
from contract.instants import fault_at_receipt
from contract.ndjson import lines_in
from contract.strict_json import parse_json
from snowpipe.archive import Archive, Object
from snowpipe.history import inflated, problem_of
from snowpipe.warehouse import Row

_SCHEMA = """
CREATE TABLE IF NOT EXISTS loads (
    object_key TEXT PRIMARY KEY,
    lines INTEGER NOT NULL,
    loaded_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
    payload TEXT NOT NULL,              -- the event as it was sent, JSON
    occurred_us INTEGER,                -- createdAt in microseconds since 1970; null if it is not an event
    file_name TEXT NOT NULL,            -- key of the object
    file_row_number INTEGER NOT NULL,
    file_modified_at TEXT NOT NULL,     -- when S3 received the object, UTC
    PRIMARY KEY (file_name, file_row_number)
);
"""
# Columns that are added separately, so that older files get them, too. `invalid_code`: why the row is not an event.
_COLUMNS = {
    "invalid_code": "TEXT",
    "event_id": "TEXT",
    "event_type": "TEXT",
    "device_id": "TEXT",
    "geofence_tag": "TEXT",
    "geofence_external_id": "TEXT",
    "duration_minutes": "REAL",
    "confidence": "INTEGER",
    "litres": "REAL",
    "is_replayed": "INTEGER NOT NULL DEFAULT 0",
}
_NUMBER = re.compile(r"[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?")
_TRUE = ("true", "t", "yes", "y", "on", "1")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OURS = re.compile(r"(?:^|/)((?:events/)?dt=\d{4}-\d\d-\d\d/hh=\d\d/[^/]+)$")
_JOBS = ("compacted/", "forget/", "glue/", "rebuilt/", "resent/", "streamed/")
_NOT_EVENTS = ("rejected/", "set-aside/", "aws/", *_JOBS)


class Source(Protocol):
    def objects(self) -> Iterable[Object]: ...
    def body(self, key: str) -> bytes | None: ...


@dataclass(frozen=True)
class Bucket:
    """The objects under a prefix of a bucket, except empty uploads and the objects under prefixes without events."""

    archive: Archive
    prefix: str

    def objects(self) -> Iterator[Object]:
        return (
            found
            for found in self.archive.objects(self.prefix)
            if is_content(found.key, found.size) and not found.key.startswith(_NOT_EVENTS)
        )

    def body(self, key: str) -> bytes | None:
        return self.archive.body(key)


class Folder:
    """The NDJSON files in a folder and its subfolders, plain or gzipped, except under the prefixes without events.

    Files in a copy of the bucket keep the keys that they have in the bucket.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise Refusal(f"{folder} is not a folder")
        files = sorted(p for p in folder.rglob("*.ndjson*") if p.suffix in (".gz", ".ndjson"))
        keys = {self._key(path, folder): path for path in files}
        self._files = {key: path for key, path in keys.items() if not key.startswith(_NOT_EVENTS)}

    @staticmethod
    def _key(path: Path, folder: Path) -> str:
        inside = path.relative_to(folder).as_posix()
        if inside.startswith(_NOT_EVENTS) or not (ours := _OURS.search(path.absolute().as_posix())):
            return inside
        return "events/" + ours[1].removeprefix("events/")

    def objects(self) -> Iterator[Object]:
        for key, path in self._files.items():
            found = path.stat()
            yield Object(key, datetime.fromtimestamp(int(found.st_mtime), UTC), found.st_size)

    def body(self, key: str) -> bytes | None:
        return self._files[key].read_bytes()


def path_of(url: str) -> Path:
    """Return the path in a sqlite:/// URL.

    `sqlite:///events.db` contains a relative path, `sqlite:////tmp/events.db` an absolute one.
    """
    path = url.removeprefix("sqlite:///")
    if path == url or not path:
        raise Refusal(f"{url!r}: --to must be sqlite:///FILE")
    return Path(path)


def load(path: Path, source: Source) -> Iterator[Row]:
    """Load the source's objects that the SQLite file does not contain yet; yield a row per object."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.executescript(_SCHEMA)
            _add_columns(database)
            loaded = {key for (key,) in database.execute("SELECT object_key FROM loads")}
            for found in source.objects():
                if found.key not in loaded:
                    yield _load_one(database, found, source.body(found.key))
    except sqlite3.Error as error:
        raise Refusal(f"{path}: {error}") from None


def _add_columns(database: sqlite3.Connection) -> None:
    """Add the columns that a file from an older version of the loader lacks, and fill them from the payloads."""
    database.execute("BEGIN IMMEDIATE")  # lock before the check, because another loader may be adding them
    if "invalid_code" in {name for _, name, *_ in database.execute("PRAGMA table_info(events)")}:
        database.execute("COMMIT")
        return
    for name, kind in _COLUMNS.items():
        database.execute(f"ALTER TABLE events ADD COLUMN {name} {kind}")
    places = ", ".join(f"{name} = ?" for name in ("occurred_us", *_COLUMNS))
    rows = database.execute("SELECT rowid, payload, file_name, file_modified_at FROM events").fetchall()
    database.executemany(
        f"UPDATE events SET {places} WHERE rowid = ?",
        (
            (*_read(payload.encode(), hour_of(key) or datetime.fromisoformat(at)), rowid)
            for rowid, payload, key, at in rows
        ),
    )
    database.execute("COMMIT")


def _load_one(database: sqlite3.Connection, found: Object, body: bytes | None) -> Row:
    if body is None:
        return {"key": found.key, "result": "gone", "lines": 0}
    text, cut = inflated(body)
    lines = list(lines_in(text))
    if problem := _problem(body, lines, cut):
        return {"key": found.key, "result": f"skipped: {problem}", "lines": 0}
    modified_at = found.modified_at.astimezone(UTC)
    hour, written = hour_of(found.key) or modified_at, modified_at.isoformat(timespec="seconds")
    rows = [(line.decode(), found.key, number, written, *_read(line, hour)) for number, line in lines]
    names = ("payload", "file_name", "file_row_number", "file_modified_at", "occurred_us", *_COLUMNS)
    into = f"INSERT INTO events ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    database.execute("BEGIN IMMEDIATE")
    try:
        # Another loader may have loaded this object at the same time.
        added = database.execute("INSERT OR IGNORE INTO loads VALUES (?, ?, ?)", (found.key, len(rows), now))
        if added.rowcount:
            database.executemany(into, rows)
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
    return {"key": found.key, "result": "loaded", "lines": len(rows)}


def _problem(body: bytes, lines: Sequence[tuple[int, bytes]], cut: str) -> str:
    if not body:
        return "the object is empty"
    for number, line in lines:
        if problem := problem_of(line):
            return f"line {number}: {problem}"
    return cut


def _read(line: bytes, hour: datetime) -> tuple[str | float | None, ...]:
    """Return the values of `occurred_us` and _COLUMNS for a line.

    For a line that `check` rejects, only `invalid_code` is set. An event with an implausible time has all values.
    """
    value = parse_json(line)
    try:
        event = check(value)
    except InvalidEvent as invalid:
        return (None, invalid.reasons[0].code, *[None] * (len(_COLUMNS) - 2), 0)
    return (
        (event.created_at - _EPOCH) // timedelta(microseconds=1),
        fault_at_receipt(event.created_at, hour, hour + timedelta(hours=1)) or None,
        event.id,
        event.type,
        event.device_id,
        event.fence and event.fence.tag,
        event.fence and event.fence.external_id,
        event.duration_minutes,
        event.confidence,
        _litres(value.get("metadata")),
        str(value.get("replayed")).lower() in _TRUE,
    )


def _litres(metadata: object) -> float | None:
    said = metadata.get("litres") if isinstance(metadata, dict) else None
    is_number = isinstance(said, int | float) and not isinstance(said, bool)
    if not is_number and not (isinstance(said, str) and _NUMBER.fullmatch(said)):
        return None
    litres = float(str(said))
    return litres if 0 <= litres <= MAX_LITRES else None
