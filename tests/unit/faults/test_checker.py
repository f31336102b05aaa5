"""Test that the fault suite's checker reports nothing for a correct run and detects each kind of deviation."""

import gzip
import json
from collections.abc import Callable
from copy import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from consumer.notifications import news_of, notification
from consumer.visit_diff import VisitDiff
from consumer.visits import Pair, Visit
from ops.read_stores import stay
from tests.faults.checker import (
    Facts,
    Kind,
    MartFacts,
    Row,
    check,
    check_marts,
    expected_visits,
    settled,
)
from tests.faults.phones import Exchange, Try
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import World
from tools.fleet.phones import Post, posts
from tools.fleet.traffic_parameters import Plan

NOW = datetime.now(UTC)
PLAN = Plan("c0ffee00", NOW - timedelta(hours=8), trucks=3, farms=4, rounds=1, duplicates=0.1, invalid=0.05)


def exchanged(phone: Phone, post: Post) -> Exchange:
    headers = {"content-type": post.content_type}
    answer = phone.post(post.body(), headers)
    tries = (Try(None), Try(answer.status, answer.body, answer.headers["Content-Type"]))
    return Exchange(post, tries, "delivered" if answer.status == 202 else "dropped")


def a_run() -> Facts:
    """Send a morning's requests through the real handler without faults. Return the exchanges, and the content that
    all stores must then have.
    """
    world = World(received_at=NOW)
    exchanges = [exchanged(Phone(world), post) for post in posts(PLAN)]
    objects = {key: gzip.decompress(body).splitlines() for key, body in world.objects.items()}
    rows = [
        (key, Row(key, n, line.decode())) for key, lines in objects.items() for n, line in enumerate(lines, 1)
    ]
    return Facts(
        exchanges,
        objects,
        (visits := sorted(expected_visits(exchanges, NOW), key=str)),
        [(pair, visit) for pair, visit in visits if visit.is_open],
        [row for key, row in rows if key.startswith("events/")],
        [row for key, row in rows if key.startswith("rejected/")],
        ended_at=NOW,
    )


FACTS = a_run()


def test_checker_reports_no_breach_for_a_correct_run() -> None:
    assert check(FACTS) == []
    assert len(FACTS.objects) > 20
    assert FACTS.rejects_loaded


def events_of(facts: Facts) -> dict[str, object]:
    return {key: lines for key, lines in facts.objects.items() if key.startswith("events/")}


def object_missing(facts: Facts) -> Facts:
    gone = min(events_of(facts))
    rows = [row for row in facts.loaded or () if row.file_name != gone]
    return replace(facts, objects={k: v for k, v in facts.objects.items() if k != gone}, loaded=rows)


def line_changed(facts: Facts) -> Facts:
    key = min(events_of(facts))
    first, *rest = facts.objects[key]
    return replace(facts, objects={**facts.objects, key: [first.replace(b"live", b"dead"), *rest]})


def row_missing(facts: Facts) -> Facts:
    return replace(facts, loaded=(facts.loaded or ())[1:])


def row_duplicated(facts: Facts) -> Facts:
    return replace(facts, loaded=[*(facts.loaded or ()), (facts.loaded or ())[0]])


def row_without_a_line(facts: Facts) -> Facts:
    return replace(facts, loaded=[*(facts.loaded or ()), Row("events/x", 1, "{}")])


def reject_missing_in_the_warehouse(facts: Facts) -> Facts:
    return replace(facts, rejects_loaded=(facts.rejects_loaded or ())[1:])


def visit_missing(facts: Facts) -> Facts:
    return replace(facts, visits=facts.visits[1:])


def visit_ends_a_second_later(facts: Facts) -> Facts:
    pair, closed = next(one for one in facts.visits if one[1].exited_at)
    assert closed.exited_at
    later = replace(closed, exited_at=closed.exited_at + timedelta(seconds=1))
    return replace(facts, visits=[(pair, later), *(one for one in facts.visits if one != (pair, closed))])


def dwell_not_stored(facts: Facts) -> Facts:
    pair, seen = next(one for one in facts.visits if one[1].last_seen_at)
    unseen = replace(seen, last_seen_at=None)
    return replace(facts, visits=[(pair, unseen), *(one for one in facts.visits if one != (pair, seen))])


def ended_visit_in_the_index_of_open_visits(facts: Facts) -> Facts:
    left = next(one for one in facts.visits if one[1].exited_at)
    return replace(facts, there_now=[*(facts.there_now or ()), left])


def index_of_open_visits_empty(facts: Facts) -> Facts:
    return replace(facts, there_now=[])


def visit_duplicated(facts: Facts) -> Facts:
    return replace(facts, visits=[*facts.visits, facts.visits[0]])


def visit_of_an_unknown_device(facts: Facts) -> Facts:
    pair, visit = facts.visits[0]
    return replace(facts, visits=[*facts.visits, (pair._replace(device_id="nobody"), visit)])


def object_quarantined(facts: Facts) -> Facts:
    return replace(facts, objects={**facts.objects, "set-aside/dt=2026-11-23/hh=01/x": [b"{}"]})


def batch_undelivered(facts: Facts) -> Facts:
    first, *rest = facts.exchanges
    return replace(facts, exchanges=[replace(first, tries=(Try(503, {}, "", "5"),), fate="kept"), *rest])


def _answered(facts: Facts, **changes: object) -> Facts:
    first, *rest = facts.exchanges
    answer = {**(first.last.answer or {}), **changes}
    return replace(facts, exchanges=[replace(first, tries=(replace(first.last, answer=answer),)), *rest])


def receipt_with_a_wrong_count(facts: Facts) -> Facts:
    return _answered(facts, accepted=99)


def receipt_with_another_object(facts: Facts) -> Facts:
    return _answered(facts, object_key="events/dt=2026-11-23/hh=01/none")


def undocumented_status(facts: Facts) -> Facts:
    first, *rest = facts.exchanges
    return replace(facts, exchanges=[replace(first, tries=(Try(418), *first.tries)), *rest])


def status_503_without_retry_after(facts: Facts) -> Facts:
    first, *rest = facts.exchanges
    failed = Try(503, {"code": "unavailable"}, "application/problem+json")
    return replace(facts, exchanges=[replace(first, tries=(failed, *first.tries)), *rest])


def all_notifications(facts: Facts) -> list[dict[str, object]]:
    """Return the `arrived` and `departed` notifications that the event bus receives for the run's visits."""
    pairs: dict[Pair, list[Visit]] = {}
    for pair, visit in facts.visits:
        pairs.setdefault(pair, []).append(visit)
    return [
        {"detail-type": notice.kind, "detail": notice.detail}
        for pair, visits in pairs.items()
        for news in news_of(VisitDiff({}, {(v.entered_at, v.entered_event_id): v for v in visits}, 0))
        for notice in [notification(pair, 7, news)]
    ]


def no_notifications(facts: Facts) -> Facts:
    return replace(facts, notifications=[])


def notification_with_two_ids(facts: Facts) -> Facts:
    events = all_notifications(facts)
    again = {**events[0], "detail": {**events[0]["detail"], "id": "another"}}
    return replace(facts, notifications=[*events, again])


def departure_notified_as_arrival(facts: Facts) -> Facts:
    events = all_notifications(facts)
    departed = next(e for e in events if e["detail-type"] == "departed")
    later = {"detail-type": "arrived", "detail": {**departed["detail"], "version": 8, "id": "later"}}
    return replace(facts, notifications=[later if e is departed else e for e in events])


def arrival_notified_as_departure(facts: Facts) -> Facts:
    events = all_notifications(facts)
    return replace(facts, notifications=[{**e, "detail-type": "departed"} for e in events])


def other_content_not_archived(facts: Facts) -> Facts:
    """Make the phone send an event again with different content, which is not archived."""
    first, *rest = facts.exchanges
    event = next(e for e in first.post.events if e.code is None)
    content = json.loads(event.text) | {"metadata": {"other": True}}
    more = replace(first.post, events=(*first.post.events, replace(event, text=json.dumps(content))))
    return replace(facts, exchanges=[replace(first, post=more), *rest])


def rejected_event_also_accepted(facts: Facts) -> Facts:
    """Add an accepted event with the id of a rejected one."""
    rejected = next(e for x in facts.exchanges for e in x.post.events if e.code and e.event_id)
    key = min(events_of(facts))
    line = json.dumps({"_id": rejected.event_id}).encode()
    return replace(facts, objects={**facts.objects, key: [*facts.objects[key], line]})


def accepted_event_also_rejected(facts: Facts) -> Facts:
    accepted = next(e for x in facts.exchanges for e in x.post.events if e.code is None)
    key = min(key for key in facts.objects if key.startswith("rejected/"))
    reject = {
        "index": 0,
        "event_id": accepted.event_id,
        "reasons": [{"code": "missing_id"}],
        "event": json.loads(accepted.text),
    }
    lines = [*facts.objects[key], json.dumps(reject).encode()]
    return replace(facts, objects={**facts.objects, key: lines})


def reject_missing_in_the_archive(facts: Facts) -> Facts:
    gone = min(key for key in facts.objects if key.startswith("rejected/"))
    rows = [row for row in facts.rejects_loaded or () if row.file_name != gone]
    objects = {key: lines for key, lines in facts.objects.items() if key != gone}
    return replace(facts, objects=objects, rejects_loaded=rows)


def row_changed(facts: Facts) -> Facts:
    first, *rest = facts.loaded or ()
    return replace(facts, loaded=[first._replace(payload=first.payload.replace("live", "dead")), *rest])


CHANGES: list[tuple[Callable[[Facts], Facts], Kind]] = [
    (object_missing, "lost"),
    (line_changed, "not sent"),
    (row_missing, "lost"),
    (row_duplicated, "duplicated"),
    (row_without_a_line, "not sent"),
    (reject_missing_in_the_warehouse, "lost"),
    (visit_missing, "wrong visit"),
    (visit_ends_a_second_later, "wrong visit"),
    (visit_duplicated, "wrong visit"),
    (visit_of_an_unknown_device, "wrong visit"),
    (object_quarantined, "quarantined"),
    (batch_undelivered, "undelivered"),
    (receipt_with_a_wrong_count, "wrong answer"),
    (receipt_with_another_object, "wrong answer"),
    (undocumented_status, "wrong answer"),
    (status_503_without_retry_after, "wrong answer"),
    (no_notifications, "notification"),
    (notification_with_two_ids, "notification"),
    (departure_notified_as_arrival, "notification"),
    (arrival_notified_as_departure, "notification"),
    (other_content_not_archived, "lost"),
    (dwell_not_stored, "wrong visit"),
    (ended_visit_in_the_index_of_open_visits, "wrong visit"),
    (index_of_open_visits_empty, "wrong visit"),
    (rejected_event_also_accepted, "both"),
    (accepted_event_also_rejected, "both"),
    (reject_missing_in_the_archive, "lost"),
    (row_changed, "not sent"),
]


def test_changes_cover_every_kind_of_deviation() -> None:
    assert {kind for _, kind in CHANGES} == set(get_args(Kind.__value__))


@pytest.mark.parametrize(("change", "kind"), CHANGES, ids=lambda value: getattr(value, "__name__", value))
def test_checker_detects_each_kind_of_deviation(change: Callable[[Facts], Facts], kind: Kind) -> None:
    assert kind in {breach.kind for breach in check(change(FACTS))}


def test_checker_reports_no_breach_if_all_notifications_are_received() -> None:
    assert check(replace(FACTS, notifications=all_notifications(FACTS))) == []


def test_checker_expects_only_the_archived_events_of_a_phone_that_was_lost() -> None:
    sent = [exchange.post for exchange in FACTS.exchanges]
    first = next(x for x in FACTS.exchanges if sent.count(x.post) == 1)
    rest = [x for x in FACTS.exchanges if x is not first]
    broke = replace(first, tries=(Try(503, {"code": "x"}, "application/json", "5"),), fate="kept", broke=True)
    before = check(replace(FACTS, exchanges=[broke, *rest]))
    assert {breach.kind for breach in before} <= {"wrong answer"}

    gone = {str(key) for key in ((first.last.answer or {}).get("object_key"),) if key}
    objects = {key: lines for key, lines in FACTS.objects.items() if key not in gone}
    rows = [row for row in FACTS.loaded or () if row.file_name not in gone]
    lost = replace(FACTS, exchanges=[broke, *rest], objects=objects, loaded=rows)
    without = settled(lost.exchanges, objects)
    visits = sorted(expected_visits(without, NOW), key=str)
    there_now = [one for one in visits if one[1].is_open]
    assert check(replace(lost, visits=visits, there_now=there_now)) == before
    assert without[0].archived is not None
    assert len(without[0].archived) < len(first.post.events)


def test_same_content_in_two_objects_of_one_hour_is_reported_as_a_duplicate() -> None:
    key = min(events_of(FACTS))
    folder, _, name = key.rpartition("/")
    again = f"{folder}/{'0' * 64}{name[64:]}"
    facts = replace(FACTS, objects={**FACTS.objects, again: FACTS.objects[key]})
    assert "duplicated" in {breach.kind for breach in check(facts)}


def test_second_object_from_a_retry_in_another_hour_is_not_reported_as_a_duplicate() -> None:
    key = min(events_of(FACTS))
    hour = key.split("/")[2]
    again = key.replace(hour, "hh=00" if hour != "hh=00" else "hh=01")
    rows = [row._replace(file_name=again) for row in FACTS.loaded or () if row.file_name == key]
    objects = {**FACTS.objects, again: FACTS.objects[key]}
    facts = replace(FACTS, objects=objects, loaded=[*(FACTS.loaded or ()), *rows])
    assert check(facts) == []


def test_staging_and_marts_are_compared_with_the_events_sent() -> None:
    ids = sorted({json.loads(row.payload)["_id"] for row in FACTS.loaded or ()})
    stays = [stay(*one) for one in FACTS.visits]
    facts = MartFacts(FACTS.exchanges, ids, stays)
    assert check_marts(facts) == []

    def kinds(changed: MartFacts) -> set[str]:
        return {breach.kind for breach in check_marts(changed)}

    assert kinds(replace(facts, staged=ids[1:])) == {"lost"}
    assert kinds(replace(facts, staged=[*ids, ids[0]])) == {"duplicated"}
    assert kinds(replace(facts, staged=[*ids, "other"])) == {"not sent"}
    assert kinds(replace(facts, visits=stays[1:])) == {"wrong visit"}
