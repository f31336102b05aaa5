"""Compact many hours at once with Spark, which shuffles the lines by target file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as f
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.storagelevel import StorageLevel

from glue.archive import Fault, Store, read_objects
from glue.compact import (
    MAX_TYPES,
    PREFIX,
    SORTED,
    ReadSummary,
    Source,
    by_file,
    commit,
    file_key,
    parse_group,
    with_destination,
)
from glue.parquet import Written, write_parquet
from glue.rows import OTHER, from_micros, line_rows, merge_batches, micros
from glue.spark_objects import as_stored, objects_frame

# A row is either a line or, if `code` is not null, an unreadable object.
_READ = pa.schema(
    [
        *SORTED,
        ("code", pa.string()),
        ("message", pa.string()),
        ("permanent", pa.bool_()),
        ("beginning", pa.binary()),
    ]
)
_WRITTEN = pa.schema(
    [
        ("hour_us", pa.int64()),
        ("key", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sum", pa.string()),
    ]
)


def compact_with_spark(
    spark: SparkSession, store: Store, sources: Sequence[Source]
) -> Iterator[dict[str, Any]]:
    """Read and persist all lines, count them and compute their checksum in the JVM, and write the files.

    Then commit each hour and yield its manifest.
    """
    if not sources:
        return
    objects = objects_frame(
        spark, ((micros(s.hour), stored, bucket) for s in sources for stored, bucket in s.buckets())
    )
    read = objects.mapInArrow(partial(_read, store), from_arrow_schema(_READ)).persist(StorageLevel.DISK_ONLY)
    try:
        summaries = _summaries(read)
        versions = {micros(s.hour): s.version for s in sources}
        written = _written(read, partial(_write, store, versions, sources[0].full_bytes))
        for source in sources:
            us = micros(source.hour)
            summary = summaries.get(us, ReadSummary(0, 0, 0, ()))
            yield commit(store, source, summary, written.get(us, []), "spark")
    finally:
        read.unpersist()


def _read(store: Store, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from merge_batches(_read_each(store, batches))


def _read_each(store: Store, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        requested = list(as_stored(batch))
        objects = read_objects(store, (stored for _, stored, _ in requested))
        for (hour_us, stored, bucket), read in zip(requested, objects, strict=True):
            if isinstance(read, Fault):
                yield _fault_row(hour_us, stored.key, read)
            else:
                lines = with_destination(line_rows(read), hour_us, bucket)
                no_fault = [pa.nulls(lines.num_rows, field.type) for field in list(_READ)[len(SORTED) :]]
                yield pa.record_batch([*lines.columns, *no_fault], schema=_READ)


def _fault_row(hour_us: int, key: str, fault: Fault) -> pa.RecordBatch:
    values: dict[str, object] = dict.fromkeys(_READ.names)
    values |= {"hour_us": hour_us, "file_name": key, "code": fault.code, "message": fault.message}
    values |= {"permanent": fault.permanent, "beginning": fault.beginning}
    return pa.RecordBatch.from_pylist([values], schema=_READ)


def _summaries(read: DataFrame) -> dict[int, ReadSummary]:
    md5_part = f.conv(f.substring(f.md5("payload"), 1, 15), 16, 10).cast("decimal(20,0)")
    fault = f.when(
        f.col("code").isNotNull(), f.struct("file_name", "code", "message", "permanent", "beginning")
    )
    rows = (
        read.groupBy("hour_us")
        .agg(
            f.countDistinct(f.when(f.col("code").isNull(), f.col("file_name"))).alias("objects"),
            f.count("payload").alias("lines"),
            f.sum(md5_part.cast("decimal(38,0)")).alias("checksum"),
            f.collect_list(fault).alias("faults"),
        )
        .collect()
    )
    return {
        row["hour_us"]: ReadSummary(
            row["objects"],
            row["lines"],
            int(row["checksum"] or 0),
            tuple(
                Fault(
                    each["file_name"],
                    each["code"],
                    each["message"],
                    each["permanent"],
                    bytes(each["beginning"]),
                )
                for each in sorted(row["faults"], key=lambda each: str(each["file_name"]))
            ),
        )
        for row in rows
    }


def _written(
    read: DataFrame, write: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
) -> dict[int, list[Written]]:
    lines = read.where("code IS NULL").select(*SORTED.names)
    by_frequency = Window.partitionBy("hour_us").orderBy(f.desc("count"), "folder")
    kept = (
        lines.groupBy("hour_us", "folder")
        .count()
        .withColumn("rank", f.row_number().over(by_frequency))
        .where(f.col("rank") <= MAX_TYPES)
        .select("hour_us", "folder", f.lit(True).alias("kept"))
    )
    folded = (
        lines.join(f.broadcast(kept), ["hour_us", "folder"], "left")
        .withColumn("folder", f.when(f.col("kept"), f.col("folder")).otherwise(f.lit(OTHER)))
        .select(*SORTED.names)
    )
    rows = (
        folded.repartition("hour_us", "folder", "bucket")
        .sortWithinPartitions(
            "hour_us", "folder", "bucket", "device_id", "created_at", "file_name", "file_row_number"
        )
        .mapInArrow(write, from_arrow_schema(_WRITTEN))
        .collect()
    )
    files: dict[int, list[Written]] = {}
    for row in rows:
        files.setdefault(row["hour_us"], []).append(
            Written(row["key"], row["rows"], row["bytes"], int(row["sum"]))
        )
    return files


def _write(
    store: Store, versions: dict[int, str], full_bytes: int, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    def key_of(group: str, part: int) -> str:
        hour_us, folder, bucket = parse_group(group)
        return file_key(from_micros(hour_us), versions[hour_us], folder, bucket, part)

    for file in write_parquet(by_file(batch.cast(SORTED) for batch in batches), store, key_of, full_bytes):
        values = [[_hour_us_of(file.key)], [file.key], [file.rows], [file.bytes], [str(file.checksum)]]
        yield pa.record_batch(
            [pa.array(v, field.type) for v, field in zip(values, _WRITTEN, strict=True)], schema=_WRITTEN
        )


def _hour_us_of(key: str) -> int:
    day, _, name = key.removeprefix(f"{PREFIX}/dt=").split("/")
    return micros(datetime.fromisoformat(f"{day}T{name[3:5]}:00:00+00:00"))
