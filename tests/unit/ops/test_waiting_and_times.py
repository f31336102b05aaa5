"""Test functions that many commands share: parsing times, polling, waiting for loaded rows, and formatting values."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from contract.objects import ObjectName
from ops.event_finder import Step, _covers, in_order, is_key, lags
from ops.polling import until
from ops.terminal import in_words
from ops.times import instant
from snowpipe.warehouse import Row
from tools.fleet.row_latency import Watch

NOW = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-16T08:00Z", datetime(2026, 11, 16, 8, tzinfo=UTC)),
        ("2026-11-16T09:00+01:00", datetime(2026, 11, 16, 8, tzinfo=UTC)),
        ("2026-11-16", datetime(2026, 11, 16, tzinfo=UTC)),
        ("2 hours ago", NOW - timedelta(hours=2)),
        ("now", NOW),
    ],
)
def test_time_is_parsed_from_iso_8601_or_a_phrase(text: str, at: datetime) -> None:
    assert instant(text, NOW) == at


def test_invalid_time_raises_value_error() -> None:
    with pytest.raises(ValueError, match="is not a time"):
        instant("soonish, perhaps", NOW)


def test_polling_ends_when_the_condition_holds() -> None:
    numbers = count()
    assert until(lambda: next(numbers), lambda n: n == 3, timeout_s=5, every_s=0) == 3


def test_polling_ends_at_the_deadline() -> None:
    assert until(lambda: 7, lambda _: False, timeout_s=0.05, every_s=0.01) == 7


class FakeWarehouse:
    """A fake of RAW with the number of rows and the load time of each file. The tests add the rows."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, datetime]] = {}
        self.asked = threading.Event()

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        self.asked.set()
        return [
            {"file_name": key, "n": self.rows[str(key)][0], "scanned_at": self.rows[str(key)][1]}
            for key in parameters
            if key in self.rows
        ]

    @contextmanager
    def connect(self) -> Iterator["FakeWarehouse"]:
        yield self


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("events/by-hand.json", True),
        ("rejected/dt=2026-11-16/hh=08/copy.ndjson.gz", True),
        ("set-aside/x", True),
        ("events", False),
        ("compacted/x.parquet", False),
        ("a/b", False),
    ],
)
def test_custom_object_keys_are_recognized_as_keys(text: str, expected: bool) -> None:
    assert is_key(text) is expected


def name(lines: int, prefix: str = "events") -> str:
    return ObjectName(prefix, NOW, "a" * 64, lines).key


def wait_for(watch: Watch, pending: int) -> None:
    until(
        lambda: watch.pending, lambda n: n == pending or watch.fault is not None, timeout_s=5, every_s=0.005
    )


def test_latency_watch_counts_the_rows_of_an_object_once_all_are_loaded() -> None:
    raw, posted_at = FakeWarehouse(), datetime.now(UTC)
    with Watch(raw.connect, "DB", every_s=0.005) as watch:
        watch.expect(name(3), posted_at)
        watch.expect(name(2, "rejected"), posted_at)
        raw.asked.wait(5)
        raw.rows[name(3)] = (2, posted_at)  # not all rows yet
        raw.rows[name(2, "rejected")] = (2, posted_at)
        wait_for(watch, 1)
        assert watch.rows == {"EVENTS": 0, "REJECTED": 2}
        raw.rows[name(3)] = (3, posted_at)
        wait_for(watch, 0)
    assert watch.rows == {"EVENTS": 3, "REJECTED": 2}
    assert len(watch.latencies) == 5
    assert all(0 <= latency < 5 for latency in watch.latencies)


def test_no_latency_is_measured_for_rows_loaded_before_the_request() -> None:
    raw, posted_at = FakeWarehouse(), datetime.now(UTC)
    raw.rows[name(3)] = (3, posted_at - timedelta(minutes=5))
    with Watch(raw.connect, "DB", every_s=0.005) as watch:
        watch.expect(name(3), posted_at)
        wait_for(watch, 0)
    assert watch.rows["EVENTS"] == 3
    assert watch.latencies == []


def test_latency_watch_reports_a_failure_of_the_warehouse() -> None:
    class Down(FakeWarehouse):
        def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
            raise RuntimeError("down")

    with Watch(Down().connect, "DB", every_s=0.005) as watch:
        watch.expect(name(3), NOW)
        wait_for(watch, 0)
    assert str(watch.fault) == "down"


def test_trace_orders_steps_by_time_and_puts_steps_without_a_time_after_their_predecessor() -> None:
    steps = [
        Step("archived", NOW + timedelta(seconds=2)),
        Step("received", NOW + timedelta(seconds=1)),
        Step("consumed", None),
        Step("happened", NOW),
        Step("loaded", NOW + timedelta(seconds=5)),
    ]
    assert [step.what for step in in_order(steps)] == [
        "happened",
        "received",
        "archived",
        "consumed",
        "loaded",
    ]
    assert [row["lag_s"] for row in lags(in_order(steps))] == [-1, 0, 1, None, 4]


@pytest.mark.parametrize(
    ("line", "covered"),
    [
        ({"first_sequence_number": "10", "last_sequence_number": "20"}, True),
        ({"first_sequence_number": "10", "last_sequence_number": "15"}, True),
        ({"first_sequence_number": "16", "last_sequence_number": "20"}, False),
        ({"first_sequence_number": "10", "last_sequence_number": "20", "stopped_at": "16"}, True),
        ({"first_sequence_number": "10", "last_sequence_number": "20", "stopped_at": "15"}, False),
        ({"records": 0}, False),
    ],
)
def test_log_line_of_a_batch_covers_the_sequence_numbers_that_the_batch_processed(
    line: dict[str, object], covered: bool
) -> None:
    assert _covers(line, 15) == covered


def test_trace_shows_a_repeated_step_once() -> None:
    assert len(in_order([Step("archived", NOW), Step("archived", NOW)])) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ""),
        (NOW, "2026-11-22T12:30:00.000Z"),
        ({"a": 1, "b": None}, "a 1, b "),
        ({}, "none"),
        (0.25, "0.25"),
        (1234.5, "1234"),
        ("x", "x"),
    ],
)
def test_values_are_formatted_for_people(value: object, words: str) -> None:
    assert in_words(value) == words
