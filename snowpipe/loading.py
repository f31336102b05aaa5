"""Loads that a person asks for: refresh, back-fill, and one file again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import batched

from contract.lines import lines_in
from snowpipe.archive import Archive, Object
from snowpipe.history import bad_lines, history, inflated
from snowpipe.pipes import HISTORY_REACH, MESSAGE_DELAY, REFRESH_REACH, Pipe, status
from snowpipe.refusal import Refusal
from snowpipe.times import literal
from snowpipe.warehouse import Row, Warehouse, quoted

MAX_FILES = 1000  # of one COPY (COPY INTO <table>, FILES)


def loaded_keys(warehouse: Warehouse, pipe: Pipe, objects: Iterable[Object]) -> set[str]:
    """Which of the objects' keys have rows in the pipe's table, or stand in its history as loaded.

    (An object without a line leaves no row.)
    """
    keys = [found.key for found in objects]
    if not keys:
        return set()
    rows = warehouse.query(
        f"SELECT DISTINCT FILE_NAME FROM {pipe.table} WHERE FILE_NAME BETWEEN %s AND %s",  # noqa: S608
        [min(keys), max(keys)],
    )
    past = history(warehouse, pipe, datetime.now(UTC) - HISTORY_REACH)
    known = {row["file_name"] for row in rows} | {row["key"] for row in past if row["status"] == "Loaded"}
    return known & set(keys)


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
    reach = datetime.now(UTC) - REFRESH_REACH
    old = [
        found
        for found in archive.objects(pipe.prefix + prefix)
        if found.modified_at < reach and (since is None or found.modified_at >= since)
    ]
    loaded = loaded_keys(warehouse, pipe, old)
    rows = warehouse.query(f"ALTER PIPE {pipe.name} REFRESH{options}")
    return Refreshed(
        [pipe.prefix + pipe.staged(row["file"]) for row in rows if row["status"].upper() == "SENT"],
        [found.key for found in old if found.key not in loaded],
    )


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
        queued_from = (waiting.oldest_pending_at or datetime.now(UTC)) - MESSAGE_DELAY
        left = [each for each in found if each.modified_at < queued_from]
    else:
        left = found
    loaded = loaded_keys(warehouse, pipe, left)
    keys = [each.key for each in left if each.key not in loaded]
    return copy_files(warehouse, pipe, copy, keys, told), len(found) - len(keys)


def reload(warehouse: Warehouse, pipe: Pipe, archive: Archive, copy: str, key: str) -> Row:
    """Load one object again, and only then delete the rows that it had.

    Broken off between the two, its rows stand there twice, which RAW may; never not at all.
    """
    body = archive.body(key)
    if body is None:
        raise Refusal(f"s3://{archive.bucket}/{key} is not there: its rows were left alone")
    if bad := next(bad_lines(body), None):
        where = f"line {bad.line}: " if bad.line else ""
        raise Refusal(f"{key}: {where}{bad.problem}; repair it under a new key; its rows were left alone", 1)
    lines = sum(1 for _ in lines_in(inflated(body)[0]))
    (before,) = warehouse.query("SELECT CURRENT_TIMESTAMP() AS NOW")
    result = copy_files(warehouse, pipe, f"{copy}\nFORCE = TRUE", [key])[0]
    if result["rows"] != lines:
        reason = result["first_error"] or result["status"]
        raise Refusal(f"{key}: {result['rows']} of {lines} lines were loaded: {reason}; none were deleted", 1)
    deleted = warehouse.query(
        f"DELETE FROM {pipe.table} WHERE FILE_NAME = %s AND SCANNED_AT < {literal(before['now'])}",  # noqa: S608
        [key],
    )
    return result | {"rows_deleted": next(iter(deleted[0].values())) if deleted else None}
