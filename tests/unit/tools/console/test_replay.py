"""Test the console's replay of a time range from objects in the archive."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from consumer.visits import Rule
from contract.archive_object import lines_object
from contract.geofence_event_types import GEOFENCE_KINDS
from snowpipe.archive import Object
from tests.e2e.pipeline import crossing, written
from tools.console import replay
from tools.console.replay_answers import ReplayAnswers
from tools.console.responses import Problem

MORNING = datetime(2026, 11, 23, 6, tzinfo=UTC)


class OneObject:
    """A fake archive with one object, which contains the given events."""

    def __init__(self, *events: dict[str, object]) -> None:
        self._lines = lines_object("events", [json.dumps(event).encode() for event in events], MORNING)

    def received(self, prefix: str, start: datetime, end: datetime) -> Iterator[Object]:
        yield Object(self._lines.key, MORNING + timedelta(hours=1), len(self._lines.body))

    def body(self, key: str) -> bytes:
        assert key == self._lines.key
        return self._lines.body


@pytest.mark.parametrize(("gap_minutes", "stays"), [(2, 2), (5, 1)])
def test_replay_uses_the_visit_rule_of_the_stage(gap_minutes: int, stays: int) -> None:
    """The truck is outside the geofence for three minutes. This makes two visits, or one visit if the stage
    merges visits that are at most five minutes apart.
    """
    minutes = {"enter": (0, 13), "exit": (10, 20)}
    events = [
        crossing("truck", kind, MORNING + timedelta(minutes=minute))
        for kind, at in minutes.items()
        for minute in at
    ]
    played = replay.replay(
        OneObject(*events),
        MORNING,
        MORNING + timedelta(hours=1),
        MORNING + timedelta(hours=2),
        lambda: GEOFENCE_KINDS,
        Rule(timedelta(minutes=gap_minutes)),
    )
    assert len(played["crossings"]) == 4
    assert len(played["visits"]) == stays
    assert played["visits"][0]["entered_at"] == written(MORNING)


@pytest.mark.parametrize(
    "at", ["2026-11-23 06:00:00 +0000", "2026-11-23T06:00Z", "2026-11-23 07:00:00,5 +01"]
)
def test_replay_counts_an_event_whose_time_has_an_unusual_accepted_format(at: str) -> None:
    event = crossing("truck", "enter", MORNING) | {"createdAt": at}
    hour = timedelta(hours=1)
    played = replay.replay(
        OneObject(event), MORNING, MORNING + hour, MORNING + hour, lambda: GEOFENCE_KINDS, Rule()
    )
    assert (played["events"], len(played["crossings"])) == (1, 1)


class Twice(OneObject):
    def received(self, prefix: str, start: datetime, end: datetime) -> Iterator[Object]:
        for _ in range(2):
            yield from super().received(prefix, start, end)


@pytest.mark.parametrize(
    ("limit", "most", "objects", "truncated"),
    [("MAX_OBJECTS", 1, 1, True), ("MAX_OBJECTS", 3, 2, False), ("MAX_POSITIONS", 1, 1, True)],
)
def test_replay_over_a_limit_is_marked_as_truncated(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, objects: int, truncated: bool
) -> None:
    monkeypatch.setattr(replay, limit, most)
    event = crossing("truck", "enter", MORNING) | {"location": {"type": "Point", "coordinates": [5.8, 53.1]}}
    hour = timedelta(hours=1)
    played = replay.replay(
        Twice(event),
        MORNING,
        MORNING + hour,
        MORNING + 2 * hour,
        lambda: GEOFENCE_KINDS,
        Rule(timedelta(minutes=2)),
    )
    assert (played["objects"], played["truncated"]) == (objects, truncated)


def test_replay_requested_by_two_pages_at_once_is_computed_once() -> None:
    """A browser that restores its tabs opens both pages at once. A request for another replay meanwhile gets 409."""
    start, end = MORNING, MORNING + timedelta(hours=1)
    reads = 0

    async def ask[T](_: str, question: Callable[[], T]) -> T:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return question()

    answers = ReplayAnswers(OneObject, lambda: GEOFENCE_KINDS, lambda: Rule(timedelta(minutes=2)), (), ask)

    async def read_three() -> list[bytes | BaseException]:
        other = answers.read(start, end + timedelta(minutes=1))
        same = (answers.read(start, end), answers.read(start, end))
        return await asyncio.gather(*same, other, return_exceptions=True)

    first, second, other = asyncio.run(read_three())
    assert (first, reads) == (second, 1)
    assert isinstance(other, Problem)
    assert other.status == 409
