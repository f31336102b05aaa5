"""Test the trucks, places and geofence crossings of a simulated morning."""

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from tools.fleet.phones import Post, posts
from tools.fleet.rounds import Planned
from tools.fleet.traffic_parameters import Plan

PLAN = Plan("0a1b2c3d", datetime(2026, 11, 22, 3, 30, tzinfo=UTC))
MORNING = list(posts(PLAN))


def events(sent: list[Post] = MORNING) -> list[Planned]:
    return [event for post in sent for event in post.events]


def test_default_morning_has_about_2000_events_from_twelve_trucks() -> None:
    assert 1700 <= len(events()) <= 2300
    devices = {event.crossing.device_id for event in events() if event.crossing}
    assert len(devices) == 12
    fences = {event.crossing.fence for event in events() if event.crossing}
    assert {fence.tag for fence in fences} == {"farm", "plant"}
    assert len({fence for fence in fences if fence.tag == "plant"}) == 1
    assert 30 <= len({fence for fence in fences if fence.tag == "farm"}) <= 40


def test_each_event_id_begins_and_each_device_id_ends_with_the_run_id() -> None:
    assert all(event.event_id.startswith(PLAN.run) and len(event.event_id) == 24 for event in events())
    assert all(e.crossing.device_id.endswith(PLAN.run) for e in events() if e.crossing)


def test_trucks_often_reenter_a_geofence_within_two_minutes_of_leaving_it() -> None:
    crossings = {e.event_id: e.crossing for e in events() if e.crossing}.values()
    by_fence = defaultdict(list)
    for crossing in crossings:
        if crossing.kind != "dwell":
            by_fence[crossing.device_id, crossing.fence].append((crossing.occurred_at, crossing.kind))
    gaps = [
        enter - exit_
        for each in by_fence.values()
        for (exit_, one), (enter, other) in pairwise(sorted(each))
        if (one, other) == ("exit", "enter")
    ]
    assert sum(gap <= timedelta(seconds=120) for gap in gaps) > 10
    assert sum(gap > timedelta(seconds=120) for gap in gaps) > 0


def test_run_id_must_be_eight_hexadecimal_digits() -> None:
    with pytest.raises(ValueError, match="8 hexadecimal digits"):
        replace(PLAN, run="my-run")
