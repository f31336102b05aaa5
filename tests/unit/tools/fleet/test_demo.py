"""Test that the demo's checks detect wrong results, even if the number of events or visits is right.

Also test that the demo splits and validates an events file like the handler.
"""

import base64
import gzip
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.progress import Progress

from cli.refusal import Refusal
from ops.stage_outputs import Outputs
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import World
from tests.unit.tools.fleet.test_send import server
from tools.fleet import demo
from tools.fleet.client import Delivery
from tools.fleet.demo import Demo
from tools.fleet.event_file import TOO_LARGE, judged, posts_of_file
from tools.fleet.ledger import Ledger
from tools.fleet.phones import posts
from tools.fleet.traffic_parameters import Plan

PLAN = Plan("0a1b2c3d", datetime(2026, 11, 22, 3, 30, tzinfo=UTC), trucks=1, invalid=0)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger(now=PLAN.begins_at) as ledger:
        for post in posts(PLAN):
            n = len(post.events)
            answer: dict[str, object] = {"received": n, "accepted": n, "errors": []}
            ledger.add(Delivery(post, "delivered", 202, answer, PLAN.begins_at, 0.1, (202,)))
        yield ledger


@pytest.fixture
def run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Demo:
    monkeypatch.setattr(demo, "VISITS_TIMEOUT_S", 0.0)
    outputs = SimpleNamespace(aws=lambda _: None)
    return Demo(cast(Outputs, outputs), ledger, Progress(disable=True))


def test_demo_check_passes_if_exactly_the_expected_events_arrive(run: Demo, ledger: Ledger) -> None:
    ledger.mark("archived", ledger.event_ids())
    line = run._line("archived", "accepted", "archived")
    assert line.equal
    assert line.expected == line.found > 0


def test_demo_check_fails_if_the_number_of_events_is_right_but_an_event_is_wrong(
    run: Demo, ledger: Ledger
) -> None:
    missing, *there = ledger.event_ids()
    ledger.mark("archived", [*there, "a stranger"])
    line = run._line("archived", "accepted", "archived")
    assert line.expected == line.found
    assert not line.equal
    assert missing in line.note


def test_demo_check_fails_if_the_number_of_visits_is_right_but_a_visit_is_wrong(
    run: Demo, ledger: Ledger
) -> None:
    expected = set(ledger.stays())
    assert run._visits("visits", expected, lambda: set(expected)).equal
    other = {replace_first(expected)} | set(list(expected)[1:])
    line = run._visits("visits", expected, lambda: other)
    assert len(other) == len(expected)
    assert not line.equal


def test_markup_and_control_characters_in_the_demos_table_are_printed_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outputs = SimpleNamespace(
        api_key="k",
        endpoint="http://e",
        token_issuer=None,
        database="D",
        console_url=None,
        aws_endpoint_url=None,
    )
    line = demo.Line("loaded", 2, 1, False, "differ: [/red], [bold]\x1b[2J")
    demo._print([line], [], {"run": "r"}, cast(Outputs, outputs))
    assert "differ: [/red], [bold]\\u001b[2J" in capsys.readouterr().out


def replace_first(stays: set[object]) -> object:
    return next(iter(stays))._replace(exited_event_id="another")


@pytest.mark.parametrize(
    ("text", "code", "is_crossing"),
    [
        ({"_id": "a", "type": "x", "deviceId": "d"}, None, False),
        (
            {
                "_id": "a",
                "type": "user_entered_geofence",
                "deviceId": "d",
                "geofence": {"tag": "farm", "externalId": "f"},
            },
            None,
            True,
        ),
        ({"type": "x", "deviceId": "d"}, "missing_id", False),
        ({"_id": "a", "type": "x", "deviceId": "d", "x": "x" * 70_000}, "event_too_large", False),
        (
            {"_id": "a", "type": "x", "deviceId": "d", "x": random.Random(1).randbytes(400_000).hex()},
            "event_too_large",
            False,
        ),
    ],
)
def test_line_of_an_events_file_is_validated_by_the_handlers_rules(
    text: dict[str, object], code: str | None, is_crossing: bool
) -> None:
    planned = judged(json.dumps(text | {"createdAt": datetime.now(UTC).isoformat()}))
    assert planned.code == code
    assert (planned.crossing is not None) == is_crossing


def test_geofence_event_of_a_type_that_the_stage_configures_is_expected_on_the_stream() -> None:
    fence = {"tag": "farm", "externalId": "f"}
    text = {"_id": "a", "type": "yard.in", "deviceId": "d", "geofence": fence}
    line = json.dumps(text | {"createdAt": datetime.now(UTC).isoformat()})
    assert judged(line).crossing is None
    crossing = judged(line, {"yard.in": "enter"}).crossing
    assert crossing is not None
    assert crossing.kind == "enter"


def test_line_that_is_not_utf_8_is_sent_unchanged_and_expected_to_be_rejected() -> None:
    planned = judged(b'{"_id":"\xff"}'.decode("utf-8", "surrogateescape"))
    assert planned.code == "not_json"
    post = replace(next(posts(PLAN)), events=(planned,), form="ndjson")
    assert post.body() == b'{"_id":"\xff"}'


MARK = b"\xef\xbb\xbf"
FILES = {
    "a byte order mark": MARK + b"%b\n%b\n%b\n",
    "a byte order mark and CRLF": MARK + b"%b\r\n%b\r\n%b\r\n",
    "two files joined, each with a mark": MARK + b"%b\n%b\n" + MARK + b"%b\n",
    "a form feed at the end": b"%b\n%b\n%b\n\x0c\n",
    "a form feed before a line": b"%b\n\x0c%b\n%b",
    "blank lines": b"\n%b\n \t\n\r\n%b\n\v\n%b\n\n",
    "a mark by itself": b"%b\n" + MARK + b"\n%b\n%b",
    "two marks": MARK + MARK + b"%b\n%b\n%b",
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("layout", FILES.values(), ids=FILES.keys())
def test_demo_and_handler_split_an_events_file_into_the_same_lines(
    tmp_path: Path, layout: bytes, packed: bool
) -> None:
    at = datetime.now(UTC).isoformat()
    events = [{"_id": str(n), "type": "pickup.started", "deviceId": "d", "createdAt": at} for n in range(3)]
    body = layout % tuple(json.dumps(event, separators=(",", ":")).encode() for event in events)
    (tmp_path / "file").write_bytes(gzip.compress(body) if packed else body)
    [post] = posts_of_file(tmp_path / "file", judge=judged)
    assert [(planned.event_id, planned.code) for planned in post.events] == [(str(n), None) for n in range(3)]

    as_it_is = Phone(World(received_at=datetime.now(UTC)))
    answer = as_it_is.post(body, {"Content-Type": "application/x-ndjson"})
    assert (answer.status, answer.body["accepted"], answer.body["rejected"]) == (202, 3, 0)
    sent = Phone(World(received_at=datetime.now(UTC)))
    sent.post(post.body(), {"Content-Type": "application/x-ndjson"})
    assert sent.world.lines("events") == as_it_is.world.lines("events")


@pytest.mark.parametrize(
    "padding",
    [b"x" * (4 * 1024 * 1024), base64.b64encode(random.Random(1).randbytes(1_100_000)), b"x" * 200_000],
    ids=["over 4 MiB", "over 1 MiB compressed", "over 100 times its compressed size"],
)
def test_line_too_large_for_any_request_is_expected_to_be_dropped(padding: bytes) -> None:
    line = b'{"_id":"a","type":"x","deviceId":"d","createdAt":"2026-11-28T12:00:00Z","x":"%b"}' % padding
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
    assert Phone(World()).post(gzip.compress(line, mtime=0), headers).status == 413
    assert judged(line.decode()).code == TOO_LARGE


@pytest.mark.parametrize("body", [b"", b"\n \n", MARK, MARK + b"\r\n\x0c\n"])
def test_demo_refuses_a_file_without_events(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "nothing").write_bytes(body)
    with pytest.raises(Refusal, match="contains no events"):
        demo._lines_in(tmp_path / "nothing", Progress(disable=True))


class UnreachableStack:
    """A stack whose gateway does not respond. Its Snowflake is empty or raises the given exception."""

    endpoint, api_key, database, token_issuer = "http://127.0.0.1:9/v1/events", "k", "MILKRUN", None

    def __init__(self, fault: Exception | None = None) -> None:
        self._fault = fault

    def aws(self, _: str) -> Any:
        return None

    @contextmanager
    def warehouse(self) -> Iterator[object]:
        if self._fault:
            raise self._fault
        yield SimpleNamespace(query=lambda *_: [])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (None, r"A request to http://127.0.0.1:9/v1/events failed for 0.1 s \(no response\)"),
        (Refusal("no connection to Snowflake"), "no connection"),
    ],
    ids=["gateway", "warehouse"],
)
def test_unreachable_stack_ends_the_demo_quickly_with_a_one_line_error(
    fault: Exception | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "REQUEST_TIMEOUT_S", 0.1)
    began = time.monotonic()
    with Ledger() as ledger, Progress(disable=True) as bars, pytest.raises(Refusal, match=said) as refused:
        Demo(cast(Outputs, UnreachableStack(fault)), ledger, bars).run(posts(PLAN), 1, lambda: None)
    assert time.monotonic() - began < 10
    assert "\n" not in str(refused.value)


def test_demo_ends_with_an_error_if_a_proxy_answers_instead_of_the_stack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "REQUEST_TIMEOUT_S", 0.1)
    with server(lambda *_: (200, {}, b"<html>Sign in</html>")) as (url, _):
        stack = UnreachableStack()
        stack.endpoint = url
        refused = pytest.raises(Refusal, match=r"\(status 200 without a receipt\)")
        with Ledger() as ledger, Progress(disable=True) as bars, refused:
            Demo(cast(Outputs, stack), ledger, bars).run(posts(PLAN), 1, lambda: None)
