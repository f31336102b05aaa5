"""Test the page in Chromium against a fake server, also in states that a real stack cannot reach within the
duration of a test.
"""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.console.conftest import Open
from tests.console.stand_in import (
    Feed,
    State,
    empty,
    iso,
    morning,
    now,
    pipeline,
    ring_of_trucks,
    truck,
    visit,
)
from tests.e2e.pipeline import eventually

VIEWS = ("map", "places", "visits", "events", "pipeline")


def map_is_drawn(page: Page) -> None:
    page.wait_for_selector(".map[data-ready]", timeout=60_000)


def drawn(page: Page, what: str) -> int:
    return int(page.locator(".map").get_attribute(f"data-{what}") or 0)


def violations(page: Page) -> list[str]:
    """Return the accessibility violations that axe finds on the page, one string per affected element."""
    result = Axe().run(page).response
    assert "color-contrast" in {each["id"] for each in result["passes"]}, (
        "axe did not check the contrast of any text"
    )
    return [
        f"{each['id']} ({each['impact']}): {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for each in result["violations"]
        for node in each["nodes"]
    ]


def tell(feed: Feed, pipeline: dict[str, object]) -> None:
    """Put the pipeline's status into the server's snapshot and also send it to the connected pages, so that the
    page receives it whether it connects before or after this call.
    """
    feed.state.pipeline = pipeline
    feed.say("pipeline", pipeline)


# --- accessible


SCREENS = (
    pytest.param(False, False, id="light-desk"),
    pytest.param(False, True, id="light-phone", marks=pytest.mark.slow),
    pytest.param(True, False, id="dark-desk", marks=pytest.mark.slow),
    pytest.param(True, True, id="dark-phone", marks=pytest.mark.slow),
)


@pytest.mark.parametrize(("dark", "phone"), SCREENS)
@pytest.mark.parametrize("view", VIEWS)
def test_view_is_accessible_and_fits_the_screen_width(
    feed: Feed, open_page: Open, view: str, dark: bool, phone: bool
) -> None:
    page = open_page(f"{feed.url}/{view}", dark=dark, phone=phone)
    expect(page.get_by_text("Healthy").first).to_be_visible()
    if view == "map":
        map_is_drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert violations(page) == []


@pytest.mark.parametrize(("dark", "phone"), SCREENS)
@pytest.mark.slow
def test_event_details_error_banner_and_replay_are_accessible(
    feed: Feed, open_page: Open, dark: bool, phone: bool
) -> None:
    page = open_page(f"{feed.url}/events?kind=bad", dark=dark, phone=phone)
    page.locator(".row-link").first.click()
    page.get_by_role("button", name="Show its journey").click()
    expect(page.locator(".journey li")).to_have_count(5)
    feed.source("snowflake", "down", "no answer")
    expect(page.get_by_role("alert")).to_be_visible()
    assert violations(page) == []
    page.goto(f"{feed.url}/map?truck={feed.state.trucks[0]['device_id']}")
    page.get_by_role("button", name="Replay a morning").click()
    page.get_by_role("button", name="Load").click()
    expect(page.get_by_role("slider")).to_be_visible()
    assert violations(page) == []


def test_views_and_event_details_can_be_opened_with_the_keyboard(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/pipeline")
    expect(page.get_by_role("heading", name="Healthy")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    for _ in range(5):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Events")).to_be_focused()
    page.keyboard.press("Enter")
    first = page.locator(".row-link").first
    first.focus()
    page.keyboard.press("Enter")
    chosen = page.get_by_role("complementary", name="The chosen event")
    expect(chosen.get_by_role("heading").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary")).to_have_count(0)


@pytest.mark.slow
def test_arrow_keys_move_the_focus_between_visits(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/visits?by=truck")
    bars = page.locator(".row").first.locator(".visit")
    page.locator(".visit[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    expect(bars.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".picked").get_by_text("Entered")).to_be_visible()


# --- light and dark, times, numbers


@pytest.mark.slow
def test_chosen_colour_scheme_overrides_the_system_setting_and_is_remembered(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/pipeline")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("radio", name="Dark").check(force=True)
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_times_are_shown_in_the_fleets_time_zone_with_utc_in_the_tooltip(open_page: Open, feed: Feed) -> None:
    """The browser's time zone in these tests is America/New_York."""
    feed.state.stage["time_zone"] = "Asia/Kolkata"
    received = feed.state.good[0]["received_at"]
    page = open_page(f"{feed.url}/events?kind=good")
    shown = page.locator(".event-row time").first
    expect(shown).to_have_attribute("title", f"{received[:10]} {received[11:23]} UTC")
    at = datetime.fromisoformat(received).astimezone(ZoneInfo("Asia/Kolkata"))
    expect(shown).to_have_text(re.compile(rf"\b{at:%H:%M:%S}$"))


@pytest.mark.slow
def test_table_columns_do_not_move_when_a_count_changes(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/pipeline")
    count = page.locator("[data-stage=accepted] .n-main")
    places = "e => [...document.querySelectorAll('.stages td')].map(td => td.getBoundingClientRect().x)"
    before = count.evaluate(places)
    waves = {s["name"]: s["per_minute"] for s in feed.state.pipeline["stages"]}
    tell(feed, pipeline(waves | {"accepted": [9] * 60}))
    expect(count).to_have_text("540")
    assert count.evaluate(places) == before
    assert "tabular-nums" in count.evaluate("e => getComputedStyle(e).fontVariantNumeric")


@pytest.mark.slow
def test_first_contentful_paint_happens_within_a_second(feed: Feed, open_page: Open) -> None:
    def first_paint() -> bool:
        page = open_page(f"{feed.url}/map")
        paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        ms = float(eventually(lambda: page.evaluate(paint)))
        page.context.close()
        print(f"first contentful paint: {ms:.0f} ms")
        assert ms < 1000
        return True

    assert eventually(first_paint)


# --- empty, and with a failure


@pytest.mark.parametrize(
    ("view", "says"),
    [
        ("map", "No truck has sent a position yet."),
        pytest.param("pipeline", "No events in the last hour.", marks=pytest.mark.slow),
        ("events", "No events yet."),
        ("visits", "No visit on this day."),
        pytest.param("places", "No place is known yet.", marks=pytest.mark.slow),
    ],
)
def test_view_without_data_explains_why_it_is_empty(open_page: Open, view: str, says: str) -> None:
    with Feed(empty()) as feed:
        page = open_page(f"{feed.url}/{view}")
        expect(page.get_by_text(says)).to_be_visible()


def test_page_names_the_unreachable_source_and_keeps_showing_data_from_the_others(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/visits")
    feed.source("snowflake", "down", "250001 (08001): connection refused")
    feed.refuse("/api/daily", 503, "connection refused", "snowflake")
    banner = page.get_by_role("alert").filter(has_text="Snowflake cannot be read")
    expect(banner).to_be_visible()
    expect(banner).not_to_contain_text("250001")
    page.reload()
    expect(page.get_by_text("The daily totals could not be read")).to_be_visible()
    expect(page.locator(".visit").nth(20)).to_be_attached()
    feed.add_good({"event_id": "while-it-is-down"})
    page.goto(f"{feed.url}/events")
    expect(page.get_by_text("while-it-is-down")).to_be_visible()
    page.goto(f"{feed.url}/pipeline")
    page.get_by_text("it answered with an error").click()
    expect(page.locator(".sources")).to_contain_text("250001 (08001): connection refused")
    page.goto(f"{feed.url}/visits")
    expect(page.get_by_text("The daily totals could not be read")).to_be_visible()
    feed.allow("/api/daily")
    feed.source("snowflake", "ok")
    expect(page.locator(".plot")).to_have_count(6)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_expired_credentials_show_a_single_banner_that_says_to_sign_in_again(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/pipeline")
    expired = "ExpiredTokenException: The security token included in the request is expired"
    for name in ("archive", "visits", "queues"):
        feed.source(name, "down", expired, "credentials")
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text("sign in again")
    expect(page.locator(".sources .bad")).to_have_count(3)
    expect(page.locator("[data-stage=accepted]")).to_be_visible()


@pytest.mark.slow
def test_stopped_local_aws_shows_a_single_banner_with_the_command_that_starts_it(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/map")
    for name in ("archive", "logs", "visits", "queues", "live"):
        feed.source(name, "down", 'Could not connect to "http://127.0.0.1:4566/"', "unreachable")
    banner = page.get_by_role("alert")
    expect(banner).to_have_count(1)
    expect(banner).to_contain_text("The local AWS is not running")
    expect(banner).to_contain_text("make up")
    expect(banner).not_to_contain_text("Could not connect")


def test_stuck_pipeline_stage_is_marked_and_shows_its_lag(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/map")
    stuck = feed.state.pipeline | {
        "verdict": "stuck",
        "stuck_at": "loaded",
        "says": "Stuck at “Loaded” for 12 min.",
    }
    stuck["stages"] = [
        stage | ({"state": "stuck", "lag_s": 720.0} if stage["name"] == "loaded" else {})
        for stage in stuck["stages"]
    ]
    tell(feed, stuck)
    page.get_by_role("link", name="Stuck").click()
    expect(page.get_by_role("heading", name="Stuck")).to_be_visible()
    expect(page.locator(".state-stuck")).to_have_count(1)
    expect(page.locator("[data-stage=loaded]")).to_contain_text("12 min")


def test_reconcile_differences_are_grouped_and_shown_with_the_repair_command(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/pipeline")
    difference = {
        "kind": "not_loaded",
        "meaning": "in S3, but without a row in RAW",
        "key": "events/dt=2026-11-23/hh=01/abc.10.ndjson.gz",
        "line": None,
        "lines": 10,
        "rows": 0,
        "events": [],
    }
    reconcile = feed.state.pipeline["reconcile"] | {"equal": False, "differences": [difference]}
    tell(feed, feed.state.pipeline | {"reconcile": reconcile})
    expect(page.get_by_text("1 difference")).to_be_visible()
    differences = page.locator(".differences")
    expect(differences).to_contain_text("1 object: in S3, but without a row in RAW")
    expect(differences).to_contain_text("milkrun reconcile --repair")
    differences.get_by_text("Show the objects").click()
    expect(differences).to_contain_text("10 lines, 0 rows")


# --- the stream


def test_disconnected_page_shows_a_banner_and_misses_no_event(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/events")
    expect(page.locator(".counted")).to_contain_text(f"{len(feed.state.good):,} accepted")
    feed.refuse("/api/stream", 503, "going down")
    feed.cut()
    expect(page.get_by_role("alert").filter(has_text="No connection")).to_be_visible()
    for n in range(7):
        feed.add_good({"event_id": f"meanwhile-{n}"})
        feed.add_bad({"codes": ["missing_id"], "reasons": []})
    feed.allow("/api/stream")
    expect(page.get_by_role("alert")).to_have_count(0)
    good, bad = len(feed.state.good), len(feed.state.bad)
    expect(page.locator(".counted")).to_contain_text(f"{good:,} accepted, {bad:,} rejected")
    for n in range(7):
        expect(page.get_by_text(f"meanwhile-{n}", exact=True)).to_have_count(1)


def test_page_fetches_events_that_the_stream_left_out(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/events?device=quiet-one")
    expect(page.get_by_text("No event matches.")).to_be_visible()
    feed.keep_good({"event_id": "left-out", "device_id": "quiet-one"})
    feed.say("events", {"good": [], "bad": [], "counted": feed.state.counted, "left_out": 1})
    expect(page.get_by_text("left-out")).to_be_visible()


def test_page_that_is_older_than_the_server_asks_to_be_reloaded(feed: Feed, open_page: Open) -> None:
    """A new build of the page has other file names, so the map of a page that is already open cannot be loaded."""
    page = open_page(f"{feed.url}/places")
    expect(page.locator(".place-table")).to_be_visible()
    page.route("**/canvas-*.js", lambda route: route.fulfill(status=404))
    page.get_by_role("link", name="Map", exact=True).click()
    expect(page.get_by_text("reload this page")).to_be_visible()
    expect(page.get_by_text("This browser cannot draw the map.")).to_have_count(0)


@pytest.mark.slow
def test_partly_typed_filter_keeps_its_trailing_space_and_does_not_narrow_another_view(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/events")
    search = page.get_by_label("Search", exact=True)
    search.fill("truck ")
    expect(page).to_have_url(re.compile(r"q=truck$"))
    page.wait_for_timeout(100)
    expect(search).to_have_value("truck ")
    type_and_leave = """() => {
        const box = document.querySelector('.filters input[placeholder="full device id"]');
        box.value = "truck-1";
        box.dispatchEvent(new Event("input", {bubbles: true}));
        document.querySelector('nav a[href^="/visits"]').click();
    }"""
    page.evaluate(type_and_leave)
    expect(page.get_by_role("heading", name="Visits")).to_be_visible()
    page.wait_for_timeout(400)
    expect(page).to_have_url(re.compile(r"/visits$"))


@pytest.mark.slow
def test_older_events_of_an_earlier_filter_leave_no_gap_in_the_list(open_page: Open) -> None:
    with Feed(empty()) as feed:
        for n in range(600):
            feed.keep_good({"type": "pickup.started" if n % 2 else "user.updated_trip"})
        page = open_page(f"{feed.url}/events?type=pickup.started")
        rows = page.locator(".event-row")
        expect(rows).to_have_count(100)
        feed.delay("/api/events", 1)
        page.get_by_role("button", name="Older events").click()
        page.get_by_label("Type").select_option("")
        feed.delay("/api/events", 0)
        page.wait_for_timeout(1500)
        page.get_by_role("button", name="Older events").click()
        expect(rows.locator("code").last).to_have_text("event-401")
        expect(rows).to_have_count(200)


def test_every_event_that_arrives_while_the_page_is_open_can_be_listed(open_page: Open) -> None:
    with Feed(empty()) as feed:
        page = open_page(f"{feed.url}/events")
        expect(page.get_by_text("No events yet.")).to_be_visible()
        for _ in range(9):
            fifty = [feed.keep_good({}) for _ in range(50)]
            feed.say("events", {"good": fifty, "bad": [], "counted": feed.state.counted, "left_out": 0})
        rows = page.locator(".event-row")
        expect(rows).to_have_count(400)
        page.get_by_role("button", name="Older events").click()
        expect(rows).to_have_count(450)
        expect(page.get_by_role("button", name="Older events")).to_have_count(0)


@pytest.mark.slow
def test_list_begins_anew_after_a_gap_and_older_events_fill_it(open_page: Open) -> None:
    with Feed(empty()) as feed:
        for _ in range(100):
            feed.keep_good({})
        page = open_page(f"{feed.url}/events")
        rows = page.locator(".event-row")
        expect(rows).to_have_count(100)
        last = [feed.keep_good({}) for _ in range(250)][-1]
        feed.say("events", {"good": [last], "bad": [], "counted": feed.state.counted, "left_out": 249})
        expect(rows.locator("code").last).to_have_text("event-251")
        expect(rows).to_have_count(100)
        page.get_by_role("button", name="Older events").click()
        expect(rows).to_have_count(200)
        expect(rows.locator("code").last).to_have_text("event-151")


def test_older_events_are_shown_while_the_list_is_paused(open_page: Open) -> None:
    with Feed(empty()) as feed:
        for _ in range(150):
            feed.keep_good({})
        page = open_page(f"{feed.url}/events")
        rows = page.locator(".event-row")
        expect(rows).to_have_count(100)
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("button", name="Older events").click()
        expect(rows).to_have_count(150)


def test_reconnecting_page_does_not_take_the_focus_from_the_search_box(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/events?event={feed.state.good[0]['event_id']}")
    expect(page.get_by_label("The chosen event").get_by_role("heading").first).to_be_focused()
    search = page.get_by_role("combobox", name="Search")
    search.focus()
    with page.expect_response(lambda response: "/api/event?" in response.url):
        feed.cut()
    page.wait_for_timeout(200)
    expect(search).to_be_focused()


HIDE = """hidden => {
  Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
  document.dispatchEvent(new Event('visibilitychange'));
}"""


@pytest.mark.slow
def test_banner_names_the_time_of_the_data_if_the_server_ended_while_the_page_was_hidden(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/events")
    expect(page.locator(".link-live")).to_be_visible()
    page.evaluate(HIDE, True)
    expect(page.locator(".link-connecting")).to_be_visible(timeout=15_000)
    closed = datetime.now(ZoneInfo(feed.state.stage["time_zone"]))
    feed.refuse("/api/stream", 503, "going down")
    page.wait_for_timeout(4_000)
    page.evaluate(HIDE, False)
    banner = page.get_by_role("alert").filter(has_text="No connection")
    times = "|".join(f"{closed - timedelta(seconds=s):%H:%M:%S}" for s in range(4))
    expect(banner).to_contain_text(re.compile(f"since ({times})"))


@pytest.mark.slow
def test_hidden_page_gives_up_its_connection_and_misses_no_event(feed: Feed, open_page: Open) -> None:
    """A browser opens at most six connections to a server, so six hidden tabs would block a seventh."""
    page = open_page(f"{feed.url}/events")
    expect(page.locator(".link-live")).to_be_visible()
    page.evaluate(HIDE, True)
    expect(page.locator(".link-connecting")).to_be_visible(timeout=15_000)
    feed.add_good({"event_id": "while-hidden"})
    page.evaluate(HIDE, False)
    expect(page.get_by_text("while-hidden")).to_be_visible()
    expect(page.locator(".link-live")).to_be_visible()


def test_paused_event_list_shows_new_events_only_after_it_is_resumed(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/events")
    first = page.locator(".event-row code").first
    expect(first).to_have_text(feed.state.good[0]["event_id"])
    page.get_by_role("button", name="Pause").click()
    feed.add_good({"event_id": "after-the-pause"})
    expect(page.get_by_role("button", name="Resume (1 new)")).to_be_visible()
    expect(page.get_by_text("after-the-pause")).to_have_count(0)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("after-the-pause")).to_be_visible()


def test_filters_narrow_the_event_list_and_are_stored_in_the_url(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/events")
    page.get_by_label("Type").select_option("pickup.started")
    expect(page.locator(".row-link").first).to_have_text("pickup.started")
    assert set(page.locator(".row-link").all_inner_texts()) == {"pickup.started"}
    device = feed.state.good[-1]["device_id"]
    page.get_by_role("searchbox", name="Device").fill(device)
    expect(page).to_have_url(re.compile(f"device={device}"))
    page.reload()
    expect(page.get_by_role("searchbox", name="Device")).to_have_value(device)
    page.get_by_label("Type").select_option("")
    expect(page.locator(".event-row td.wide").first).to_have_text(device)
    feed.add_good({"event_id": "of-another", "device_id": "another"})
    feed.add_good({"event_id": "of-this-one", "device_id": device})
    expect(page.get_by_text("of-this-one")).to_be_visible()
    expect(page.get_by_text("of-another")).to_have_count(0)


@pytest.mark.slow
def test_copy_buttons_copy_the_object_key_and_the_sql(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/events?kind=bad")
    page.locator(".row-link").first.click()
    detail = page.get_by_role("complementary")
    detail.get_by_role("button", name="Copy S3 key").click()
    assert page.evaluate("navigator.clipboard.readText()") == feed.state.bad[0]["key"]
    detail.get_by_role("button", name="Copy SQL").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("SELECT payload")


# --- the map


def test_page_shows_a_truck_moving_and_entering_a_geofence(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/map")
    map_is_drawn(page)
    eventually(lambda: drawn(page, "trucks") == len(feed.state.trucks))
    feed.state.trucks.append(truck("truck-new", (5.8, 53.1), heading=90.0, speed_kmh=40.0))
    feed.say("trucks", {"trucks": feed.state.trucks[-1:]})
    page.get_by_label("Find a truck").fill("truck-new")
    row = page.get_by_role("listitem").filter(has_text="truck-new")
    expect(row).to_contain_text("under way")
    fence = feed.state.fences[0]["fence_id"]
    inside = feed.state.trucks[-1] | {"inside": [fence]}
    feed.say("trucks", {"trucks": [inside]})
    there = [visit("truck-new", fence, now()), *feed.state.there]
    feed.say("visits", {"changes": [], "there": there})
    expect(row.last).to_contain_text(feed.state.fences[0]["name"])
    row.last.get_by_role("link").first.click()
    expect(page.get_by_role("region", name="The chosen truck")).to_contain_text("40 km/h, 90°")
    eventually(lambda: drawn(page, "trucks") == len(feed.state.trucks))


@pytest.mark.slow
def test_truck_names_at_the_edge_of_a_phone_screen_are_not_cut_off(open_page: Open) -> None:
    state = empty()
    state.trucks = [
        truck(f"a-truck-with-a-long-name-{n}", (5.2 + 0.3 * n, 53.0 + 0.02 * n)) for n in range(5)
    ]
    with Feed(state) as feed:
        page = open_page(f"{feed.url}/map", phone=True)
        map_is_drawn(page)
        expect(page.locator(".map")).to_have_attribute("data-trucks", "5")
        expect(page.locator(".map")).to_have_attribute("data-names-cut", "0")


@pytest.mark.slow
def test_invalid_positions_do_not_change_the_scale_of_the_map(open_page: Open) -> None:
    """One of the invalid positions is (0, 0). Its longitude is close to the fleet's longitudes, so only its
    latitude shows that it is wrong.
    """

    def scale(state: State) -> str:
        with Feed(state) as feed:
            page = open_page(f"{feed.url}/map")
            map_is_drawn(page)
            expect(page.locator(".map")).to_have_attribute("data-trucks", str(len(state.trucks)))
            page.get_by_role("button", name="Show all").click()
            return page.locator(".maplibregl-ctrl-scale").inner_text()

    lost = morning()
    lost.trucks += [truck("nowhere", (0, 0)), truck("at the pole", (5.8, 90)), truck("far east", (175, 53))]
    assert scale(lost) == scale(morning())


def test_new_visit_appears_on_the_timeline(feed: Feed, open_page: Open) -> None:
    page = open_page(f"{feed.url}/visits?by=truck")
    expect(page.locator(".visit").first).to_be_visible()
    opened = visit("truck-new", feed.state.fences[0]["fence_id"], now())
    feed.state.visits.append(opened)
    feed.state.there.append(opened)
    feed.say("visits", {"changes": [], "there": feed.state.there})
    expect(page.locator(".row").filter(has_text="truck-new")).to_have_count(1)


@pytest.mark.slow
def test_trail_of_the_chosen_truck_is_drawn_and_labelled_with_times(feed: Feed, open_page: Open) -> None:
    way = max(feed.state.replay["trucks"], key=lambda each: len(each["t"]))
    page = open_page(f"{feed.url}/map?truck={way['device_id']}")
    map_is_drawn(page)
    eventually(lambda: drawn(page, "trail") >= len(way["t"]))
    expect(page.locator(".map")).to_have_attribute("data-times", re.compile(r"^\d\d:\d\d( \d\d:\d\d){3,}$"))


@pytest.mark.slow
def test_slider_shows_the_trucks_at_the_chosen_time_of_the_replayed_morning(
    feed: Feed, open_page: Open
) -> None:
    page = open_page(f"{feed.url}/map")
    map_is_drawn(page)
    page.get_by_role("button", name="Replay a morning").click()
    page.get_by_role("button", name="Load").click()
    slider = page.get_by_role("slider")
    shown = page.locator(".replay-time time")
    for share in (0.3, 0.7):
        at = slider.evaluate(
            "(e, share) => { e.value = +e.min + share * (e.max - e.min);"
            " e.dispatchEvent(new Event('input', {bubbles: true})); return +e.value }",
            share,
        )
        expect(shown).to_have_attribute("datetime", iso_of(at))
        inside = [
            v
            for v in feed.state.visits
            if v["entered_at"] <= iso_of(at)
            and (v["exited_at"] or v["exit_inferred_at"] or ("9" if v["open"] else v["last_seen_at"] or ""))
            > iso_of(at)
        ]
        expect(page.get_by_role("region", name="At a place then").locator(".count")).to_have_text(
            str(len(inside))
        )
    before = shown.get_attribute("datetime")
    page.get_by_role("button", name="Play").click()
    eventually(lambda: shown.get_attribute("datetime") != before)
    page.get_by_role("button", name="Back to live").click()
    expect(page.get_by_role("region", name="At a place now")).to_be_visible()


@pytest.mark.slow
def test_suggested_replay_ends_after_the_latest_position(feed: Feed, open_page: Open) -> None:
    zone, begins = ZoneInfo(feed.state.stage["time_zone"]), now().replace(second=5)
    feed.state.replay |= {"from": iso(begins), "to": iso(begins + timedelta(seconds=40))}
    page = open_page(f"{feed.url}/map")
    page.get_by_role("button", name="Replay a morning").click()
    expect(page.get_by_label("To", exact=True)).to_have_value(
        f"{begins.astimezone(zone) + timedelta(minutes=1):%Y-%m-%dT%H:%M}"
    )
    expect(page.get_by_role("button", name="Load")).to_be_enabled()


@pytest.mark.slow
def test_mornings_of_a_fleet_in_new_zealand_are_listed_although_they_are_on_the_previous_utc_day(
    feed: Feed, open_page: Open
) -> None:
    feed.state.stage["time_zone"] = "Pacific/Auckland"
    feed.state.replay.clear()
    page = open_page("about:blank")
    page.route(
        "**/api/replay/range", lambda route: route.fulfill(json={"days": ["2025-11-20"], "suggested": None})
    )
    page.goto(f"{feed.url}/map")
    page.get_by_role("button", name="Replay a morning").click()
    options = page.locator(".replay-form option")
    expect(options).to_have_text(["Fri 21 Nov, morning"])
    expect(page.get_by_label("From", exact=True)).to_have_value("2025-11-21T04:00")


def iso_of(ms: float) -> str:
    return iso(datetime.fromtimestamp(ms / 1000, UTC))


FRAMES = """seconds => new Promise(resolve => {
  let frames = 0; const began = performance.now();
  const next = () => {
    frames += 1;
    const passed = (performance.now() - began) / 1000;
    if (passed > seconds) resolve(frames / passed); else requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
})"""


@pytest.mark.slow
@pytest.mark.parametrize("trucks", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_moving_trucks_are_drawn_at_thirty_frames_per_second_or_more(open_page: Open, trucks: int) -> None:
    """Measure the frame rate while new positions of a hundred trucks and 25 events arrive every half second.

    The best of up to six measurements counts, because other programs on a busy machine lower the frame rate.
    If even an empty page is drawn at fewer than 60 frames per second, half of the empty page's frame rate is
    enough.
    """
    state: State = empty()
    state.trucks = ring_of_trucks(trucks, 0)
    with Feed(state) as feed:
        rates: list[float] = []
        empties: list[float] = []
        page = open_page(f"{feed.url}/map")
        map_is_drawn(page)
        eventually(lambda: drawn(page, "trucks") == trucks)
        for window in range(6):
            blank = open_page("about:blank")
            empties.append(blank.evaluate(f"({FRAMES})(1)"))
            blank.context.close()
            page.bring_to_front()
            page.evaluate(f"window.rate = ({FRAMES})(4)")
            for half_second in range(9):
                tick = window * 9 + half_second
                feed.say(
                    "trucks",
                    {"trucks": ring_of_trucks(trucks, tick)[tick % (trucks // 100) :: trucks // 100]},
                )
                for n in range(25):
                    feed.add_good({"event_id": f"e{tick}-{n}"})
                page.wait_for_timeout(480)
            rates.append(page.evaluate("window.rate"))
            if rates[-1] >= 30:
                break
        print(
            f"frames per second: {[round(rate, 1) for rate in rates]} with {trucks} trucks,"
            f" {[round(rate, 1) for rate in empties]} on an empty page"
        )
        expect(page.get_by_role("region", name="Trucks").locator(".count")).to_have_text(f"{trucks:,}")
        assert any(rate >= min(30, idle / 2) for rate, idle in zip(rates, empties, strict=True))


# --- hostile text

PAYLOADS = (
    "<img src=x onerror=\"window.pwned='img'\">",
    "<script>window.pwned='script'</script>",
    "\"><svg onload=window.pwned='svg'>",
    "javascript:window.pwned='url'",
    "{{constructor.constructor('window.pwned=1')()}}",
    "</pre></style><iframe srcdoc=\"<script>top.pwned='frame'</script>\">",
    "\u202egpj.exe\u0000\ufffe",
)


def untouched(page: Page) -> None:
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, iframe, object, embed, script:not([src])").count() == 0


def test_hostile_text_in_every_field_is_shown_as_text(open_page: Open) -> None:
    state = morning_of_the_hostile()
    with Feed(state) as feed:
        for n, payload in enumerate(PAYLOADS):
            hostile = dict.fromkeys(("event_id", "type", "device_id", "at", "key", "app_version"), payload)
            reason = {"code": payload, "field": payload, "message": payload}
            feed.add_good(hostile | {"fence_id": payload})
            feed.add_bad(hostile | {"codes": [payload], "reasons": [reason]}, raw=payload * (n + 1))
        feed.source("logs", "down", PAYLOADS[0])
        page = open_page(f"{feed.url}/map")
        map_is_drawn(page)
        expect(page.get_by_text(PAYLOADS[0]).first).to_be_visible()
        for link in range(3):
            page.get_by_role("region", name="Trucks").get_by_role("link").nth(link).click()
            untouched(page)
        for view in ("visits", "visits?by=truck", "pipeline", "events"):
            page.goto(f"{feed.url}/{view}")
            if view == "pipeline":
                page.locator(".source-reason summary").click()
            expect(page.get_by_text(PAYLOADS[0]).filter(visible=True).first).to_be_visible()
            untouched(page)
        for row in range(len(PAYLOADS) * 2):
            page.locator(".row-link").nth(row).click()
            expect(page.locator(".raw")).to_be_visible()
            page.get_by_role("button", name="Show its journey").click()
            untouched(page)


AS_SENT = (
    r'{"_id":"big-1","odo":9007199254740993,"price":1.50,"neg0":-0.0,"e":1E5,"t":"\u0041\\ {,:}","t":[],'
    r'"o":{},"l":[1,{"k":[2,null]}]}'
)
SHOWN = r"""{
  "_id": "big-1",
  "odo": 9007199254740993,
  "price": 1.50,
  "neg0": -0.0,
  "e": 1E5,
  "t": "\u0041\\ {,:}",
  "t": [],
  "o": {},
  "l": [
    1,
    {
      "k": [
        2,
        null
      ]
    }
  ]
}"""


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (AS_SENT, SHOWN),
        (AS_SENT[:60], AS_SENT[:60]),
        ("1.50", "1.50"),
        ("NaN", "NaN"),
        ('["a" , 1e400]', '[\n  "a",\n  1e400\n]'),
    ],
    ids=["an event", "a truncated text", "a number", "not JSON", "a number beyond a double"],
)
def test_event_text_is_shown_as_sent_and_formatted_only_on_request(
    open_page: Open, sent: str, shown: str
) -> None:
    with Feed(empty()) as feed:
        feed.add_bad({"codes": ["wrong_type"]}, raw=sent)
        page = open_page(f"{feed.url}/events")
        page.locator(".row-link").first.click()
        expect(page.locator(".raw")).to_be_visible()
        assert page.locator(".raw").text_content() == sent
        page.get_by_role("radio", name="Formatted").check(force=True)
        assert page.locator(".raw").text_content() == shown


def morning_of_the_hostile() -> State:
    state = empty()
    at = now() - timedelta(minutes=10)
    for n, payload in enumerate(PAYLOADS):
        state.trucks.append(truck(payload, (5.8 + n / 50, 53.1), type=payload, inside=[payload]))
        state.fences.append(
            {
                "fence_id": payload,
                "tag": payload,
                "external_id": payload,
                "kind": "other",
                "name": payload,
                "centre": [5.8 + n / 50, 53.1],
                "radius_m": 100,
                "polygon": None,
                "source": "events",
                "samples": 1,
                "there": 1,
            }
        )
        state.visits.append(visit(payload, payload, at, fence_id=payload))
    state.there = list(state.visits)
    return state
