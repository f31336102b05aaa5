"""A morning read from objects of the archive."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from consumer.change import Rule
from contract.events import GEOFENCE_KINDS
from contract.objects import lines_object
from ops.console import replay
from snowpipe.archive import Object
from tests.e2e.vocabulary import crossing, written

MORNING = datetime(2026, 11, 23, 6, tzinfo=UTC)


class OneObject:
    """An archive that received these events at once."""

    def __init__(self, *events: dict[str, object]) -> None:
        self._lines = lines_object("events", [json.dumps(event).encode() for event in events], MORNING)

    def received(self, prefix: str, start: datetime, end: datetime) -> Iterator[Object]:
        yield Object(self._lines.key, MORNING + timedelta(hours=1), len(self._lines.body))

    def body(self, key: str) -> bytes:
        assert key == self._lines.key
        return self._lines.body


@pytest.mark.parametrize(("gap_minutes", "stays"), [(2, 2), (5, 1)])
def test_visits_are_those_of_the_stages_own_rule(gap_minutes: int, stays: int) -> None:
    """Out for three minutes: two visits, or one that flapped, as the stage has it."""
    minutes = {"enter": (0, 13), "exit": (10, 20)}
    events = [
        crossing("truck", kind, MORNING + timedelta(minutes=minute))
        for kind, at in minutes.items()
        for minute in at
    ]
    played = replay.replay(
        OneObject(*events),  # type: ignore[arg-type]
        MORNING,
        MORNING + timedelta(hours=1),
        MORNING + timedelta(hours=2),
        lambda: GEOFENCE_KINDS,
        Rule(timedelta(minutes=gap_minutes)),
    )
    assert len(played["crossings"]) == 4
    assert len(played["visits"]) == stays
    assert played["visits"][0]["entered_at"] == written(MORNING)
