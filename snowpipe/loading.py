"""Loads that a person asks for: refresh, back-fill, and one file again."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import batched

from contract.lines import lines_in
from snowpipe.archive import Archive, Object
from snowpipe.history import Narrow, bad_lines, failed_files, history, inflated
from snowpipe.pipes import MESSAGE_DELAY, REFRESH_REACH, Pipe, server_time, status
from snowpipe.quoting import quoted
from snowpipe.refusal import Refusal
from snowpipe.warehouse import Row, Warehouse

MAX_FILES = 1000  # of one COPY (COPY INTO <table>, FILES)


def loaded_keys(warehouse: Warehouse, pipe: Pipe, objects: Iterable[Object]) -> set[str]:
    """Which of the objects' keys have rows in the pipe's table, or stand in its history as loaded.

    (An object without a line leaves no row.)
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
    # No file is loaded before it is written; S3's clock may differ from Snowflake's a little.
    since = min(each.modified_at for each in found) - MESSAGE_DELAY
    past = history(warehouse, pipe, since, Narrow(("Loaded",), ends))
    return keys & ({row["file_name"] for row in rows} | {row["key"] for row in past})


@dataclass(frozen=True)
class Refreshed:
    """`sent`: keys now queued. `out_of_reach`: not loaded, and older than the 7 days that REFRESH sees."""

    sent: list[str]
    out_of_reach: list[str]


def refresh(
    warehouse: Warehouse, pipe: Pipe, archive: Archive, prefix: str = "", since: datetime | None = None
) -> Refreshed:
    """Queue what is in the bucket and in no history. `prefix` begins keys, such as `dt=2026-11-16/`."""
    prefix = pipe.staged(prefix)
    options = f" PREFIX = {quoted(prefix)}" if prefix else ""
    if since:
        options += f" MODIFIED_AFTER = {quoted(since.isoformat())}"
    reach = server_time(warehouse) - REFRESH_REACH
    if since and not prefix:
        listed = archive.received(pipe.prefix, since, reach)  # by the hour: the archive may hold a year
    else:
        listed = archive.objects(pipe.prefix + prefix)
    old = [
        found
        for found in listed
        if found.modified_at < reach and (since is None or found.modified_at >= since)
    ]
    loaded = loaded_keys(warehouse, pipe, old)
    sent = refresh_pipe(warehouse, pipe, options)
    return Refreshed(sent, [found.key for found in old if found.key not in loaded])


def refresh_pipe(warehouse: Warehouse, pipe: Pipe, options: str = "") -> list[str]:
    """Queue the files of the last 7 days that neither history knows; the keys that were queued."""
    rows = warehouse.query(f"ALTER PIPE {pipe.name} REFRESH{options}")
    return [pipe.prefix + pipe.staged(row["file"]) for row in rows if row["status"].upper() == "SENT"]


def copy_files(
    warehouse: Warehouse,
    pipe: Pipe,
    copy: str,
    keys: Sequence[str],
    told: Callable[[int], None] = lambda _: None,
) -> list[Row]:
    """COPY INTO … FILES, as many at a time as are allowed; a row per file. `told` hears how many are done."""
    done: list[Row] = []
    for chunk in batched(keys, MAX_FILES, strict=False):
        files = ", ".join(quoted(pipe.staged(key)) for key in chunk)
        done += [outcome(pipe, row) for row in warehouse.query(f"{copy}\nFILES = ({files})")]
        told(len(done))
    return done


def outcome(pipe: Pipe, row: Row) -> Row:
    """A row of COPY's answer. COPY names a file by its stage's URL and its path, or by the path alone."""
    name = str(row.get("file", ""))
    return {
        "key": name.split("/", 3)[3] if name.startswith("s3://") else pipe.prefix + pipe.staged(name),
        "status": row.get("status"),
        "rows": row.get("rows_loaded", 0),
        "first_error_line": row.get("first_error_line"),
        "first_error": row.get("first_error"),
    }


def backfill(
    warehouse: Warehouse,
    pipe: Pipe,
    archive: Archive,
    copy: str,
    start: datetime,
    end: datetime,
    told: Callable[[int], None] = lambda _: None,
) -> tuple[list[Row], int]:
    """Load what was received from `start` to `end` (by the hour in the keys) and is not loaded yet.

    What was loaded, a row per file; and how many were left out, because they are loaded or because the pipe
    may have them in its queue (COPY and the pipe know nothing of each other). Broken off, it goes on where it
    was when it is run again.
    """
    found = list(archive.received(pipe.prefix, start, end))
    waiting = status(warehouse, pipe)
    if waiting.pending:
        queued_from = (waiting.oldest_pending_at or server_time(warehouse)) - MESSAGE_DELAY
        left = [each for each in found if each.modified_at < queued_from]
    else:
        left = found
    loaded = loaded_keys(warehouse, pipe, left)
    keys = [each.key for each in left if each.key not in loaded]
    return copy_files(warehouse, pipe, copy, keys, told), len(found) - len(keys)


def load_expired(
    warehouse: Warehouse, pipe: Pipe, archive: Archive, copy: str, since: datetime, patience: timedelta
) -> list[Row]:
    """Load what a stale pipe was told of and has forgotten: everything received since `since`.

    The pipe's queue comes first, because COPY does not know what waits there. REFRESH queues what is at most
    7 days old, COPY loads what REFRESH left out and no history knows. A row per object.
    """
    deadline = time.monotonic() + patience.total_seconds()
    while (waiting := status(warehouse, pipe)).pending:
        if time.monotonic() > deadline:
            raise Refusal(
                f"{pipe.name} is resumed, and {waiting.pending} file(s) still wait: when `status` shows none, "
                f"run: resume --since {since.isoformat()}",
                1,
            )
        time.sleep(1)
    # Listed before REFRESH: what arrives later is the pipe's.
    found = list(archive.received(pipe.prefix, since, server_time(warehouse)))
    sent = refresh_pipe(warehouse, pipe)
    known = set(sent) | loaded_keys(warehouse, pipe, found)
    known |= {row["key"] for row in failed_files(warehouse, pipe, since)}
    copied = copy_files(warehouse, pipe, copy, [each.key for each in found if each.key not in known])
    queued: list[Row] = [{"key": key, "result": "queued"} for key in sent]
    return queued + [{"key": row["key"], "result": row["status"]} for row in copied]


def reload(warehouse: Warehouse, pipe: Pipe, archive: Archive, copy: str, key: str) -> Row:
    """Replace one object's rows by what the object holds now, in one transaction.

    Whoever reads meanwhile sees the old rows or the new ones. If the object does not load whole, or the session
    ends half-way, the old rows stay.
    """
    body = archive.body(key)
    if body is None:
        raise Refusal(f"s3://{archive.bucket}/{key} does not exist: its rows were left alone")
    if bad := next(bad_lines(body), None):
        where = f"line {bad.line}: " if bad.line else ""
        raise Refusal(f"{key}: {where}{bad.problem}; repair it under a new key; its rows were left alone", 1)
    lines = sum(1 for _ in lines_in(inflated(body)[0]))
    warehouse.query("BEGIN")
    try:
        deleted = warehouse.query(f"DELETE FROM {pipe.table} WHERE FILE_NAME = %s", [key])
        result = copy_files(warehouse, pipe, f"{copy}\nFORCE = TRUE", [key])[0]
        if result["rows"] != lines:
            reason = result["first_error"] or result["status"]
            raise Refusal(
                f"{key}: {result['rows']} of {lines} lines were loaded: {reason}; its rows were left alone", 1
            )
        warehouse.query("COMMIT")
    except BaseException:
        with suppress(Refusal):  # a session that is gone has rolled back by itself
            warehouse.query("ROLLBACK")
        raise
    return result | {"rows_deleted": next(iter(deleted[0].values())) if deleted else None}
