"""Test that the page supports a dispatcher's tasks: finding trucks at places, overdue trucks and silent trucks,
searching, sharing links, replaying a morning, and downloading visits and reports.
"""

import re
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, expect

from tests.console import stand_in
from tests.console.conftest import Open
from tests.console.stand_in import Feed, State, empty, iso, morning, now, ring_of_trucks, truck, visit
from tests.console.test_page import drawn, map_is_drawn, violations
from tests.e2e.pipeline import eventually

FARM, PLANT = "farm#farm-1", "plant#plant-1"


def fence(fence_id: str, **known: object) -> dict[str, object]:
    tag, _, name = fence_id.partition("#")
    return {
        "fence_id": fence_id, "tag": tag, "external_id": name, "kind": tag, "name": name,
        "centre": [5.8, 53.1], "radius_m": 120, "polygon": None, "source": "events", "samples": 9, "there": 0,
    } | known  # fmt: skip


def three_trucks() -> State:
    """Return a state with three trucks: one with a missing exit, one that is overdue, and one that is silent."""
    state = empty()
    seen = now() - timedelta(minutes=12)
    state.fences = [fence(FARM), fence(PLANT, centre=[5.9, 53.0]), fence("farm#farm-38", centre=[5.7, 53.2])]
    state.visits = [
        visit("truck-1", FARM, now() - timedelta(hours=2), exit_inferred_at=iso(seen),
              contradicted_by_event_id="e-2", seen_at_fence_id=PLANT),
        visit("truck-1", PLANT, seen, entered_event_id="e-2", usual_dwell_seconds=1800.0),
        visit("truck-2", FARM, now() - timedelta(minutes=50), usual_dwell_seconds=1200.0),
        visit("truck-2", "farm#farm-38", now() - timedelta(minutes=90), open=False, dwell_seconds=900.0,
              exited_at=iso(now() - timedelta(minutes=75)), exited_event_id="e-9", entered_event_id="e-8"),
    ]  # fmt: skip
    state.there = [each for each in state.visits if each["open"]]
    quiet_since = now() - timedelta(hours=1)
    state.trucks = [
        truck("truck-1", (5.9, 53.0), inside=[PLANT]),
        truck("truck-2", (5.8, 53.1), inside=[FARM]),
        truck("truck-3", (5.7, 53.2), at=quiet_since, heading=90.0, speed_kmh=40.0,
              silence="the phone's battery was low"),
    ]  # fmt: skip
    return state


@pytest.fixture
def state() -> State:
    return three_trucks()


def test_visit_contradicted_by_a_later_visit_elsewhere_is_dimmed_listed_last_and_not_counted(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/map")
    there = page.get_by_role("region", name="At a place now")
    expect(there.locator(".count")).to_have_text("2")
    rows = there.get_by_role("listitem")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("truck-2")  # the longest of the counted visits
    expect(rows.nth(2)).to_contain_text("exit missing, seen at plant-1")
    expect(rows.nth(2)).to_have_class(re.compile("contradicted"))
    page.goto(f"{feed.url}/map?fence=farm%23farm-1")
    expect(page.get_by_role("region", name="The chosen fence")).not_to_contain_text("truck-1")
    assert violations(page) == []


def test_visit_longer_than_twice_the_median_dwell_time_is_overdue(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/map")
    there = page.get_by_role("region", name="At a place now")
    expect(there).to_contain_text("1 overdue")
    expect(there.get_by_role("listitem").first).to_contain_text("overdue: usually 20 min here")
    map_is_drawn(page)
    # The numbers of trucks that are moving, at a place, stopped, overdue and silent
    expect(page.locator(".map")).to_have_attribute("data-states", "0,1,0,1,1")


def test_clicking_the_overdue_count_lists_only_the_overdue_trucks(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/map")
    there = page.get_by_role("region", name="At a place now")
    expect(there.get_by_role("listitem")).to_have_count(3)
    there.get_by_role("button", name="1 overdue").click()
    expect(there.get_by_role("listitem")).to_have_count(1)
    expect(there.get_by_role("listitem")).to_contain_text("truck-2")
    assert violations(page) == []


def test_silent_truck_is_listed_with_the_duration_and_likely_reason_of_its_silence(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/map")
    silent = page.get_by_role("region", name="Silent trucks").get_by_role("listitem")
    expect(silent).to_have_count(1)
    expect(silent).to_contain_text("truck-3")
    expect(silent).to_contain_text(re.compile("6[0-3] min"))  # longer if the browser starts slowly
    expect(silent).to_contain_text("the phone's battery was low")


def typed(page: Page, text: str) -> None:
    page.keyboard.press("/")
    page.keyboard.type(text)


def test_keyboard_search_finds_trucks_places_and_events(feed: Feed, open_page: Open) -> None:
    feed.keep_good({"event_id": "pickup-77", "type": "pickup.completed"})
    page = open_page(f"{feed.url}/pipeline")
    expect(page.get_by_role("heading", name="Idle")).to_be_visible()
    typed(page, "farm-38")
    found = page.get_by_role("listbox", name="Found")
    expect(found.get_by_role("option")).to_contain_text(["farm-38"])
    assert violations(page) == []
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/map.fence=farm%23farm-38"))
    expect(page.get_by_role("region", name="The chosen fence")).to_contain_text("farm-38")
    typed(page, "truck")
    expect(found.get_by_role("option")).to_have_count(3)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("truck=truck-2"))
    typed(page, "pickup-77")
    expect(found.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="The chosen event")).to_contain_text("pickup-77")


@pytest.mark.slow
def test_search_opens_the_rejected_event_although_an_accepted_event_has_the_same_id(
    feed: Feed, open_page: Open
) -> None:
    feed.keep_bad(
        {"event_id": "twice-1", "key": "rejected/dt=2026-11-27/hh=05/ff.1.ndjson.gz", "codes": ["x"]}
    )
    feed.keep_good({"event_id": "twice-1"})
    page = open_page(f"{feed.url}/pipeline")
    typed(page, "twice-1")
    options = page.get_by_role("listbox", name="Found").get_by_role("option")
    expect(options).to_contain_text(["twice-1 event", "twice-1 rejected event"])
    options.last.click()
    expect(page.get_by_role("complementary", name="The chosen event")).to_contain_text(
        "rejected/dt=2026-11-27"
    )


@pytest.mark.slow
def test_chosen_event_is_shown_although_another_device_sent_an_event_with_the_same_id(
    feed: Feed, open_page: Open
) -> None:
    for device in ("van-1", "van-2"):
        feed.keep_good({"event_id": "42", "device_id": device})
    page = open_page(f"{feed.url}/events?q=van-")
    shown = page.get_by_role("complementary", name="The chosen event")
    for device in ("van-1", "van-2"):
        page.get_by_role("row").filter(has_text=device).click()
        expect(shown).to_contain_text(device)
        expect(page.locator(".event-row.chosen")).to_have_count(1)


def test_search_finds_archive_objects_by_key(feed: Feed, open_page: Open) -> None:
    key = "events/dt=2026-11-27/hh=05/0123abcd.2.ndjson.gz"
    feed.keep_good({"event_id": "pickup-77", "key": key, "line": 1})
    page = open_page(f"{feed.url}/pipeline")
    expect(page.get_by_role("heading", name="Idle")).to_be_visible()
    typed(page, key)
    expect(page.get_by_role("listbox", name="Found").get_by_role("option")).to_contain_text([key])
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="The chosen event")).to_contain_text(key)


@pytest.mark.slow
def test_geofences_from_a_file_are_drawn_with_their_shapes(feed: Feed, open_page: Open) -> None:
    corners = [[5.7, 53.2], [5.72, 53.2], [5.72, 53.21], [5.7, 53.2]]
    feed.state.fences.append(fence("farm#farm-4", polygon=corners, source="file"))
    page = open_page(f"{feed.url}/map?fence=farm%23farm-4")
    map_is_drawn(page)
    expect(page.locator(".map")).to_have_attribute("data-shapes", "1")
    expect(page.get_by_role("region", name="The chosen fence")).to_contain_text("read from the fence file")


def test_pressing_enter_extends_the_search_to_the_warehouse_and_the_archive(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/map")
    page.get_by_role("combobox", name="Search").fill("long-ago-1")
    box = page.get_by_role("search").first
    expect(box).to_contain_text("Searched: trucks, places, and the latest events")
    page.keyboard.press("Enter")
    expect(box).to_contain_text("the warehouse, and the archive of the last 48 hours")
    kept = feed.keep_good({"event_id": "long-ago-1"})
    feed.state.good.remove(kept)  # the list no longer contains the event, but the archive does
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="The chosen event")).to_contain_text("long-ago-1")


@pytest.mark.slow
def test_enter_pressed_before_the_matches_appear_opens_the_match_for_the_complete_text(
    feed: Feed, open_page: Open
) -> None:
    """Dispatchers paste text or type quickly, and may press Enter before the matches are shown."""
    page = open_page(f"{feed.url}/pipeline")
    expect(page.get_by_role("heading", name="Idle")).to_be_visible()
    typed(page, "truck-3")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("truck=truck-3"))
    typed(page, "truck")
    expect(page.get_by_role("listbox", name="Found").get_by_role("option")).to_have_count(3)
    page.keyboard.type("-2")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("truck=truck-2"))


def test_place_links_to_the_day_of_its_last_visit_and_an_unknown_place_is_reported(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/map?fence=farm%23farm-38")
    card = page.get_by_role("region", name="The chosen fence")
    expect(card).to_contain_text("No truck is there now")
    expect(card).to_contain_text(re.compile("7[5-8] min ago"))
    card.get_by_role("link", name=re.compile(r"\d\d:\d\d:\d\d")).click()
    expect(page).to_have_url(re.compile(r"visits\?fence=farm%23farm-38&date=\d{4}-\d\d-\d\d"))
    expect(page.locator(".visit")).to_have_count(1)
    page.goto(f"{feed.url}/map?fence=farm%23nowhere")
    expect(card).to_contain_text("No place with this name is known")


def test_places_can_be_filtered_and_sorted_by_visits_today(feed: Feed, open_page: Open) -> None:
    feed.state.fences.append(fence("farm#farm-99"))
    page = open_page(f"{feed.url}/places")
    rows = page.locator(".place-table tbody tr")
    expect(rows).to_have_count(4)
    page.get_by_role("button", name="Not visited today (1)").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("farm-99")
    page.reload()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Not visited today (1)").click()
    today = page.get_by_role("columnheader", name="Visits today")
    today.get_by_role("button").click()
    expect(today).to_have_attribute("aria-sort", "descending")
    expect(rows.first).to_contain_text("farm-1")
    today.get_by_role("button").click()
    expect(today).to_have_attribute("aria-sort", "ascending")
    expect(rows.first).to_contain_text("farm-99")


def test_place_table_shows_when_and_by_which_truck_a_place_was_last_visited(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/places")
    page.get_by_role("searchbox", name="Find a place").fill("38")
    rows = page.locator(".place-table tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(re.compile("7[5-8] min ago"))
    expect(rows).to_contain_text("truck-2")
    expect(page).to_have_url(re.compile("q=38"))


@pytest.mark.slow
def test_overlapping_visits_are_drawn_in_separate_lanes_with_truck_names(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/visits")
    farm = page.locator(".row").filter(has_text="farm-1")
    bars = farm.locator(".visit")
    expect(bars).to_have_count(2)
    boxes = [bars.nth(n).bounding_box() for n in range(2)]
    assert boxes[0]
    assert boxes[1]
    assert abs(boxes[0]["y"] - boxes[1]["y"]) >= boxes[0]["height"], "the bars overlap"
    expect(farm.locator(".visit-name").first).to_have_text("truck-1")
    expect(page.locator(".visit.contradicted")).to_have_count(1)


def test_visits_can_be_filtered_by_the_prefix_of_a_truck_or_place_name(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/visits")
    expect(page.locator(".visit")).to_have_count(4)
    page.get_by_role("searchbox", name="Trucks and places whose names begin with").fill("farm-3")
    expect(page.locator(".visit")).to_have_count(1)
    assert "prefix=farm-3" in str(page.get_by_role("link", name="CSV", exact=True).get_attribute("href"))


def test_visits_of_the_chosen_date_are_requested_for_that_day_in_the_fleets_time_zone(
    feed: Feed, open_page: Open
) -> None:
    feed.state.stage["time_zone"] = "Europe/Amsterdam"
    page = open_page(f"{feed.url}/map")
    expect(page.get_by_role("link", name="Idle")).to_be_visible()
    with page.expect_request(re.compile("/api/visits\\?")) as asked:
        page.goto(f"{feed.url}/visits?date=2026-03-29")
        expect(page.get_by_label("Day", exact=True)).to_have_value("2026-03-29")
    eventually(lambda: "2026-03-28T23%3A00%3A00" in asked.value.url or page.wait_for_timeout(50))
    with page.expect_request(re.compile("from=2026-03-29T22%3A00%3A00")):  # daylight saving time has begun
        page.get_by_role("button", name="The day after").click()
    expect(page).to_have_url(re.compile("date=2026-03-30"))


def test_day_ends_at_the_clock_change_if_the_next_midnight_is_skipped(feed: Feed, open_page: Open) -> None:
    """In Chile, the clocks were set from 00:00 to 01:00 on 2024-09-08; in Lebanon on 2025-03-30."""
    page = open_page(f"{feed.url}/map")
    for zone, date, ends in (
        ("America/Santiago", "2024-09-07", "2024-09-08T03%3A59%3A59.999Z"),
        ("Asia/Beirut", "2025-03-29", "2025-03-29T21%3A59%3A59.999Z"),
    ):
        feed.state.stage["time_zone"] = zone
        with page.expect_request(lambda request, ends=ends: f"to={ends}" in request.url):
            page.goto(f"{feed.url}/visits?date={date}")


@pytest.mark.slow
def test_places_with_their_visits_today_are_read_again_at_midnight(
    feed: Feed, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.state.stage["time_zone"] = "UTC"
    midnight = now().replace(hour=0, minute=0, second=0) + timedelta(days=1)
    monkeypatch.setattr(stand_in, "now", lambda: midnight - timedelta(seconds=10))
    page = open_page(f"{feed.url}/places")
    expect(page.locator(".place-table")).to_be_visible()
    with page.expect_request(re.compile("/api/places"), timeout=20_000):
        pass


@pytest.mark.slow
def test_link_with_an_invalid_or_far_future_date_shows_today(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/visits")
    today = page.get_by_label("Day", exact=True).input_value()
    for date in ("2026-13-45", "2026-02-31", "9999-12-31", "yesterday"):
        page.goto(f"{feed.url}/visits?date={date}")
        expect(page.locator(".visit")).to_have_count(4)
        expect(page.get_by_label("Day", exact=True)).to_have_value(today)


@pytest.mark.slow
def test_incomplete_date_is_not_changed_while_the_user_types(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/visits")
    expect(page.locator(".visit")).to_have_count(4)
    day = page.get_by_label("Day", exact=True)
    enter = "(e, value) => { e.value = value; e.dispatchEvent(new Event('change', {bubbles: true})); }"
    day.evaluate(enter, "0002-11-27")  # Chromium's value after the year's first digit was typed
    ticked = page.evaluate("performance.now()") + 2500
    eventually(lambda: page.evaluate("performance.now()") > ticked)
    expect(day).to_have_value("0002-11-27")
    expect(page.locator(".visit")).to_have_count(4)
    day.evaluate(enter, "2026-11-27")
    expect(page).to_have_url(re.compile("date=2026-11-27"))


@pytest.mark.slow
def test_visits_of_the_previous_date_disappear_when_another_date_is_chosen(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/visits")
    expect(page.locator(".visit")).to_have_count(4)
    feed.refuse("/api/visits", 503, "no answer", "snowflake")
    page.get_by_role("button", name="The day before").click()
    expect(page.get_by_text("Visits could not be read")).to_be_visible()
    expect(page.locator(".visit")).to_have_count(0)


@pytest.mark.slow
def test_visits_are_shown_although_new_ones_arrive_faster_than_the_console_answers(
    feed: Feed, open_page: Open
) -> None:
    feed.delay("/api/visits", 4)
    page = open_page(f"{feed.url}/visits")

    def is_shown_while_visits_arrive(count: int) -> bool:
        feed.say("visits", {"changes": [], "there": feed.state.there})
        page.wait_for_timeout(200)
        return page.locator(".visit").count() == count

    eventually(lambda: is_shown_while_visits_arrive(4))
    feed.state.visits.append(visit("truck-3", FARM, now()))
    eventually(lambda: is_shown_while_visits_arrive(5))


def test_visits_are_shown_although_the_console_is_reset_faster_than_it_answers(
    feed: Feed, open_page: Open
) -> None:
    """Each reset sends a snapshot to the open pages."""
    feed.delay("/api/visits", 2)
    page = open_page(f"{feed.url}/visits")

    def are_shown_while_the_console_is_reset() -> bool:
        feed.say("snapshot", feed.state.snapshot())
        page.wait_for_timeout(200)
        return page.locator(".visit").count() == 4

    eventually(are_shown_while_the_console_is_reset)


def test_daily_totals_are_reloaded_after_the_marts_are_built(feed: Feed, open_page: Open) -> None:
    totals = {"events": 1, "visits": 1, "collections": 1, "kilometres": 1.0, "trucks": 1, "farms": 1}
    feed.state.days = [{"date": f"{now():%Y-%m-%d}", "litres": 900.0, "dwell_seconds": 1.0} | totals]
    page = open_page(f"{feed.url}/visits")
    milk = page.get_by_role("region", name="Daily totals").locator(".plot").filter(has_text="Milk")
    expect(milk).to_contain_text("900 l")
    feed.state.days[0]["litres"] = 1700.0
    stages = [
        each | ({"last_at": iso(now())} if each["name"] == "marts" else {})
        for each in feed.state.pipeline["stages"]
    ]
    feed.say("pipeline", feed.state.pipeline | {"stages": stages})
    expect(milk).to_contain_text("1,700 l")


@pytest.mark.slow
def test_daily_totals_are_labelled_with_the_correct_day_in_a_time_zone_west_of_utc(
    feed: Feed, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.state.stage["time_zone"] = "America/Los_Angeles"
    totals = {"events": 1, "visits": 1, "collections": 1, "litres": 900.0, "kilometres": 1.0}
    feed.state.days = [{"date": "2026-03-29", "dwell_seconds": 1.0, "trucks": 1, "farms": 1} | totals]
    page = open_page(f"{feed.url}/visits")
    days = page.get_by_role("region", name="Daily totals")
    expect(days).to_contain_text("figures for Sun 29 Mar")
    expect(days.locator(".plot-span").first).to_contain_text("Sun 29 Mar")
    three = now().replace(hour=3)  # the day before in Los Angeles; the page uses the server's clock
    monkeypatch.setattr(stand_in, "now", lambda: three)
    feed.state.days[0]["date"] = f"{three:%Y-%m-%d}"
    page.reload()
    expect(days).to_contain_text("figures for today")
    expect(days.locator(".plot").nth(1)).to_contain_text("900 l")


def test_days_before_the_first_complete_daily_total_are_not_shown_as_zero(
    feed: Feed, open_page: Open
) -> None:
    totals = {"events": 1, "visits": 1, "collections": 1, "litres": 900.0, "kilometres": 1.0}
    feed.state.days = [
        {"date": f"{now() - timedelta(days=n):%Y-%m-%d}", "dwell_seconds": 1.0, "trucks": 1, "farms": 1}
        | totals
        for n in reversed(range(10))
    ]
    feed.state.daily_from, feed.state.daily_cut = feed.state.days[0]["date"], True
    page = open_page(f"{feed.url}/visits")
    days = page.get_by_role("region", name="Daily totals")
    expect(days.locator(".plot").first.locator("li")).to_have_count(10)
    expect(days).to_contain_text("too many rows before")


def test_visits_and_the_daily_report_can_be_downloaded(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/visits")
    for name, suffix in (("CSV", ".csv"), ("Report", ".html"), ("Report (CSV)", ".csv")):
        with page.expect_download() as download:
            page.get_by_role("link", name=name, exact=True).click()
        assert download.value.suggested_filename.endswith(suffix)


@pytest.mark.slow
def test_links_show_the_same_view_after_a_console_restart(open_page: Open) -> None:
    """The second server represents a restarted console, which assigns different sequence numbers to the same
    events.
    """
    first, second = three_trucks(), three_trucks()
    second.stage["time_zone"] = first.stage["time_zone"]  # it depends on the hour in which a state is created
    with Feed(first) as before, Feed(second) as after:
        for feed, others in ((before, 2), (after, 7)):
            for n in range(others):
                feed.keep_good({"event_id": f"other-{n}-{others}"})
            feed.keep_good(
                {"event_id": "the-one", "key": "events/dt=2026-11-27/hh=05/a.2.ndjson.gz", "line": 2}
            )
        page = open_page(f"{before.url}/events")
        page.get_by_role("button", name=re.compile("the-one")).click()
        expect(page).to_have_url(re.compile("event=the-one"))
        again = open_page(page.url.replace(before.url, after.url))
        expect(again.get_by_role("complementary", name="The chosen event")).to_contain_text("the-one")
        again.goto(f"{after.url}/events?key=events%2Fdt%3D2026-11-27%2Fhh%3D05%2Fa.2.ndjson.gz&line=2")
        expect(again.get_by_role("complementary", name="The chosen event")).to_contain_text("the-one")
        page.goto(f"{before.url}/visits")
        page.locator(".visit.contradicted").click()
        expect(page.locator(".picked")).to_contain_text("exit missing, seen at plant-1")
        assert "date=" in page.url, "the link must show the same day if it is opened tomorrow"
        again.goto(page.url.replace(before.url, after.url))
        expect(again.locator(".picked")).to_contain_text("exit missing, seen at plant-1")
        again.goto(f"{after.url}/map?fence=farm%23farm-38")
        expect(again.get_by_role("region", name="The chosen fence")).to_contain_text("farm-38")


@pytest.mark.slow
def test_chosen_truck_is_visible_among_two_thousand_clustered_trucks(open_page: Open) -> None:
    state = empty()
    state.trucks = ring_of_trucks(2000, 0)
    with Feed(state) as feed:
        page = open_page(f"{feed.url}/map?truck=truck-777")
        map_is_drawn(page)
        eventually(lambda: drawn(page, "trucks") == 2000)
        expect(page.locator(".map")).to_have_attribute("data-chosen", "truck-777")
        expect(page.get_by_role("list", name="Legend").get_by_role("listitem")).to_have_text(
            ["moving", "at a place", "stopped", "overdue", "silent"]
        )


@pytest.mark.slow
def test_link_to_a_visit_that_is_not_listed_shows_a_message(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/visits?visit=truck-9+farm%23farm-1+gone")
    expect(page.locator(".picked")).to_contain_text("The linked visit is not shown")


@pytest.mark.slow
def test_map_stays_live_if_a_replay_is_closed_before_it_is_loaded(open_page: Open) -> None:
    with Feed(morning(3, hours_ago=3)) as feed:
        page = open_page(f"{feed.url}/map")
        page.get_by_role("button", name="Replay a morning").click()
        feed.delay("/api/replay", 2)
        with page.expect_request(re.compile("/api/replay\\?")):
            page.get_by_role("button", name="Load").click()
        page.get_by_role("button", name="Back to live").click()
        page.wait_for_timeout(2500)
        expect(page.get_by_role("heading", name="At a place now")).to_be_visible(timeout=100)
        expect(page.get_by_text("The map is live.")).to_be_visible()


@pytest.mark.slow
def test_replay_time_stays_in_the_url_when_a_truck_is_chosen(open_page: Open) -> None:
    state = morning(3, hours_ago=3)
    with Feed(state) as feed:
        page = open_page(f"{feed.url}/map")
        page.get_by_role("button", name="Replay a morning").click()
        page.get_by_role("button", name="Load").click()
        zone = ZoneInfo(state.stage["time_zone"])
        wanted = (now() - timedelta(hours=1)).astimezone(zone)
        page.get_by_label("Go to the time").fill(f"{wanted:%H:%M}")
        page.get_by_label("Go to the time").press("Tab")
        expect(page.locator(".replay-time")).to_contain_text(f"{wanted:%H:%M}:00")
        expect(page).to_have_url(re.compile("at="))
        device = state.trucks[0]["device_id"]
        page.get_by_role("region", name="Trucks").get_by_role("link", name=device).click()
        expect(page).to_have_url(re.compile(f"truck={device}.*at="))
        again = open_page(page.url)
        expect(again.locator(".replay-time")).to_contain_text(f"{wanted:%H:%M}:00")
        expect(again.get_by_role("region", name="The chosen truck")).to_contain_text(device)
        page.get_by_label("Go to the time").fill(f"{wanted + timedelta(hours=12):%H:%M}")
        page.get_by_label("Go to the time").press("Tab")
        expect(page.get_by_text("outside the replay")).to_be_visible()
