"""The load result of each file, from COPY_HISTORY, and the invalid lines of files that failed to load."""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contract.events import InvalidEvent
from contract.ndjson import BYTE_ORDER_MARK
from contract.strict_json import parse_json
from snowpipe.archive import Archive
from snowpipe.pipes import HISTORY_REACH, Pipe
from snowpipe.quoting import quoted, timestamp_literal
from snowpipe.warehouse import Row, Warehouse

# Statuses of a file that is not completely in the table and that no pipe loads again. (Snowflake:
# "COPY_HISTORY")
FAILED = ("Load failed", "Partially loaded", "Load skipped")

_REACH_MINUTES = (HISTORY_REACH - timedelta(minutes=5)) // timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Narrow:
    """A filter for COPY_HISTORY. Snowflake applies it, because 14 days of history can contain millions of files.

    `keys` are the smallest and the greatest key to include. `newest` keeps only the last load of each file,
    so that a file that was loaded after a failure does not count as failed.
    """

    statuses: Sequence[str] = ()
    keys: tuple[str, str] | None = None
    newest: bool = False
    limit: int | None = None


def history(warehouse: Warehouse, pipe: Pipe, since: datetime, narrow: Narrow = Narrow()) -> list[Row]:
    """Return a row per load since `since` that matches the filter, newest first. COPY_HISTORY goes back 14 days.

    A file that was loaded twice appears twice.
    """
    rows = warehouse.query(history_sql(pipe, since, narrow))
    return [
        {
            "key": pipe.prefix + pipe.staged(row["file_name"].lstrip("/")),
            "status": row["status"],
            "rows": row["row_count"],
            "parsed": row["row_parsed"],
            "errors": row["error_count"],
            "loaded_at": row["last_load_time"],
            "bytes": row["file_size"],
            "by": "pipe" if row["pipe_name"] else "COPY",
            "first_error_line": row["first_error_line_number"],
            "first_error": row["first_error_message"],
        }
        for row in rows
    ]


def history_sql(pipe: Pipe, since: datetime, narrow: Narrow) -> str:
    # A START_TIME more than 14 days ago is an error, so limit it by Snowflake's own clock, with a margin.
    start = f"GREATEST({timestamp_literal(since)}, DATEADD('minute', -{_REACH_MINUTES}, CURRENT_TIMESTAMP()))"
    sql = f"""
        SELECT FILE_NAME, STATUS, ROW_COUNT, ROW_PARSED, ERROR_COUNT, FIRST_ERROR_MESSAGE,
            FIRST_ERROR_LINE_NUMBER, LAST_LOAD_TIME, FILE_SIZE, PIPE_NAME
        FROM TABLE({pipe.database}.INFORMATION_SCHEMA.COPY_HISTORY(
            TABLE_NAME => '{pipe.table}', START_TIME => {start}
        ))
        """
    if narrow.keys:
        first, last = (quoted(pipe.staged(key)) for key in narrow.keys)
        sql += f"WHERE LTRIM(FILE_NAME, '/') BETWEEN {first} AND {last}\n"
    if narrow.newest:
        sql += "QUALIFY ROW_NUMBER() OVER (PARTITION BY FILE_NAME ORDER BY LAST_LOAD_TIME DESC) = 1\n"
    if narrow.statuses:
        statuses = ", ".join(map(quoted, narrow.statuses))
        sql = f"SELECT * FROM ({sql}) WHERE STATUS IN ({statuses})\n"
    return sql + "ORDER BY LAST_LOAD_TIME DESC" + (f" LIMIT {narrow.limit}" if narrow.limit else "")


def failed_files(warehouse: Warehouse, pipe: Pipe, since: datetime) -> list[Row]:
    """Return a row per file whose latest load since `since` failed completely or in part."""
    return history(warehouse, pipe, since, Narrow(FAILED, newest=True))


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be loaded. `line` is 0 if the problem concerns the whole object."""

    line: int
    problem: str
    excerpt: str = ""


def bad_lines(body: bytes) -> Iterator[BadLine]:
    """Yield a `BadLine` for every line that is not strict JSON.

    If the object is empty, or its gzip is invalid or truncated, also yield one for the whole object.
    """
    text, cut = inflated(body)
    if not body:
        yield BadLine(0, "the object is empty")
    # Snowflake skips a byte order mark only at the start of a file (CREATE FILE FORMAT).
    for number, line in enumerate(text.removeprefix(BYTE_ORDER_MARK).split(b"\n"), 1):
        if line.strip() and (problem := problem_of(line)):
            yield BadLine(number, problem, line[:120].decode("utf-8", "replace"))
    if cut:
        yield BadLine(0, cut)


def problem_of(line: bytes) -> str:
    """Return the reason why a line is not strict JSON; "" if it is strict JSON."""
    try:
        parse_json(line)
    except InvalidEvent as invalid:
        return re.sub(r"at line 1 (column \d+)", r"at \1", invalid.reasons[0].message)
    return ""


def inflated(body: bytes) -> tuple[bytes, str]:
    """Decompress an object's body if it is gzip; return the text that could be read, and the reason why the rest
    could not ("" if all of it was read).
    """
    if not body.startswith(b"\x1f\x8b"):
        return body, ""
    text = b""
    while body:
        inflater = zlib.decompressobj(wbits=31)
        try:
            text += inflater.decompress(body)
        except zlib.error as broken:
            return text, f"the gzip is invalid: {broken}"
        if not inflater.eof:
            return text, "the gzip is truncated"
        body = inflater.unused_data
    return text, ""


def validate(warehouse: Warehouse, pipe: Pipe, archive: Archive, since: datetime) -> list[Row]:
    """Return a row per invalid line of the files whose latest load failed completely or in part.

    A file that no longer exists, or whose lines are all strict JSON, gets a single row. VALIDATE_PIPE_LOAD and
    VALIDATION_MODE do not support pipes whose COPY transforms data. The files are therefore taken from COPY_HISTORY,
    and their lines from S3.
    """
    failed = failed_files(warehouse, pipe, since)
    return [
        {
            "key": row["key"],
            "status": row["status"],
            "line": bad.line or None,
            "problem": bad.problem,
            "excerpt": bad.excerpt,
            "snowflake": row["first_error"],
        }
        for row in failed
        for bad in _closer(row, archive)
    ]


def _closer(row: Row, archive: Archive) -> list[BadLine]:
    body = archive.body(row["key"])
    if body is None:
        return [BadLine(0, "the object no longer exists in the bucket")]
    found = list(bad_lines(body))
    return found or [
        BadLine(
            row["first_error_line"] or 0, "every line is strict JSON: see the error in the column `snowflake`"
        )
    ]
