"""Run COPY INTO <table> from an S3 stage for a user rather than a pipe. The load history belongs to the
table, lasts 64 days and takes ETags into account. Sources: Snowflake's pages "COPY INTO <table>" and
"Introduction to data loading" (load metadata).
"""

import re
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import botocore.exceptions
import duckdb

from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog
from local_snowflake.catalog_objects import TABLE_HISTORY
from local_snowflake.errors import SnowflakeError, compilation, stage_failure, unsupported
from local_snowflake.integrations import unavailable
from local_snowflake.loader import (
    DATA_ERRORS,
    LoadedFile,
    Loader,
    StagedFile,
    in_batches,
    insert_rows,
    record,
)
from local_snowflake.parse_copy import Copy, copy_of
from local_snowflake.plans import Plan, plan_of
from local_snowflake.results import NUMBER, TEXT, Result, status
from local_snowflake.session import LocalConnection
from local_snowflake.sql import Name, Scope, Words, flag_of

type Found = dict[str, Any]
"""S3's description of an object, with ETag and LastModified, or {} if it was not requested or is not available."""

MAX_NAMED_FILES = 1000
STATUSES = {"Loaded": "LOADED", "Partially loaded": "PARTIALLY_LOADED", "Load failed": "LOAD_FAILED"}


class Bulk:
    def __init__(self, catalog: Catalog, loader: Loader, authority: Authority) -> None:
        self.catalog = catalog
        self.authority = authority
        self.loader = loader
        self._turns: defaultdict[Name, threading.Lock] = defaultdict(threading.Lock)

    def copy(self, words: Words, scope: Scope, session: LocalConnection) -> Result | str | None:
        if words.start(3)[2:] == ("@",):
            raise unsupported("COPY INTO <location>")
        copy = copy_of(words.sql, scope)
        stage = self.catalog.stage(copy.stage)
        self.authority.require_warehouse(session.actor)
        self.authority.load(session.actor, copy, stage)
        if not stage.url:
            return self._with_stage_format(words, copy)
        for option in ("PURGE", "VALIDATION_MODE", "RETURN_FAILED_ONLY", "SIZE_LIMIT"):
            if option in copy.options:
                raise unsupported(f"copy option {option}")
        if copy.files and copy.pattern:
            raise unsupported("FILES together with PATTERN")
        if len(copy.files) > MAX_NAMED_FILES:
            raise compilation(f"the maximum number of files in FILES is {MAX_NAMED_FILES}", "002018", "42601")
        if reason := unavailable(self.catalog, stage):
            raise stage_failure(reason)
        plan = plan_of(self.catalog, copy, stage, None, "ABORT_STATEMENT")
        self.catalog.create_histories(plan.target.database)
        with self._turns[plan.target]:  # a concurrent COPY then finds these files loaded
            files = self._fresh(plan, self._named(plan) if copy.files else self._listed(plan), session)
            if not files:
                return status("Copy executed with 0 files processed.")
            return result_of(plan, self._load(plan, files, session))

    def _with_stage_format(self, words: Words, copy: Copy) -> str | None:
        """Return a COPY statement with the file format of its internal stage added, because fakesnow would
        assume CSV. Return None if the statement needs no change.
        """
        stage = self.catalog.stage(copy.stage)
        if copy.format_options is not None or not stage.file_format:
            return None
        options = " ".join(f"{name} = {written(value)}" for name, value in stage.file_format.items())
        return f"{words.sql.rstrip().rstrip(';')} FILE_FORMAT = ({options})"

    # ---- which files

    def _named(self, plan: Plan) -> list[tuple[StagedFile, Found]]:
        where = plan.location
        return [
            (StagedFile(where.bucket, where.prefix + name, (where.prefix + name)[len(where.base) :], 0), {})
            for name in dict.fromkeys(plan.copy.files)
        ]

    def _listed(self, plan: Plan) -> list[tuple[StagedFile, Found]]:
        files: list[tuple[StagedFile, Found]] = []
        # Unlike a pipe, a user's COPY matches its pattern against the whole path (Snowflake: "Loading data").
        everywhere, pattern = plan.location._replace(pattern=None), plan.location.pattern
        for thing in self.loader.listed(plan.location.bucket, plan.location.prefix):
            name = everywhere.file_name(plan.location.bucket, thing["Key"])
            if name is not None and (pattern is None or re.fullmatch(pattern, thing["Key"])):
                file = StagedFile(plan.location.bucket, thing["Key"], name, thing["Size"])
                files.append((file, thing))
        return files

    def _fresh(
        self, plan: Plan, files: Sequence[tuple[StagedFile, Found]], session: LocalConnection
    ) -> list[StagedFile]:
        """Return the files to load: all with FORCE, otherwise those that are new or changed. New files whose load
        status is unknown are omitted unless LOAD_UNCERTAIN_FILES is set.
        """
        if flag_of(plan.copy.options, "FORCE"):
            return [file for file, _ in files]
        # Queried in the session's transaction, so that files loaded in the same transaction count as loaded.
        known = self.loader.loaded_by_hand(session._duck_conn, plan.target, plan.stage.url)
        expired = self.catalog.clock() - TABLE_HISTORY
        first = self.loader.first_load(session._duck_conn, plan.target)
        uncertain = (
            first is not None and first < expired and not flag_of(plan.copy.options, "LOAD_UNCERTAIN_FILES")
        )
        fresh = []
        for file, listed in files:
            before = known.get(file.file_name)
            if before is None and not uncertain:
                fresh.append(file)
                continue
            found = listed or self._head(file)
            if not found:  # the error is reported when the file is read
                is_fresh = before is None
            elif before is None:
                is_fresh = found["LastModified"] >= expired
            else:
                is_fresh = found["ETag"].strip('"') != before
            if is_fresh:
                fresh.append(file)
        return fresh

    def _head(self, file: StagedFile) -> Found:
        try:
            found: Found = self.loader.s3.head_object(Bucket=file.bucket, Key=file.key)
            return found
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            return {}

    # ---- loading, in the session's transaction if it has one

    def _load(self, plan: Plan, files: Sequence[StagedFile], session: LocalConnection) -> list[LoadedFile]:
        duck = session._duck_conn
        session.begin_unless_autocommit()
        if session.in_transaction:
            try:
                loaded = self._insert(plan, files, duck, careful=True)
            except BaseException:
                session.abort()  # an earlier batch of the files may have been inserted
                raise
            session.note_change()
            return loaded
        try:
            return self._insert_at_once(plan, files, duck, careful=False)
        except DATA_ERRORS:  # the table refuses a row; find it by loading the files one by one
            return self._insert_at_once(plan, files, duck, careful=True)

    def _insert_at_once(
        self, plan: Plan, files: Sequence[StagedFile], duck: duckdb.DuckDBPyConnection, careful: bool
    ) -> list[LoadedFile]:
        duck.begin()
        try:
            loaded = self._insert(plan, files, duck, careful)
            duck.commit()
        except BaseException:
            with suppress(duckdb.Error):
                duck.rollback()
            raise
        return loaded

    def _insert(
        self, plan: Plan, files: Sequence[StagedFile], duck: duckdb.DuckDBPyConnection, careful: bool
    ) -> list[LoadedFile]:
        done: list[LoadedFile] = []
        with keeping_schema(duck):
            for batch in in_batches(files):
                read = self.loader.read(plan, batch)
                for _, problem in read.unread:
                    raise stage_failure(str(problem))
                for file in read.files:
                    if careful:
                        self.loader.find_refused_rows(plan, file)
                    check_abort(plan, file)
                    file.keep_what_loads(plan)
                insert_rows(duck, plan, [(file, file.content.rows) for file in read.files])
                for file in read.files:
                    file.loaded = len(file.content.rows)
                    file.content.rows = []
                record(duck, plan, read.files, self.catalog.clock())
                done += read.files
        return done


class keeping_schema:  # in lower case, because it is used like a function: `with keeping_schema(duck):`
    """A context manager that restores the session's current schema, because loading changes it."""

    def __init__(self, duck: duckdb.DuckDBPyConnection) -> None:
        self.duck = duck

    def __enter__(self) -> None:
        # Fetch all rows, because a result that is not read completely blocks the connection.
        [(self.before,)] = self.duck.execute("SELECT current_setting('search_path')").fetchall()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.duck.execute("SET search_path = ?", [self.before])


def check_abort(plan: Plan, file: LoadedFile) -> None:
    """Raise the error with which ABORT_STATEMENT ends a COPY, if the file has one. A missing file is an error only if
    FILES names it; otherwise, it was deleted after the listing (Snowflake: "COPY INTO <table>", ON_ERROR).
    """
    if plan.on_error.kind != "ABORT_STATEMENT" or (file.missing and not plan.copy.files):
        return
    if file.failure:
        raise SnowflakeError("091016", "22000", file.failure)
    if file.content.errors:
        first = min(file.content.errors)
        raise SnowflakeError(
            "100069",
            "22P02",
            f"{first.message}\n"
            f"  File '{file.file.file_name}', line {first.line}, character {first.character}\n"
            "  If you would like to continue loading when an error is encountered, use other values such as "
            "'SKIP_FILE' or 'CONTINUE' for the ON_ERROR option.",
        )


def result_of(plan: Plan, files: Sequence[LoadedFile]) -> Result:
    columns = {
        "file": TEXT,
        "status": TEXT,
        "rows_parsed": NUMBER,
        "rows_loaded": NUMBER,
        "error_limit": NUMBER,
        "errors_seen": NUMBER,
        "first_error": TEXT,
        "first_error_line": NUMBER,
        "first_error_character": NUMBER,
        "first_error_column_name": TEXT,
    }
    rows = []
    for file in files:
        first = min(file.content.errors, default=None)
        rows.append(
            (
                f"s3://{file.file.bucket}/{file.file.key}",
                STATUSES[file.status],
                file.parsed,
                file.loaded,
                plan.on_error.limit,
                len(file.content.errors) or (1 if file.failure else 0),
                file.failure or (first.message if first else None),
                first.line if first else None,
                first.character if first else None,
                None,
            )
        )
    return Result(columns, rows)


def written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    return str(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"
