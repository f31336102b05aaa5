"""Load staged objects: read many concurrently, then commit their rows and their history in one transaction."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import botocore.exceptions
import duckdb
import pyarrow as pa
import structlog

from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog
from local_snowflake.catalog_objects import PIPE_HISTORY, TABLE_HISTORY, Pipe
from local_snowflake.errors import stage_failure
from local_snowflake.parse_copy import BATCH
from local_snowflake.parse_staged_file import BadRow, Content, Row, UnreadableFile, read
from local_snowflake.plans import NotRunnable, Plan, plan_of_pipe
from local_snowflake.sql import OURS, Name, hidden, quoted

log = structlog.get_logger()

MAX_FILES = 500
MAX_BYTES = 8 * 1024 * 1024
GUNZIPPED = 20  # the assumed ratio of a file's decompressed size to its size on S3
PARALLEL_READS = 16


class StagedFile(NamedTuple):
    """A staged object to load into a table."""

    bucket: str
    key: str
    file_name: str
    size: int
    received_on: datetime | None = None


@dataclass
class LoadedFile:
    """A staged file that has been read and may have been loaded. Its fields become the file's row in the load
    history.
    """

    file: StagedFile
    content: Content = field(default_factory=Content)
    size: int = 0
    etag: str = ""
    last_modified: datetime | None = None
    scanned_on: datetime | None = None
    failure: str | None = None
    """The reason why the file as a whole could not be read, or None."""
    missing: bool = False

    def keep_what_loads(self, plan: Plan) -> None:
        """Discard the file's rows if the file could not be read or is skipped according to ON_ERROR."""
        if self.failure or plan.on_error.skips(len(self.content.errors), self.content.parsed):
            self.skipped = True
            self.content.rows.clear()

    skipped: bool = False
    parsed: int = 0
    loaded: int = 0

    @property
    def first_error(self) -> str | None:
        first = min(self.content.errors, default=None)
        return self.failure or (first.message if first else None)

    @property
    def status(self) -> str:
        if self.failure or self.skipped:
            return "Load failed"
        if not self.content.errors:
            return "Loaded"
        return "Partially loaded" if self.loaded else "Load failed"


DATA_ERRORS = (
    duckdb.DataError,
    duckdb.ConversionException,
    duckdb.ConstraintException,
    duckdb.InvalidInputException,
)


# S3's errors about one object, such as an archived one or an invalid key, and not about the bucket or its reader.
OF_ONE_OBJECT = {"InvalidObjectState", "KeyTooLongError", "InvalidURI", "MethodNotAllowed"}


class StageRefused(Exception):
    """Raised if S3 refuses a request for a reason that concerns the whole stage, such as denied access or a missing
    bucket.
    """


class StageUnreachable(Exception):
    """Raised if S3 cannot be reached, throttles requests or has an internal error."""


@dataclass
class Read:
    files: list[LoadedFile] = field(default_factory=list)
    unread: list[tuple[StagedFile, StageRefused | StageUnreachable]] = field(default_factory=list)


type S3 = Any  # boto3's client, whose methods are created at run time


class Loader:
    def __init__(self, catalog: Catalog, s3: S3, authority: Authority) -> None:
        self.catalog = catalog
        self.authority = authority
        self.s3 = s3
        self.readers = ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="read")
        self._plans: dict[str, tuple[int, Plan | NotRunnable]] = {}

    # ---- plans, compiled again after any statement that may have changed an object

    def plan(self, pipe: Pipe) -> Plan:
        version = self.catalog.version
        known = self._plans.get(pipe.pipe_id)
        if known is None or known[0] != version:
            found: Plan | NotRunnable
            try:
                found = plan_of_pipe(self.catalog, self.authority, pipe)
            except NotRunnable as reason:
                found = reason
            self._plans[pipe.pipe_id] = known = (version, found)
        if isinstance(known[1], NotRunnable):
            raise known[1]
        return known[1]

    # ---- reading

    def read(self, plan: Plan, files: Sequence[StagedFile]) -> "Read":
        """Read the staged objects concurrently. Return the files that were read, including missing and
        invalid ones, and the files that raised StageRefused or StageUnreachable, each with its error.
        """
        read = Read()
        for file, result in zip(
            files, self.readers.map(lambda file: self._try(plan, file), files), strict=True
        ):
            if isinstance(result, LoadedFile):
                read.files.append(result)
            else:
                read.unread.append((file, result))
        return read

    def _try(self, plan: Plan, file: StagedFile) -> "LoadedFile | StageRefused | StageUnreachable":
        try:
            return self.read_one(plan, file)
        except (StageRefused, StageUnreachable) as problem:
            return problem

    def listed(self, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield the objects under a prefix, for LIST, REFRESH and COPY."""
        try:
            for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                yield from page.get("Contents", ())
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            raise stage_failure(str(error)) from None

    def read_one(self, plan: Plan, file: StagedFile) -> LoadedFile:
        loaded = LoadedFile(file, scanned_on=self.catalog.clock())
        try:
            answer = self.s3.get_object(Bucket=file.bucket, Key=file.key)
            body = answer["Body"].read()
        except botocore.exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchKey", "404"):
                loaded.missing = True
                loaded.failure = (
                    f"Remote file 's3://{file.bucket}/{file.key}' was not found. "
                    "There are several potential causes. The file might not exist. "
                    "The required credentials may be missing or invalid."
                )
                return loaded
            if code in OF_ONE_OBJECT:
                loaded.failure = f"Remote file 's3://{file.bucket}/{file.key}' cannot be read: {error}"
                return loaded
            if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500 or code in (
                "SlowDown",
                "Throttling",
            ):
                raise StageUnreachable(str(error)) from None
            raise StageRefused(str(error)) from None
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise StageUnreachable(str(error)) from None
        loaded.size = len(body)
        loaded.etag = answer["ETag"].strip('"')
        loaded.last_modified = answer["LastModified"]
        try:
            loaded.content = read(body, plan.file_format)
        except UnreadableFile as error:
            loaded.failure = str(error)
        loaded.parsed = loaded.content.parsed
        return loaded

    # ---- loading

    def load(self, plan: Plan, files: Sequence[LoadedFile]) -> None:
        """Commit all rows and all history rows in one transaction, and set each file's result. If the table
        refuses a row, the files are loaded one by one, so that ON_ERROR applies only to the file with that row.
        """
        for file in files:
            file.keep_what_loads(plan)
        try:
            self._commit(plan, files)
        except DATA_ERRORS as error:
            if len(files) > 1:
                for file in files:
                    self.load(plan, [file])
            else:
                self.find_refused_rows(plan, files[0], error)
                files[0].keep_what_loads(plan)
                self._commit(plan, files)

    def find_refused_rows(self, plan: Plan, file: LoadedFile, whole: duckdb.Error | None = None) -> None:
        """Find the rows of a file that the table refuses, so that ON_ERROR applies to each row: insert the rows, roll
        the insert back and, if it failed, repeat this with each half. `whole` is the error of inserting all rows
        together; it is recorded if no single row is refused. Raises errors that do not concern the data, such as a
        full disk.
        """
        good: list[Row] = []
        bad: list[BadRow] = []
        parts = [file.content.rows]
        with self.catalog.fakesnow.cursor() as cursor:
            while parts:
                rows = parts.pop()
                cursor.begin()
                try:
                    insert_rows(cursor, plan, [(file, rows)])
                    good += rows
                except duckdb.Error as error:
                    if len(rows) > 1:
                        middle = len(rows) // 2
                        parts += [rows[middle:], rows[:middle]]
                    elif isinstance(error, DATA_ERRORS):
                        bad.append(BadRow(rows[0].line, 1, first_line(error)))
                    else:
                        raise
                finally:
                    cursor.rollback()
        if not bad and whole:  # the rows fail only together
            bad, good = [BadRow(1, 1, first_line(whole))], []
        file.content.rows = good
        file.content.errors = sorted(file.content.errors + bad)

    def _commit(self, plan: Plan, files: Sequence[LoadedFile]) -> None:
        database = plan.target.database
        self.catalog.create_histories(database)
        with self.catalog.transaction() as cursor:
            insert_rows(cursor, plan, [(file, file.content.rows) for file in files])
            for file in files:
                file.loaded = len(file.content.rows)
            record(cursor, plan, files, self.catalog.clock())
        for file in files:
            file.content.rows = []  # free the memory before the next batch is read

    # ---- histories

    def loaded_by_pipe(self, plan: Plan, names: Sequence[str]) -> set[str]:
        """Return the given file names that are in the pipe's load history of the last 14 days, including files that
        failed to load, and regardless of their ETags.
        """
        assert plan.pipe
        database = plan.target.database
        self.catalog.create_histories(database)
        rows = self.catalog.rows(
            f"""SELECT DISTINCT file_name FROM {hidden(database)}._local_history
                WHERE pipe_id = ? AND last_load_time > ? AND file_name IN (SELECT unnest(?::VARCHAR[]))""",
            [plan.pipe.pipe_id, self.catalog.clock() - PIPE_HISTORY, list(names)],
        )
        return {row[0] for row in rows}

    def loaded_by_hand(
        self, duck: duckdb.DuckDBPyConnection, target: Name, stage_location: str
    ) -> dict[str, str]:
        """Return the ETag of each file that a user's COPY has loaded from the stage's URL into the table within the
        last 64 days, keyed by file name.
        """
        rows = duck.execute(
            f"""SELECT file_name, etag FROM {hidden(target.database)}._local_history
                WHERE pipe_id IS NULL AND table_schema = ? AND table_name = ? AND stage_location = ?
                AND NOT forgotten AND status <> 'Load failed' AND last_load_time > ?
                ORDER BY last_load_time""",  # the latest ETag counts for a file that was loaded twice
            [target.schema, target.name, stage_location, self.catalog.clock() - TABLE_HISTORY],
        ).fetchall()
        return dict(rows)

    def first_load(self, duck: duckdb.DuckDBPyConnection, target: Name) -> datetime | None:
        """Return the time of the first load into the table by a user's COPY or an existing pipe, or None. Loads by a
        COPY before the table was last truncated or replaced do not count.
        """
        [(first,)] = duck.execute(
            f"""SELECT min(last_load_time) FROM {hidden(target.database)}._local_history
                WHERE table_schema = ? AND table_name = ? AND status <> 'Load failed'
                AND (pipe_id IS NULL AND NOT forgotten OR pipe_id IN (SELECT pipe_id FROM {OURS}.pipes))""",
            [target.schema, target.name],
        ).fetchall()
        return first  # type: ignore[no-any-return]


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:1000]


SCHEMA = pa.schema(
    {
        "C1": pa.string(),
        "METADATA$FILENAME": pa.string(),
        "METADATA$FILE_ROW_NUMBER": pa.int64(),
        "METADATA$FILE_CONTENT_KEY": pa.string(),
        "METADATA$FILE_LAST_MODIFIED": pa.timestamp("us"),
        "METADATA$START_SCAN_TIME": pa.timestamp("us", tz="UTC"),
    }
)


def insert_rows(
    cursor: duckdb.DuckDBPyConnection, plan: Plan, files: Iterable[tuple[LoadedFile, Sequence[Row]]]
) -> None:
    texts: list[str] = []
    names: list[str] = []
    numbers: list[int] = []
    etags: list[str] = []
    modified: list[datetime | None] = []
    scanned: list[datetime | None] = []
    for file, rows in files:
        count = len(rows)
        texts += [row.text for row in rows]
        numbers += [row.number for row in rows]
        names += [file.file.key] * count
        etags += [file.etag] * count
        at = file.last_modified
        modified += [at and at.astimezone(UTC).replace(tzinfo=None)] * count
        scanned += [file.scanned_on] * count
    if not texts:
        return
    table = pa.table([texts, names, numbers, etags, modified, scanned], schema=SCHEMA)
    cursor.execute(f"USE {quoted(plan.target.database)}.{quoted(plan.target.schema)}")
    cursor.register("_snowpipe_texts", table)
    cursor.execute(
        f"CREATE OR REPLACE TEMP VIEW {BATCH} AS SELECT * REPLACE (C1::JSON AS C1) FROM _snowpipe_texts"
    )
    cursor.execute(plan.insert)
    cursor.unregister("_snowpipe_texts")  # after a failure, the rollback unregisters it


def record(cursor: duckdb.DuckDBPyConnection, plan: Plan, files: Sequence[LoadedFile], now: datetime) -> None:
    pipe = plan.pipe
    rows = []
    for file in files:
        first = min(file.content.errors, default=None)
        rows.append(
            (
                pipe.pipe_id if pipe else None,
                *(pipe.name if pipe else (None, None, None)),
                plan.target.schema,
                plan.target.name,
                plan.stage.url,
                file.file.file_name,
                file.etag,
                now,
                file.loaded,
                file.parsed,
                file.size,
                file.first_error,
                first.line if first else None,
                first.character if first else None,
                None,
                len(file.content.errors) or (1 if file.failure else 0),
                plan.on_error.limit if plan.on_error.kind == "SKIP_FILE" else None,
                file.status,
                file.file.received_on,
                now,
                False,
            )
        )
    history = pa.Table.from_pylist(
        [dict(zip(HISTORY_SCHEMA.names, row, strict=True)) for row in rows], HISTORY_SCHEMA
    )
    cursor.register("_snowpipe_history", history)
    cursor.execute(
        f"INSERT INTO {hidden(plan.target.database)}._local_history SELECT * FROM _snowpipe_history"
    )
    cursor.unregister("_snowpipe_history")


TIME = pa.timestamp("us", tz="UTC")
HISTORY_SCHEMA = pa.schema(
    {
        "pipe_id": pa.string(),
        "pipe_catalog": pa.string(),
        "pipe_schema": pa.string(),
        "pipe_name": pa.string(),
        "table_schema": pa.string(),
        "table_name": pa.string(),
        "stage_location": pa.string(),
        "file_name": pa.string(),
        "etag": pa.string(),
        "last_load_time": TIME,
        "row_count": pa.int64(),
        "row_parsed": pa.int64(),
        "file_size": pa.int64(),
        "first_error_message": pa.string(),
        "first_error_line_number": pa.int64(),
        "first_error_character_pos": pa.int64(),
        "first_error_column_name": pa.string(),
        "error_count": pa.int64(),
        "error_limit": pa.int64(),
        "status": pa.string(),
        "pipe_received_time": TIME,
        "first_commit_time": TIME,
        "forgotten": pa.bool_(),
    }
)


def in_batches(files: Sequence[StagedFile]) -> Iterable[list[StagedFile]]:
    """Split files into batches, one per transaction, so that memory usage is limited.

    A batch has at most MAX_FILES files and about MAX_BYTES of decompressed data, unless a single file is larger.
    """
    batch: list[StagedFile] = []
    size = 0
    for file in files:
        grown = file.size * GUNZIPPED
        if batch and (len(batch) >= MAX_FILES or size + grown > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += grown
    if batch:
        yield batch
