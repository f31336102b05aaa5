"""The demo's ticks can fail: a number that is right by chance is not taken for the right events."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.progress import Progress

from ops.outputs import Outputs
from snowpipe.refusal import Refusal
from tools.fleet import demo
from tools.fleet.demo import Demo
from tools.fleet.ledger import Ledger
from tools.fleet.rounds import Plan, posts
from tools.fleet.send import Delivery, judged

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
    monkeypatch.setattr(demo, "VISITS_PATIENCE_S", 0.0)
    outputs = SimpleNamespace(aws=lambda _: None)
    return Demo(cast(Outputs, outputs), ledger, Progress(disable=True))


def test_the_right_events_get_a_tick(run: Demo, ledger: Ledger) -> None:
    ledger.mark("archived", ledger.event_ids())
    line = run._line("archived", "accepted", "archived")
    assert line.equal
    assert line.expected == line.found > 0


def test_as_many_but_other_events_get_no_tick_and_are_named(run: Demo, ledger: Ledger) -> None:
    missing, *there = ledger.event_ids()
    ledger.mark("archived", [*there, "a stranger"])
    line = run._line("archived", "accepted", "archived")
    assert line.expected == line.found
    assert not line.equal
    assert missing in line.note


def test_as_many_but_other_visits_get_no_tick(run: Demo, ledger: Ledger) -> None:
    expected = set(ledger.stays())
    assert run._visits("visits", expected, lambda: set(expected)).equal
    other = {replace_first(expected)} | set(list(expected)[1:])
    line = run._visits("visits", expected, lambda: other)
    assert len(other) == len(expected)
    assert not line.equal


def replace_first(stays: set[Any]) -> Any:
    return next(iter(stays))._replace(exited_event_id="another")


@pytest.mark.parametrize(
    ("text", "code", "is_crossing"),
    [
        ({"_id": "a", "type": "x", "createdAt": "2026-11-16T08:00:00Z", "deviceId": "d"}, None, False),
        (
            {
                "_id": "a",
                "type": "user_entered_geofence",
                "createdAt": "2026-11-16T08:00:00Z",
                "deviceId": "d",
                "geofence": {"tag": "farm", "externalId": "f"},
            },
            None,
            True,
        ),
        ({"type": "x", "createdAt": "2026-11-16T08:00:00Z", "deviceId": "d"}, "missing_id", False),
        ("no json", "not_json", False),
    ],
)
def test_a_line_of_a_file_is_judged_by_the_handlers_own_rule(
    text: object, code: str | None, is_crossing: bool
) -> None:
    planned = judged(text if isinstance(text, str) else json.dumps(text))
    assert planned.code == code
    assert (planned.crossing is not None) == is_crossing


def test_a_line_that_is_not_utf_8_is_rejected_and_sent_as_it_is() -> None:
    planned = judged(b'{"_id":"\xff"}'.decode("utf-8", "surrogateescape"))
    assert planned.code == "not_json"
    post = replace(next(posts(PLAN)), events=(planned,), form="ndjson")
    assert post.body() == b'{"_id":"\xff"}'


@pytest.mark.parametrize("body", [b"", b"\n \n"])
def test_a_file_without_events_is_refused_rather_than_ticked(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "nothing").write_bytes(body)
    with pytest.raises(Refusal, match="holds no events"):
        demo._lines_in(tmp_path / "nothing", Progress(disable=True))
