"""`milkrun forget`: delete a person's rows from job results, old versions of objects and SQLite files, and correct the
claim checks in queues.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from cli.refusal import Refusal
from contract.events import GeofenceEvent
from glue.archive import Bucket, Fault, Stored
from glue.forget import INVOCATION_RECORDS, SEARCHED_PREFIXES, Rewritten, rewrite
from glue.person import Subject, id_text, in_line
from ops import redrive
from snowpipe.warehouse import Row

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

RESULTS = ("rebuilt/", "streamed/")
COMPACTED = "compacted/"
DIFFERENCES = "/differences.ndjson"


# --- results of jobs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Recognizes the subject's rows in the results of jobs. `unreadable` collects the keys of damaged files."""

    subject: Subject
    crossings: Sequence[GeofenceEvent]
    pairs: Sequence[Row]
    unreadable: list[str] = field(default_factory=list)

    @cached_property
    def _known(self) -> frozenset[tuple[object, object]]:
        """Return the pairs of values that identify the subject's geofence events in rows.

        A pair consists of a device and an event id, a device and a time, or an object key and a line number.
        """
        events = {(event.device_id, event.event_id) for event in self.crossings}
        times = {(event.device_id, event.occurred_at) for event in self.crossings}
        lines = {(pair["old"], number) for pair in self.pairs for number in pair["removed"]}
        return frozenset[tuple[object, object]](events | times | lines)

    def without_theirs(self, key: str, body: bytes) -> tuple[bytes, int]:
        """Return a job's result without the subject's rows, and the number of removed rows.

        If the number is 0, which includes damaged files, do not store the returned bytes, which may be empty.
        """
        from pyarrow import ArrowException, parquet

        try:
            if key.endswith(DIFFERENCES):
                lines = body.splitlines(keepends=True)
                kept = [not self._in_difference(json.loads(line)) for line in lines]
                return b"".join(compress(lines, kept)), kept.count(False)
            table, made = parquet.read_table(BytesIO(body)), BytesIO()
            kept = [not self._is_theirs(row) for row in table.to_pylist()]
            if not all(kept):
                parquet.write_table(table.filter(kept), made)
            return made.getvalue(), kept.count(False)
        except (ArrowException, OSError, ValueError):  # includes JSON that is invalid or not UTF-8
            self.unreadable.append(key)
            return body, 0

    def _in_difference(self, row: Row) -> bool:
        """Return whether one of the two versions of a visit that `glue.compare` compared is the subject's."""
        sides = ({name: pair[side] for name, pair in row["fields"].items()} for side in (0, 1))
        return any(self._is_theirs(row | side) for side in sides)

    def _is_theirs(self, row: Row) -> bool:
        device = row.get("device_id")
        if id_text(device) in self.subject.devices | self.subject.own_devices:
            return True
        if row.get("payload") is not None:  # a compacted event
            return in_line(self.subject, row["payload"].encode())
        places = {(device, row.get(name)) for name in ("entered_event_id", "exited_event_id", "entered_at")}
        return not self._known.isdisjoint({*places, (row.get("file_name"), row.get("file_row_number"))})


def forget_results(bucket: Bucket, rows: Rows, archived_hours: Collection[str]) -> int:
    """Remove the subject's rows from the results of jobs, and delete the old versions of the changed files; return the
    number of deleted rows.

    Compacted hours that still have objects under `events/` are skipped, because they are compacted again later. All
    other files are searched, because they may outlive the objects that they were made from.
    """
    deleted = 0
    for prefix in (*RESULTS, COMPACTED):
        for stored in bucket.list(prefix):
            if not stored.key.endswith((".parquet", DIFFERENCES)) or "/checkpoint/" in stored.key:
                continue
            if prefix == COMPACTED and _compacted_hour(stored.key) in archived_hours:
                continue
            rest, count = rows.without_theirs(stored.key, bucket.read(stored.key))
            if not count:
                continue
            bucket.write(stored.key, rest)
            bucket.delete_versions(
                entry
                for entry in bucket.versions(stored.key)
                if entry["Key"] == stored.key and not entry["IsLatest"]
            )
            deleted += count
    return deleted


def _compacted_hour(key: str) -> str:
    """Return the hour's folder under `events/` for a key such as `compacted/dt=…/type=…/hh=….parquet`."""
    day, name = key.removeprefix(COMPACTED).partition("/")[0], key.rpartition("/")[2]
    return f"{day}/{name.partition('.')[0]}"


def checkpoints(bucket: Bucket) -> list[Stored]:
    """Return the newest object of each Spark checkpoint. A checkpoint contains the devices that are inside a fence."""
    newest: dict[str, Stored] = {}
    for stored in bucket.list("streamed/"):
        root, is_checkpoint, _ = stored.key.partition("/checkpoint/")
        if is_checkpoint and (root not in newest or newest[root].modified_at < stored.modified_at):
            newest[root] = stored
    return list(newest.values())


# --- old versions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _OldVersion:
    """One old version of an object, as a `glue.archive.Store`.

    Writing does nothing, because `rewrite` only has to find out whether the version contains lines of the subject.
    """

    bucket: Bucket
    entry: Row

    def list(self, prefix: str) -> Iterator[Stored]:
        raise NotImplementedError

    def read(self, key: str) -> bytes:
        version = self.bucket.s3.get_object(
            Bucket=self.bucket.name, Key=key, VersionId=self.entry["VersionId"]
        )
        body: bytes = version["Body"].read()
        return body

    def write(self, key: str, body: bytes) -> None:
        pass

    def write_file(self, key: str, path: Path) -> None:
        pass

    def delete(self, keys: Iterable[str]) -> None:
        raise NotImplementedError


def forget_old_versions(bucket: Bucket, rows: Rows) -> int:
    """Delete every noncurrent version that contains data of the subject; return the number of deleted versions."""
    deleted = 0
    for prefix in (*(f"{each}/" for each in SEARCHED_PREFIXES), INVOCATION_RECORDS, COMPACTED, *RESULTS):
        for entry in bucket.versions(prefix):
            # A delete marker has no size.
            if not entry["IsLatest"] and "Size" in entry and _is_theirs(bucket, rows, {**entry}):
                bucket.delete_versions([entry])
                deleted += 1
    return deleted


def _is_theirs(bucket: Bucket, rows: Rows, entry: Row) -> bool:
    version = _OldVersion(bucket, entry)
    if entry["Key"].endswith((".parquet", DIFFERENCES)):
        return rows.without_theirs(entry["Key"], version.read(entry["Key"]))[1] > 0
    found = rewrite(version, rows.subject, Stored(entry["Key"], entry["Size"], entry["LastModified"]))
    if isinstance(found, Fault):
        rows.unreadable.append(entry["Key"])
    return isinstance(found, Rewritten)


# --- queues ---------------------------------------------------------------------------------------------------


def repoint_claim_checks(sqs: "SQSClient", url: str, pairs: Iterable[Row]) -> int:
    """Point a queue's claim checks to the new objects and the remaining lines; return how many were changed.

    A claim check without remaining lines is deleted, and counts as changed.
    """
    by_key = {pair["old"]: pair for pair in pairs}
    changed = 0
    # A list, because the loop sends messages to the queue, which would otherwise be received again.
    for letter in list(redrive.dead_letters(sqs, url)):
        if letter.key not in by_key:
            redrive.release(sqs, url, letter)
            continue
        pair, claim = by_key[letter.key], json.loads(letter.body)
        removed = set(pair["removed"])
        lines = [n - sum(gone < n for gone in removed) for n in claim["lines"] if n not in removed]
        if lines:
            body = json.dumps({**claim, "key": pair["new"], "lines": lines}, allow_nan=False)
            sqs.send_message(QueueUrl=url, MessageBody=body)
        redrive.delete(sqs, url, letter)
        changed += 1
    return changed


# --- SQLite files ---------------------------------------------------------------------------------------------


def forget_in_sqlite(path: Path, subject: Subject, pairs: Iterable[Mapping[str, object]]) -> int:
    """Delete the subject's rows from an SQLite file that `warehouse load` wrote; return the number of deleted rows.

    If the file contains the rows of an object that `forget` replaced, the new object is marked as loaded, because its
    rows are already there.
    """
    if not path.is_file():
        raise Refusal(f"{path} is not a file")
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA secure_delete = ON")
            database.execute("BEGIN IMMEDIATE")
            rows = database.execute("SELECT rowid, payload FROM events")
            theirs = [(rowid,) for rowid, payload in rows if in_line(subject, payload.encode())]
            database.executemany("DELETE FROM events WHERE rowid = ?", theirs)
            loaded = {key for (key,) in database.execute("SELECT object_key FROM loads")}
            database.executemany(
                "INSERT OR IGNORE INTO loads SELECT ?, ?, loaded_at FROM loads WHERE object_key = ?",
                [(p["new"], p["lines_after"], p["old"]) for p in pairs if p["new"] and p["old"] in loaded],
            )
            database.execute("COMMIT")
            database.execute("VACUUM")  # free pages and the write-ahead log may contain deleted rows
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise Refusal(f"{path}: {error}") from None
    return len(theirs)
