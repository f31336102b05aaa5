"""The simulation against what must hold of any flow, and against the arithmetic of queues."""

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

from tools.fleet.simulate.__main__ import command
from tools.fleet.simulate.flow import LINES, TICK, Flow, Look, Outage, expected_recovery, tell
from tools.fleet.simulate.plots import draw
from tools.fleet.simulate.sizes import CLAIM_SECONDS, REQUEST_SECONDS, Size, production, sizes

ALL = sizes()
OUTAGES = (Outage("kinesis"), Outage("snowpipe"))


def held_once(look: Look) -> bool:
    """Each event sent is on a phone or archived; each archived one is waiting for or in the warehouse, and each
    geofence one among them in exactly one place on the way to the visits."""
    return (
        look.sent == look.phones + look.archived
        and look.archived == look.pipe + look.loaded
        and look.geofence == look.redrive + look.stream + look.consumed + look.given_up
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
def test_at_every_moment_each_event_is_in_exactly_one_place(size: Size, part: Any, seconds: float) -> None:
    flow = Flow(size, Outage(part, begins=60, seconds=seconds))
    looks = []
    while flow.env.now < 2500:
        flow.env.run(until=flow.env.now + TICK / 2)
        looks.append(flow.look())
    assert all(map(held_once, looks))
    for before, after in pairwise(looks):
        assert before.loaded <= after.loaded
        assert before.consumed <= after.consumed


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.part)
@pytest.mark.parametrize("name", ALL)
def test_an_hour_s_outage_loses_nothing_and_is_over_some_time(name: str, outage: Outage) -> None:
    story = tell(ALL[name], outage)
    assert story.lost == 0
    assert story.looks[-1].given_up == 0
    assert all(story.recovered_after(line) is not None for line in LINES)


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.part)
@pytest.mark.parametrize("name", ["1k", "100k", "1M"])
def test_recovery_takes_the_backlog_over_what_capacity_is_left(name: str, outage: Outage) -> None:
    """What came in during the outage / (capacity - what comes in): within two ticks and a twentieth."""
    size = ALL[name]
    expected = expected_recovery(size, outage)
    assert expected is not None
    found = max(tell(size, outage).recovered_after(line) or 0 for line in LINES)
    assert found == pytest.approx(expected, rel=0.05, abs=2 * TICK)


@given(st.floats(1.1, 5), st.integers(100, 7200))
@settings(max_examples=15, deadline=None)
def test_of_snowpipe_for_any_speed_and_any_outage(load_factor: float, seconds: int) -> None:
    size = replace(ALL["1k"], load_factor=load_factor)
    outage = Outage("snowpipe", seconds=seconds)
    story = tell(size, outage)
    assert story.most("pipe") == pytest.approx(seconds * 1000, rel=0.05, abs=2 * TICK * 1000)
    parcel = 2 * TICK * load_factor / (load_factor - 1)  # arrivals are known to a tick, and so is the look
    assert story.recovered_after("pipe") == pytest.approx(seconds / (load_factor - 1), rel=0.02, abs=parcel)


@given(st.integers(1, 20), st.integers(4, 40), st.integers(300, 3600))
@settings(max_examples=15, deadline=None)
def test_of_kinesis_whichever_part_is_the_slowest(redrives: int, shards: int, seconds: int) -> None:
    size = replace(ALL["1k"], redrive_concurrency=redrives, shards=shards)
    outage = Outage("kinesis", seconds=seconds)
    found = max(tell(size, outage).recovered_after(line) or 0 for line in LINES)
    assert found == pytest.approx(expected_recovery(size, outage), rel=0.05, abs=3 * TICK)


def test_without_an_outage_nothing_waits_longer_than_it_is_worked_on() -> None:
    for size in ALL.values():
        flow = Flow(size, None)
        flow.env.run(until=7200)
        look = flow.look()
        assert held_once(look)
        assert max(look.oldest.values()) <= 2 * TICK


def test_while_kinesis_refuses_requests_hold_their_places_and_phones_keep_the_rest() -> None:
    """By Little's law 100,000 events a second are 5,000 requests, each 3.3 s: not within a thousand places."""
    patient = ALL["100k, patient"]
    assert patient.concurrency_while_refused > patient.ingest_concurrency
    story = tell(patient, Outage("kinesis"))
    kept = (patient.events_per_second - patient.ingest_while_refused) * 3600
    assert story.most("phones") == pytest.approx(kept, rel=0.05)
    assert tell(ALL["100k"], Outage("kinesis")).most("phones") < 3 * TICK * 100_000


def test_what_is_older_than_the_record_age_is_given_up_not_lost() -> None:
    """A consumer that cannot keep up: the stream's records grow older than six hours."""
    slow = replace(ALL["1k"], consume_concurrency=1, shards=1, events_per_second=16_000, geofence_share=0.2)
    flow = Flow(slow, None)
    flow.env.run(until=24 * 3600)
    look = flow.look()
    assert look.given_up > 0
    assert held_once(look)


def test_the_smallest_size_is_what_production_is_deployed_with() -> None:
    prod, small = production(), ALL["1k"]
    assert (small.ingest_concurrency, small.redrive_concurrency) == (
        prod["ingestConcurrency"],
        prod["redriveConcurrency"],
    )
    assert small.ingest == min(prod["throttleRate"], prod["ingestConcurrency"] / REQUEST_SECONDS) * 20
    assert small.redrive == prod["redriveConcurrency"] / CLAIM_SECONDS * 4


def test_every_size_can_do_what_arrives_and_half_as_much_again() -> None:
    for size in ALL.values():
        assert size.ingest >= 1.5 * size.events_per_second
        assert size.consume >= 1.5 * size.geofence_per_second
        assert size.stream_write >= 1.5 * size.geofence_per_second


def run(*words: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(words))


def test_the_command_tells_what_piled_up_where(tmp_path: Path) -> None:
    done = run("--size", "1k", "--minutes", "10", "--json", "--plots", str(tmp_path))
    assert done.exit_code == 0
    kinesis, snowpipe = json.loads(done.stdout)
    assert kinesis["most_redrive"] == pytest.approx(120_000, rel=0.05)
    assert snowpipe["most_pipe"] == pytest.approx(600_000, rel=0.05)
    assert (kinesis["lost"], snowpipe["lost"]) == (0, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"outage-kinesis.svg", "outage-snowpipe.svg"}


def test_a_size_that_is_none_is_refused() -> None:
    assert run("--size", "2k").exit_code == 2


def test_the_same_story_is_drawn_as_the_same_bytes(tmp_path: Path) -> None:
    story = tell(ALL["1k"], Outage("kinesis", seconds=600))
    for name in ("one.svg", "two.svg"):
        draw([story], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
