"""Loads that an operator starts: refresh, backfill, loading after a long pause, and reload of one file."""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched

from cli.counts import count
from cli.refusal import Refusal
from contract.archive_object import hour_of, is_content
from contract.ndjson import lines_in
from snowpipe.archive import Archive, Object
from snowpipe.history import Narrow, bad_lines, failed_files, history, inflated
from snowpipe.pipes import (
    HISTORY_REACH,
    MESSAGE_DELAY,
    REFRESH_REACH,
    Pipe,
    created_at,
    drained,
    server_time,
    status,
)
from snowpipe.quoting import quoted
from snowpipe.warehouse import Row, Warehouse

MAX_FILES = 1000  # per COPY (COPY INTO <table>, FILES)
OBJECTS_A_QUERY = 20_000
LISTED = 10_000
LONG_AGO = datetime.min.replace(tzinfo=UTC)


def loaded_keys(warehouse: Warehouse, pipe: Pipe, objects: Iterable[Object]) -> set[str]:
    """Return the keys of the objects that have rows in the pipe's table, or a successful or unfinished load in the
    table's history.

    The history is needed for objects without lines, which have no rows, and for a load that is in progress, which COPY
    would repeat.
    """
    found = list(objects)
    if not found:
        return set()
    keys = {each.key for each in found}
    ends = (min(keys), max(keys))
    rows = warehouse.query(
        f"SELECT DISTINCT FILE_NAME FROM {pipe.table} WHERE FILE_NAME BETWEEN %s AND %s",
        list(ends),
    )
    # A file is loaded after it was written; S3's clock may differ a little from Snowflake's.
    since = min(each.modified_at for each in found) - MESSAGE_DELAY
    past = history(warehouse, pipe, since, Narrow(("Loaded", "Load in progress"), ends))
    return keys & ({row["file_name"] for row in rows} | {row["key"] for row in past})


def unloaded(warehouse: Warehouse, pipe: Pipe, objects: Iterable[Object]) -> Iterator[Object]:
    """Yield those objects that are not loaded yet. `objects` must be in key order; they are checked in chunks."""
    for some in batched(objects, OBJECTS_A_QUERY, strict=False):
        loaded = loaded_keys(warehouse, pipe, some)
        yield from (each for each in some if each.key not in loaded)


@dataclass(frozen=True)
class Refreshed:
    """The result of a refresh.

    `sent` contains the keys of the files that were queued; `out_of_reach` contains the keys of files that are
    not loaded but are too old for REFRESH.
    """

    sent: list[str]
    out_of_reach: list[str]


def refresh(
    warehouse: Warehouse, pipe: Pipe, archive: Archive, prefix: str = "", since: datetime | None = None
) -> Refreshed:
    """Queue the files that are missing from the load history, unless they are too old for REFRESH.

    Returns the queued keys, and the keys of files that are not loaded but are too old.

    `prefix`, such as `dt=2026-11-16/`, and `since` (compared with the time of receipt) restrict the files.
    """
    prefix = pipe.staged(prefix)
    reach = max(server_time(warehouse) - REFRESH_REACH, replaced_at(warehouse, pipe) or LONG_AGO)
    if since and not prefix:
        listed = archive.received(
            pipe.prefix, since - MESSAGE_DELAY, reach
        )  # by hour, because the archive may contain a year of objects
    else:
        listed = archive.objects(pipe.prefix + prefix)
    old = (
        found
        for found in listed
        if is_content(found.key, found.size)
        and found.modified_at < reach
        and (since is None or found.modified_at >= since)
    )
    out_of_reach = [found.key for found in unloaded(warehouse, pipe, old)]
    return Refreshed(refresh_pipe(warehouse, pipe, prefix, since), out_of_reach)


def replaced_at(warehouse: Warehouse, pipe: Pipe) -> datetime | None:
    """Return the pipe's creation time if an earlier pipe loaded rows into the same table; otherwise None.

    Each pipe has its own load history ("Manage Snowpipe", recreating pipes), so REFRESH would load the
    earlier pipe's files again.
    """
    created = created_at(warehouse, pipe)
    (row,) = warehouse.query(
        f"SELECT COUNT(*) AS n FROM {pipe.table} WHERE scanned_at < %s", [created.isoformat()]
    )
    return created if row["n"] else None


def refresh_pipe(
    warehouse: Warehouse, pipe: Pipe, prefix: str = "", since: datetime | None = None
) -> list[str]:
    """Run REFRESH and return the queued keys.

    REFRESH queues the files that are not in the load history and that were received in the last 7 days, not before
    `since`, and, if this pipe replaced an earlier one, not before the creation of this pipe.
    """
    options = f" PREFIX = {quoted(prefix)}" if prefix else ""
    after = max(since or LONG_AGO, replaced_at(warehouse, pipe) or LONG_AGO)
    # Seven days are the default and the maximum of MODIFIED_AFTER (Snowflake: "ALTER PIPE").
    if after > server_time(warehouse) - REFRESH_REACH:
        options += f" MODIFIED_AFTER = {quoted(after.isoformat())}"
    rows = warehouse.query(f"ALTER PIPE {pipe.name} REFRESH{options}")
    return [pipe.prefix + pipe.staged(row["file"]) for row in rows if row["status"].upper() == "SENT"]


def received_with_repaired(
    archive: Archive, pipe: Pipe, failed: Iterable[str], start: datetime, end: datetime
) -> Iterator[Object]:
    """Yield, in key order, the objects received from the hour of `start` through the hour of `end`, and the repaired
    objects received in that time, which `milkrun warehouse repair` stores in the hour of the file that failed.

    `failed` are the keys of the files that failed to load.
    """
    first = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    hours = sorted({hour for key in failed if (hour := hour_of(key)) and hour < first})
    repaired = (
        found
        for hour in hours
        for found in archive.in_hours(pipe.prefix, hour, hour)
        if start <= found.modified_at <= end
    )
    return heapq.merge(repaired, archive.received(pipe.prefix, start, end), key=lambda found: found.key)


def copy_files(
    warehouse: Warehouse, pipe: Pipe, copy: str, keys: Sequence[str], force: bool = False
) -> list[Row]:
    """Run COPY INTO … FILES, in chunks, for the objects with these keys; return a row per file that COPY processed."""
    # By default, COPY skips files that were last modified over 64 days ago if the first load into the table was over
    # 64 days ago, too. (Snowflake: "COPY INTO <table>", LOAD_UNCERTAIN_FILES.)
    option = "FORCE = TRUE" if force else "LOAD_UNCERTAIN_FILES = TRUE"
    done: list[Row] = []
    for chunk in batched(keys, MAX_FILES, strict=False):
        files = ", ".join(quoted(pipe.staged(key)) for key in chunk)
        rows = warehouse.query(f"{copy}\n{option}\nFILES = ({files})")
        # If another COPY has just loaded all the files, the only row is a message, which names no file.
        done += [outcome(pipe, row) for row in rows if row.get("file")]
    return done


def outcome(pipe: Pipe, row: Row) -> Row:
    """Parse a row of COPY's result, in which `file` is an s3:// URL or a path relative to the Snowflake stage."""
    name = str(row.get("file", ""))
    return {
        "key": name.split("/", 3)[3] if name.startswith("s3://") else pipe.prefix + pipe.staged(name),
        "status": row.get("status"),
        "rows": row.get("rows_loaded", 0),
        "first_error_line": row.get("first_error_line"),
        "first_error": row.get("first_error"),
    }


@dataclass(frozen=True)
class Backfilled:
    """The result of a backfill.

    `rows` lists every file that failed, but only about `LISTED` of the loaded files: those of the first chunks.
    """

    rows: list[Row]
    copied: int
    skipped: int  # loaded, or possibly in the pipe's queue


def backfill(
    warehouse: Warehouse,
    pipe: Pipe,
    archive: Archive,
    copy: str,
    start: datetime,
    end: datetime,
    on_copied: Callable[[int], None] = lambda _: None,
) -> Backfilled:
    """Load the objects received from the hour of `start` through the hour of `end` that are not loaded yet.

    COPY would load a file that is also in the pipe's queue a second time, so objects that may be queued are
    skipped. The backfill can be interrupted and repeated. It processes the objects in chunks, so that it needs
    little memory.
    """
    rows: list[Row] = []
    copied = count = 0
    for some in batched(archive.received(pipe.prefix, start, end), OBJECTS_A_QUERY, strict=False):
        count += len(some)
        missing = list(unloaded(warehouse, pipe, some))
        # The queue is read after the listing, and the loads after the queue, so that a file that leaves the queue
        # meanwhile counts as loaded.
        missing = not_queued(warehouse, pipe, missing)
        for keys in batched(
            (each.key for each in unloaded(warehouse, pipe, missing)), MAX_FILES, strict=False
        ):
            loaded = copy_files(warehouse, pipe, copy, keys)
            copied += len(loaded)
            on_copied(copied)
            is_listed = len(rows) < LISTED
            rows += [each for each in loaded if is_listed or each["status"] != "LOADED"]
    return Backfilled(rows, copied, count - copied)


def not_queued(warehouse: Warehouse, pipe: Pipe, objects: list[Object]) -> list[Object]:
    """Return the objects that are certainly not in the pipe's queue."""
    waiting = status(warehouse, pipe)
    if not waiting.pending:
        return objects
    queued_from = (waiting.oldest_pending_at or server_time(warehouse)) - MESSAGE_DELAY
    return [each for each in objects if each.modified_at < queued_from]


def load_expired(
    warehouse: Warehouse, pipe: Pipe, archive: Archive, copy: str, since: datetime, timeout: timedelta
) -> list[Row]:
    """Load the files received since `since` whose notifications expired while the pipe was paused.

    COPY would load the files in the pipe's queue a second time, so the pipe must load the files queued by now first.
    Then REFRESH queues the files of the last 7 days, and COPY loads the remaining ones, except those that failed to
    load or that may be in the queue. Returns a row per file that was queued or copied.
    """
    if not drained(warehouse, pipe, server_time(warehouse), time.monotonic() + timeout.total_seconds()):
        raise Refusal(
            (
                f"{pipe.name} is resumed, but has not loaded its queued files in time. When `milkrun warehouse status` "
                f"shows that it is healthy, run: milkrun warehouse resume --since {since.isoformat()}"
            ),
            1,
        )
    # The key of an object written at the start of an hour may contain the hour before.
    start = since - MESSAGE_DELAY
    now = server_time(warehouse)
    failed = [row["key"] for row in failed_files(warehouse, pipe, now - HISTORY_REACH)]
    # Listed before REFRESH, because the pipe itself loads the files that arrive later.
    received = received_with_repaired(archive, pipe, failed, start, now)
    missing = not_queued(warehouse, pipe, list(unloaded(warehouse, pipe, received)))
    sent = refresh_pipe(warehouse, pipe)
    known = {*sent, *(row["key"] for row in failed_files(warehouse, pipe, start))}
    keys = [each.key for each in unloaded(warehouse, pipe, missing) if each.key not in known]
    copied = copy_files(warehouse, pipe, copy, keys)
    queued: list[Row] = [{"key": key, "result": "queued"} for key in sent]
    return queued + [{"key": row["key"], "result": row["status"]} for row in copied]


def reload(warehouse: Warehouse, pipe: Pipe, archive: Archive, copy: str, key: str) -> Row:
    """Replace one object's rows with the object's current content, in one transaction; return COPY's result.

    Readers see either the old rows or the new ones. If the object does not load completely, or the session
    ends early, the old rows remain.
    """
    body = archive.body(key)
    if body is None:
        raise Refusal(f"s3://{archive.bucket}/{key} does not exist, so its rows were not changed")
    if bad := next(bad_lines(body), None):
        where = f"line {bad.line}: " if bad.line else ""
        raise Refusal(
            f"{key} cannot be loaded ({where}{bad.problem}), so its rows were not changed. To store a repaired file "
            "under a new key, run milkrun warehouse repair.",
            1,
        )
    lines = sum(1 for _ in lines_in(inflated(body)[0]))
    warehouse.query("BEGIN")
    try:
        deleted = warehouse.query(f"DELETE FROM {pipe.table} WHERE FILE_NAME = %s", [key])
        copied = copy_files(warehouse, pipe, copy, [key], force=True)
        result = copied[0] if copied else outcome(pipe, {"file": key, "status": "COPY processed no file"})
        if result["rows"] != lines:
            reason = result["first_error"] or result["status"]
            raise Refusal(
                (
                    f"COPY loaded only {result['rows']:,} of {count(lines, 'line')} of {key}: {reason}. Its existing "
                    "rows were not changed."
                ),
                1,
            )
        warehouse.query("COMMIT")
    except BaseException:
        with suppress(Refusal):  # a lost session has already rolled back
            warehouse.query("ROLLBACK")
        raise
    return result | {"rows_deleted": next(iter(deleted[0].values())) if deleted else None}
