"""Test the console's server over HTTP on loopback. Every store's address is a closed port. Some tests
replace the warehouse with a fake.
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import urllib3

from cli.deadline import NoAnswerError
from cli.refusal import Refusal
from consumer import notifications
from consumer.visits import Pair, Visit
from contract.archive_object import Prefix, lines_object
from contract.events import Fence
from ops import terminal
from ops.polling import until
from ops.stage_outputs import Outputs
from snowpipe.warehouse import MissingObject, Row
from tests.time_zones import zone_in_which_it_is_one_in_the_afternoon
from tools.console import page_updates, parse_object, routes, search, static_page, store_queries
from tools.console.command import _listener, made, server_of
from tools.console.page_updates import MAX_BEHIND, Hub
from tools.console.state import ConsoleState
from tools.console.store_pollers import WarehousePoller
from tools.milkrun import app

HOSTILE = "<script>alert('x')</script>\u202e"
SECRETS = ("the-api-key", "the-password")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """A running console and an HTTP client for it."""

    def __init__(self, request_seconds: float = 10.0, time_zone: str = "UTC", **options: object) -> None:
        outputs = self.outputs(time_zone)
        self.open = contextlib.ExitStack()
        self.listener = self.open.enter_context(_listener(0))
        self.port = self.listener.getsockname()[1]
        self.console, application = made(outputs, options.pop("stage", "local"), port=self.port, **options)
        self.server = server_of(application, request_seconds)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True
        )
        self.thread.start()
        self.http = urllib3.PoolManager(retries=False, timeout=40)
        self.get("/api/health")

    @staticmethod
    def outputs(time_zone: str = "UTC") -> Outputs:
        """Return the outputs of a stage whose stores are unreachable."""
        nowhere = closed_port()
        return Outputs.model_validate(
            {
                "endpoint": f"http://127.0.0.1:{nowhere}/v1/events",
                "time_zone": time_zone,
                "api_key": SECRETS[0],
                "aws_endpoint_url": f"http://127.0.0.1:{nowhere}",
                "region": "us-east-1",
                "bucket": "archive",
                "stream": "s",
                "visits_table": "t",
                "redrive_queue_url": f"http://127.0.0.1:{nowhere}/q",
                "dead_letter_queue_url": f"http://127.0.0.1:{nowhere}/d",
                "snowflake": {
                    "account": "a",
                    "host": "127.0.0.1",
                    "port": nowhere,
                    "protocol": "http",
                    "user": "u",
                    "password": SECRETS[1],
                },
            }
        )

    def ask(self, path: str, method: str = "GET", **headers: str) -> object:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.request(method, f"http://127.0.0.1:{self.port}{path}", headers=named)

    def get(self, path: str) -> Any:
        answer = self.ask(path)
        assert answer.status == 200, answer.data
        return json.loads(answer.data)

    def stream(self) -> "Stream":
        return Stream(
            self.http.request(
                "GET", f"http://127.0.0.1:{self.port}/api/stream", preload_content=False, timeout=20
            )
        )

    def tell(self, what: object, *arguments: object) -> None:
        """Call the function in the console's event loop, as the pollers do, and wait until it has returned."""
        if self.console._shared is None:  # this request starts the pollers, which sets _shared
            self.get("/api/stage")
        shared = self.console._shared
        done = threading.Event()
        shared.loop.call_soon_threadsafe(lambda: (what(*arguments), done.set()))
        assert done.wait(5)

    def receive(self, *events: dict[str, object], prefix: Prefix = "events") -> None:
        now = datetime.now(UTC)
        stored = lines_object(prefix, [json.dumps(event).encode() for event in events], now)
        self.tell(self.console.state.take, parse_object.read(stored.key, stored.body, now), now.timestamp())

    def end(self) -> None:
        self.console.hub.close()
        self.server.should_exit = True
        self.thread.join(15)
        self.open.close()
        assert not self.thread.is_alive()


class Stream:
    """A client of the console's event stream. `message` returns the next message as (name, data, id)."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self._rest = b""

    def message(self) -> tuple[str, object, str]:
        fields: dict[str, str] = {}
        while True:
            while b"\n" not in self._rest:
                chunk = self.answer.read1(65536)
                assert chunk, "the stream ended"
                self._rest += chunk
            line, self._rest = self._rest.split(b"\n", 1)
            name, colon, value = line.decode().partition(": ")
            if colon and name:
                fields[name] = value
            elif not line and "data" in fields:
                return fields["event"], json.loads(fields["data"]), fields["id"]
            elif not line:
                fields = {}

    def until(self, name: str) -> object:
        while True:
            found, data, _ = self.message()
            if found == name:
                return data


@pytest.fixture(autouse=True)
def _no_pauses_before_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snowflake.connector.time_util.TimeoutBackoffCtx.should_retry", False)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.end()


def event(n: int = 1, device: str = "truck-1", **fields: object) -> dict[str, object]:
    return {
        "_id": f"e{n}",
        "type": "user.updated_trip",
        "createdAt": parse_object.written(datetime.now(UTC)),
        "user": {"deviceId": device},
        "location": {"type": "Point", "coordinates": [5.8, 53.1]},
    } | fields


# --- access


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "localhost", "127.0.0.1.evil.example", ""])
def test_request_with_a_foreign_host_header_is_refused(served, host):
    assert served.ask("/api/stage", host=host).status == 403
    assert served.ask("/", host=host).status == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://localhost:1"])
def test_request_from_another_origin_is_refused(served, origin):
    answer = served.ask("/api/reset", "POST", origin=origin)
    assert answer.status == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert "access-control-allow-origin" not in answer.headers


def test_api_request_is_refused_if_its_fetch_metadata_shows_another_origin(served):
    assert served.ask("/api/stage", sec_fetch_site="cross-site", sec_fetch_mode="navigate").status == 403
    assert served.ask("/api/stage", sec_fetch_site="same-site").status == 403
    assert served.ask("/", sec_fetch_site="cross-site", sec_fetch_mode="navigate").status == 200, "a link"
    assert served.ask("/api/stage", sec_fetch_site="same-origin").status == 200


def test_requests_to_localhost_and_to_127_0_0_1_are_accepted(served):
    for name in ("127.0.0.1", "localhost"):
        here = f"{name}:{served.port}"
        assert served.ask("/api/stage", host=here, origin=f"http://{here}").status == 200


def test_every_response_has_the_security_headers(served):
    for path in ("/", "/api/stage", "/api/nothing", "/nothing.js"):
        headers = served.ask(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "worker-src 'self' blob:" in policy, "MapLibre prepares the map's data in a worker"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    assert served.ask("/api/stage").headers["cache-control"] == "no-store"


def test_content_security_policy_allows_only_the_configured_tile_server():
    with_tiles = Served(tiles="https://tiles.example/{z}/{x}/{y}.png")
    try:
        policy = with_tiles.ask("/").headers["content-security-policy"]
        assert "img-src 'self' data: blob: https://tiles.example;" in policy
        assert "connect-src 'self' https://tiles.example;" in policy
        assert "script-src 'self';" in policy
        assert with_tiles.get("/api/stage")["tiles"] == "https://tiles.example/{z}/{x}/{y}.png"
    finally:
        with_tiles.end()


def test_incomplete_requests_do_not_block_others_and_invalid_requests_are_not_logged(capfd):
    console = Served(request_seconds=1.0)
    try:
        halves = [socket.create_connection(("127.0.0.1", console.port), timeout=20) for _ in range(200)]
        for half in halves[::2]:
            half.sendall(b"GET / HTTP/1.1\r\nHos")
        console.get("/api/health")
        assert [half.recv(1) for half in halves] == [b""] * 200
        capfd.readouterr()
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", console.port), timeout=20) as other:
                other.sendall(b"\0 no request\r\n\r\n")
                assert b" 400 " in other.recv(100)
        assert capfd.readouterr().err == ""
    finally:
        console.end()


def test_server_listens_only_on_loopback(served):
    assert served.listener.getsockname()[0] == "127.0.0.1"


# --- unreachable sources


def test_snowflake_stays_off_with_warehouse_every_0_even_when_a_page_is_opened():
    console = Served(warehouse_every=0, live_bus=False)

    def warehouse() -> tuple[str, str]:
        [source] = [s for s in console.get("/api/sources")["sources"] if s["name"] == "snowflake"]
        return source["state"], source["reason"]

    try:
        off = ("off", "read only on demand, because --warehouse-every is 0")
        assert warehouse() == off
        for poller in console.console._pollers:
            poller.wake()  # as opening a page does
        stages = console.get("/api/pipeline")["stages"]
        assert [stage["state"] for stage in stages if stage["name"] in ("loaded", "marts")] == ["unknown"] * 2
        assert not any(isinstance(each, WarehousePoller) for each in console.console._pollers)
        assert warehouse() == off
    finally:
        console.end()


def test_every_unreachable_source_is_reported_with_its_reason(served):
    served.get("/api/stage")
    names = {"archive", "live", "logs", "visits", "queues", "snowflake"}

    def down() -> set[str]:
        return {s["name"] for s in served.get("/api/sources")["sources"] if s["state"] == "down"}

    assert until(down, lambda found: found == names, timeout_s=30) == names
    for source in served.get("/api/sources")["sources"]:
        assert source["reason"]
        assert source["since"]
    panel = served.get("/api/pipeline")
    assert panel["verdict"] == "unknown"
    assert {stage["state"] for stage in panel["stages"]} == {"unknown"}
    archived = panel["stages"][2]
    assert archived["note"] == "no data from S3 (see “Sources”)", "the table shows no exception text"
    assert archived["detail"].startswith("archive has been down since ")
    assert {source["cause"] for source in served.get("/api/sources")["sources"]} <= {"unreachable", "other"}
    assert served.get("/api/trucks")["forgotten"] == 0


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/api/where?event_id=e1", "snowflake"),
        ("/api/daily", "snowflake"),
        ("/api/replay?from=2026-11-20T06:00Z&to=2026-11-20T07:00Z", "archive"),
        ("/api/replay/range", "archive"),
    ],
)
def test_response_names_the_unreachable_store_that_the_request_needs(served, path, source):
    answer = served.ask(path)
    assert (answer.status, json.loads(answer.data)["source"]) == (503, source)
    assert f"{source} has been down since" in json.loads(answer.data)["detail"]


def test_empty_filters_are_ignored(served):
    answer = served.get("/api/visits?device_id=&fence_id=&prefix=")
    assert [text.partition(" ")[0] for text in answer["missing"]] == ["snowflake"], (
        "the visits table is not queried for device ''"
    )


def test_visits_response_names_the_unreachable_stores(served):
    answer = served.get("/api/visits?device_id=truck-1")
    assert answer["source"] == ["bus"]
    assert [text.partition(" ")[0] for text in answer["missing"]] == ["snowflake", "visits"]


def test_requests_do_not_wait_for_snowflake_while_the_poller_finds_it_unreachable(monkeypatch):
    is_reachable, asked = threading.Event(), list[str]()

    @contextlib.contextmanager
    def warehouse(*_: object) -> Iterator[MartOfVisits]:
        asked.append(threading.current_thread().name)
        if not is_reachable.wait(0.1):
            raise NoAnswerError("no answer from Snowflake")
        yield MartOfVisits(3)

    monkeypatch.setattr(Outputs, "warehouse", warehouse)
    monkeypatch.setattr(WarehousePoller, "ask", lambda *_: None)
    console = Served(live_bus=False)

    def state() -> str:
        return next(s["state"] for s in console.get("/api/sources")["sources"] if s["name"] == "snowflake")

    try:
        console.get("/api/stage")  # as a page does when it is opened
        assert until(state, lambda state: state == "down", timeout_s=10) == "down"
        asked.clear()
        for _ in range(5):
            assert console.get("/api/visits")["missing"][0].startswith("snowflake has been down since")
        assert {name for name in asked if "warehousepoller" not in name} == set()
        is_reachable.set()
        assert until(state, lambda state: state == "ok", timeout_s=20) == "ok"
        day = "from=2026-11-26T23:00:00Z&to=2026-11-27T22:59:59.999Z"
        assert len(console.get(f"/api/visits?{day}")["visits"]) == 3
    finally:
        console.end()


def test_responses_and_reported_failures_contain_no_secret(served):
    paths = ("/api/stage", "/api/sources", "/api/pipeline", "/api/where?event_id=e1", "/api/daily", "/")
    for path in paths:
        text = served.ask(path).data.decode()
        assert not any(secret in text for secret in SECRETS)
    served.tell(served.console.state.sources.say, "logs", "down", f"refused {SECRETS[0]} and {SECRETS[1]}")
    [reason] = [
        s["reason"] for s in served.console.state.sources.rows() if s["name"] == "logs" and s["reason"]
    ]
    assert reason == "refused *** and ***"


# --- events


def test_hostile_strings_are_returned_unchanged_as_json(served):
    served.receive(event(77, HOSTILE, type=HOSTILE))
    answer = served.ask("/api/events?limit=1")
    assert answer.headers["content-type"] == "application/json"
    [shown] = json.loads(answer.data)["events"]
    assert (shown["device_id"], shown["type"]) == (HOSTILE, HOSTILE)
    assert served.get(f"/api/trucks/{quote(HOSTILE, safe='')}/trail")["device_id"] == HOSTILE


def test_event_details_contain_the_raw_json_the_s3_uri_and_a_query_for_the_event(served):
    served.receive(event(78))
    [row] = served.get("/api/events?limit=1")["events"]
    whole = served.get(f"/api/events/{row['seq']}")
    assert json.loads(whole["raw"])["_id"] == "e78"
    assert whole["s3_uri"] == f"s3://archive/{row['key']}"
    assert f"file_name = '{row['key']}' AND file_row_number = 1" in whole["sql"]
    assert served.ask("/api/events/999999").status == 404


def test_good_and_bad_events_are_counted_and_found_until_a_reset_deletes_them(served):
    assert json.loads(served.ask("/api/reset", "POST").data) == {"total": 0, "good": 0, "bad": 0}
    served.receive(event(1), event(2, type="pickup.completed"))
    rejected = {
        "reasons": [{"code": "missing_id", "field": "_id", "message": "no"}],
        "index": 0,
        "event_id": None,
        "event": {"type": "x"},
    }
    served.receive(rejected, prefix="rejected")
    assert served.get("/api/all") == {"total": 3, "good": 2, "bad": 1}
    [found] = served.get("/api/good?type=pickup.completed")
    assert (found["event"]["_id"], found["line"]) == ("e2", 2)
    [bad] = served.get("/api/bad?code=missing_id")
    assert (bad["event"], bad["body_base64"], bad["reasons"][0]["code"]) == (
        {"type": "x"},
        None,
        "missing_id",
    )
    assert served.get("/api/good?event_id=nothing") == []
    assert json.loads(served.ask("/api/reset", "POST").data)["total"] == 0
    assert served.get("/api/good") == []


def test_request_can_wait_until_an_event_arrives(served):
    later = threading.Timer(0.5, served.receive, [event(90)])
    began = time.monotonic()
    later.start()
    [found] = served.get("/api/good?event_id=e90&wait=10")
    assert found["event_id"] == "e90"
    assert time.monotonic() - began < 5


def test_event_received_before_a_reset_is_not_shown_after_it(served):
    before = datetime.now(UTC)
    served.ask("/api/reset", "POST")
    stored = lines_object("events", [json.dumps(event(5)).encode()], before)
    served.tell(
        served.console.state.take, parse_object.read(stored.key, stored.body, before), before.timestamp() - 1
    )
    assert served.get("/api/all")["total"] == 0


def test_event_received_in_the_same_second_as_a_reset_is_shown(served):
    served.ask("/api/reset", "POST")
    now = datetime.now(UTC)
    stored = lines_object("events", [json.dumps(event(5)).encode()], now)
    at = now.replace(microsecond=0)
    served.tell(served.console.state.take, parse_object.read(stored.key, stored.body, at), at.timestamp())
    assert served.get("/api/all")["total"] == 1


def test_event_lists_of_a_deployed_stage_cannot_be_reset():
    deployed = Served(stage="dev", live_bus=False)
    try:
        assert deployed.ask("/api/reset", "POST").status == 403
        [live] = [s for s in deployed.get("/api/sources")["sources"] if s["name"] == "live"]
        assert live["state"] == "off"
    finally:
        deployed.end()


@pytest.mark.parametrize(
    "path",
    [
        "/api/events?kind=worse",
        "/api/events?limit=-1",
        "/api/events?limit=501",
        "/api/events?before=x",
        "/api/visits?from=yesterday",
        "/api/visits?fence_id=farm",
        "/api/visits?from=2026-11-28T10:00Z&to=2026-11-28T09:00Z",
        "/api/visits.csv?from=0001-01-01",
        "/api/report?day=9999-12-31",
        "/api/report?day=2026-11-28&format=pdf",
        "/api/replay",
        "/api/replay?from=2026-11-23T06:00Z&to=2026-11-25T07:00Z",
        "/api/replay?from=2026-11-23T07:00Z&to=2026-11-23T06:00Z",
        "/api/where",
        "/api/event?key=events/dt=2026-11-23/hh=06/an-object",
        "/api/event?line=1",
        "/api/daily?days=9999999999999999999999999",
        f"/api/events?limit={'0' * 25}501",
        f"/api/events?limit={'0' * 25}{'9' * 5000}",
        "/api/replay?from=9999-12-31T00:00Z&to=9999-12-31T20:00Z",
    ],
)
def test_missing_or_invalid_parameter_is_refused_with_an_explanation(served, path):
    answer = served.ask(path)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(answer.data)["detail"]


def test_limit_of_0_returns_no_event(served):
    served.receive(event(1))
    found = served.get("/api/events?limit=0")
    assert (found["events"], found["next"]) == ([], None)


def test_unknown_path_returns_404_and_wrong_method_returns_405(served):
    assert served.ask("/api/nothing").status == 404
    assert served.ask("/api/trucks/nobody/trail").status == 404
    assert served.ask(f"/api/events/{'9' * 5000}").status == 404
    for path in ("/%00", "/a%00.js", f"/{'a' * 5000}"):  # no file can have these names
        assert served.ask(path).status == 404
    assert served.ask("/api/reset").status == 405
    assert served.ask("/api/stage", "DELETE").status == 405


# --- pages


def test_built_page_files_are_served_but_files_outside_their_folder_are_not(served, tmp_path, monkeypatch):
    (tmp_path / "static" / "assets").mkdir(parents=True)
    (tmp_path / "static" / "index.html").write_text("<title>page</title>")
    (tmp_path / "static" / "assets" / "a-1234.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(static_page, "STATIC", tmp_path / "static")
    for path in ("/", "/trucks/truck-1", "/index.html"):
        answer = served.ask(path)
        assert (answer.data, answer.headers["cache-control"]) == (b"<title>page</title>", "no-cache")
    script = served.ask("/assets/a-1234.js")
    assert "javascript" in script.headers["content-type"]
    assert "immutable" in script.headers["cache-control"]
    # urllib3 would send "/../secret.txt" as "/secret.txt".
    for path in ("/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt", f"/{tmp_path}/secret.txt"):
        answer = served.ask(path)
        assert (answer.status, b"secret" in answer.data) == (404, False)


def test_server_explains_that_the_page_has_not_been_built(served, tmp_path, monkeypatch):
    monkeypatch.setattr(static_page, "STATIC", tmp_path / "none")
    assert b"not built" in served.ask("/").data


# --- stream


def test_page_first_receives_a_snapshot_and_then_changes(served):
    served.ask("/api/reset", "POST")
    stream = served.stream()
    name, snapshot, id_ = stream.message()
    assert name == "snapshot"
    assert id_.endswith(tuple("0123456789"))
    assert set(snapshot) == {"stage", "sources", "fences", "trucks", "there", "pipeline", "events"}
    assert snapshot["events"]["counted"] == {"good": 0, "bad": 0}
    served.receive(event(1, "truck-9"))
    trucks = stream.until("trucks")["trucks"]
    assert [truck["device_id"] for truck in trucks] == ["truck-9"]
    events = stream.until("events")
    assert ([each["event_id"] for each in events["good"]], events["counted"]) == (
        ["e1"],
        {"good": 1, "bad": 0},
    )


def test_page_that_reconnects_misses_no_change(served):
    served.ask("/api/reset", "POST")
    first = served.stream()
    first.message()
    served.receive(event(1))
    first.answer.close()
    served.receive(event(2), event(3))
    again = served.stream()
    name, snapshot, _ = again.message()
    assert (name, snapshot["events"]["counted"]["good"]) == ("snapshot", 3)
    assert [each["event_id"] for each in snapshot["events"]["good"]] == ["e3", "e2", "e1"]
    served.receive(event(4))
    events = again.until("events")
    assert [each["event_id"] for each in events["good"]] == ["e4"], (
        "events of the snapshot are not sent again"
    )


def test_slow_page_receives_a_snapshot_instead_of_the_backlog_of_changes():
    async def received() -> list[bytes]:
        state = ConsoleState({"stage": "local"})
        hub = Hub(state)
        page = hub.listen()
        assert b"retry" in await anext(page)
        assert b"event: snapshot" in await anext(page)
        for n in range(2 * MAX_BEHIND):
            state.sources.say("archive", "down", f"fault {n}")
            hub.flush()
        now = datetime.now(UTC)
        stored = lines_object("events", [json.dumps(event(7)).encode()], now)
        state.take(parse_object.read(stored.key, stored.body, now), now.timestamp())  # not flushed yet
        snapshot = await anext(page)
        hub.flush()
        state.sources.say("archive", "ok")
        hub.flush()
        return [snapshot, await anext(page)]

    snapshot, news = asyncio.run(received())
    assert b"event: snapshot" in snapshot
    assert f"fault {2 * MAX_BEHIND - 1}".encode() in snapshot
    assert b'"e7"' in snapshot  # contained in the snapshot, so not sent again
    assert b"event: sources" in news
    assert b'"ok"' in news


def test_new_visit_is_sent_to_the_page_without_waiting_for_the_next_tick(monkeypatch):
    monkeypatch.setattr(page_updates, "PAGE_UPDATE_S", 60.0)

    async def received() -> list[bytes]:
        state = ConsoleState({"stage": "local"})
        hub = Hub(state)
        page = hub.listen()
        ticking = asyncio.create_task(hub.run())
        messages = [await anext(page), await anext(page)]
        async with asyncio.timeout(10):
            for n in range(2):
                now = Visit(datetime.now(UTC), f"e-{n}")
                visit = notifications.fields_of(Pair("truck-1", Fence("farm", f"farm-{n}")), now)
                state.tell_visit("arrived", {"id": f"{n}", "version": 1, "visit": visit, "previous": None})
                while f'"e-{n}"'.encode() not in messages[-1]:
                    messages.append(await anext(page))
        ticking.cancel()
        assert search.search(state, "farm-1")["places"], (
            "the place is found even before the archive has been read"
        )
        return messages

    assert sum(b"event: visits" in message for message in asyncio.run(received())) == 2


def test_reset_sends_an_open_page_a_new_snapshot(served):
    served.receive(event(1))
    stream = served.stream()
    stream.message()
    served.ask("/api/reset", "POST")
    while True:
        name, data, _ = stream.message()
        if name == "snapshot":
            break
    assert data["events"] == {"good": [], "bad": [], "counted": {"good": 0, "bad": 0}}


def test_server_log_contains_no_device_id(capfd):
    served = Served()
    served.ask("/api/visits?device_id=truck-of-somebody")
    served.ask("/api/trucks/truck-of-somebody/trail")
    served.end()
    said = "".join(capfd.readouterr())
    assert "truck-of-somebody" not in said


# --- search, places, links, CSV files


def geofence(n: int, kind: str, device: str = "truck-1", place: str = "farm-38") -> dict[str, object]:
    return event(n, device, type=f"user.{kind}_geofence", geofence={"tag": "farm", "externalId": place})


def test_search_finds_trucks_places_events_and_objects(served):
    served.receive(geofence(901, "entered", "Truck-901"))
    found = served.get("/api/search?q=truck-901")
    assert found["trucks"] == ["Truck-901"]
    assert found["searched"]
    assert [place["fence_id"] for place in served.get("/api/search?q=RM-38")["places"]] == ["farm#farm-38"]
    [event_found] = served.get(f"/api/search?q={event(901)['_id']}")["events"]
    assert event_found["event_id"] == event(901)["_id"]
    assert served.get(f"/api/search?q={event_found['key'][:60]}")["objects"] == [event_found["key"]]
    nothing = served.get("/api/search?q=nobody-at-all")
    assert (nothing["trucks"], nothing["events"], nothing["trace"]) == ([], [], "nobody-at-all")
    assert served.get("/api/search?q=")["trace"] is None


@pytest.fixture
def served_in_the_afternoon() -> Iterator[Served]:
    """Yield a console in whose time zone it is between 13:00 and 14:00 now, so that a visit that began
    a few seconds ago always counts as one of today.
    """
    served = Served(time_zone=zone_in_which_it_is_one_in_the_afternoon())
    yield served
    served.end()


def test_place_is_listed_with_todays_visits_and_the_last_truck_that_visited_it(served_in_the_afternoon):
    served = served_in_the_afternoon
    served.receive(geofence(902, "entered", "truck-902"))
    farm, now = Fence("farm", "farm-38"), datetime.now(UTC)
    yesterday = Visit(now - timedelta(days=1, minutes=5), "e-9", now - timedelta(days=1), "x-9")
    rows = [
        notifications.fields_of(Pair("truck-9", farm), yesterday),
        notifications.fields_of(Pair("truck-902", farm), Visit(now - timedelta(seconds=9), "e-902")),
    ]
    served.tell(served.console.state.visits.read, rows)
    [place] = [each for each in served.get("/api/places")["places"] if each["fence_id"] == "farm#farm-38"]
    assert (place["there"], place["visits_today"], place["last_device_id"]) == (1, 1, "truck-902")


def test_event_is_found_by_its_id_or_by_its_object_key_and_line(served):
    served.receive(event(903), event(904))
    listed = served.get("/api/events?q=" + event(904)["_id"])["events"][0]
    by_id = served.get(f"/api/event?event_id={listed['event_id']}")
    by_place = served.get(f"/api/event?key={listed['key']}&line={listed['line']}")
    assert by_id == by_place
    assert by_id["event_id"] == event(904)["_id"]
    assert served.ask("/api/event").status == 400
    assert served.ask("/api/event?event_id=long-gone").status == 503, "the warehouse is down in this test"
    assert served.ask(f"/api/event?key={listed['key']}&line=77").status == 503


def test_event_of_one_device_is_found_although_another_device_uses_its_id(served):
    served.receive(event(905, "truck-1"), event(905, "truck-2"))
    for device in ("truck-1", "truck-2"):
        found = served.get(f"/api/event?event_id={event(905)['_id']}&device_id={device}")
        assert found["device_id"] == device


def test_visits_are_not_exported_if_the_exported_list_would_be_incomplete(served):
    answer = served.ask("/api/visits.csv")
    assert answer.status == 503
    assert "would be incomplete" in json.loads(answer.data)["detail"]
    assert served.ask("/api/report?day=2026-11-27").status == 503
    assert served.ask("/api/report?day=someday").status == 400


class MartOfVisits:
    """A fake warehouse with visits that all end at midnight in Amsterdam. Visit number n began n seconds before
    midnight. The queries apply LIMIT as Snowflake does.
    """

    def __init__(self, visits: int) -> None:
        self.visits = visits
        self.fails_after: int | None = None

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        if "GEOFENCE_VISITS" not in sql:
            return []
        if "COUNT(*)" in sql:
            return [{"n": self.visits}]
        midnight = datetime(2026, 11, 27, 23, tzinfo=UTC)
        numbers = range(self.visits)
        if "visit_key" in sql:  # the visits after a visit key, the earliest first
            last = parameters[-1]
            numbers = range(self.visits if not last else int(last))[::-1]
            if self.fails_after is not None and self.visits - len(numbers) >= self.fails_after:
                raise Refusal("the warehouse is suspended")
        return [
            {
                "visit_key": str(n),
                "device_id": "truck-1",
                "geofence_tag": "farm",
                "geofence_external_id": f"farm-{n}",
                "entered_at": midnight - timedelta(seconds=n),
                "exited_at": midnight,
                "entered_event_id": f"e-{n}",
                "exited_event_id": f"x-{n}",
                "exit_missed": False,
                "dwell_seconds": n,
                "last_seen_at": None,
                "app_dwell_seconds": None,
                "crossings": 1,
            }
            for n in numbers[: int(sql.rpartition("LIMIT ")[2])]
        ]


@pytest.fixture
def mart_of_visits(monkeypatch):
    mart = MartOfVisits(0)

    @contextlib.contextmanager
    def warehouse(_: Outputs, __: int) -> Iterator[MartOfVisits]:
        yield mart

    monkeypatch.setattr(Outputs, "warehouse", warehouse)
    return mart


def test_day_with_many_visits_is_exported_completely_to_a_file_named_after_the_fleets_local_date(
    mart_of_visits, monkeypatch
):
    day = "from=2026-11-26T23:00:00Z&to=2026-11-27T22:59:59.999Z"
    amsterdam = Served(time_zone="Europe/Amsterdam")
    try:
        mart_of_visits.visits = store_queries.MAX_VISITS + 7
        shown = amsterdam.get(f"/api/visits?{day}")
        assert (len(shown["visits"]), shown["more"]) == (store_queries.MAX_VISITS, 7)
        answer = amsterdam.ask(f"/api/visits.csv?{day}")
        header, first, *others = answer.data.decode().splitlines()
        assert header.startswith("device_id,geofence_tag,")
        assert "2026-11-27T21:36:34.000Z" in first, "the earliest comes first"
        assert len(others) == store_queries.MAX_VISITS + 6
        assert answer.headers["content-disposition"] == 'attachment; filename="visits-2026-11-27.csv"'
        mart_of_visits.fails_after = store_queries.PART_VISITS
        with pytest.raises(urllib3.exceptions.ProtocolError):  # a shortened file would look complete
            amsterdam.ask(f"/api/visits.csv?{day}")
        mart_of_visits.visits = store_queries.MAX_CSV_VISITS + 1
        answer = amsterdam.ask(f"/api/visits.csv?{day}")
        assert (answer.status, "choose a truck" in json.loads(answer.data)["detail"]) == (400, True)
        of_one_truck = f"/api/visits.csv?{day}&device_id=truck-1"
        answer = amsterdam.ask(of_one_truck)
        assert (answer.status, json.loads(answer.data)["source"]) == (503, "visits"), "DynamoDB is down"
        monkeypatch.setattr(store_queries.StoreQueries, "device_visits", lambda *_: [])
        answer = amsterdam.ask(of_one_truck)
        assert (answer.status, "choose a place" in json.loads(answer.data)["detail"]) == (400, True)
    finally:
        amsterdam.end()


def test_daily_totals_over_the_row_limit_omit_the_earliest_days(mart_of_visits, monkeypatch):
    monkeypatch.setattr(store_queries, "MAX_DAILY", 25)
    farms = 1

    def query(sql: str, _: Sequence[object] = ()) -> list[Row]:
        if "DAILY_FARM_COLLECTIONS" in sql:
            days = [date(2026, 11, day) for day in ((28,) * farms + (27, 26))]
            farm = {"geofence_tag": "farm", "geofence_external_id": "f1", "visits": 1}
            return [{"date": day} | farm for day in days[: int(sql.rpartition("LIMIT ")[2])]]
        sums = dict.fromkeys(("events", "visits", "collections", "kilometres", "dwell_seconds"), 1)
        rows = [
            {"date": date(2026, 11, day), "device_id": f"truck-{n}", "litres": 100} | sums
            for day in (26, 27, 28)
            for n in range(10)
        ]
        if "ORDER BY 1 DESC" in sql:
            rows.sort(key=lambda row: row["date"], reverse=True)
        return rows[: int(sql.rpartition("LIMIT ")[2])]

    mart_of_visits.query = query
    console = Served()
    try:
        found = console.get("/api/daily?days=14")
        days = [(day["date"], day["litres"]) for day in found["days"]]
        assert days == [("2026-11-27", 1000), ("2026-11-28", 1000)]
        assert (found["from"], found["cut"]) == ("2026-11-27", True)
        farms = 24  # now the 25 rows of the farms reach back only to 2026-11-27
        found = console.get("/api/daily?days=14")
        days = [(day["date"], day["farms"]) for day in found["days"]]
        assert days == [("2026-11-28", 24)], "a day is omitted if its farms are missing"
        assert (found["from"], found["cut"]) == ("2026-11-28", True)
    finally:
        console.end()


def half_closed(port: int) -> list[str]:
    """Return the states of the connections that a client has closed and the server has not."""
    found = psutil.Process().net_connections("tcp")
    return [
        each.status for each in found if each.laddr.port == port and each.status == psutil.CONN_CLOSE_WAIT
    ]


def test_cancelled_requests_to_a_slow_snowflake_delay_no_other_request(mart_of_visits):
    """A user steps through the days while the warehouse resumes. The page cancels each request when it sends
    the next one.
    """
    answering, asked = threading.Event(), []

    def query(sql: str, _: Sequence[object] = ()) -> list[Row]:
        asked.append(sql)
        assert answering.wait(10)
        return []

    mart_of_visits.query = query
    console = Served(warehouse_every=0)
    try:
        console.get("/api/stage")
        for _ in range(60):
            with socket.create_connection(("127.0.0.1", console.port)) as client:
                client.sendall(f"GET /api/visits HTTP/1.1\r\nHost: 127.0.0.1:{console.port}\r\n\r\n".encode())
        until(lambda: asked, bool, timeout_s=5)
        other = urllib3.PoolManager(retries=False, timeout=3)
        page = other.request("GET", f"http://127.0.0.1:{console.port}/favicon.svg")
        assert page.status == 200
        until(lambda: half_closed(console.port), lambda left: left == [], timeout_s=10)
        answering.set()
        assert console.get("/api/visits")["missing"] == []
        # Usually, SNOWFLAKE_QUESTIONS + 1 queries were sent. Without the check for cancelled requests, there would be
        # 61. On a busy machine, the server may notice the end of a connection only after it has accepted later ones.
        assert len(asked) <= 2 * routes.SNOWFLAKE_QUESTIONS
    finally:
        answering.set()
        console.end()


def test_report_before_the_first_dbt_run_does_not_mark_snowflake_as_down(mart_of_visits):
    def query(*_: object) -> list[Row]:
        raise MissingObject("missing object: GEOFENCE_VISITS")

    mart_of_visits.query = query
    console = Served(warehouse_every=0)
    try:
        answer = console.ask("/api/report?day=2026-11-27")
        assert (answer.status, "milkrun warehouse dbt build" in json.loads(answer.data)["detail"]) == (
            404,
            True,
        )
        states = {each["name"]: each["state"] for each in console.get("/api/sources")["sources"]}
        assert states["snowflake"] == "off"
    finally:
        console.end()


def test_search_that_fails_in_aws_does_not_mark_snowflake_as_down(mart_of_visits):
    mart_of_visits.query = lambda *_: []
    console = Served(warehouse_every=0)
    try:
        for path in ("/api/where?event_id=e1", "/api/event?event_id=e1"):
            answer = console.ask(path)
            assert (answer.status, json.loads(answer.data)["source"]) == (503, "AWS"), path
        states = {each["name"]: each["state"] for each in console.get("/api/sources")["sources"]}
        assert states["snowflake"] != "down"
    finally:
        console.end()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 0, "http://127.0.0.1:7002"),
        (["--tiles", "https://host/{z}/{x}/{y}.png"], 2, "start another one with --port 0"),
        (["--no-live-bus"], 2, "start another one with --port 0"),
        (["--warehouse-every", "0"], 2, "start another one with --port 0"),
    ],
)
def test_options_are_refused_if_the_console_of_the_local_stack_already_runs_without_them(
    options: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tools.console.command.terminal.outputs_of", lambda *_: None)
    monkeypatch.setattr("tools.console.command.stack_console.is_ready", lambda _: True)
    assert terminal.run(app, {"MILKRUN_PORT": "7000"}, ["console", *options]) == code
    assert said in "".join(capsys.readouterr())
