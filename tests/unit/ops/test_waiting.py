"""Test polling and the measurement of the time until an object's rows are loaded."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count

from contract.archive_object import ObjectName
from ops.polling import until
from snowpipe.warehouse import Row
from tools.fleet.row_latency import Watch

NOW = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)


def test_polling_ends_when_the_condition_holds() -> None:
    numbers = count()
    assert until(lambda: next(numbers), lambda n: n == 3, timeout_s=5, every_s=0) == 3


def test_polling_returns_the_last_result_if_the_condition_does_not_hold_within_the_timeout() -> None:
    assert until(lambda: 7, lambda _: False, timeout_s=0.05, every_s=0.01) == 7


class FakeWarehouse:
    """A fake warehouse. Tests set the number of rows and the load time of each file in `rows`."""

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


def name(lines: int, prefix: str = "events") -> str:
    return ObjectName(prefix, NOW, "a" * 64, lines).key


def wait_for(watch: Watch, pending: int) -> None:
    until(
        lambda: watch.pending, lambda n: n == pending or watch.fault is not None, timeout_s=5, every_s=0.005
    )


def test_latency_watch_counts_the_rows_of_an_object_only_after_all_are_loaded() -> None:
    raw, posted_at = FakeWarehouse(), datetime.now(UTC)
    with Watch(raw.connect, "DB", every_s=0.005) as watch:
        watch.expect(name(3), posted_at)
        watch.expect(name(2, "rejected"), posted_at)
        raw.asked.wait(5)
        raw.rows[name(3)] = (2, posted_at)  # only two of three rows
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
