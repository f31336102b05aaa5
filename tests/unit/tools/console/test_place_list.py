"""Test the list of places that the console combines from its memory and the marts."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from consumer import keys
from contract.events import Fence
from tools.console import place_list
from tools.console.state import ConsoleState, MartPlace

ZONE = ZoneInfo("Europe/Amsterdam")
MIDNIGHT = datetime(2026, 11, 27, 23, tzinfo=UTC)
FARM = Fence("farm", "f1")


@pytest.mark.parametrize(("read_on", "visits"), [(MIDNIGHT, 3), (MIDNIGHT - timedelta(days=1), 0)])
def test_visits_of_today_include_those_from_before_the_console_started(
    read_on: datetime, visits: int
) -> None:
    """A number that was read from the marts before midnight is ignored, because it counts the previous day's visits."""
    state = ConsoleState({})
    state.fleet.know(FARM)
    entered = read_on + timedelta(hours=7)
    state.mart_places[keys.fence_key(FARM)] = MartPlace(9, 600.0, entered, None, today=3, midnight=read_on)
    [place] = place_list.places(state, ZONE, MIDNIGHT + timedelta(hours=9))
    assert place["visits_today"] == visits
