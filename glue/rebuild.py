"""Rebuild visits and event conflicts from any time range of the archive.

The result can be loaded into Snowflake, and glue/compare.py compares its visits with those in the warehouse:

    rebuilt/<name>/visits/*.parquet
    rebuilt/<name>/conflicts/*.parquet
    rebuilt/<name>/summary.json

summary.json is written last. If it is missing, the rebuild is incomplete.

The visit rule is not repeated here. DuckDB runs the warehouse's own model (glue/dbt_sql.py), and Spark applies
the consumer's `step` to sorted events; tests compare both with `consumer.visits.visits_of`. The result contains
the visits that began in the range. Objects received within a margin before and after the range are read as well,
so that visits with late events and visits that cross a boundary are complete. If an hour has up-to-date Parquet
files, these are read instead of its objects.

    python -m glue.rebuild --archive s3://BUCKET --from 2026-11-16 --to 2026-11-17 [--engine duckdb|spark]
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from consumer.visits import DEFAULT_RULE
from contract.event_limits import MAX_CONTENTS_PER_EVENT
from contract.geofence_event_types import GEOFENCE_KINDS
from glue.archive import Fault, Hours, Lines, Store, Stored, objects_of, read_objects, set_aside
from glue.compact import generation_of, manifest_of
from glue.dbt_sql import visits_sql
from glue.jobs import add_range, arguments, at_least, choose_engine, exit_code, name_in_key, parser_of, report
from glue.parquet import write_rows
from glue.rows import FACT, fact_rows, from_micros, merge_batches, micros, type_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation

PREFIX = "rebuilt"

VISIT = pa.schema(
    [
        ("device_id", pa.string()),
        ("geofence_tag", pa.string()),
        ("geofence_external_id", pa.string()),
        ("entered_at", pa.timestamp("us", "UTC")),
        ("exited_at", pa.timestamp("us", "UTC")),
        ("exit_missed", pa.bool_()),
        ("last_seen_at", pa.timestamp("us", "UTC")),
        ("app_dwell_seconds", pa.float64()),
        ("entered_event_id", pa.string()),
        ("exited_event_id", pa.string()),
    ]
)

CONFLICT = pa.schema(
    [
        ("event_key", pa.string()),
        ("event_id", pa.string()),
        ("file_name", pa.string()),
        ("file_row_number", pa.int64()),
        ("deliveries", pa.int64()),
        ("kept_file_name", pa.string()),
        ("kept_file_row_number", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Rule:
    """The stage's settings for the visit rule, and whether to rebuild conflicts."""

    merge_gap_seconds: int = int(DEFAULT_RULE.merge_gap.total_seconds())
    min_confidence: int = DEFAULT_RULE.min_confidence
    conflicts: bool = True


@dataclass(frozen=True)
class Part:
    """One hour's input: its objects, or its Parquet files and any damaged objects, whose lines the files lack."""

    hour: datetime
    objects: tuple[Stored, ...]


@dataclass(frozen=True)
class Rebuild:
    """A rebuild of the visits that began in `hours`, from the input in `parts`."""

    store: Store
    name: str
    hours: Hours
    parts: tuple[Part, ...]
    rule: Rule = Rule()


@dataclass(frozen=True)
class Rebuilt:
    visits: int
    conflicts: int
    faults: tuple[Fault, ...]


def parts_of(store: Store, hours: Hours, conflicts: bool) -> list[Part]:
    """Return the input of each hour. Parquet files are used only if they were made from the hour's current objects,
    and none of these was temporarily unreadable. Permanently unreadable objects are added to them.
    """
    parts = []
    for hour in hours:
        objects = objects_of(store, hour)
        manifest = manifest_of(store, hour)
        up_to_date = manifest and manifest["generation"] == generation_of(each.key for each in objects)
        if manifest and up_to_date and not manifest["unreadable"]:
            files = [Stored(f["key"], f["bytes"], hour) for f in manifest["files"]]
            files = files if conflicts else [each for each in files if _may_hold_crossings(each.key)]
            # The files lack the lines of the damaged objects. Read these again, to include or report them.
            damaged = {fault["key"] for fault in manifest["set_aside"]}
            objects = [*(each for each in objects if each.key in damaged), *files]
        if objects:
            parts.append(Part(hour, tuple(objects)))
    return parts


_CROSSING_FOLDERS = {f"type={type_folder(each)}" for each in GEOFENCE_KINDS} | {"type=__other__"}


def _may_hold_crossings(key: str) -> bool:
    return key.split("/")[2] in _CROSSING_FOLDERS


def read_lines(store: Store, objects: Sequence[Stored]) -> Iterator[Lines | Fault]:
    """Yield the lines of each archived object, or a Fault if the object cannot be read.

    A Parquet file yields one or more Lines per archived object whose lines it holds; a damaged file raises an error.
    """
    raw = [each for each in objects if not each.key.endswith(".parquet")]
    yield from read_objects(store, raw)
    for each in objects:
        if each.key.endswith(".parquet"):
            yield from _from_parquet(store, each.key)


def _from_parquet(store: Store, key: str) -> Iterator[Lines]:
    wanted = ["payload", "file_name", "file_row_number", "file_modified_at"]
    for batch in pq.ParquetFile(BytesIO(store.read(key))).iter_batches(50_000, columns=wanted):
        ordered = batch.sort_by([("file_name", "ascending"), ("file_row_number", "ascending")])
        texts = pc.cast(ordered.column("payload"), pa.binary()).to_pylist()
        names = ordered.column("file_name").to_pylist()
        numbers = ordered.column("file_row_number").to_pylist()
        times = pc.cast(ordered.column("file_modified_at"), pa.int64()).to_pylist()
        start = 0
        for end in range(1, len(names) + 1):
            if end == len(names) or names[end] != names[start]:
                stored = Stored(names[start], 0, from_micros(times[start]))
                yield Lines(stored, texts[start:end], numbers[start:end])
                start = end


# --- DuckDB -------------------------------------------------------------------------------------------------

_LEAST_CONTENT = """
CREATE TEMP TABLE stg_geofence_events AS
SELECT
    md5(concat_ws(':', length(device_id), device_id, length(tag), tag, length(external_id), external_id))
        AS device_fence_key,
    device_id, tag AS geofence_tag, external_id AS geofence_external_id, event_id, type AS event_type, kind,
    make_timestamp(occurred_us) AS occurred_at, duration AS duration_minutes, confidence,
    TIMESTAMP '1970-01-01' AS loaded_at
FROM facts
WHERE kind IS NOT NULL
QUALIFY row_number() OVER (
    PARTITION BY device_id, tag, external_id, event_id
    ORDER BY occurred_us, type, duration NULLS FIRST, confidence NULLS FIRST
) = 1
"""

_CONFLICTS = f"""
WITH several AS (
    SELECT event_key FROM facts
    WHERE event_key IS NOT NULL
    GROUP BY event_key HAVING min(content) <> max(content)
),
deliveries AS (
    SELECT
        event_key, event_id, content, file_name, file_row_number, file_modified_us,
        first_value(content) OVER first AS kept_content,
        first_value(file_name) OVER first AS kept_file_name,
        first_value(file_row_number) OVER first AS kept_file_row_number
    FROM facts SEMI JOIN several USING (event_key)
    WINDOW first AS (PARTITION BY event_key ORDER BY file_modified_us, file_name, file_row_number)
),
contents AS (
    SELECT *, count(*) OVER (PARTITION BY event_key, content) AS deliveries
    FROM deliveries
    WHERE content <> kept_content
    QUALIFY row_number() OVER (
        PARTITION BY event_key, content ORDER BY file_modified_us, file_name, file_row_number
    ) = 1
)
SELECT
    event_key, event_id, file_name, file_row_number, deliveries, kept_file_name, kept_file_row_number
FROM contents
QUALIFY row_number() OVER (
    PARTITION BY event_key ORDER BY file_modified_us, file_name, file_row_number
) < {MAX_CONTENTS_PER_EVENT}
ORDER BY event_key, file_name, file_row_number
"""


def rebuild_with_duckdb(job: Rebuild, memory: str = "2GB") -> Rebuilt:
    import duckdb

    store, name, rule = job.store, job.name, job.rule
    faults: list[Fault] = []

    def facts() -> Iterator[pa.RecordBatch]:
        for part in job.parts:
            for read in read_lines(store, part.objects):
                if isinstance(read, Fault):
                    faults.append(read)
                else:
                    yield fact_rows(read, rule.conflicts)

    dbt = visits_sql(rule.merge_gap_seconds, rule.min_confidence)
    first, end = micros(job.hours.start), micros(job.hours.end)
    # By default, DuckDB would write what exceeds its memory to the current folder.
    with (
        tempfile.TemporaryDirectory() as spilled,
        duckdb.connect(config={"memory_limit": memory, "temp_directory": spilled}) as db,
    ):
        db.register("read", pa.RecordBatchReader.from_batches(FACT, merge_batches(facts())))
        db.execute("CREATE TEMP TABLE facts AS SELECT * FROM read")
        db.execute(_LEAST_CONTENT)
        visits = db.sql(
            f"""
            SELECT {", ".join(VISIT.names)} FROM ({dbt})
            WHERE epoch_us(entered_at) >= {first} AND epoch_us(entered_at) < {end}
            ORDER BY device_id, geofence_tag, geofence_external_id, entered_at, entered_event_id
            """  # not from user input: contains only numbers and our model
        )
        count = _write(store, name, "visits", visits, VISIT)
        conflicts = _write(store, name, "conflicts", db.sql(_CONFLICTS), CONFLICT) if rule.conflicts else 0
    return Rebuilt(count, conflicts, tuple(faults))


def _write(store: Store, name: str, what: str, rows: "DuckDBPyRelation", schema: pa.Schema) -> int:
    batches = (_cast(batch, schema) for batch in rows.to_arrow_reader(50_000))
    return sum(count for _, count in write_rows(batches, store, lambda n: part_key(name, what, n), schema))


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch(
        [_as_utc(column, field.type) for column, field in zip(batch.columns, schema, strict=True)],
        schema=schema,
    )


def _as_utc(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Cast a column to a type. Times without a zone are taken as UTC, because DuckDB's TIMESTAMP has no zone."""
    if pa.types.is_timestamp(wanted) and column.type.tz is None:
        column = pc.assume_timezone(column, "UTC")
    return column.cast(wanted)


# --- the job ------------------------------------------------------------------------------------------------


def part_key(name: str, what: str, number: int) -> str:
    return f"{PREFIX}/{name}/{what}/part-{number:05}.parquet"


def begin(store: Store, name: str) -> None:
    """Delete an earlier rebuild with this name.

    Its summary is deleted first, so that it never marks a partial rebuild as complete.
    """
    old = sorted((each.key for each in store.list(f"{PREFIX}/{name}/")), key=lambda key: "summary" not in key)
    store.delete(old)


def finish(job: Rebuild, engine: str, rebuilt: Rebuilt) -> dict[str, object]:
    summary = {
        "name": job.name,
        "from": job.hours.start.isoformat(),
        "to": job.hours.end.isoformat(),
        "engine": engine,
        "rule": asdict(job.rule),
        "visits": rebuilt.visits,
        "conflicts": rebuilt.conflicts,
        "unreadable": [{"key": f.key, "code": f.code, "message": f.message} for f in rebuilt.faults],
        "set_aside_key": set_aside(job.store, job.hours.start, rebuilt.faults, "glue.rebuild"),
    }
    job.store.write(
        f"{PREFIX}/{job.name}/summary.json", json.dumps(summary, indent=1, allow_nan=False).encode()
    )
    return summary


def rows_of(store: Store, name: str, what: str) -> pa.Table:
    """Return the visits or the conflicts of a rebuild; `what` is `visits` or `conflicts`."""
    keys = sorted(each.key for each in store.list(f"{PREFIX}/{name}/{what}/"))
    schema = VISIT if what == "visits" else CONFLICT
    return pa.concat_tables([schema.empty_table(), *(pq.read_table(BytesIO(store.read(k))) for k in keys)])


def main(argv: Sequence[str]) -> int:
    parser = parser_of("rebuild", __doc__)
    add_range(parser)
    parser.add_argument("--name", type=name_in_key, help="name of the result; default: the range")
    parser.add_argument("--margin-hours", type=at_least(0), default=24)
    parser.add_argument("--merge-gap-seconds", type=at_least(0), default=Rule.merge_gap_seconds)
    parser.add_argument("--min-confidence", type=at_least(0), default=0)
    parser.add_argument("--without-conflicts", action="store_true")
    given = arguments(parser, argv)
    store, hours = given.store, given.hours
    name = given.name or f"{hours.start:%Y-%m-%dT%H}_{hours.end:%Y-%m-%dT%H}"
    rule = Rule(given.merge_gap_seconds, given.min_confidence, not given.without_conflicts)
    parts = parts_of(store, hours.widened(timedelta(hours=given.margin_hours)), rule.conflicts)
    job = Rebuild(store, name, hours, tuple(parts), rule)
    engine = choose_engine(given.engine, (stored for part in parts for stored in part.objects))
    begin(store, name)
    if engine == "spark":
        from glue.session import session
        from glue.spark_rebuild import rebuild_with_spark

        with session("milkrun-rebuild", given.master) as spark:
            rebuilt = rebuild_with_spark(spark, job)
    else:
        rebuilt = rebuild_with_duckdb(job)
    summary = finish(job, engine, rebuilt)
    report("archive_rebuilt", **{**summary, "unreadable": len(rebuilt.faults)})
    return 1 if rebuilt.faults else 0


if __name__ == "__main__" and (status := exit_code(main)):  # Glue may treat sys.exit(0) as a failure
    sys.exit(status)
