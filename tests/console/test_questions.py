"""Test that a dispatcher can answer ten questions and requests in 30 seconds each, with the console of a real stack.

`pytest tests/console/test_questions.py -s` prints the number of steps (clicks, typed texts and key presses) and
the number of seconds for each of them.
"""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import urllib3
from playwright.sync_api import Locator, Page, expect

from contract.events import Fence
from tests.console.conftest import Open
from tests.e2e.pipeline import Pipeline, crossing, eventually

MOST_SECONDS = 30
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test waits for the stack


class Dispatcher:
    """A simulated dispatcher, who finds the page's controls by their visible text. The class counts the dispatcher's
    steps and measures the time.
    """

    def __init__(self, open_page: Open, console: str) -> None:
        self._began = time.monotonic()
        self.page: Page = open_page(console)
        self.steps = 0

    def clicks(self, what: Locator) -> None:
        self.steps += 1
        what.click()

    def searches(self, text: str) -> None:
        self.steps += 3
        self.page.keyboard.press("/")
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def opens(self, view: str) -> None:
        self.clicks(self.page.get_by_role("navigation", name="Views").get_by_role("link", name=view))

    def card(self, name: str) -> Locator:
        return self.page.get_by_role("region", name=name, exact=True)

    def answered(self, question: str) -> None:
        seconds = time.monotonic() - self._began
        print(f"{question}: {self.steps} steps, {seconds:.1f} s")
        assert seconds <= MOST_SECONDS


@pytest.fixture
def dispatcher(open_page: Open, console: str, trucks_of_today: tuple[str, str]) -> Dispatcher:
    return Dispatcher(open_page, console)


def places_with_trucks(console: str) -> set[str]:
    places = urllib3.request("GET", f"{console}/api/places", timeout=10).json()["places"]
    return {place["fence_id"] for place in places if place["there"]}


@pytest.fixture(scope="module")
def trucks_of_today(pipeline: Pipeline, console: str) -> Iterator[tuple[str, str]]:
    """Yield the ids of a truck that has just entered plant-1 and of a truck that entered farm-38 three hours
    ago. Both trucks leave after the module's tests.
    """
    present, late = f"truck-{uuid4().hex[:6]}", f"truck-{uuid4().hex[:6]}"
    at, hours = datetime.now(UTC), timedelta(hours=3)
    stays = ((present, at, Fence("plant", "plant-1")), (late, at - hours, Fence("farm", "farm-38")))
    for device, entered_at, place in stays:
        assert pipeline.post(crossing(device, "enter", entered_at, place)).status == 202
    # A farm that no truck has visited before is unknown to the console until the console has read the event.
    eventually(lambda: places_with_trucks(console) >= {"plant#plant-1", "farm#farm-38"})
    yield present, late
    for device, _, place in stays:
        assert pipeline.post(crossing(device, "exit", datetime.now(UTC), place)).status == 202


def test_console_shows_which_trucks_are_overdue(
    dispatcher: Dispatcher, trucks_of_today: tuple[str, str]
) -> None:
    there = dispatcher.card("At a place now")
    dispatcher.clicks(there.get_by_role("button", name="overdue"))
    expect(there.get_by_role("listitem").filter(has_text=trucks_of_today[1])).to_contain_text("usually")
    dispatcher.answered("Which trucks are overdue?")


def test_console_shows_when_a_farm_was_last_visited(dispatcher: Dispatcher) -> None:
    dispatcher.searches("farm-38")
    expect(dispatcher.card("The chosen fence")).to_contain_text(
        re.compile(r"Last visit.*\d\d:\d\d:\d\d", re.S)
    )
    dispatcher.answered("When was farm-38 last visited?")


def test_console_exports_yesterdays_visits(dispatcher: Dispatcher, pipeline: Pipeline) -> None:
    dispatcher.opens("Visits")
    dispatcher.clicks(dispatcher.page.get_by_role("button", name="The day before"))
    with dispatcher.page.expect_download() as download:
        dispatcher.clicks(dispatcher.page.get_by_role("link", name="CSV", exact=True))
    yesterday = datetime.now(ZoneInfo(pipeline.outputs.time_zone)) - timedelta(days=1)
    assert download.value.suggested_filename == f"visits-{yesterday:%Y-%m-%d}.csv"
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("device_id,")
    assert all(f"{yesterday:%Y-%m-%d}" in line for line in lines[1:])
    dispatcher.answered("Send me yesterday's visits")


def test_console_shows_which_trucks_are_at_the_plant_now(
    dispatcher: Dispatcher, trucks_of_today: tuple[str, str]
) -> None:
    dispatcher.searches("plant-1")
    expect(dispatcher.card("The chosen fence")).to_contain_text(trucks_of_today[0])
    dispatcher.answered("Who is at plant-1 now?")


def test_console_shows_which_trucks_are_silent_and_why(dispatcher: Dispatcher) -> None:
    silent = dispatcher.card("Silent trucks").get_by_role("listitem")
    expect(silent.first.locator(".row-note")).not_to_be_empty()
    dispatcher.answered("Which trucks are silent and why?")


def test_console_shows_where_a_truck_was_at_a_given_time(dispatcher: Dispatcher, pipeline: Pipeline) -> None:
    dispatcher.searches("truck-07")
    expect(dispatcher.card("The chosen truck")).to_contain_text("truck-07")
    dispatcher.clicks(dispatcher.page.get_by_role("button", name="Replay a morning"))
    dispatcher.clicks(dispatcher.page.get_by_role("button", name="Load"))
    # Two hours after the morning began
    at = datetime.now(ZoneInfo(pipeline.outputs.time_zone)) - timedelta(hours=5)
    dispatcher.page.get_by_label("Go to the time").fill(f"{at:%H:%M}")
    dispatcher.page.get_by_label("Go to the time").press("Tab")
    dispatcher.steps += 2
    expect(dispatcher.page.locator(".replay-time")).to_contain_text(f"{at:%H:%M}")
    expect(dispatcher.card("The chosen truck")).to_contain_text(re.compile("Where.*Position", re.S))
    dispatcher.answered(f"Where was truck-07 at {at:%H:%M}?")


@pytest.mark.usefixtures("marts")
def test_console_shows_how_many_litres_were_collected_today(dispatcher: Dispatcher) -> None:
    dispatcher.opens("Visits")
    days = dispatcher.card("Daily totals")
    expect(days).to_contain_text("figures for")
    expect(days.locator(".plot").filter(has_text="Milk").locator("strong")).to_have_text(re.compile(r"\d l$"))
    dispatcher.answered("How many litres today?")


def test_console_shows_which_farms_were_not_visited_today(dispatcher: Dispatcher) -> None:
    dispatcher.opens("Places")
    filter_ = dispatcher.page.get_by_role("button", name="Not visited today")
    expect(dispatcher.page.locator(".place-table tbody tr").first).to_be_visible()
    unvisited = int(re.sub(r"\D", "", filter_.inner_text()))
    dispatcher.clicks(filter_)
    rows = dispatcher.page.locator(".place-table tbody tr")
    expect(rows).to_have_count(unvisited)
    expect(rows.filter(has_text="farm-38")).to_have_count(0)
    dispatcher.answered("Which farm was not visited?")


def test_console_shows_what_happened_to_an_event(dispatcher: Dispatcher, pipeline: Pipeline) -> None:
    sent = crossing(f"truck-{uuid4().hex[:6]}", "enter", datetime.now(UTC), Fence("farm", "farm-12"))
    assert pipeline.post(sent).status == 202
    eventually(lambda: pipeline.raw_rows(sent["_id"]))
    dispatcher.searches(sent["_id"])
    dispatcher.clicks(dispatcher.page.get_by_role("button", name="Show its journey"))
    expect(dispatcher.page.locator(".journey")).to_contain_text("archived")
    dispatcher.answered("What happened to this event id?")


def test_copied_link_opens_the_same_visit_for_a_colleague(dispatcher: Dispatcher, open_page: Open) -> None:
    dispatcher.opens("Visits")
    dispatcher.clicks(dispatcher.page.locator(".visit").first)
    picked = dispatcher.page.locator(".picked")
    entered = picked.locator("time").first.inner_text()
    dispatcher.clicks(picked.get_by_role("button", name="Copy link"))
    again = open_page(dispatcher.page.evaluate("navigator.clipboard.readText()"))
    expect(again.locator(".picked")).to_contain_text(entered)
    dispatcher.answered("Send a colleague a link to this visit")
