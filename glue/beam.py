"""Compute the `trucks_inside` table of glue/stream.py in a Beam pipeline, on DirectRunner, Flink or Dataflow.

The pipeline applies the same rule as the Spark stream (`glue.occupancy.advance`), but uses Beam's own windowing
and counting.

    python -m glue.beam --archive FOLDER --from 2026-11-16 --to 2026-11-17 --out trucks_inside [--runner …]

All other options, such as `--runner FlinkRunner --flink_master …`, are passed to Beam.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows, IntervalWindow, TimestampedValue

from glue.archive import Fault, Hours, Store, Stored, hours_between, objects_of, open_store, read_object
from glue.jobs import exit_code, report
from glue.occupancy import SECOND_US, Crossing, State, Times, advance, crossing
from glue.rows import from_micros, micros, parse_geofence_event, with_plausible_time

Pair = tuple[str, str, str]
TRUCKS_INSIDE = pa.schema(
    [
        ("window_start", pa.timestamp("us", "UTC")),
        ("geofence_tag", pa.string()),
        ("geofence_external_id", pa.string()),
        ("trucks", pa.int64()),
    ]
)


def trucks_inside(
    pipeline: beam.Pipeline, store: Store, objects: Sequence[Stored], until: datetime
) -> beam.PCollection[tuple[datetime, str, str, int]]:
    """Return (window start, tag, external id, number of trucks) for each fence and window with trucks inside.

    Only windows that end by `until` are included.
    """
    times = Times()
    return (
        pipeline
        | beam.Create(list(objects))
        | "distribute objects" >> beam.Reshuffle()
        | beam.FlatMap(_crossings, store)
        | "group by pair" >> beam.GroupByKey()
        | beam.FlatMap(_inside, micros(until), times)
        | beam.WindowInto(FixedWindows(times.window // SECOND_US))
        | beam.Distinct()
        # Keep only the fence. Distinct left one element per device, fence and window.
        | beam.Map(lambda each: each[1])
        | beam.combiners.Count.PerElement()
        | beam.Map(_row)
    )


def _crossings(stored: Stored, store: Store) -> Iterator[tuple[Pair, Crossing]]:
    read = read_object(store, stored)
    if isinstance(read, Fault):
        beam.metrics.Metrics.counter("milkrun", f"unreadable: {read.code}").inc()
        return
    for event in filter(
        None, (with_plausible_time(parse_geofence_event(line), read.stored) for line in read.lines)
    ):
        pair = (event.device_id, event.fence.tag, event.fence.external_id)
        yield pair, crossing(micros(event.occurred_at), event.kind, event.event_id)


def _inside(
    of_pair: tuple[Pair, Iterable[Crossing]], until: int, times: Times
) -> Iterator[TimestampedValue[tuple[str, tuple[str, str]]]]:
    (device, tag, external_id), events = of_pair
    for window in advance(State(), (Crossing(*each) for each in events), until, times)[1].inside:
        yield TimestampedValue((device, (tag, external_id)), window / SECOND_US)


def _row(
    counted: tuple[tuple[str, str], int], window: object = beam.DoFn.WindowParam
) -> tuple[datetime, str, str, int]:
    assert isinstance(window, IntervalWindow)
    (tag, external_id), trucks = counted
    return from_micros(window.start.micros), tag, external_id, trucks


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m glue.beam", description=__doc__)
    parser.add_argument("--archive", required=True)
    parser.add_argument("--from", dest="start", required=True)
    parser.add_argument("--to", dest="end", required=True)
    parser.add_argument("--out", required=True, help="path prefix of the Parquet file to write")
    given, others = parser.parse_known_args(argv)
    try:
        store: Store = open_store(given.archive)
        hours: Hours = hours_between(given.start, given.end)
        if hours.start >= hours.end:
            raise ValueError("--from must be before --to")
    except (ValueError, OverflowError) as error:
        parser.error(str(error))
    objects = [stored for hour in hours for stored in objects_of(store, hour)]
    with beam.Pipeline(options=PipelineOptions(others)) as pipeline:
        _ = (
            trucks_inside(pipeline, store, objects, hours.end)
            | beam.Map(lambda row: dict(zip(TRUCKS_INSIDE.names, row, strict=True)))
            # One file, because a run with fewer shards would not replace all files of the previous run.
            | beam.io.WriteToParquet(given.out, TRUCKS_INSIDE, file_name_suffix=".parquet", num_shards=1)
        )
    counters = pipeline.result.metrics().query()["counters"]
    unreadable = {
        each.key.metric.name: each.committed for each in counters if "unreadable" in each.key.metric.name
    }
    report("windows_counted", objects=len(objects), unreadable=unreadable)
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
