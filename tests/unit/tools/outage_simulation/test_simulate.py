"""Test that the simulation of outages loses no event and agrees with the formulas of queueing theory."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tools.outage_simulation.__main__ import command
from tools.outage_simulation.flow import QUEUES, TICK, Flow, Outage, Sample, expected_recovery, simulate
from tools.outage_simulation.plots import draw
from tools.outage_simulation.sizes import CLAIM_SECONDS, REQUEST_SECONDS, Size, production, sizes

ALL = sizes()
OUTAGES = (Outage("kinesis"), Outage("snowpipe"))


def is_consistent(sample: Sample) -> bool:
    """Return whether the counts add up: each sent event is on a phone or archived, each archived event is in the
    pipe or loaded, and each archived geofence event is in the redrive queue or the stream, consumed, or given up.
    """
    return (
        sample.sent == sample.phones + sample.archived
        and sample.archived == sample.pipe + sample.loaded
        and sample.geofence == sample.redrive + sample.stream + sample.consumed + sample.given_up
    )


@st.composite
def any_size(draw: st.DrawFn) -> Size:
    return replace(
        ALL["1k"],
        events_per_second=draw(st.integers(1, 5_000)),
        batch=draw(st.integers(1, 500)),
        ingest_concurrency=draw(st.integers(1, 500)),
        redrive_concurrency=draw(st.integers(1, 50)),
        shards=draw(st.integers(1, 20)),
        geofence_share=draw(st.floats(0, 1)),
        load_factor=draw(st.floats(0.5, 4)),
    )


@given(any_size(), st.sampled_from(["kinesis", "snowpipe"]), st.floats(10, 1000))
@settings(max_examples=40, deadline=None)
def test_simulated_event_counts_add_up_at_any_time(size: Size, part: object, seconds: float) -> None:
    flow = Flow(size, Outage(part, begins=60, seconds=seconds))
    samples = []
    while flow.env.now < 2500:
        flow.env.run(until=flow.env.now + TICK / 2)
        samples.append(flow.sample())
    assert all(map(is_consistent, samples))
    for before, after in pairwise(samples):
        assert before.loaded <= after.loaded
        assert before.consumed <= after.consumed


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.part)
@pytest.mark.parametrize("name", ALL)
def test_no_event_is_lost_and_all_queues_recover_after_a_one_hour_outage(name: str, outage: Outage) -> None:
    simulation = simulate(ALL[name], outage)
    assert simulation.lost == 0
    assert simulation.samples[-1].given_up == 0
    assert all(simulation.recovered_after(queue) is not None for queue in QUEUES)


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.part)
@pytest.mark.parametrize("name", ["1k", "100k", "1M"])
def test_recovery_time_is_the_backlog_divided_by_the_spare_capacity(name: str, outage: Outage) -> None:
    """`expected_recovery` divides the backlog by the spare capacity of the slowest part. After an outage of Kinesis,
    only geofence events are in the backlog. The simulated recovery time may differ from the expected one by two ticks
    or 5 %, whichever is more.
    """
    size = ALL[name]
    expected = expected_recovery(size, outage)
    assert expected is not None
    found = max(simulate(size, outage).recovered_after(queue) or 0 for queue in QUEUES)
    assert found == pytest.approx(expected, rel=0.05, abs=2 * TICK)


@given(st.floats(1.1, 5), st.integers(100, 7200))
@settings(max_examples=15, deadline=None)
def test_snowpipe_recovery_matches_the_formula_for_any_outage(load_factor: float, seconds: int) -> None:
    size = replace(ALL["1k"], load_factor=load_factor)
    outage = Outage("snowpipe", seconds=seconds)
    simulation = simulate(size, outage)
    assert simulation.largest("pipe") == pytest.approx(seconds * 1000, rel=0.05, abs=2 * TICK * 1000)
    parcel = 2 * TICK * load_factor / (load_factor - 1)  # arrivals and samples have a resolution of one tick
    recovered = simulation.recovered_after("pipe")
    assert recovered == pytest.approx(seconds / (load_factor - 1), rel=0.02, abs=parcel)


@given(st.integers(1, 20), st.integers(4, 40), st.integers(300, 3600))
@settings(max_examples=15, deadline=None)
def test_kinesis_recovery_matches_the_formula_for_any_bottleneck(
    redrives: int, shards: int, seconds: int
) -> None:
    size = replace(ALL["1k"], redrive_concurrency=redrives, shards=shards)
    outage = Outage("kinesis", seconds=seconds)
    found = max(simulate(size, outage).recovered_after(queue) or 0 for queue in QUEUES)
    assert found == pytest.approx(expected_recovery(size, outage), rel=0.05, abs=3 * TICK)


def test_no_event_waits_in_a_queue_for_more_than_two_ticks_without_an_outage() -> None:
    for size in ALL.values():
        flow = Flow(size, None)
        while flow.env.now < 7200:
            flow.env.run(until=flow.env.now + TICK / 2)
            sample = flow.sample()
            assert is_consistent(sample)
            assert max(sample.oldest.values()) <= 2 * TICK


def test_requests_exhaust_the_lambda_concurrency_in_a_kinesis_outage_without_a_circuit_breaker() -> None:
    """By Little's law, 5,000 requests per second (100,000 events) that take 3.6 s each need a concurrency of
    18,000; the limit is 1,000.
    """
    size = ALL["100k-no-breaker"]
    assert size.concurrency_while_throttled > size.ingest_concurrency
    simulation = simulate(size, Outage("kinesis"))
    kept = (size.events_per_second - size.ingest_while_throttled) * 3600
    assert simulation.largest("phones") == pytest.approx(kept, rel=0.05)
    assert simulate(ALL["100k"], Outage("kinesis")).largest("phones") < 3 * TICK * 100_000


def test_events_older_than_the_maximum_record_age_leave_the_stream_but_are_not_lost() -> None:
    """The consumer is so slow that some records exceed the maximum record age of six hours."""
    slow = replace(ALL["1k"], consume_concurrency=1, shards=1, events_per_second=16_000, geofence_share=0.2)
    flow = Flow(slow, None)
    flow.env.run(until=24 * 3600)
    sample = flow.sample()
    assert sample.given_up > 0
    assert is_consistent(sample)


def test_smallest_simulated_size_has_the_parameters_of_the_prod_stage() -> None:
    prod, small = production(), ALL["1k"]
    assert (small.ingest_concurrency, small.redrive_concurrency) == (
        prod["ingestConcurrency"],
        prod["redriveConcurrency"],
    )
    assert small.ingest == min(prod["throttleRate"], prod["ingestConcurrency"] / REQUEST_SECONDS) * 20
    assert small.redrive == prod["redriveConcurrency"] / CLAIM_SECONDS * 4


def test_every_simulated_size_has_capacity_for_one_and_a_half_times_its_load() -> None:
    for size in ALL.values():
        assert size.ingest >= 1.5 * size.events_per_second
        assert size.consume >= 1.5 * size.geofence_per_second
        assert size.stream_write >= 1.5 * size.geofence_per_second


def run(*words: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(words))


def test_simulate_command_prints_the_largest_backlogs(tmp_path: Path) -> None:
    done = run("--size", "1k", "--minutes", "10", "--json", "--plots", str(tmp_path))
    assert done.exit_code == 0
    kinesis, snowpipe = json.loads(done.stdout)
    assert kinesis["most_redrive"] == pytest.approx(120_000, rel=0.05)
    assert snowpipe["most_pipe"] == pytest.approx(600_000, rel=0.05)
    assert (kinesis["lost"], snowpipe["lost"]) == (0, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"outage-kinesis.svg", "outage-snowpipe.svg"}


def test_simulate_command_rejects_an_unknown_size() -> None:
    assert run("--size", "2k").exit_code == 2


def test_same_simulation_produces_identical_plots(tmp_path: Path) -> None:
    simulation = simulate(ALL["1k"], Outage("kinesis", seconds=600))
    for name in ("one.svg", "two.svg"):
        draw([simulation], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
