"""Test that the stream writes the rows that glue/occupancy.py computes, and counts the same trucks as the Beam job.

Each row must be written exactly once even after SIGKILL, and damaged objects must not stop the stream.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from contract.archive_object import lines_of
from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import Kind
from glue.archive import Folder, objects_of
from glue.beam import main as beam_main
from glue.beam import trucks_inside
from glue.occupancy import SECOND_US, State, Times, advance, crossing
from glue.rows import from_micros, micros
from glue.stream import Stream, rows_of, run
from glue.stream import main as stream_main
from tests.spark.killing import kill_all
from tests.unit.glue.sample_archives import HOUR, TYPES, archived, crossing_line

ROOT = Path(__file__).parents[2]
LATENESS = timedelta(minutes=10)
TIMES = Times(overdue=1800 * SECOND_US)
Windows = list[tuple[datetime, str, str, int]]


def morning(seed: int, trucks: int = 12, fences: int = 3) -> list[GeofenceEvent]:
    """Return three hours of events in sending order. They are up to nine minutes late, and some exits are missing."""
    pick, events = random.Random(seed), []
    for truck in range(trucks):
        at = HOUR + timedelta(seconds=pick.randrange(1800))
        while at < HOUR + timedelta(hours=3):
            fence = Fence("farm", f"f{pick.randrange(fences)}")
            left = at + timedelta(seconds=pick.randrange(30, 2400))
            ends: list[tuple[Kind, datetime]] = [("enter", at), ("exit", left)]
            for kind, when in ends:
                if kind == "enter" or pick.random() < 0.9:
                    id_ = f"{kind}-{truck}-{len(events)}"
                    events.append(GeofenceEvent(id_, TYPES[kind], kind, f"van-{truck}", fence, when))
            at = left + timedelta(seconds=pick.randrange(60, 1200))
    return sorted(events, key=lambda e: e.occurred_at + timedelta(seconds=pick.randrange(540)))


def landed(folder: Path, events: Iterable[GeofenceEvent], each: int = 15) -> list[str]:
    """Write events to objects whose modification times follow the given order. Returns the keys."""
    keys = archived(folder, map(crossing_line, events), batch=each)
    for number, key in enumerate(keys):
        seconds = (HOUR + timedelta(days=1)).timestamp() + number
        os.utime(folder / key, (seconds, seconds))
    return keys


def expected(events: list[GeofenceEvent], until: datetime) -> tuple[Windows, list[tuple[object, ...]]]:
    """Return the rows of `trucks_inside` and `overdue_exits` that the stream must have written up to the watermark
    `until`. They are computed without Spark, by calling `glue.occupancy.advance` once for each device and fence.
    """
    pairs: dict[tuple[str, Fence], list[GeofenceEvent]] = {}
    for event in events:
        pairs.setdefault((event.device_id, event.fence), []).append(event)
    trucks: dict[tuple[int, Fence], int] = {}
    overdue = []
    for (device, fence), those in pairs.items():
        arrived = [crossing(micros(e.occurred_at), e.kind, e.event_id) for e in those]
        _, found = advance(State(), arrived, micros(until), TIMES)
        for window in found.inside:
            trucks[window, fence] = trucks.get((window, fence), 0) + 1
        overdue += [(device, *fence, from_micros(at)) for at in found.overdue]
    return sorted((from_micros(w), *fence, n) for (w, fence), n in trucks.items()), sorted(overdue)


def watermark(events: list[GeofenceEvent]) -> datetime:
    return max(event.occurred_at for event in events) - LATENESS


def stream_of(folder: Path, objects_per_batch: int = 4) -> Stream:
    return Stream(
        Folder(folder),
        f"file://{folder}",
        "live",
        str(folder / "checkpoint"),
        lateness_seconds=int(LATENESS.total_seconds()),
        times=TIMES,
        objects_per_batch=objects_per_batch,
    )


def test_stream_follows_the_occupancy_rule_and_counts_the_same_trucks_as_the_beam_job(
    spark: SparkSession, tmp_path: Path
) -> None:
    events = morning(1)
    # The last 40 events repeat the first 40. They are late, so the stream ignores them.
    keys = landed(tmp_path, [*events, *events[:40]])
    (tmp_path / keys[0]).with_name(f"{'0' * 64}.3.ndjson.gz").write_bytes(b"no gzip")
    assert run(spark, stream_of(tmp_path), None) > 0
    until = watermark(events)
    windows, overdue = expected(events, until)
    assert rows_of(Folder(tmp_path), "live", "trucks_inside") == windows
    assert rows_of(Folder(tmp_path), "live", "overdue_exits") == overdue
    assert overdue != []
    [aside] = Folder(tmp_path).list("set-aside/")
    [line] = map(json.loads, lines_of(Folder(tmp_path).read(aside.key)))
    assert line["reasons"][0]["code"] == "corrupt_gzip"
    with beam.Pipeline() as pipeline:
        rows = trucks_inside(pipeline, Folder(tmp_path), objects_of(Folder(tmp_path), HOUR), until)
        texts = rows | beam.Map(lambda row: json.dumps([row[0].isoformat(), *row[1:]]))
        _ = texts | beam.io.WriteToText(str(tmp_path / "beam"))
    counted = [json.loads(each) for file in tmp_path.glob("beam-*") for each in file.read_text().splitlines()]
    assert sorted((datetime.fromisoformat(at), *rest) for at, *rest in counted) == windows


def test_objects_not_written_by_the_handler_do_not_stop_the_stream(
    spark: SparkSession, tmp_path: Path
) -> None:
    """The objects are a copy whose key an operator chose (`repaired.ndjson.gz`) and an empty file."""
    events = morning(3, trucks=3)
    keys = landed(tmp_path, events)
    by_hand = (tmp_path / keys[0]).with_name("repaired.ndjson.gz")
    by_hand.write_bytes((tmp_path / keys[0]).read_bytes())
    (tmp_path / keys[0]).with_name("empty.ndjson.gz").touch()
    assert run(spark, stream_of(tmp_path, 1000), None) == 0
    windows, _ = expected(events, watermark(events))
    assert rows_of(Folder(tmp_path), "live", "trucks_inside") == windows != []
    [aside] = Folder(tmp_path).list("set-aside/")
    [line] = map(json.loads, lines_of(Folder(tmp_path).read(aside.key)))
    assert line["reasons"][0]["code"] == "unknown_key"
    assert line["origin"]["object"] == str(by_hand.relative_to(tmp_path))


def test_fast_clock_of_one_phone_does_not_make_events_of_other_phones_late(
    spark: SparkSession, tmp_path: Path
) -> None:
    events = morning(2, trucks=3)
    fast = GeofenceEvent(
        "f", TYPES["enter"], "enter", "van-fast", Fence("farm", "f0"), HOUR + timedelta(hours=20)
    )
    keys = landed(tmp_path, [*events[:20], fast, *events[20:]], each=5)
    for key in keys:  # each object is written when its last event is sent
        times = (json.loads(each)["createdAt"] for each in lines_of((tmp_path / key).read_bytes()))
        sent = max(at for at in map(datetime.fromisoformat, times) if at < fast.occurred_at)
        os.utime(tmp_path / key, (sent.timestamp() + 1,) * 2)
    assert run(spark, stream_of(tmp_path, 2), None) == 0
    found = rows_of(Folder(tmp_path), "live", "trucks_inside")
    assert found == expected(events, max(each[0] for each in found) + timedelta(minutes=5))[0]


def test_late_events_of_every_batch_are_counted_even_if_spark_keeps_only_the_last_progress_report(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of late events is also printed after each batch, because a continuous run prints no total."""

    def entry(number: int, at: datetime) -> GeofenceEvent:
        return GeofenceEvent(f"e{number}", TYPES["enter"], "enter", f"van-{number}", Fence("farm", "f0"), at)

    on_time = [entry(number, HOUR + timedelta(hours=2)) for number in range(2)]
    late = [entry(number, HOUR) for number in range(2, 5)]
    landed(tmp_path, [*on_time, *late], each=1)
    setting = "spark.sql.streaming.numRecentProgressUpdates"
    spark.conf.set(setting, 1)
    try:
        assert run(spark, stream_of(tmp_path, objects_per_batch=1), None) == len(late)
    finally:
        spark.conf.unset(setting)
    reported = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "late_events" in line]
    assert sum(each["late"] for each in reported) == len(late)
    assert {each["name"] for each in reported} == {"live"}


STREAM = [
    *(sys.executable, "-m", "glue.stream", "--name", "live", "--master", "local[1]"),
    *("--lateness-seconds", "600", "--overdue-seconds", "1800", "--objects-a-batch", "2"),
]


@pytest.mark.timeout(900)
def test_stream_killed_repeatedly_writes_each_row_exactly_once(tmp_path: Path) -> None:
    """Twice, kill the driver and its JVM as soon as another batch is written, then continue from the checkpoint."""
    events = morning(3, trucks=6)
    landed(tmp_path, events, each=12)
    command = [*STREAM, "--archive", str(tmp_path), "--checkpoint", str(tmp_path / "checkpoint")]
    sink = tmp_path / "streamed/live/trucks_inside"
    errors = tmp_path / "stderr"
    kills = 0
    while True:
        before = len(list(sink.glob("*.parquet")))
        stream = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=errors.open("a"))
        deadline = time.monotonic() + 240
        while stream.poll() is None:
            assert time.monotonic() < deadline
            if kills < 2 and len(list(sink.glob("*.parquet"))) > before:
                kill_all(stream)
                kills += 1
                break
            time.sleep(0.02)
        if stream.wait() == 0:
            break
        assert stream.returncode == -signal.SIGKILL, errors.read_text()[-4000:]
    assert kills == 2
    windows, overdue = expected(events, watermark(events))
    assert rows_of(Folder(tmp_path), "live", "trucks_inside") == windows
    assert rows_of(Folder(tmp_path), "live", "overdue_exits") == overdue


def test_stream_with_a_new_checkpoint_is_refused_if_its_name_already_has_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the stream were started, batches of both checkpoints would count the same windows."""
    Folder(tmp_path).write("streamed/live/trucks_inside/batch-000000.parquet", b"")
    with pytest.raises(SystemExit) as ended:
        stream_main(["--archive", str(tmp_path), "--name", "live", "--checkpoint", str(tmp_path / "new")])
    assert ended.value.code == 2
    assert "streamed/live/ contains results of another checkpoint" in capsys.readouterr().err


def test_stream_refuses_overdue_seconds_greater_than_the_time_after_which_visits_are_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A visit without an exit is dropped after a day."""
    given = ["--archive", str(tmp_path), "--name", "live", "--checkpoint", str(tmp_path / "new")]
    with pytest.raises(SystemExit) as ended:
        stream_main([*given, "--overdue-seconds", "86401", "--master", "local[1]"])
    assert ended.value.code == 2
    assert "--overdue-seconds must be at most 86400" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("archive", "start"),
    [
        ("s3://bucket/events", "2026-11-16"),
        (".", "2026-11-17"),
        (".", "monday"),
        (".", "0001-01-01T00:00+01:00"),
    ],
)
def test_beam_command_refuses_an_invalid_range_or_archive(archive: str, start: str) -> None:
    with pytest.raises(SystemExit) as ended:
        beam_main(["--archive", archive, "--from", start, "--to", "2026-11-17", "--out", "inside"])
    assert ended.value.code == 2


def test_beam_command_that_cannot_use_the_archive_exits_with_code_2_and_one_line() -> None:
    given = ["--archive", "s3://bucket", "--from", "2026-11-16", "--to", "2026-11-17", "--out", "inside"]
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "x")
    environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "glue.beam", *given],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("The job could not be completed: EndpointConnectionError")
    assert "Traceback" not in ended.stderr


def test_beam_command_writes_parquet_that_a_run_with_more_workers_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = morning(4, trucks=3)
    landed(tmp_path, events)
    range_ = ["--from", HOUR.isoformat(), "--to", (HOUR + timedelta(hours=3)).isoformat()]
    two_workers = ["--direct_num_workers", "2", "--direct_running_mode", "multi_threading"]
    for more in ([], two_workers):
        assert beam_main(["--archive", str(tmp_path), *range_, "--out", str(tmp_path / "inside"), *more]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["unreadable"] == {}
    rows = [
        tuple(row.values())
        for file in tmp_path.glob("inside*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]
    rows = [(at.astimezone(UTC), *rest) for at, *rest in rows]
    assert sorted(rows) == expected(events, HOUR + timedelta(hours=3))[0]
