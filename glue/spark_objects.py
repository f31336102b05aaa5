"""Distribute archived objects among Spark's tasks."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from glue.archive import Stored
from glue.rows import from_micros, micros

OBJECT = "hour_us long, key string, size long, modified_us long, bucket long"
_TASK_BYTES = 64 * 1024 * 1024
_TASK_OBJECTS = 5_000


def objects_frame(spark: SparkSession, objects: Iterable[tuple[int, Stored, int]]) -> DataFrame:
    """Return one row per object (hour, listing entry, bucket), in partitions of at most about _TASK_OBJECTS objects and
    _TASK_BYTES bytes, so that a task reads neither too many tiny objects nor too many bytes.

    Spark shuffles only these rows; the workers read the objects.
    """
    rows = [(hour, s.key, s.size, micros(s.modified_at), bucket) for hour, s, bucket in objects]
    frame = pd.DataFrame(rows, columns=["hour_us", "key", "size", "modified_us", "bucket"])
    tasks = max(
        spark.sparkContext.defaultParallelism,
        math.ceil(len(rows) / _TASK_OBJECTS),
        math.ceil(sum(row[2] for row in rows) / _TASK_BYTES),
    )
    spark.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
    return spark.createDataFrame(frame, OBJECT).repartition(tasks)


def slices(objects: Sequence[Stored], at_least: int) -> list[list[Stored]]:
    """Divide the objects into groups of about equal size, one per Spark task."""
    tasks = max(
        at_least,
        math.ceil(len(objects) / _TASK_OBJECTS),
        math.ceil(sum(stored.size for stored in objects) / _TASK_BYTES),
    )
    by_size = sorted(objects, key=lambda stored: stored.size, reverse=True)
    return [dealt for n in range(tasks) if (dealt := by_size[n::tasks])]


def as_stored(batch: pa.RecordBatch) -> Iterable[tuple[int, Stored, int]]:
    for row in batch.to_pylist():
        yield row["hour_us"], Stored(row["key"], row["size"], from_micros(row["modified_us"])), row["bucket"]
