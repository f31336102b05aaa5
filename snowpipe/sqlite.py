"""The smallest warehouse: the archive's events in one table of a SQLite file.

Each object is loaded in one transaction together with its entry in `loads`, so that loading again adds
nothing and breaking off leaves no object half loaded. An object with a line that is not strict JSON is left
out whole, as Snowpipe's SKIP_FILE does.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from contract.events import InvalidEvent, check, parse_json
from snowpipe.archive import Archive, Object
from snowpipe.history import bad_lines, inflated
from snowpipe.refusal import Refusal
from snowpipe.warehouse import Row

_SCHEMA = """
CREATE TABLE IF NOT EXISTS loads (
    object_key TEXT PRIMARY KEY,
    lines INTEGER NOT NULL,
    loaded_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
    payload TEXT NOT NULL,              -- the event as it was sent, JSON
    occurred_us INTEGER,                -- createdAt in microseconds since 1970, null where it is none
    file_name TEXT NOT NULL,            -- key of the object
    file_row_number INTEGER NOT NULL,
    file_modified_at TEXT NOT NULL,     -- when S3 took the object, UTC
    PRIMARY KEY (file_name, file_row_number)
);
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OURS = re.compile(r"(?:^|/)((?:events/)?dt=\d{4}-\d\d-\d\d/hh=\d\d/[^/]+)$")
_NOT_EVENTS = ("rejected/", "set-aside/", "aws/")


class Source(Protocol):
    def objects(self) -> Iterable[Object]: ...
    def body(self, key: str) -> bytes | None: ...


@dataclass(frozen=True)
class Bucket:
    """Objects of a bucket under a prefix."""

    archive: Archive
    prefix: str

    def objects(self) -> Iterator[Object]:
        return (found for found in self.archive.objects(self.prefix) if not found.key.startswith(_NOT_EVENTS))

    def body(self, key: str) -> bytes | None:
        return self.archive.body(key)


class Folder:
    """NDJSON files below a folder, plain or gzip; a copy of the bucket keeps the bucket's keys."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise Refusal(f"{folder} is no folder")
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
    """`sqlite:///events.db` is a path from here, `sqlite:////tmp/events.db` from the root."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path:
        raise Refusal(f"{url!r}: --to takes sqlite:///FILE")
    return Path(path)


def load(path: Path, source: Source) -> Iterator[Row]:
    """Load what is not loaded yet; a row per object looked at, as it is done."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.executescript(_SCHEMA)
            loaded = {key for (key,) in database.execute("SELECT object_key FROM loads")}
            for found in source.objects():
                if found.key not in loaded:
                    yield _load_one(database, found, source.body(found.key))
    except sqlite3.Error as error:
        raise Refusal(f"{path}: {error}") from None


def _load_one(database: sqlite3.Connection, found: Object, body: bytes | None) -> Row:
    if body is None:
        return {"key": found.key, "result": "gone", "lines": 0}
    if bad := next(bad_lines(body), None):
        where = f"line {bad.line}: " if bad.line else ""
        return {"key": found.key, "result": f"left out: {where}{bad.problem}", "lines": 0}
    modified_at = found.modified_at.astimezone(UTC).isoformat(timespec="seconds")
    rows = [
        (line.decode(), _occurred_us(line), found.key, number, modified_at)
        for number, line in enumerate(inflated(body)[0].split(b"\n"), 1)
        if line.strip()
    ]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    database.execute("BEGIN IMMEDIATE")
    try:
        # Another loader on the same file may have been quicker.
        added = database.execute("INSERT OR IGNORE INTO loads VALUES (?, ?, ?)", (found.key, len(rows), now))
        if added.rowcount:
            database.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
    return {"key": found.key, "result": "loaded", "lines": len(rows)}


def _occurred_us(line: bytes) -> int | None:
    try:
        created_at = check(parse_json(line)).created_at
    except InvalidEvent:
        return None
    return (created_at - _EPOCH) // timedelta(microseconds=1)
