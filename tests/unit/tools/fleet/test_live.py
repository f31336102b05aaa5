"""Test that live trucks move, enter and leave places in turn, and send only events that the handler accepts."""

import json
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contract.geofence_event_types import GEOFENCE_KINDS
from handler.parse_body import parse_body
from handler.validate import validate
from tools.fleet import live
from tools.fleet.client import Delivery
from tools.fleet.live import LIVE_TICK_SECONDS, LiveFleet, drive
from tools.fleet.phones import Post
from tools.fleet.send import Tally
from tools.fleet.traffic_parameters import Plan
from tools.milkrun import app

BEGIN = datetime(2026, 11, 28, 12, tzinfo=UTC)
PLAN = Plan("0a1b2c3d", BEGIN, trucks=12, farms=10)


def ticks(number: int) -> list[Post]:
    fleet = LiveFleet(PLAN)
    at = (n * LIVE_TICK_SECONDS for n in range(number))
    return [post for each in at if (post := fleet.post(each, BEGIN + timedelta(seconds=each)))]


def test_every_live_event_is_valid_and_carries_the_current_time() -> None:
    for post in ticks(100):
        batch = validate(parse_body(post.body(), "ndjson"), "ndjson", GEOFENCE_KINDS, post.sent_at)
        assert not batch.rejected
        assert len(batch.lines) == len(post.events)
        assert {json.loads(line)["createdAt"][:19] for line in batch.lines} == {
            f"{post.sent_at:%Y-%m-%dT%H:%M:%S}"
        }


def test_trucks_have_readable_names_and_mostly_different_positions() -> None:
    first = [json.loads(event.text) for event in ticks(1)[0].events]
    assert sorted({each["user"]["deviceId"] for each in first})[:2] == ["truck-01", "truck-02"]
    assert len({tuple(each["location"]["coordinates"]) for each in first}) > 6


def test_each_truck_moves_and_alternately_enters_and_leaves_places() -> None:
    events = [json.loads(event.text) for post in ticks(200) for event in post.events]
    for name in {each["user"]["deviceId"] for each in events}:
        own = [each for each in events if each["user"]["deviceId"] == name]
        kinds = [each["type"] for each in own if "geofence" in each]
        assert len({tuple(each["location"]["coordinates"]) for each in own}) > 20
        assert kinds[:2] == ["user.entered_geofence", "user.exited_geofence"]
        assert all(a != b for a, b in pairwise(kinds))


def test_trucks_stop_when_the_stop_event_is_set_and_their_requests_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "LIVE_TICK_SECONDS", 0.0)

    class Phone:
        def deliver(self, post: Post) -> list[Delivery]:
            return [Delivery(post, "delivered", 202, {"accepted": len(post.events)}, BEGIN, 0.1, (202,))]

    stopped = threading.Event()

    def stop_after_three(tally: Tally) -> None:
        if tally.requests == 3:
            stopped.set()

    assert drive(LiveFleet(PLAN), Phone(), stop_after_three, stopped).requests == 3


def test_live_demo_with_an_events_file_is_refused(tmp_path: Path) -> None:
    """An earlier version of the command silently ignored the file."""
    (file := tmp_path / "events.ndjson").write_text("{}\n")
    ran = CliRunner().invoke(app, ["demo", "--live", "--events", str(file)], obj={})
    assert ran.exit_code == 2
    assert "not both" in ran.output
