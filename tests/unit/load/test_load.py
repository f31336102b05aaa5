"""Test the parts of the load test: request times, leak detection, failing runs, and tables in the page."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.load.functions import FUNCTIONS, summary
from tests.load.shapes import Phase, Sent
from tests.load.stack import Load, leaks_of, phases
from tests.load.watch import FunctionLogs, Sample

MIB = 2**20


@given(st.floats(0, 20), st.floats(0.5, 20), st.integers(10, 300))
@settings(max_examples=40, deadline=None)
def test_ramp_sends_requests_at_its_rate_in_order(first: float, last: float, seconds: int) -> None:
    dues = list(Phase("ramp", seconds, first, last).dues())
    assert len(dues) == int((first + last) / 2 * seconds)
    assert all(0 <= due <= seconds for due in dues)
    assert all(before <= after for before, after in pairwise(dues))
    half = sum(due < seconds / 2 for due in dues)
    assert half == pytest.approx((first + (first + last) / 2) / 2 * seconds / 2, abs=2)


def test_burst_sends_several_requests_together_and_repeats() -> None:
    assert list(Phase("burst", 60, at_once=3, every=20).dues()) == [0, 0, 0, 20, 20, 20, 40, 40, 40]


PLAN = phases(4, 240)


def samples(growth: dict[str, float]) -> list[Sample]:
    """Return five minutes of samples in which each process grows by the given MiB per hour."""
    return [
        Sample(
            at,
            {name: int(80 * MIB + mib * MIB * at / 3600) + at * 7919 % 65536 for name, mib in growth.items()},
            {"redrive": 0, "snowpipe": float(at == 300), "stream": 0, "behind_s": 0.2},
        )
        for at in range(0, 420, 2)
    ]


def test_growth_of_functions_and_warehouse_is_a_leak() -> None:
    found = leaks_of(PLAN, samples({"ingest 1": 60, "consume 2": 1, "snowflake 3": 400, "localstack 4": 900}))
    assert {name: leak.found for name, leak in found.items()} == {
        "ingest 1": True,
        "consume 2": False,
        "snowflake 3": True,
    }


def test_bounded_caches_of_the_consumer_are_not_a_leak() -> None:
    assert not leaks_of(PLAN, samples({"consume 1": 30}))["consume 1"].found
    assert leaks_of(PLAN, samples({"consume 1": 300}))["consume 1"].found


def test_bounded_buffers_of_the_warehouse_are_not_a_leak() -> None:
    grown = samples({"snowflake 3": 400})
    buffered = [replace(each, buffered=int(395 * MIB * each.at / 3600)) for each in grown]
    assert not leaks_of(PLAN, buffered)["snowflake 3"].found


def test_process_that_ran_only_briefly_is_not_checked() -> None:
    short = [Sample(s.at, s.memory if s.at < 100 else {}, s.queues) for s in samples({"ingest 1": 60})]
    long = samples({"snowflake 3": 0})
    both = [Sample(a.at, a.memory | b.memory, a.queues) for a, b in zip(short, long, strict=True)]
    assert set(leaks_of(PLAN, both)) == {"snowflake 3"}


def load(**what: object) -> Load:
    good = Sent("steady", 40.0, 0.1, [200], True, 20, 20)
    given = {"sent": [good], "drained_s": 2.0, "reconciled": True, "leaks": {}} | what
    return Load(plan=PLAN, samples=samples({"ingest 1": 0}), **given)


def test_run_fails_if_undelivered_undrained_unequal_or_leaking() -> None:
    lost = Sent("burst", 300.0, 120.0, [503] * 9, False, 20, 0)
    leaks = leaks_of(PLAN, samples({"ingest 1": 60}))
    assert load().problems == []
    assert load(sent=[lost]).problems == ["1 requests were never delivered"]
    assert load(drained_s=None).problems == ["queues were not empty within 180 s"]
    assert load(reconciled=False).problems == ["accepted, archived, loaded and consumed events are not equal"]
    assert load(leaks=leaks).problems == ["ingest 1 leaks: 60 MiB per hour"]


def test_run_with_too_few_samples_fails_without_a_leak_verdict() -> None:
    few = samples({"ingest 1": 0})[::20]
    assert leaks_of(PLAN, few) == {}
    unsampled = Load(PLAN, [], few, 1.0, True, {})
    assert unsampled.problems == [f"only {unsampled.steady_samples} memory samples in the steady phase"]


def test_progress_of_the_consumer_is_read_from_its_log_lines(tmp_path: Path) -> None:
    def line(number: int) -> str:
        facts = {"shard_id": "0", "last_sequence_number": str(number), "behind_seconds": number / 2}
        return json.dumps({"event": "records_consumed", **facts}) + "\n"

    log = tmp_path / "consume.log"
    log.write_text(line(1))
    read = FunctionLogs(tmp_path)
    read.read()
    assert read.consumed_up_to == {"0": "1"}
    with log.open("a") as more:
        more.write("START RequestId: 1\n" + line(2) + line(3)[:20])
    read.read()
    assert (read.consumed_up_to, read.behind_seconds) == ({"0": "2"}, 1.0)
    with log.open("a") as more:
        more.write(line(3)[20:])
    read.read()
    read.read()
    assert (read.consumed_up_to, read.behind_seconds) == ({"0": "3"}, 1.5)


def test_knee_is_where_the_asymptotes_intersect() -> None:
    """40 ms including 2 ms of CPU: 20 environments per vCPU. With 1024 MB, CPU work takes 1769/1024 times as
    long.
    """
    steps = [
        {"environments": 1, "invocations_per_s": 25.0, "events_per_s": 500.0, "cpu_ms": 2.0},
        {"environments": 64, "invocations_per_s": 480.0, "events_per_s": 9600.0, "cpu_ms": 2.1},
    ]
    found = summary(FUNCTIONS["ingest@20"], steps)
    assert found["knee_environments"] == 20
    assert found["events_per_s_per_vcpu"] == 10_000
    assert found["seconds_on_lambda"] == pytest.approx(0.038 + 0.002 * 1769 / 1024, abs=1e-4)
