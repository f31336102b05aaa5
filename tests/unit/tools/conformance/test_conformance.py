"""The kit tells apps that keep the rule from apps that do not; the golden payloads are what they say."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3
from jsonschema import Draft202012Validator

from handler import codes
from milkrun_conformance.__main__ import PAYLOADS, SCHEMA
from milkrun_conformance.kit import Hook, HookError, an_event, play
from milkrun_conformance.scenarios import SCENARIOS
from milkrun_conformance.server import Stage, serving
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import World
from tools.fleet.rounds import Planned, Post
from tools.fleet.send import Client

type App = Callable[[str, list[dict[str, Any]]], None]


def judged(app: App, scenario: str, patience: float = 15.0) -> dict[str, Any]:
    """What the kit says of an app that is handed its events directly, each batch in a thread of its own."""
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}/v1/events"

        def hand_over(events: list[dict[str, Any]]) -> None:
            threading.Thread(target=app, args=(endpoint, events), daemon=True).start()

        (report,) = play(stage, hand_over, [scenario], patience=patience, quiet=0.3)
        return report


# --- an app that keeps the rule -----------------------------------------------------------------


def ours(endpoint: str, events: list[dict[str, Any]]) -> None:
    """`ops send`'s own client; here with less patience for a server that is silent."""
    client = Client(endpoint, "key", patience=20, first_pause=0.1)
    client._http.connection_pool_kw["timeout"] = urllib3.Timeout(1.0)
    post = Post(tuple(Planned(json.dumps(event), event["_id"]) for event in events), None, gzipped=True)  # type: ignore[arg-type]
    client.deliver(post)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_our_own_client_keeps_the_rule(scenario: str) -> None:
    report = judged(ours, scenario)
    assert report["faults"] == []
    assert report["requests"] >= 2


# --- apps that do not ---------------------------------------------------------------------------


def app_that(again_on: Callable[[int | None], bool], *, changed: bool = False, pause: float = 0.0) -> App:
    """Sends the same events again, up to four times, on any status that it thinks worth it."""

    def app(endpoint: str, events: list[dict[str, Any]]) -> None:
        http = urllib3.PoolManager(retries=False, timeout=0.5)
        for attempt in range(4):
            body = json.dumps([event | ({"attempt": attempt} if changed else {}) for event in events])
            try:
                status: int | None = http.request("POST", endpoint, body=body).status
            except urllib3.exceptions.HTTPError:
                status = None
            if not again_on(status):
                return
            threading.Event().wait(pause)

    return app


@pytest.mark.parametrize(
    ("scenario", "app", "fault"),
    [
        ("accepted", app_that(lambda status: True), "sent again after 202"),
        ("partial", app_that(lambda status: True), "sent again after 202"),
        ("invalid", app_that(lambda status: status != 202), "sent again after 400"),
        ("too-large", app_that(lambda status: status == 413), "split it in two"),
        ("too-large", app_that(lambda status: False), "never came"),
        ("forbidden", app_that(lambda status: False), "did not come again"),
        ("forbidden", app_that(lambda status: status == 403, pause=0.2), "do not grow"),
        ("throttled", app_that(lambda status: status == 429), "before the 2 s"),
        ("throttled", app_that(lambda status: False), "did not come again"),
        ("unavailable", app_that(lambda status: status == 503), "before the 2 s"),
        ("unavailable", app_that(lambda status: status == 503, changed=True, pause=2.1), "other bytes"),
        ("cut", app_that(lambda status: False), "did not come again"),
        ("timeout", app_that(lambda status: status is None, changed=True), "other bytes"),
    ],
)
def test_an_app_that_breaks_the_rule_is_told(scenario: str, app: App, fault: str) -> None:
    report = judged(app, scenario, patience=2.5)
    assert not report["ok"]
    assert any(fault in each for each in report["faults"]), report["faults"]


def test_an_app_that_sends_nothing_is_told() -> None:
    assert judged(lambda endpoint, events: None, "accepted", patience=0.2)["faults"] == ["nothing was sent"]


# --- the hook, and the server for an app's own tests --------------------------------------------


def test_a_hook_that_cannot_be_used_is_named() -> None:
    with pytest.raises(HookError, match="does not answer"):
        Hook("http://127.0.0.1:9/hook", "http://x").hand_over([an_event()])
    with serving(Stage(), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        Hook(url, "http://x").hand_over([an_event()])
        urllib3.request("PUT", f"{url}/scenario/invalid")
        with pytest.raises(HookError, match="answers 400"):
            Hook(url, "http://x").hand_over([an_event()])


def test_an_apps_own_tests_can_choose_a_scenario_and_read_the_report() -> None:
    with serving(Stage(), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        assert urllib3.request("PUT", f"{url}/scenario/nonsense").status == 404
        assert urllib3.request("PUT", f"{url}/scenario/partial").status == 200
        answer = urllib3.request("POST", f"{url}/v1/events", json=[an_event(), an_event()]).json()
        assert (answer["accepted"], answer["rejected"], len(answer["errors"])) == (1, 1, 1)
        report = urllib3.request("GET", f"{url}/report").json()
        assert (report["scenario"], report["requests"], report["ok"]) == ("partial", 1, True)


def test_a_body_without_its_length_is_read_to_its_end() -> None:
    """Phones that compress while they send do not know the length: chunked, as API Gateway takes it too."""
    with serving(Stage(), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        body = json.dumps([an_event(), an_event()]).encode()
        pool = urllib3.connection_from_url(url, maxsize=1, block=True)
        for _ in range(2):
            answer = pool.request("POST", "/v1/events", body=iter([body[:9], body[9:]]), chunked=True)
            assert answer.json()["received"] == 2
        assert pool.request("GET", "/report").json()["requests"] == 2


# --- golden payloads ----------------------------------------------------------------------------


def headers_of(path: Path) -> dict[str, str]:
    return {"Content-Type": "application/x-ndjson" if path.suffix == ".ndjson" else "application/json"}


@pytest.mark.parametrize("path", sorted((PAYLOADS / "good").iterdir()), ids=lambda path: path.name)
def test_good_payloads_are_accepted_whole_and_keep_to_the_schema(path: Path) -> None:
    world = World()
    answer = Phone(world).post(path.read_bytes(), headers_of(path))
    assert (answer.status, answer.body["errors"]) == (202, [])
    validator = Draft202012Validator(json.loads(SCHEMA.read_text()))
    for line in world.lines("events"):
        validator.validate(json.loads(line))


@pytest.mark.parametrize("path", sorted((PAYLOADS / "bad").iterdir()), ids=lambda path: path.name)
def test_bad_payloads_are_answered_with_the_code_they_are_named_after(path: Path) -> None:
    answer = Phone(World()).post(path.read_bytes(), headers_of(path))
    assert (answer.status, answer.codes) == (400, [path.stem])


def test_there_is_a_bad_payload_for_every_code_that_a_body_can_earn() -> None:
    named = {path.stem for path in (PAYLOADS / "bad").iterdir()}
    assert named == {*codes.EVENT_CODES, *codes.BODY_CODES} - {"bad_gzip"}
