"""The checker of the fault suite finds nothing in a run as it must be, and each thing that is other than that."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumer.visit_diff import VisitDiff, notifications
from consumer.visits import Pair, Visit
from ops.stores import stay
from tests.faults.checker import (
    Breach,
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
from tools.fleet.rounds import Plan, Post, posts

NOW = datetime.now(UTC)
PLAN = Plan("c0ffee00", NOW - timedelta(hours=8), trucks=3, farms=4, rounds=1, duplicates=0.1, invalid=0.05)


def exchanged(phone: Phone, post: Post) -> Exchange:
    headers = {"content-type": post.content_type}
    answer = phone.post(post.body(), headers)
    tries = (Try(None), Try(answer.status, answer.body, answer.headers["Content-Type"]))
    return Exchange(post, tries, "delivered" if answer.status == 202 else "dropped")


def a_run() -> Facts:
    """A morning through the real handler with nothing wrong, and all that must follow from it."""
    world = World()
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


def test_nothing_is_found_in_a_run_as_it_must_be() -> None:
    assert check(FACTS) == []
    assert len(FACTS.objects) > 20
    assert FACTS.rejects_loaded


def events_of(facts: Facts) -> dict[str, Any]:
    return {key: lines for key, lines in facts.objects.items() if key.startswith("events/")}


def an_object_is_gone(facts: Facts) -> Facts:
    gone = min(events_of(facts))
    rows = [row for row in facts.loaded or () if row.file_name != gone]
    return replace(facts, objects={k: v for k, v in facts.objects.items() if k != gone}, loaded=rows)


def a_line_says_something_else(facts: Facts) -> Facts:
    key = min(events_of(facts))
    first, *rest = facts.objects[key]
    return replace(facts, objects={**facts.objects, key: [first.replace(b"live", b"dead"), *rest]})


def a_row_is_missing(facts: Facts) -> Facts:
    return replace(facts, loaded=(facts.loaded or ())[1:])


def a_row_stands_twice(facts: Facts) -> Facts:
    return replace(facts, loaded=[*(facts.loaded or ()), (facts.loaded or ())[0]])


def a_row_came_from_nowhere(facts: Facts) -> Facts:
    return replace(facts, loaded=[*(facts.loaded or ()), Row("events/x", 1, "{}")])


def a_reject_is_missing_in_the_warehouse(facts: Facts) -> Facts:
    return replace(facts, rejects_loaded=(facts.rejects_loaded or ())[1:])


def a_visit_is_missing(facts: Facts) -> Facts:
    return replace(facts, visits=facts.visits[1:])


def a_visit_ends_a_second_later(facts: Facts) -> Facts:
    pair, closed = next(one for one in facts.visits if one[1].exited_at)
    assert closed.exited_at
    later = replace(closed, exited_at=closed.exited_at + timedelta(seconds=1))
    return replace(facts, visits=[(pair, later), *(one for one in facts.visits if one != (pair, closed))])


def a_dwell_was_not_noted(facts: Facts) -> Facts:
    pair, seen = next(one for one in facts.visits if one[1].last_seen_at)
    unseen = replace(seen, last_seen_at=None)
    return replace(facts, visits=[(pair, unseen), *(one for one in facts.visits if one != (pair, seen))])


def whoever_left_is_shown_as_there(facts: Facts) -> Facts:
    left = next(one for one in facts.visits if one[1].exited_at)
    return replace(facts, there_now=[*(facts.there_now or ()), left])


def nobody_is_there(facts: Facts) -> Facts:
    return replace(facts, there_now=[])


def a_visit_is_shown_twice(facts: Facts) -> Facts:
    return replace(facts, visits=[*facts.visits, facts.visits[0]])


def somebody_elses_visit(facts: Facts) -> Facts:
    pair, visit = facts.visits[0]
    return replace(facts, visits=[*facts.visits, (pair._replace(device_id="nobody"), visit)])


def something_was_set_aside(facts: Facts) -> Facts:
    return replace(facts, objects={**facts.objects, "set-aside/dt=2026-11-23/hh=01/x": [b"{}"]})


def a_batch_was_never_delivered(facts: Facts) -> Facts:
    first, *rest = facts.exchanges
    return replace(facts, exchanges=[replace(first, tries=(Try(503, {}, "", "5"),), fate="kept"), *rest])


def _answered(facts: Facts, **changes: Any) -> Facts:
    first, *rest = facts.exchanges
    told = {**(first.last.answer or {}), **changes}
    return replace(facts, exchanges=[replace(first, tries=(replace(first.last, answer=told),)), *rest])


def a_receipt_counts_wrongly(facts: Facts) -> Facts:
    return _answered(facts, accepted=99)


def a_receipt_names_another_object(facts: Facts) -> Facts:
    return _answered(facts, object_key="events/dt=2026-11-23/hh=01/none")


def an_answer_that_nobody_promised(facts: Facts) -> Facts:
    first, *rest = facts.exchanges
    return replace(facts, exchanges=[replace(first, tries=(Try(418), *first.tries)), *rest])


def a_503_without_retry_after(facts: Facts) -> Facts:
    first, *rest = facts.exchanges
    refused = Try(503, {"code": "unavailable"}, "application/problem+json")
    return replace(facts, exchanges=[replace(first, tries=(refused, *first.tries)), *rest])


def all_told(facts: Facts) -> list[dict[str, Any]]:
    """Of visits that were never otherwise, as the bus has it."""
    pairs: dict[Pair, list[Visit]] = {}
    for pair, visit in facts.visits:
        pairs.setdefault(pair, []).append(visit)
    return [
        {"detail-type": told.kind, "detail": told.detail}
        for pair, visits in pairs.items()
        for told in notifications(pair, 7, VisitDiff((), visits, None, None, 0, {}))
    ]


def nobody_was_told(facts: Facts) -> Facts:
    return replace(facts, told=[])


def somebody_was_told_twice_under_two_ids(facts: Facts) -> Facts:
    told = all_told(facts)
    again = {**told[0], "detail": {**told[0]["detail"], "id": "another"}}
    return replace(facts, told=[*told, again])


def a_departure_is_called_an_arrival(facts: Facts) -> Facts:
    told = all_told(facts)
    departed = next(e for e in told if e["detail-type"] == "departed")
    later = {"detail-type": "arrived", "detail": {**departed["detail"], "version": 8, "id": "later"}}
    return replace(facts, told=[later if e is departed else e for e in told])


def an_arrival_is_called_a_departure(facts: Facts) -> Facts:
    told = all_told(facts)
    return replace(facts, told=[{**e, "detail-type": "departed"} for e in told])


def another_content_is_not_archived(facts: Facts) -> Facts:
    """The phone sent an event twice, with two contents; S3 has one of them."""
    first, *rest = facts.exchanges
    event = next(e for e in first.post.events if e.code is None)
    content = json.loads(event.text) | {"metadata": {"other": True}}
    more = replace(first.post, events=(*first.post.events, replace(event, text=json.dumps(content))))
    return replace(facts, exchanges=[replace(first, post=more), *rest])


CHANGES: list[tuple[Callable[[Facts], Facts], Kind]] = [
    (an_object_is_gone, "lost"),
    (a_line_says_something_else, "not sent"),
    (a_row_is_missing, "lost"),
    (a_row_stands_twice, "doubled"),
    (a_row_came_from_nowhere, "not sent"),
    (a_reject_is_missing_in_the_warehouse, "lost"),
    (a_visit_is_missing, "wrong visit"),
    (a_visit_ends_a_second_later, "wrong visit"),
    (a_visit_is_shown_twice, "wrong visit"),
    (somebody_elses_visit, "wrong visit"),
    (something_was_set_aside, "set aside"),
    (a_batch_was_never_delivered, "undelivered"),
    (a_receipt_counts_wrongly, "wrong answer"),
    (a_receipt_names_another_object, "wrong answer"),
    (an_answer_that_nobody_promised, "wrong answer"),
    (a_503_without_retry_after, "wrong answer"),
    (nobody_was_told, "told"),
    (somebody_was_told_twice_under_two_ids, "told"),
    (a_departure_is_called_an_arrival, "told"),
    (an_arrival_is_called_a_departure, "told"),
    (another_content_is_not_archived, "lost"),
    (a_dwell_was_not_noted, "wrong visit"),
    (whoever_left_is_shown_as_there, "wrong visit"),
    (nobody_is_there, "wrong visit"),
]


@pytest.mark.parametrize(("change", "kind"), CHANGES, ids=lambda value: getattr(value, "__name__", value))
def test_each_thing_that_is_otherwise_is_found(change: Callable[[Facts], Facts], kind: Kind) -> None:
    assert kind in {breach.kind for breach in check(change(FACTS))}


def test_whoever_hears_every_notice_is_told_what_is_so() -> None:
    assert check(replace(FACTS, told=all_told(FACTS))) == []


def test_of_a_broken_phones_batch_counts_what_is_archived_and_nothing_else() -> None:
    sent = [exchange.post for exchange in FACTS.exchanges]
    first = next(x for x in FACTS.exchanges if sent.count(x.post) == 1)
    rest = [x for x in FACTS.exchanges if x is not first]
    broke = replace(first, tries=(Try(503, {"code": "x"}, "application/json", "5"),), fate="kept", broke=True)
    as_it_was = check(replace(FACTS, exchanges=[broke, *rest]))
    assert {breach.kind for breach in as_it_was} <= {"wrong answer"}

    gone = {str(key) for key in ((first.last.answer or {}).get("object_key"),) if key}
    objects = {key: lines for key, lines in FACTS.objects.items() if key not in gone}
    rows = [row for row in FACTS.loaded or () if row.file_name not in gone]
    lost = replace(FACTS, exchanges=[broke, *rest], objects=objects, loaded=rows)
    without = settled(lost.exchanges, objects)
    visits = sorted(expected_visits(without, NOW), key=str)
    there_now = [one for one in visits if one[1].is_open]
    assert check(replace(lost, visits=visits, there_now=there_now)) == as_it_was
    assert without[0].archived is not None
    assert len(without[0].archived) < len(first.post.events)


def test_the_same_content_in_two_objects_of_one_hour_is_doubled() -> None:
    key = min(events_of(FACTS))
    other = key.replace("events/", "events/", 1)
    folder, _, name = other.rpartition("/")
    again = f"{folder}/{'0' * 64}{name[64:]}"
    facts = replace(FACTS, objects={**FACTS.objects, again: FACTS.objects[key]})
    assert "doubled" in {breach.kind for breach in check(facts)}


def test_a_retry_across_the_hour_may_add_an_object_and_its_rows() -> None:
    key = min(events_of(FACTS))
    hour = key.split("/")[2]
    again = key.replace(hour, "hh=00" if hour != "hh=00" else "hh=01")
    rows = [row._replace(file_name=again) for row in FACTS.loaded or () if row.file_name == key]
    objects = {**FACTS.objects, again: FACTS.objects[key]}
    facts = replace(FACTS, objects=objects, loaded=[*(FACTS.loaded or ()), *rows])
    assert check(facts) == []


def test_staging_and_marts_are_held_against_what_was_sent() -> None:
    ids = sorted({json.loads(row.payload)["_id"] for row in FACTS.loaded or ()})
    stays = [stay(*one) for one in FACTS.visits]
    facts = MartFacts(FACTS.exchanges, ids, stays)
    assert check_marts(facts) == []

    def kinds(changed: MartFacts) -> set[str]:
        return {breach.kind for breach in check_marts(changed)}

    assert kinds(replace(facts, staged=ids[1:])) == {"lost"}
    assert kinds(replace(facts, staged=[*ids, ids[0]])) == {"doubled"}
    assert kinds(replace(facts, staged=[*ids, "other"])) == {"not sent"}
    assert kinds(replace(facts, visits=stays[1:])) == {"wrong visit"}


def test_a_breach_says_what_it_is() -> None:
    assert str(Breach("lost", "one")) == "lost: one"
