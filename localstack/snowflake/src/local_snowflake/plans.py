"""A COPY statement that is ready to run: the location of its files, their format, and the INSERT statement."""

import re
from dataclasses import dataclass

import duckdb
import snowflake.connector.errors
from fakesnow.dialect import parse_one

from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog
from local_snowflake.catalog_objects import Location, Pipe, Stage
from local_snowflake.errors import SnowflakeError, compilation, missing
from local_snowflake.integrations import unavailable
from local_snowflake.names import Columns
from local_snowflake.parse_copy import BATCH, Copy, FileFormat, OnError, copy_of, on_error_of, projections
from local_snowflake.sql import Name, Scope, quoted


@dataclass(frozen=True)
class Plan:
    copy: Copy
    pipe: Pipe | None
    stage: Stage
    location: Location
    file_format: FileFormat
    on_error: OnError
    insert: str
    select: str

    @property
    def target(self) -> Name:
        return self.copy.target


class NotRunnable(Exception):
    """Raised if a pipe cannot load now, so that its files must wait. `state` is an executionState of
    SYSTEM$PIPE_STATUS, and `reason` explains it.
    """

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


def bucket_and_prefix(url: str) -> tuple[str, str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return bucket, prefix


def path_prefix(base: str, path: str) -> str:
    """Return the key prefix of a path within a stage whose URL may lack a trailing slash."""
    return f"{base.rstrip('/')}/{path}".lstrip("/") if path else base


def plan_of_pipe(catalog: Catalog, authority: Authority, pipe: Pipe) -> Plan:
    copy = copy_of(pipe.definition, Scope(pipe.name.database, pipe.name.schema))
    stage = catalog.find_stage(copy.stage)
    if stage is None or stage.stage_id != pipe.stage_id:
        # Snowflake's page "CREATE STAGE", usage notes: the pipes of a recreated stage load nothing until they are
        # recreated, too.
        raise NotRunnable("STOPPED_STAGE_DROPPED", f"Stage '{copy.stage}' was dropped or recreated.")
    if bucket_and_prefix(stage.url) != (pipe.location.bucket, pipe.location.base):
        # SYSTEM$PIPE_STATUS: "the pipe is stopped because the underlying stage location has been altered".
        raise NotRunnable("STOPPED_STAGE_ALTERED", f"The URL of stage '{copy.stage}' was changed.")
    if reason := unavailable(catalog, stage):
        raise NotRunnable("STALLED_STAGE_PERMISSION_ERROR", reason)
    owner = authority.access.now.owner("PIPE", str(pipe.name))
    try:
        if owner:
            authority.load_by_pipe(owner, copy, stage)
        return plan_of(catalog, copy, stage, pipe, "SKIP_FILE")
    except SnowflakeError as error:
        raise NotRunnable(state_of(error), error.message) from None


def state_of(error: SnowflakeError) -> str:
    if error.code == "002003" and "File format" in error.message:
        return "STOPPED_FILE_FORMAT_DROPPED"
    if error.code == "002003" and "Table" in error.message:
        return "STOPPED_MISSING_TABLE"
    return "STALLED_COMPILATION_ERROR"


def plan_of(catalog: Catalog, copy: Copy, stage: Stage, pipe: Pipe | None, default_on_error: str) -> Plan:
    """Compile a COPY statement into a plan, resolving names against the current objects. Raises Snowflake's error if
    an object does not exist or the statement is invalid.
    """
    if not stage.url:
        raise compilation(f"Stage '{stage.name}' is not on S3.", "001008", "42601")
    formats = copy.format_options
    home = copy.stage if formats is None else copy.target
    options = catalog.file_format(formats if formats is not None else stage.file_format, home)
    bucket, base = bucket_and_prefix(stage.url)
    prefix = path_prefix(base, copy.path)
    try:
        re.compile(copy.pattern or "")
    except re.error as error:
        raise compilation(f"invalid regular expression: {error}", "100048", "2201B") from None
    columns = target_columns(catalog, copy)
    if copy.select is None and len(columns) != 1:
        raise compilation(
            "JSON file format can produce one and only one column of type variant, object, or array. "
            "Use CSV file format if you want to load more than one column.",
            "002019",
            "0A000",
        )
    items = projections(copy)
    if len(items) != len(columns):
        raise compilation(
            f"Insert value list does not match column list expecting {len(columns)} but got {len(items)}",
            "002020",
            "21S01",
        )
    select = in_duckdb(catalog, copy, items)
    target = copy.target.sql
    names = ", ".join(quoted(column) for column in columns)
    plan = Plan(
        copy,
        pipe,
        stage,
        Location(bucket, base, prefix, copy.pattern),
        FileFormat.of(options),
        on_error_of(copy, default_on_error),
        f"INSERT INTO {target} ({names}) {select}",
        select,
    )
    check_binds(catalog, plan)
    return plan


def target_columns(catalog: Catalog, copy: Copy) -> list[str]:
    rows = catalog.rows(
        """SELECT column_name FROM duckdb_columns()
           WHERE (database_name, schema_name, table_name) = (?, ?, ?)
           ORDER BY column_index""",
        copy.target,
    )
    if not rows:
        raise missing("Table", copy.target)
    known = [row[0] for row in rows]
    for column in copy.columns:
        if column not in known:
            raise compilation(f"invalid identifier '{column}'", "000904")
    return list(copy.columns) or known


def in_duckdb(catalog: Catalog, copy: Copy, items: list[str]) -> str:
    """Return the SELECT that reads a batch of rows, in DuckDB's SQL. It is translated like a query in a session, so
    that COPY reads JSON as a query does.
    """
    sql = f"SELECT {', '.join(items)} FROM {BATCH}"
    session = catalog.fakesnow.connect(copy.target.database, copy.target.schema)
    session.columns = lambda: Columns(frozenset({"C1"}))
    try:
        return str(session.cursor()._transform(parse_one(sql), None).sql(dialect="duckdb"))
    except snowflake.connector.errors.ProgrammingError as error:
        raise SnowflakeError(f"{error.errno:06}", error.sqlstate or "0A000", str(error.raw_msg)) from None
    finally:
        session.close()


EMPTY_BATCH = f"""CREATE TEMP TABLE {BATCH} (
    C1 JSON, "METADATA$FILENAME" VARCHAR, "METADATA$FILE_ROW_NUMBER" BIGINT,
    "METADATA$FILE_CONTENT_KEY" VARCHAR, "METADATA$FILE_LAST_MODIFIED" TIMESTAMP,
    "METADATA$START_SCAN_TIME" TIMESTAMPTZ)"""


def check_binds(catalog: Catalog, plan: Plan) -> None:
    with catalog.fakesnow.cursor() as cursor:
        cursor.execute(f"USE {quoted(plan.target.database)}.{quoted(plan.target.schema)}")
        cursor.execute(EMPTY_BATCH)
        try:
            cursor.execute(f"EXPLAIN {plan.insert}")
        except duckdb.Error as error:
            raise compilation(str(error).splitlines()[0]) from None
