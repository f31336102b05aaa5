"""The archive as its objects land: trucks inside each fence in each five minutes, and overdue exits.

    streamed/<name>/trucks_inside/batch-000012.parquet   window_start, geofence_tag, geofence_external_id,
    trucks streamed/<name>/overdue_exits/batch-000012.parquet   device_id, geofence_tag,
    geofence_external_id, entered_at

Exactly once: a batch's files are named by its number, and Spark gives a batch that was not finished the
same input and state again, so it replaces what it wrote. A window is counted in the one batch in which
the watermark passes its end, so each row of `trucks_inside` is final. What comes later than `lateness` is
left out here, counted as `late`, and in the warehouse all the same. A fast clock on one phone cannot make
everybody else late: time goes on by the lesser of a device's clock and the store's.

    python -m glue.stream --archive s3://BUCKET --name live --checkpoint s3://BUCKET/streamed/live/checkpoint
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from urllib.parse import unquote, urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.streaming.state import GroupState, GroupStateTimeout

from contract.objects import object_name
from glue.archive import Fault, Folder, Store, Stored, read_object, set_aside
from glue.jobs import add_archive, arguments, parser_of, report
from glue.occupancy import SECOND_US, State, Times, advance, crossing, loads, wakes_at
from glue.rows import believed, from_micros, micros
from glue.rows import crossing as crossing_of
from glue.session import session

PREFIX = "streamed"

_CAME = pa.schema(
    [
        ("device_id", pa.string()),
        ("tag", pa.string()),
        ("external_id", pa.string()),
        ("event_id", pa.string()),
        ("kind", pa.string()),
        ("occurred_us", pa.int64()),
        ("at", pa.timestamp("us", "UTC")),
    ]
)
_FOUND = "device_id string, tag string, external_id string, what string, us long"

TRUCKS_INSIDE = pa.schema(
    [
        ("window_start", pa.timestamp("us", "UTC")),
        ("geofence_tag", pa.string()),
        ("geofence_external_id", pa.string()),
        ("trucks", pa.int64()),
    ]
)
OVERDUE_EXITS = pa.schema(
    [
        ("device_id", pa.string()),
        ("geofence_tag", pa.string()),
        ("geofence_external_id", pa.string()),
        ("entered_at", pa.timestamp("us", "UTC")),
    ]
)


class NotNow(Exception):
    """An object that cannot be read at present: the batch must come again, or its events would be lost."""


@dataclass(frozen=True)
class Stream:
    """What to watch, and how. `watched` is a glob under events/."""

    store: Store
    root: str
    name: str
    checkpoint: str
    watched: str = "dt=*/hh=*"
    lateness_seconds: int = 3600
    times: Times = field(default_factory=Times)
    objects_a_batch: int = 10_000


def crossings(spark: SparkSession, stream: Stream) -> DataFrame:
    """Geofence events as objects land. Spark lists, our reader reads: a bad object must not end a stream."""
    objects = (
        spark.readStream.format("binaryFile")  # only its listing: the content column is never asked for
        .schema("path string, modificationTime timestamp, length long, content binary")
        .option("maxFilesPerTrigger", stream.objects_a_batch)
        .load(f"{stream.root}/events/{stream.watched}/*.ndjson.gz")
        .select("path", f.unix_micros("modificationTime").alias("modified_us"), "length")
    )
    return objects.mapInArrow(partial(_read, stream.store), from_arrow_schema(_CAME))


def _read(store: Store, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in batch.to_pylist():
            key = "events/" + unquote(urlsplit(row["path"]).path).rpartition("/events/")[2]
            stored = Stored(key, row["length"], from_micros(row["modified_us"]))
            read = read_object(store, stored)
            if isinstance(read, Fault):
                name = object_name(key)
                if not read.lasting or name is None:
                    raise NotNow(f"{read.code} {key}: {read.message}")
                set_aside(store, name.hour, [read], "glue.stream")
                continue
            events = [event for line in read.lines if (event := believed(crossing_of(line), read.stored))]
            rows = [
                (e.device_id, *e.fence, e.event_id, e.kind, us, min(us, row["modified_us"]))
                for e, us in ((event, micros(event.occurred_at)) for event in events)
            ]
            columns = zip(*rows, strict=True) if rows else [()] * len(_CAME)
            yield pa.record_batch(
                [pa.array(c, field.type) for c, field in zip(columns, _CAME, strict=True)], schema=_CAME
            )


def found(came: DataFrame, stream: Stream) -> DataFrame:
    """`what` is inside, at the beginning `us` of a window, or overdue, of a visit entered at `us`."""
    return (
        came.withWatermark("at", f"{stream.lateness_seconds} seconds")
        .groupBy("device_id", "tag", "external_id")
        .applyInPandasWithState(
            partial(_advance, stream.times),
            _FOUND,
            "state string",
            "append",
            GroupStateTimeout.EventTimeTimeout,
        )
    )


def _advance(
    times: Times, pair: tuple[str, str, str], frames: Iterator[pd.DataFrame], state: GroupState
) -> Iterator[pd.DataFrame]:
    came = [
        crossing(at, kind, event_id)
        for frame in frames
        for at, kind, event_id in zip(frame["occurred_us"], frame["kind"], frame["event_id"], strict=True)
    ]
    known = loads(state.get[0]) if state.exists else State()
    watermark = state.getCurrentWatermarkMs() * 1000
    new, now = advance(known, came, watermark, times)
    wakes = wakes_at(new, times)
    if wakes is None:
        if state.exists:
            state.remove()
    else:
        state.update((new.dumps(),))
        state.setTimeoutTimestamp(max(wakes, watermark + 1000) // 1000)
    rows = [(*pair, "inside", at) for at in now.inside] + [(*pair, "overdue", at) for at in now.overdue]
    if rows:
        yield pd.DataFrame(rows, columns=["device_id", "tag", "external_id", "what", "us"])


def keep(store: Store, name: str, batch: DataFrame, number: int) -> None:
    """Put a batch's rows where they belong; the same batch again puts the same rows into the same places."""
    batch.persist()
    try:
        inside = (
            batch.where("what = 'inside'")
            .groupBy("us", "tag", "external_id")
            .agg(f.countDistinct("device_id").alias("trucks"))
            .orderBy("us", "tag", "external_id")
            .collect()
        )
        overdue = (
            batch.where("what = 'overdue'")
            .select("device_id", "tag", "external_id", "us")
            .orderBy("us", "device_id", "tag", "external_id")
            .collect()
        )
    finally:
        batch.unpersist()
    tables: list[tuple[str, pa.Schema, list[object]]] = [
        ("trucks_inside", TRUCKS_INSIDE, [(from_micros(us), *rest) for us, *rest in inside]),
        ("overdue_exits", OVERDUE_EXITS, [(*rest, from_micros(us)) for *rest, us in overdue]),
    ]
    for what, schema, rows in tables:
        if rows:
            body = BytesIO()
            pq.write_table(pa.table(list(map(list, zip(*rows, strict=True))), schema=schema), body)
            store.write(f"{PREFIX}/{name}/{what}/batch-{number:06}.parquet", body.getvalue())


def rows_of(store: Store, name: str, what: str) -> list[tuple[object, ...]]:
    """All rows of `trucks_inside` or `overdue_exits`, sorted."""
    keys = sorted(each.key for each in store.list(f"{PREFIX}/{name}/{what}/"))
    tables = (pq.read_table(BytesIO(store.read(key))) for key in keys)
    return sorted(tuple(row.values()) for table in tables for row in table.to_pylist())


def run(spark: SparkSession, stream: Stream, every_seconds: int | None) -> int:
    """Follow the archive; without `every_seconds` take what is there. Gives how many events were late."""
    writer = (
        found(crossings(spark, stream), stream)
        .writeStream.option("checkpointLocation", stream.checkpoint)
        .foreachBatch(lambda batch, number: keep(stream.store, stream.name, batch, number))
    )
    trigger = {"processingTime": f"{every_seconds} seconds"} if every_seconds else {"availableNow": True}
    query = writer.trigger(**trigger).start()
    query.awaitTermination()
    operators = [each for progress in query.recentProgress for each in progress["stateOperators"]]
    return sum(each.get("numRowsDroppedByWatermark", 0) for each in operators)


def main(argv: Sequence[str]) -> int:
    parser = parser_of("stream", __doc__)
    add_archive(parser)
    parser.add_argument("--name", required=True)
    parser.add_argument("--checkpoint", required=True, help="a folder or s3:// prefix of this stream alone")
    parser.add_argument(
        "--watched", default="dt=*/hh=*", help="glob under events/: narrow it over an old archive"
    )
    parser.add_argument("--lateness-seconds", type=int, default=3600)
    parser.add_argument("--overdue-seconds", type=int, default=7200)
    parser.add_argument("--objects-a-batch", type=int, default=10_000)
    parser.add_argument("--every-seconds", type=int, help="follow for ever; without it: what is there now")
    given = arguments(parser, argv)
    store = given.store
    stream = Stream(
        store,
        f"file://{store.path}" if isinstance(store, Folder) else given.archive,
        given.name,
        given.checkpoint,
        given.watched,
        given.lateness_seconds,
        Times(overdue=given.overdue_seconds * SECOND_US),
        given.objects_a_batch,
    )
    with session("milkrun-stream", given.master) as spark:
        late = run(spark, stream, given.every_seconds)
    report("stream_ended", name=given.name, late=late)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
