"""Test that the kit passes apps that follow the rule for clients, and fails apps that break it."""

import gzip
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3
from typer.testing import CliRunner

from milkrun_conformance.__main__ import app as command_line
from milkrun_conformance.kit import Event, Hook, HookError, an_event, play
from milkrun_conformance.scenarios import SCENARIOS
from milkrun_conformance.server import Report, Stage, serving

type App = Callable[[str, list[Event]], None]


def judged(app: App, scenario: str, timeout_s: float = 15.0) -> Report:
    """Run one scenario against an app, which receives each batch as a function call in a separate thread;
    return the report.
    """
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as url:
        endpoint = f"{url}/v1/events"

        def hand_over(events: list[Event]) -> None:
            threading.Thread(target=app, args=(endpoint, events), daemon=True).start()

        (report,) = play(stage, hand_over, [scenario], timeout_s=timeout_s, quiet=0.3)
        return report


# --- apps that follow the rule ------------------------------------------------------------------


def keeps_the_rule(endpoint: str, events: list[Event], token: str = "new", first_pause: float = 0.1) -> None:
    """Follow the rule: resend a batch, with increasing delays, until every event in the batch is delivered or
    deleted.
    """
    http = urllib3.PoolManager(retries=False, timeout=0.5)
    body = gzip.compress(json.dumps(events).encode(), mtime=0)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    for attempt in itertools.count():
        headers["Authorization"] = f"Bearer {token if attempt else 'expired'}"
        pause = first_pause * 2**attempt
        try:
            response = http.request("POST", endpoint, body=body, headers=headers)
        except urllib3.exceptions.HTTPError:
            time.sleep(pause)
            continue
        has_receipt = b'"received"' in response.data
        if (response.status in (202, 400) and has_receipt) or (response.status == 413 and len(events) == 1):
            return
        if response.status == 413:
            half = len(events) // 2
            keeps_the_rule(endpoint, events[:half])
            keeps_the_rule(endpoint, events[half:])
            return
        time.sleep(max(pause, float(response.headers.get("Retry-After", 0))))


def has_no_tokens(endpoint: str, events: list[Event]) -> None:
    app_that(lambda status: status == 401, pauses=(0.1, 0.2, 0.4))(endpoint, events)


def test_app_without_tokens_passes_if_it_resends_the_batch_after_401() -> None:
    assert judged(has_no_tokens, "token-expired")["faults"] == []


def sends_each_event_alone(endpoint: str, events: list[Event]) -> None:
    for event in events:
        threading.Thread(
            target=keeps_the_rule, args=(endpoint, [event]), kwargs={"first_pause": 1}, daemon=True
        ).start()
        time.sleep(0.05)


@pytest.mark.parametrize("scenario", ["forbidden", "token-expired", "throttled", "unavailable"])
def test_app_that_sends_each_event_alone_may_wait_before_it_resends_the_first(scenario: str) -> None:
    assert judged(sends_each_event_alone, scenario)["faults"] == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_app_that_follows_the_rule_passes_every_scenario(scenario: str) -> None:
    report = judged(keeps_the_rule, scenario)
    assert report["faults"] == []
    assert report["requests"] >= 2


# --- apps that break the rule -------------------------------------------------------------------


def app_that(
    again_on: Callable[[int | None], bool],
    *,
    changed: bool = False,
    pause: float = 0.0,
    pauses: tuple[float, ...] = (),
    token: str = "",
) -> App:
    """Return an app that sends the same events in up to four requests, until `again_on` is false for the
    response's status.
    """

    def app(endpoint: str, events: list[Event]) -> None:
        http = urllib3.PoolManager(retries=False, timeout=0.5)
        for attempt in range(4):
            body = json.dumps([event | ({"attempt": attempt} if changed else {}) for event in events])
            try:
                headers = {"Authorization": token} if token else {}
                status: int | None = http.request("POST", endpoint, body=body, headers=headers).status
            except urllib3.exceptions.HTTPError:
                status = None
            if not again_on(status):
                return
            threading.Event().wait(pauses[attempt] if attempt < len(pauses) else pause)

    return app


@pytest.mark.parametrize(
    ("scenario", "app", "fault"),
    [
        ("accepted", app_that(lambda status: True), "sent again after 202"),
        ("partial", app_that(lambda status: True), "sent again after 202"),
        ("invalid", app_that(lambda status: status != 202), "sent again after 400"),
        ("clock-ahead", app_that(lambda status: True, changed=True), "sent again after 202"),
        ("token-expired", app_that(lambda status: False, token="Bearer a"), "were not sent again"),
        ("token-expired", app_that(lambda status: status == 401, token="Bearer a"), "the same token"),
        ("too-large", app_that(lambda status: status == 413), "split it in two"),
        ("too-large", app_that(lambda status: False), "were not delivered"),
        ("forbidden", app_that(lambda status: False), "were not sent again"),
        ("forbidden", app_that(lambda status: status == 403, pause=0.2), "do not grow"),
        ("throttled", app_that(lambda status: status == 429), "before Retry-After (2 s)"),
        ("throttled", app_that(lambda status: False), "were not sent again"),
        ("unavailable", app_that(lambda status: status == 503), "before Retry-After (2 s)"),
        ("unavailable", app_that(lambda status: status == 503, changed=True, pause=2.1), "different bytes"),
        ("proxy-200", app_that(lambda status: False), "were not sent again"),
        ("proxy-400", app_that(lambda status: status != 400), "were not sent again"),
        ("gateway-400", app_that(lambda status: status != 400), "were not sent again"),
        ("gateway-400", app_that(lambda status: status == 400, changed=True), "different bytes"),
        ("cut", app_that(lambda status: False), "were not sent again"),
        ("timeout", app_that(lambda status: status is None, changed=True), "different bytes"),
    ],
)
def test_app_that_breaks_the_rule_fails_and_the_report_names_the_violation(
    scenario: str, app: App, fault: str
) -> None:
    report = judged(app, scenario, timeout_s=2.5)
    assert not report["ok"]
    assert any(fault in each for each in report["faults"]), report["faults"]


def test_app_that_sends_nothing_fails() -> None:
    assert judged(lambda endpoint, events: None, "accepted", timeout_s=0.2)["faults"] == ["nothing was sent"]


# --- the hook, and the server for an app's own tests --------------------------------------------


def test_unreachable_or_failing_hook_raises_hook_error() -> None:
    with pytest.raises(HookError, match="does not answer"):
        Hook("http://127.0.0.1:9/hook", "http://x").hand_over([an_event()])
    with serving(Stage(), "127.0.0.1", 0) as url:
        Hook(url, "http://x").hand_over([an_event()])
        urllib3.request("PUT", f"{url}/scenario/invalid")
        with pytest.raises(HookError, match="answered 400"):
            Hook(url, "http://x").hand_over([an_event()])


def test_app_tests_can_choose_a_scenario_and_read_the_report_over_http() -> None:
    with serving(Stage(), "127.0.0.1", 0) as url:
        assert urllib3.request("PUT", f"{url}/scenario/nonsense").status == 404
        assert urllib3.request("PUT", f"{url}/scenario/partial").status == 200
        answer = urllib3.request("POST", f"{url}/v1/events", json=[an_event(), an_event()]).json()
        assert (answer["accepted"], answer["rejected"], len(answer["errors"])) == (1, 1, 1)
        report = urllib3.request("GET", f"{url}/report").json()
        assert (report["scenario"], report["requests"], report["ok"]) == ("partial", 1, True)


def test_chunked_body_is_read_completely() -> None:
    """A phone that compresses a body while sending it does not know the body's length in advance. API Gateway
    also accepts chunked bodies.
    """
    with serving(Stage(), "127.0.0.1", 0) as url:
        body = json.dumps([an_event(), an_event()]).encode()
        pool = urllib3.connection_from_url(url, maxsize=1, block=True)
        for _ in range(2):
            answer = pool.request("POST", "/v1/events", body=iter([body[:9], body[9:]]), chunked=True)
            assert answer.json()["received"] == 2
        assert pool.request("GET", "/report").json()["requests"] == 2


def test_rejected_id_that_is_not_valid_unicode_is_listed_in_the_response() -> None:
    with serving(Stage(), "127.0.0.1", 0) as url:
        urllib3.request("PUT", f"{url}/scenario/partial")
        answer = urllib3.request("POST", f"{url}/v1/events", body=b'[{"_id": "\\ud800"}]')
        assert answer.status == 202
        assert answer.json()["errors"][0]["event_id"] == "\ud800"


FORMS = {
    "one": ("application/json", b'{"_id": "a"}'),
    "array": ("application/json", b'[{"_id": "a"}]'),
    "envelope": ("application/json", b'{"user": {"deviceId": "d"}, "events": [{"_id": "a"}]}'),
    "envelope-of-one": ("application/json", b'{"event": {"_id": "a"}}'),
    "byte-order-mark": ("application/json; charset=utf-8", b'\xef\xbb\xbf{"_id": "a"}'),
    "lines": ("application/x-ndjson", b'{"_id": "a"}\n\n'),
    "envelope-with-nulls": ("application/json", b'{"_id": null, "event": null, "events": [{"_id": "a"}]}'),
    "envelope-of-one-with-nulls": (
        "application/json",
        b'{"events": null, "user": null, "event": {"_id": "a"}}',
    ),
    "lines-with-form-feeds": ("application/x-ndjson", b'\x0c{"_id": "a"}\r\n\x0c\r\n'),
}


@pytest.mark.parametrize("coding", [None, "gzip", "x-gzip"])
@pytest.mark.parametrize("form", FORMS)
def test_body_in_any_form_is_decompressed_and_split_into_events(form: str, coding: str | None) -> None:
    content_type, body = FORMS[form]
    sent = gzip.compress(body, mtime=0) if coding else body
    headers = {"Content-Type": content_type} | ({"Content-Encoding": coding} if coding else {})
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as url:
        assert urllib3.request("POST", f"{url}/v1/events", body=sent, headers=headers).status == 202
        assert [(seen.ids, seen.body) for seen in stage.seen] == [(("a",), body)]


@pytest.mark.parametrize("coding", [None, "gzip"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"\x1f\x8b\x08cut off",
        b"[" * 100_000,
        b'[{"odo": NaN}]',
        b'[{"odo": 1e999}]',
        b'[{"_id": "a", "odo": NaN}, {"_id": "b"}]',
        b'[{"_id": "a", "odo": 1e999}, {"_id": "b"}]',
    ],
    ids=["empty", "no JSON", "cut off", "nested", "NaN", "beyond a double", "ids and NaN", "ids and 1e999"],
)
def test_unreadable_body_counts_as_one_event(body: bytes, coding: str | None) -> None:
    headers = {"Content-Encoding": coding} if coding else {}
    with serving(Stage(), "127.0.0.1", 0) as url:
        answer = urllib3.request("POST", f"{url}/v1/events", body=body, headers=headers)
        assert (answer.status, answer.json()["received"]) == (202, 1)


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("Content-Type", "text/plain; charset=utf-8", "unsupported_media_type"),
        ("Content-Type", "application/json; charset=iso-8859-1", "unsupported_media_type"),
        ("Content-Encoding", "deflate", "unsupported_encoding"),
    ],
)
def test_request_that_milkrun_never_accepts_gets_415_and_is_a_violation(
    header: str, value: str, code: str
) -> None:
    with serving(Stage(), "127.0.0.1", 0) as url:
        body = json.dumps([an_event()])
        answer = urllib3.request("POST", f"{url}/v1/events", body=body, headers={header: value})
        assert (answer.status, answer.json()["code"]) == (415, code)
        urllib3.request("POST", f"{url}/v1/events", json=[an_event()])
        [fault] = urllib3.request("GET", f"{url}/report").json()["faults"]
        assert f"{header}: {value}" in fault


@pytest.mark.parametrize("body", [b"[]", b'{"events": []}'], ids=["array", "envelope"])
def test_request_without_events_gets_400_and_does_not_use_up_the_first_response(body: bytes) -> None:
    """Otherwise, the scenario would only check what the app does with no events, and always pass."""
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as url:
        stage.begin("throttled")
        answer = urllib3.request("POST", f"{url}/v1/events", body=body)
        assert (answer.status, [error["code"] for error in answer.json()["errors"]]) == (400, ["no_events"])
        assert stage.report()["faults"] == ["nothing was sent"]
        assert urllib3.request("POST", f"{url}/v1/events", json=[an_event()]).status == 429


@pytest.mark.parametrize("members", ["", ', "_id": null, "type": null, "createdAt": null'])
def test_each_ping_without_an_id_counts_as_a_separate_event(members: str) -> None:
    """Milkrun accepts bare positions (pings) whose `_id`, `type` and `createdAt` are missing or null."""
    ping = '{"deviceId": "d", "latitude": %d, "longitude": 5, "updatedAt": "2026-11-28T12:00:00Z"%s}'
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as url:
        body = f"[{ping % (1, members)}, {ping % (2, members)}]"
        answer = urllib3.request("POST", f"{url}/v1/events", body=body.encode()).json()
        assert (answer["received"], answer["accepted"], answer["rejected"]) == (2, 2, 0)
        [seen] = stage.seen
        assert len(set(seen.ids)) == 2


@pytest.mark.parametrize(
    ("scenario", "status", "content_type"),
    [
        ("proxy-200", 200, "text/html"),
        ("proxy-400", 400, "text/html"),
        ("gateway-400", 400, "application/problem+json"),
    ],
)
def test_first_response_of_a_proxy_or_the_gateway_lacks_a_receipt(
    scenario: str, status: int, content_type: str
) -> None:
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as url:
        stage.begin(scenario)
        answer, again = (urllib3.request("POST", f"{url}/v1/events", json=[an_event()]) for _ in range(2))
    assert (answer.status, answer.headers["Content-Type"]) == (status, content_type)
    assert b"received" not in answer.data
    assert (again.status, again.json()["received"]) == (202, 1)


# --- the connection -----------------------------------------------------------------------------


def test_scenario_cut_closes_the_connection_without_a_response() -> None:
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as url:
        stage.begin("cut")
        with pytest.raises(urllib3.exceptions.ProtocolError, match="without response"):
            urllib3.request("POST", f"{url}/v1/events", json=[an_event()], retries=False)
        assert urllib3.request("POST", f"{url}/v1/events", json=[an_event()]).status == 202


def test_scenario_timeout_holds_the_connection_open_until_the_next_scenario() -> None:
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as url:
        stage.begin("timeout")
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            urllib3.request("POST", f"{url}/v1/events", json=[an_event()], timeout=0.5, retries=False)
        stage.begin("timeout")
        outcome: list[Exception] = []

        def wait_for_an_answer() -> None:
            try:
                urllib3.request("POST", f"{url}/v1/events", json=[an_event()], timeout=20, retries=False)
            except urllib3.exceptions.HTTPError as error:
                outcome.append(error)

        client = threading.Thread(target=wait_for_an_answer)
        client.start()
        while not stage.seen:
            time.sleep(0.01)
        # Requests on other connections still get responses.
        assert urllib3.request("GET", f"{url}/report").json()["requests"] == 1
        stage.begin("accepted")
        client.join(10)
        assert [type(error) for error in outcome] == [urllib3.exceptions.ProtocolError]


def test_server_stops_within_three_seconds_despite_a_held_connection() -> None:
    stage = Stage()
    with serving(stage, "127.0.0.1", 0) as url:
        stage.begin("timeout")
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            urllib3.request("POST", f"{url}/v1/events", json=[an_event()], timeout=0.2, retries=False)
        began = time.monotonic()
    assert time.monotonic() - began < 3


# --- the command --------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "milkrun_conformance", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_run_prints_a_line_per_scenario_and_fails_if_the_app_sends_nothing() -> None:
    with serving(Stage(), "127.0.0.1", 0) as hook:
        arguments = ("run", f"{hook}/hook", "--scenario", "accepted", "--timeout", "0.2", "--quiet", "0")
        plain, as_json = command(*arguments), command(*arguments, "--json")
    assert (plain.returncode, as_json.returncode) == (1, 1)
    assert "✘ accepted" in plain.stdout
    assert "nothing was sent" in plain.stdout
    assert [report["faults"] for report in json.loads(as_json.stdout)] == [["nothing was sent"]]


def test_run_with_an_unreachable_hook_prints_one_line_and_exits_with_code_2() -> None:
    done = command("run", "http://127.0.0.1:9/hook", "--scenario", "accepted")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "The test hook http://127.0.0.1:9/hook does not answer: NewConnectionError"
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_reports_of_earlier_scenarios_are_printed_if_the_hook_fails_later(
    as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(9))

    def hand_over(_hook: Hook, _events: list[Event]) -> None:
        if next(calls) == 2:
            raise HookError("the app has crashed")

    monkeypatch.setattr(Hook, "hand_over", hand_over)
    arguments = ["run", "http://x", "--timeout", "0", "--quiet", "0", *(["--json"] if as_json else [])]
    done = CliRunner().invoke(command_line, arguments)
    assert (done.exit_code, done.stderr.strip()) == (2, "the app has crashed")
    if as_json:
        assert [report["scenario"] for report in json.loads(done.stdout)] == ["accepted"]
    else:
        assert [line.split()[:2] for line in done.stdout.splitlines()[::2]] == [["✘", "accepted"]]


def test_serve_on_a_port_in_use_prints_one_line_and_exits_with_code_2() -> None:
    with serving(Stage(), "127.0.0.1", 0) as url:
        done = command("serve", "--port", url.rpartition(":")[2])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Address already in use" in done.stderr


def test_payloads_command_copies_the_good_and_bad_bodies_and_the_schema(tmp_path: Path) -> None:
    assert command("payloads", str(tmp_path / "golden")).returncode == 0
    copied = {path.relative_to(tmp_path / "golden").as_posix() for path in tmp_path.rglob("*.*json")}
    assert {"event.schema.json", "good/one.json", "good/lines.ndjson", "bad/not_json.json"} <= copied
    (tmp_path / "file").touch()
    refused = command("payloads", str(tmp_path / "file"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("Cannot copy to")
