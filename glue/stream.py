"""Count the trucks inside each fence per five-minute window, and find overdue visits, as the archive receives objects.

    streamed/<name>/trucks_inside/batch-000012.parquet
        window_start, geofence_tag, geofence_external_id, trucks
    streamed/<name>/overdue_exits/batch-000012.parquet
        device_id, geofence_tag, geofence_external_id, entered_at

Results are exactly-once: a batch's files are named by the batch number, and Spark repeats an unfinished batch
with the same input and state, so the repeated batch replaces its own files. The trucks of a window are counted
in the one batch in which the watermark passes the end of the window, so each row of `trucks_inside` is final.
Events later than the allowed lateness are dropped here and counted as `late`; the warehouse still contains them. A
phone with a fast clock cannot advance the watermark for others, because the watermark uses an event's time or, if
it is earlier, the time at which the store wrote the event's object.

    python -m glue.stream --archive s3://BUCKET --name live --checkpoint s3://BUCKET/streamed/live/checkpoint
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Condition
from urllib.parse import unquote, urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.streaming import StreamingQueryListener
from pyspark.sql.streaming.listener import QueryProgressEvent, QueryStartedEvent, QueryTerminatedEvent
from pyspark.sql.streaming.state import GroupState, GroupStateTimeout

from contract.archive_object import hour_of, is_content
from glue.archive import Bucket, Fault, Folder, Store, Stored, floor_hour, read_object, set_aside
from glue.jobs import add_archive, arguments, at_least, exit_code, name_in_key, parser_of, report
from glue.occupancy import SECOND_US, State, Times, advance, crossing, loads, next_timeout
from glue.rows import from_micros, micros, parse_geofence_event, with_plausible_time
from glue.session import session

PREFIX = "streamed"
LISTENER_TIMEOUT_SECONDS = 60

_EVENT = pa.schema(
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
_RESULT = "device_id string, tag string, external_id string, what string, us long"

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


class ObjectUnavailable(Exception):
    """Raised if an object is temporarily unreadable, so that Spark repeats the batch; otherwise the
    object's events would be lost.
    """


@dataclass(frozen=True)
class Stream:
    """The options of a stream. `root` is the archive's URL for Spark, and `watched` is a glob under events/."""

    store: Store
    root: str
    name: str
    checkpoint: str
    watched: str = "dt=*/hh=*"
    lateness_seconds: int = 3600
    times: Times = field(default_factory=Times)
    objects_per_batch: int = 10_000


def crossings(spark: SparkSession, stream: Stream) -> DataFrame:
    """Return the geofence events in new objects.

    Spark only lists the objects, and `_read` reads them, because a permanently unreadable object must not end
    the stream.
    """
    objects = (
        # Spark only lists the objects, because the content column is never selected.
        spark.readStream.format("binaryFile")
        .schema("path string, modificationTime timestamp, length long, content binary")
        .option("maxFilesPerTrigger", stream.objects_per_batch)
        .load(f"{stream.root}/events/{stream.watched}/*.ndjson.gz")
        .select("path", f.unix_micros("modificationTime").alias("modified_us"), "length")
    )
    return objects.mapInArrow(partial(_read, stream.store), from_arrow_schema(_EVENT))


def _read(store: Store, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in batch.to_pylist():
            key = "events/" + unquote(urlsplit(row["path"]).path).rpartition("/events/")[2]
            if not is_content(key, row["length"]):
                continue
            stored = Stored(key, row["length"], from_micros(row["modified_us"]))
            read = read_object(store, stored)
            if isinstance(read, Fault):
                if not read.permanent:
                    raise ObjectUnavailable(f"{read.code} {key}: {read.message}")
                hour = hour_of(key) or floor_hour(stored.modified_at)
                set_aside(store, hour, [read], "glue.stream")
                continue
            parsed = (parse_geofence_event(line) for line in read.lines)
            events = [event for each in parsed if (event := with_plausible_time(each, read.stored))]
            rows = [
                (e.device_id, *e.fence, e.event_id, e.kind, us, min(us, row["modified_us"]))
                for e, us in ((event, micros(event.occurred_at)) for event in events)
            ]
            columns = zip(*rows, strict=True) if rows else [()] * len(_EVENT)
            yield pa.record_batch(
                [pa.array(c, field.type) for c, field in zip(columns, _EVENT, strict=True)], schema=_EVENT
            )


def occupancy(events: DataFrame, stream: Stream) -> DataFrame:
    """Return the windows in which a device was inside a fence, and the overdue visits.

    The column `what` is `inside` or `overdue`, and `us` (microseconds) is the start of the window or the entry time
    of the visit, respectively.
    """
    return (
        events.withWatermark("at", f"{stream.lateness_seconds} seconds")
        .groupBy("device_id", "tag", "external_id")
        .applyInPandasWithState(
            partial(_advance, stream.times),
            _RESULT,
            "state string",
            "append",
            GroupStateTimeout.EventTimeTimeout,
        )
    )


def _advance(
    times: Times, pair: tuple[str, str, str], frames: Iterator[pd.DataFrame], state: GroupState
) -> Iterator[pd.DataFrame]:
    arrived = [
        crossing(at, kind, event_id)
        for frame in frames
        for at, kind, event_id in zip(frame["occurred_us"], frame["kind"], frame["event_id"], strict=True)
    ]
    known = loads(state.get[0]) if state.exists else State()
    watermark = state.getCurrentWatermarkMs() * 1000
    new, found = advance(known, arrived, watermark, times)
    timeout = next_timeout(new, times)
    if timeout is None:
        if state.exists:
            state.remove()
    else:
        state.update((new.dumps(),))
        state.setTimeoutTimestamp(max(timeout, watermark + 1000) // 1000)
    rows = [(*pair, "inside", at) for at in found.inside] + [(*pair, "overdue", at) for at in found.overdue]
    if rows:
        yield pd.DataFrame(rows, columns=["device_id", "tag", "external_id", "what", "us"])


def write_batch(store: Store, name: str, batch: DataFrame, number: int) -> None:
    """Write a batch's rows to Parquet files; repeating the batch replaces its files with identical ones."""
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
    """Return all rows of `trucks_inside` or `overdue_exits`, sorted."""
    keys = sorted(each.key for each in store.list(f"{PREFIX}/{name}/{what}/"))
    tables = (pq.read_table(BytesIO(store.read(key))) for key in keys)
    return sorted(tuple(row.values()) for table in tables for row in table.to_pylist())


class LateEvents(StreamingQueryListener):
    """Counts the late events of each query over all its batches, and reports each batch that has some, because a
    continuous run never ends.

    `StreamingQuery.recentProgress` does not suffice, because Spark keeps only the reports of the last batches
    (spark.sql.streaming.numRecentProgressUpdates, default: 100).
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._late: Counter[str] = Counter()
        self._ended: set[str] = set()
        self._changed = Condition()

    def onQueryStarted(self, event: QueryStartedEvent) -> None:  # noqa: N802
        pass

    def onQueryProgress(self, event: QueryProgressEvent) -> None:  # noqa: N802
        dropped = sum(each.numRowsDroppedByWatermark for each in event.progress.stateOperators)
        with self._changed:
            self._late[str(event.progress.runId)] += dropped
        if dropped:
            report("late_events_dropped", name=self._name, batch=event.progress.batchId, late=dropped)

    def onQueryTerminated(self, event: QueryTerminatedEvent) -> None:  # noqa: N802
        with self._changed:
            self._ended.add(str(event.runId))
            self._changed.notify_all()

    def of(self, run_id: str) -> int:
        """Return the number of late events of a run of a query that has ended.

        Raises TimeoutError if Spark does not report the end of the query within LISTENER_TIMEOUT_SECONDS.
        """
        # Spark calls the listener asynchronously but in order, so a query's last batch is counted before its end.
        with self._changed:
            if not self._changed.wait_for(lambda: run_id in self._ended, LISTENER_TIMEOUT_SECONDS):
                raise TimeoutError(
                    f"All batches are written, but Spark did not report the end of query {run_id} within "
                    f"{LISTENER_TIMEOUT_SECONDS} s, so the number of late events is unknown."
                )
            return self._late[run_id]


def run(spark: SparkSession, stream: Stream, every_seconds: int | None) -> int:
    """Process the archive once, or continuously if `every_seconds` is set. Returns the number of late events.

    Batches of an earlier, interrupted run are not included in the number.
    """
    writer = (
        occupancy(crossings(spark, stream), stream)
        .writeStream.option("checkpointLocation", stream.checkpoint)
        .foreachBatch(lambda batch, number: write_batch(stream.store, stream.name, batch, number))
    )
    trigger = {"processingTime": f"{every_seconds} seconds"} if every_seconds else {"availableNow": True}
    late = LateEvents(stream.name)
    spark.streams.addListener(late)
    try:
        query = writer.trigger(**trigger).start()
        query.awaitTermination()
        return late.of(query.runId)
    finally:
        spark.streams.removeListener(late)


def mixes_checkpoints(store: Store, name: str, checkpoint: str) -> bool:
    """Return whether the stream of this name has results although the checkpoint is new.

    With a new checkpoint, batch numbers start at 0 again: new files would replace earlier files with the same number,
    and the windows in the remaining earlier files would appear twice. Returns False if only Spark can list the
    checkpoint's file system.
    """
    if checkpoint.startswith("s3://"):
        bucket, _, prefix = checkpoint.removeprefix("s3://").partition("/")
        is_new = not any(Bucket(bucket).list(f"{prefix.rstrip('/')}/"))
    else:
        path = checkpoint.removeprefix("file://")
        if "://" in path:
            return False  # a file system that only Spark can list
        is_new = not any(Path(path).glob("*"))
    return is_new and any(store.list(f"{PREFIX}/{name}/"))


def main(argv: Sequence[str]) -> int:
    parser = parser_of("stream", __doc__)
    add_archive(parser)
    parser.add_argument("--name", type=name_in_key, required=True)
    parser.add_argument(
        "--checkpoint", required=True, help="folder or s3:// prefix that only this stream uses"
    )
    parser.add_argument(
        "--watched", default="dt=*/hh=*", help="glob under events/; narrow it to skip old hours"
    )
    parser.add_argument("--lateness-seconds", type=at_least(0), default=3600)
    parser.add_argument("--overdue-seconds", type=at_least(0), default=7200)
    parser.add_argument("--objects-a-batch", dest="objects_per_batch", type=at_least(1), default=10_000)
    parser.add_argument(
        "--every-seconds",
        type=at_least(1),
        help="seconds between the batches of a continuous run; default: process the existing objects once",
    )
    given = arguments(parser, argv)
    store = given.store
    if given.overdue_seconds > (dropped_after := Times.abandoned // SECOND_US):
        parser.error(
            f"--overdue-seconds must be at most {dropped_after}, because a visit is dropped after this time"
        )
    if mixes_checkpoints(store, given.name, given.checkpoint):
        parser.error(
            f"{PREFIX}/{given.name}/ contains results of another checkpoint: use another --name, or delete them"
        )
    stream = Stream(
        store,
        f"file://{store.path}" if isinstance(store, Folder) else given.archive,
        given.name,
        given.checkpoint,
        given.watched,
        given.lateness_seconds,
        Times(overdue=given.overdue_seconds * SECOND_US),
        given.objects_per_batch,
    )
    with session("milkrun-stream", given.master) as spark:
        late = run(spark, stream, given.every_seconds)
    report("stream_ended", name=given.name, late=late)
    return 0


if __name__ == "__main__" and (status := exit_code(main)):  # Glue may treat sys.exit(0) as a failure
    sys.exit(status)
