"""Test the console in Chromium against a real stack."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import urllib3
from playwright.sync_api import Page, expect

from contract.events import Fence
from tests.console.conftest import PORT, Open
from tests.console.relay import Relay
from tests.console.test_page import PAYLOADS, drawn, map_is_drawn, untouched
from tests.e2e.pipeline import Pipeline, crossing, event, eventually

# The first test waits until the stack has started and a morning's events have been sent.
pytestmark = pytest.mark.timeout(900)

# The port of a second console, whose connections to AWS and Snowflake the tests can cut
OWN_PORT = int(PORT) + 90


@pytest.fixture
def device() -> str:
    return f"truck-{uuid4().hex[:8]}"


def count(page: Page, stage: str) -> int:
    text = page.locator(f"[data-stage={stage}] .n-main").inner_text()
    return int(text.replace(",", "")) if text != "–" else 0


# --- the morning


def test_trucks_and_farms_of_the_morning_appear_on_the_map(console: str, open_page: Open) -> None:
    page = open_page(f"{console}/map")
    map_is_drawn(page)
    eventually(lambda: drawn(page, "trucks") >= 12)
    eventually(lambda: drawn(page, "fences") >= 30)
    trucks = page.get_by_role("region", name="Trucks")
    for number in range(1, 13):
        expect(trucks.get_by_text(re.compile(rf"^truck-{number:02d}-")).first).to_be_visible()


def test_events_of_the_morning_are_counted_up_to_snowflake_and_reconcile_finds_none_missing(
    console: str, open_page: Open
) -> None:
    page = open_page(f"{console}/pipeline")
    for stage in ("accepted", "rejected", "archived", "published", "consumed", "loaded"):
        eventually(lambda stage=stage: count(page, stage) > 0)
    page.get_by_role("button", name="Run now").click()
    expect(page.locator(".said")).to_have_text("Nothing is missing", timeout=90_000)


def test_visits_of_the_morning_are_plotted(console: str, open_page: Open) -> None:
    page = open_page(f"{console}/visits")
    eventually(lambda: page.locator(".visit").count() > 50)
    page.locator(".row-name").filter(has_text="farm-").first.click()
    expect(page.locator(".rows .row")).to_have_count(1)


@pytest.mark.slow
@pytest.mark.usefixtures("marts")
def test_marts_of_the_morning_are_counted_and_their_daily_totals_plotted(
    console: str, open_page: Open
) -> None:
    page = open_page(f"{console}/pipeline")
    eventually(lambda: count(page, "marts") > 0)
    page.goto(f"{console}/visits")
    eventually(lambda: page.locator(".plot").count() == 6)


# --- live


SHOWS = """name => new Promise(resolve => {
  const look = () => {
    const rows = document.querySelectorAll("section[aria-labelledby=there] li");
    if ([...rows].some(row => row.textContent.includes(name))) resolve(); else requestAnimationFrame(look);
  };
  look();
})"""


def test_new_visit_appears_on_the_page_within_two_seconds(
    pipeline: Pipeline, console: str, open_page: Open
) -> None:
    """Measure the median delay over five trucks. The best of up to three rounds counts, because the machine may
    be busy during a round.

    A script in the page checks every frame, because Playwright's assertions poll at intervals of up to a second.
    """
    page = open_page(f"{console}/map")
    map_is_drawn(page)
    at = {"type": "Point", "coordinates": [5.93, 53.16]}
    medians: list[float] = []
    while len(medians) < 3 and min(medians, default=9.0) > 2:
        seconds: list[float] = []
        for _ in range(5):
            device = f"truck-{uuid4().hex[:8]}"
            farm = Fence("farm", f"farm-{device[-4:]}")
            entered = crossing(device, "enter", datetime.now(UTC), farm, location=at)
            assert pipeline.post(entered).status == 202
            answered = time.monotonic()
            page.evaluate(SHOWS, device)
            seconds.append(time.monotonic() - answered)
            left = crossing(device, "exit", datetime.now(UTC), farm, location=at)
            assert pipeline.post(left).status == 202
        medians.append(median(seconds))
        print(
            f"seconds from the HTTP response until the visit is shown: {sorted(round(s, 2) for s in seconds)};"
            f" load average {os.getloadavg()[0]:.1f}"
        )
    assert min(medians) <= 2


def test_details_of_a_rejected_event_show_its_reason_its_text_and_its_object_key(
    pipeline: Pipeline, console: str, open_page: Open, device: str
) -> None:
    page = open_page(f"{console}/events?kind=bad")
    sent = event(device, createdAt="half past six")
    answer = pipeline.post(sent)
    assert answer.status == 400
    row = page.locator(".event-row").filter(has_text=device)
    expect(row).to_contain_text("invalid_created_at")
    row.get_by_role("button").click()
    detail = page.get_by_role("complementary")
    expect(detail.get_by_role("list", name="Reasons")).to_contain_text("createdAt")
    expect(detail.locator(".raw")).to_contain_text("half past six")
    detail.get_by_role("button", name="Copy S3 key").click()
    key = page.evaluate("navigator.clipboard.readText()")
    assert key == answer.body["rejected_key"]
    [kept] = pipeline.archived(key)
    assert kept["event"] == sent


def test_journey_of_an_event_can_be_opened_from_the_event_list(
    pipeline: Pipeline, console: str, open_page: Open, device: str
) -> None:
    sent = crossing(device, "enter", datetime.now(UTC))
    answer = pipeline.post(sent)
    eventually(lambda: pipeline.raw_rows(sent["_id"]))
    page = open_page(f"{console}/events?device={device}")
    page.locator(".row-link").first.click()
    page.get_by_role("button", name="Show its journey").click()
    journey = page.locator(".journey")
    expect(journey).to_contain_text("archived")
    expect(journey).to_contain_text(answer.body["object_key"])
    page.get_by_role("button", name="Copy SQL").first.click()
    sql = page.evaluate("navigator.clipboard.readText()")
    assert len(pipeline.rows(sql.replace("%", "%%"))) == 1


@pytest.mark.slow
def test_hostile_text_sent_to_the_endpoint_is_shown_as_text(
    pipeline: Pipeline, console: str, open_page: Open, device: str
) -> None:
    payloads = [payload for payload in PAYLOADS if "\u0000" not in payload]
    at = datetime.now(UTC)
    for payload in payloads:
        name = f"{device[-6:]} {payload}"
        fence = Fence(payload, payload)
        sent = crossing(name, "enter", at, fence, user={"userId": payload, "deviceId": name})
        bad = event(name, type=payload, createdAt=payload, note=payload, user={"deviceId": name})
        bad["_id"] = sent["_id"] = f"{uuid4().hex[:6]} {payload}"
        answer = pipeline.post(sent, bad, headers={"X-App-Version": "<b onmouseover=window.pwned=1>"})
        assert answer.status == 202, answer
    page = open_page(f"{console}/map")
    map_is_drawn(page)
    there = page.get_by_role("region", name="At a place now")
    for payload in payloads:
        expect(there.get_by_text(f"{device[-6:]} {payload}", exact=True).first).to_be_visible()
    there.get_by_text(f"{device[-6:]} {payloads[0]}", exact=True).first.click()
    expect(page.get_by_role("region", name="The chosen truck")).to_be_visible()
    untouched(page)
    for view in ("visits?by=truck", "visits", "pipeline", f"events?q={device[-6:]}"):
        page.goto(f"{console}/{view}")
        if view != "pipeline":
            # The first match may be an option of a filter, which Playwright regards as invisible.
            expect(page.get_by_text(payloads[0]).locator("visible=true").first).to_be_visible()
        untouched(page)
    rows = page.locator(".row-link")
    expect(rows).to_have_count(2 * len(payloads))
    for row in range(2 * len(payloads)):
        rows.nth(row).click()
        expect(page.locator(".raw")).to_be_visible()
        untouched(page)
    for payload in payloads:
        name = f"{device[-6:]} {payload}"
        left = at + timedelta(seconds=1)
        answer = pipeline.post(crossing(name, "exit", left, Fence(payload, payload), user={"deviceId": name}))
        assert answer.status == 202


# --- failure and recovery


class OwnConsole:
    """A console that runs in a separate process. It connects to AWS and Snowflake through TCP relays, so that a test
    can interrupt these connections.
    """

    def __init__(self, folder: Path, aws: Relay, snowflake: Relay, pipeline: Pipeline) -> None:
        self.url = f"http://127.0.0.1:{OWN_PORT}"
        self.aws = aws
        self.snowflake = snowflake
        self._environment = dict(pipeline.environment) | {"MILKRUN_LOCAL": str(folder)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tools.console", "--port", str(OWN_PORT), "--reconcile-every", "0"]
        self._process = subprocess.Popen(command, env=self._environment)
        eventually(self._answers)

    def kill(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        if not self._process or self._process.poll() is not None:
            return False  # a console that another process left on this port might answer
        try:
            answer = urllib3.request("GET", f"{self.url}/api/health", retries=False, timeout=2)
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status == 200


@contextmanager
def own_console(pipeline: Pipeline, folder: Path) -> Iterator[OwnConsole]:
    outputs = pipeline.outputs
    connection = outputs.snowflake
    aws_at = urlsplit(str(outputs.aws_endpoint_url))
    with (
        Relay(str(aws_at.hostname), int(aws_at.port or 80)) as aws,
        Relay(str(connection.host), connection.port) as snowflake,
    ):
        # Read the file, because the model would dump the password as asterisks.
        known = json.loads((Path(pipeline.environment["MILKRUN_LOCAL"]) / "outputs.json").read_text())
        known["aws_endpoint_url"] = f"http://127.0.0.1:{aws.port}"
        known["snowflake"] |= {"host": "127.0.0.1", "port": snowflake.port}
        (folder / "outputs.json").write_text(json.dumps(known))
        console = OwnConsole(folder, aws, snowflake, pipeline)
        try:
            console.start()
            yield console
        finally:
            console.kill()


@pytest.mark.slow
def test_unreachable_snowflake_is_reported_while_the_other_sources_keep_working(
    pipeline: Pipeline, console: str, open_page: Open, tmp_path: Path, device: str
) -> None:
    with own_console(pipeline, tmp_path) as own:
        page = open_page(f"{own.url}/pipeline")
        sources = page.locator(".sources")
        expect(sources.get_by_role("listitem").filter(has_text="Snowflake")).to_contain_text(
            "ok", timeout=60_000
        )
        own.snowflake.cut()
        # Select the alert by its text, because the Visits page shows a second alert that names Snowflake.
        alert = page.get_by_role("alert").filter(has_text="Everything else still works.")
        expect(alert).to_contain_text("Snowflake", timeout=60_000)
        assert pipeline.post(event(device)).status == 202
        page.goto(f"{own.url}/events?device={device}")
        expect(page.locator(".event-row")).to_have_count(1)
        page.goto(f"{own.url}/visits")
        eventually(lambda: page.locator(".visit").count() > 20)
        expect(alert).to_be_visible()
        own.snowflake.mend()
        expect(alert).to_have_count(0)


@pytest.mark.slow
def test_unreachable_aws_is_reported_until_it_is_reachable_again(
    pipeline: Pipeline, console: str, open_page: Open, tmp_path: Path
) -> None:
    with own_console(pipeline, tmp_path) as own:
        page = open_page(f"{own.url}/pipeline")
        expect(page.locator("[data-stage=accepted]")).to_be_visible()
        own.aws.cut()
        expect(page.get_by_role("alert").filter(has_text="The local AWS is not running")).to_be_visible(
            timeout=90_000
        )
        expect(page.locator(".sources .bad").first).to_be_visible()
        own.aws.mend()
        expect(page.get_by_role("alert")).to_have_count(0, timeout=120_000)


@pytest.mark.slow
def test_restarted_console_counts_the_events_sent_during_its_downtime(
    pipeline: Pipeline, console: str, open_page: Open, tmp_path: Path, device: str
) -> None:
    with own_console(pipeline, tmp_path) as own:
        page = open_page(f"{own.url}/pipeline")
        eventually(lambda: count(page, "loaded") > 0)
        before = {stage: count(page, stage) for stage in ("accepted", "archived", "loaded")}
        own.kill()
        expect(page.get_by_role("alert").filter(has_text="No connection")).to_be_visible()
        sent = [event(device) for _ in range(5)]
        for each in sent:
            assert pipeline.post(each).status == 202
        own.start()
        expect(page.get_by_role("alert").filter(has_text="No connection")).to_have_count(0)
        for stage, n in before.items():
            eventually(lambda stage=stage, n=n: count(page, stage) >= n + 5)
        page.goto(f"{own.url}/events?device={device}")
        for each in sent:
            expect(page.get_by_text(each["_id"])).to_have_count(1)


@pytest.mark.slow
def test_links_show_the_same_view_after_the_console_is_restarted(
    pipeline: Pipeline, console: str, open_page: Open, tmp_path: Path, device: str
) -> None:
    at = {"type": "Point", "coordinates": [5.93, 53.16]}
    entered = crossing(device, "enter", datetime.now(UTC), Fence("farm", f"farm-{device}"), location=at)
    assert pipeline.post(entered).status == 202
    eventually(lambda: pipeline.raw_rows(entered["_id"]))

    def shown(page: Page) -> str:
        return page.locator("[aria-label='The chosen event'] .facts, .picked .facts").inner_text()

    def link_and_text(url: str, choose: str) -> tuple[str, str]:
        page = open_page(url)
        page.locator(choose).first.click()
        expect(page.locator(".facts")).to_be_visible()
        return page.url, shown(page)

    with own_console(pipeline, tmp_path) as own:
        links = [
            link_and_text(f"{own.url}/events?device={device}", ".row-link"),
            link_and_text(f"{own.url}/visits?device={device}&by=truck", ".visit"),
        ]
        place = f"{own.url}/map?fence=farm%23farm-{device}"
        on_map = open_page(place)
        expect(on_map.get_by_role("region", name="The chosen fence")).to_contain_text(device)
        on_map.close()  # it may still be loading parts of the map
        own.kill()
        own.start()
        for link, before in links:
            page = open_page(link)
            expect(page.locator(".facts")).to_be_visible(timeout=60_000)
            # The dwell time of the open visit has grown.
            assert re.sub(r"\d+ (s|min) so far", "", shown(page)) == re.sub(r"\d+ (s|min) so far", "", before)
        on_map = open_page(place)
        card = on_map.get_by_role("region", name="The chosen fence")
        expect(card.get_by_role("link", name=device).first).to_be_visible(timeout=60_000)
        on_map.close()
    assert (
        pipeline.post(crossing(device, "exit", datetime.now(UTC), Fence("farm", f"farm-{device}"))).status
        == 202
    )
