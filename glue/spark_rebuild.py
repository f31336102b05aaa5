"""Rebuild visits on Spark: the JVM sorts the events, and the consumer's own `step` computes the visits.

A device that sent 30 % of all events needs more time but not more memory, because a device's sorted events are streamed
through the fold, one visit at a time. Before the sort, events with the same id are reduced to one.
(`applyInPandas` would hold all events of a device in memory.)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as f
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.storagelevel import StorageLevel

from consumer.visits import Visit, step
from contract.event_limits import MAX_CONTENTS_PER_EVENT
from contract.events import Fence, GeofenceEvent
from glue.archive import Fault, Store
from glue.parquet import write_rows
from glue.rebuild import CONFLICT, VISIT, Rebuild, Rebuilt, Rule, part_key, read_lines
from glue.rows import FACT, fact_rows, from_micros, merge_batches, micros
from glue.spark_objects import as_stored, objects_frame

# A row is either a fact or, if `code` is not null, an unreadable object with its key in `file_name`.
_READ = pa.schema([*FACT, ("code", pa.string()), ("message", pa.string()), ("permanent", pa.bool_())])
_COUNT = pa.schema([("rows", pa.int64())])
_PAIR = ["device_id", "tag", "external_id"]
_KIND_ORDER = "CASE kind WHEN 'enter' THEN 0 WHEN 'dwell' THEN 1 ELSE 2 END"


def rebuild_with_spark(spark: SparkSession, job: Rebuild) -> Rebuilt:
    store, name, hours = job.store, job.name, job.hours
    objects = objects_frame(spark, ((micros(p.hour), stored, 0) for p in job.parts for stored in p.objects))
    reading = partial(_read, store, job.rule.conflicts)
    read = objects.mapInArrow(reading, from_arrow_schema(_READ)).persist(StorageLevel.DISK_ONLY)
    try:
        faults = tuple(
            Fault(row["file_name"], row["code"], row["message"], row["permanent"])
            for row in read.where("code IS NOT NULL").orderBy("file_name").collect()
        )
        facts = read.where("code IS NULL").select(*FACT.names)
        visits = visits_of(facts, job.rule).where(
            f.col("entered_at").between(f.lit(hours.start), f.lit(hours.end - timedelta(microseconds=1)))
        )
        count = _write(visits, store, name, "visits", VISIT)
        conflicts = (
            _write(conflicts_of(facts), store, name, "conflicts", CONFLICT) if job.rule.conflicts else 0
        )
        return Rebuilt(count, conflicts, faults)
    finally:
        read.unpersist()


def _read(store: Store, conflicts: bool, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from merge_batches(_read_each(store, conflicts, batches))


def _read_each(store: Store, conflicts: bool, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for read in read_lines(store, [stored for _, stored, _ in as_stored(batch)]):
            if isinstance(read, Fault):
                values = dict.fromkeys(_READ.names) | {"file_name": read.key, "code": read.code}
                values |= {"message": read.message, "permanent": read.permanent}
                yield pa.RecordBatch.from_pylist([values], schema=_READ)
            else:
                facts = fact_rows(read, conflicts)
                no_fault = [pa.nulls(facts.num_rows, field.type) for field in list(_READ)[len(FACT) :]]
                yield pa.record_batch([*facts.columns, *no_fault], schema=_READ)


def visits_of(facts: DataFrame, rule: Rule) -> DataFrame:
    """Compute visits (rows of VISIT) from facts with `consumer.visits.step`."""
    # Spark orders structs field by field, with nulls first and strings by code point, as the visit rule requires.
    least = (
        facts.where("kind IS NOT NULL")
        .groupBy(*_PAIR, "event_id")
        .agg(f.min(f.struct("occurred_us", "type", "duration", "confidence", "kind")).alias("least"))
        .select(*_PAIR, "event_id", "least.*")
        .where(f.col("confidence").isNull() | (f.col("confidence") >= rule.min_confidence))
    )
    return (
        least.repartition(*_PAIR)
        .sortWithinPartitions(*_PAIR, "occurred_us", f.expr(_KIND_ORDER), "event_id")
        .mapInArrow(partial(_fold, timedelta(seconds=rule.merge_gap_seconds)), from_arrow_schema(VISIT))
    )


_FOLDED = [*_PAIR, "occurred_us", "event_id", "type", "kind", "duration", "confidence"]


def _fold(merge_gap: timedelta, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Compute visits from sorted events; between batches, only the current visit is kept in memory."""
    pair: tuple[str, str, str] | None = None
    visit: Visit | None = None
    for batch in batches:
        done: list[tuple[tuple[str, str, str], Visit]] = []
        columns = (batch.column(name).to_pylist() for name in _FOLDED)
        for device, tag, external_id, us, event_id, type_, kind, duration, confidence in zip(
            *columns, strict=True
        ):
            if pair != (device, tag, external_id):
                if pair and visit:
                    done.append((pair, visit))
                pair, visit = (device, tag, external_id), None
            event = GeofenceEvent(
                event_id, type_, kind, device, Fence(tag, external_id), from_micros(us), duration, confidence
            )
            ended, visit, _ = step(visit, event, merge_gap)
            if ended:
                done.append((pair, ended))
        yield _visit_rows(done)
    if pair and visit:
        yield _visit_rows([(pair, visit)])


def _visit_rows(visits: Sequence[tuple[tuple[str, str, str], Visit]]) -> pa.RecordBatch:
    rows = [
        (
            *pair,
            visit.entered_at,
            visit.exited_at,
            visit.exit_missed,
            visit.last_seen_at,
            visit.app_dwell_seconds,
            visit.entered_event_id,
            visit.exited_event_id,
        )
        for pair, visit in visits
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(VISIT)
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, VISIT, strict=True)], schema=VISIT
    )


def conflicts_of(facts: DataFrame) -> DataFrame:
    """Return one row for each content of an event that differs from the content of the event's first delivery.

    At most MAX_CONTENTS_PER_EVENT - 1 contents are returned per event.
    """
    several = (
        facts.where("event_key IS NOT NULL")
        .groupBy("event_key")
        .agg(f.min("content").alias("least"), f.max("content").alias("most"))
        .where("least <> most")
        .select("event_key")
    )
    deliveries = facts.join(several, "event_key", "left_semi")
    first = f.min(f.struct("file_modified_us", "file_name", "file_row_number", "content", "event_id")).alias(
        "first"
    )
    kept = deliveries.groupBy("event_key").agg(first).select("event_key", f.col("first").alias("kept"))
    in_order = Window.partitionBy("event_key").orderBy("first")
    return (
        deliveries.groupBy("event_key", "content")
        .agg(first, f.count("*").alias("deliveries"))
        .join(kept, "event_key")
        .where("content <> kept.content")
        .withColumn("number", f.row_number().over(in_order))
        .where(f.col("number") < MAX_CONTENTS_PER_EVENT)
        .select(
            "event_key",
            "first.event_id",
            "first.file_name",
            "first.file_row_number",
            "deliveries",
            f.col("kept.file_name").alias("kept_file_name"),
            f.col("kept.file_row_number").alias("kept_file_row_number"),
        )
    )


def _write(rows: DataFrame, store: Store, name: str, what: str, schema: pa.Schema) -> int:
    writing = partial(_write_part, store, partial(part_key, name, what), schema)
    written = rows.mapInArrow(writing, from_arrow_schema(_COUNT)).collect()
    return sum(row["rows"] for row in written)


def _write_part(
    store: Store, key_of: Callable[[int], str], schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Write a task's rows to files, and yield the number of rows per file.

    The file names contain the task's partition id, so that a repeated task replaces its own files.
    """
    task = TaskContext.get()
    first = (task.partitionId() if task else 0) * 1000
    columns = (batch.select(schema.names).cast(schema) for batch in batches)
    for _, count in write_rows(columns, store, lambda number: key_of(first + number), schema):
        yield pa.record_batch([pa.array([count], pa.int64())], schema=_COUNT)
