"""Test that a plan always produces the same simulated morning, that each event's expected outcome is correct, and that
the events resemble those of real phones.
"""

import json
import tracemalloc
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

from contract.event_rules import geofence_event
from contract.geofence_event_types import GEOFENCE_KINDS
from handler.ingest import geofence_records
from handler.parse_body import parse_body
from handler.validate import validate
from tools.fleet.phones import Post, ended_by, endless, posts
from tools.fleet.rounds import Planned
from tools.fleet.traffic_parameters import Plan

PLAN = Plan("0a1b2c3d", datetime(2026, 11, 22, 3, 30, tzinfo=UTC))
MORNING = list(posts(PLAN))


def events(sent: list[Post] = MORNING) -> list[Planned]:
    return [event for post in sent for event in post.events]


def accepted() -> dict[str, str]:
    return {event.event_id: event.text for event in events() if event.code is None}


def test_same_plan_always_produces_the_same_bytes() -> None:
    again = list(posts(PLAN))
    assert [post.body() for post in again] == [post.body() for post in MORNING]
    assert again == MORNING


def test_requests_are_sorted_by_the_time_at_which_they_are_sent() -> None:
    assert all(one.sent_at <= other.sent_at for one, other in pairwise(MORNING))


def test_long_morning_begins_earlier_so_that_no_event_is_rejected_as_too_far_ahead() -> None:
    long = replace(PLAN, seed=59, trucks=1, farms=5)  # takes 10 hours and 17 minutes
    now = long.begins_at + timedelta(hours=8)
    plan, total = ended_by(long, now)
    sent = list(posts(plan))
    assert max(post.sent_at for post in sent) == now
    assert total == len(events(sent)) == len(events(list(posts(long))))
    for post in sent:
        form = "ndjson" if post.form == "ndjson" else "json"
        batch = validate(parse_body(post.body(), form), form, GEOFENCE_KINDS, now)
        assert [each.index for each in batch.rejected] == [i for i, e in enumerate(post.events) if e.code]
    assert ended_by(PLAN, PLAN.begins_at + timedelta(hours=12))[0] == PLAN


def test_events_with_the_same_id_have_the_same_content() -> None:
    texts = defaultdict(set)
    for event in events():
        texts[event.event_id].add(event.text)
    assert all(len(each) == 1 for each in texts.values())


def test_handler_accepts_or_rejects_every_event_as_expected() -> None:
    for post in MORNING:
        form = "ndjson" if post.form == "ndjson" else "json"
        batch = validate(parse_body(post.body(), form), form, GEOFENCE_KINDS, post.sent_at)
        codes = {rejected.index: rejected.reasons[0].code for rejected in batch.rejected}
        assert codes == {i: event.code for i, event in enumerate(post.events) if event.code}
        crossings = {event.event_id: event.crossing for event in post.events if event.crossing}
        assert [geofence_event(record.data) for record in geofence_records(batch)] == list(crossings.values())
        assert not batch.conflicts
        assert not any(b"192.0.2.7" in line for line in batch.lines)


def test_morning_contains_the_irregularities_of_events_from_real_phones() -> None:
    values = [json.loads(text) for text in accepted().values()]
    types = Counter(value["type"] for value in values)
    assert types["pickup.started"] > 50
    assert types["pickup.completed"] > 50
    assert types["user.started_trip"] > 0
    assert types["user_entered_geofence"] > 0, "an older SDK's spelling"
    assert types["user.entered_geofence"] + types["user_entered_geofence"] != (
        types["user.exited_geofence"] + types["user_exited_geofence"]
    ), "some exits are missing"
    assert 0.05 < sum("replayed" in value for value in values) / len(values) < 0.25
    times = [
        e.crossing.occurred_at
        for p in MORNING
        for e in p.events
        if e.crossing and "truck-01" in e.crossing.device_id
    ]
    assert times != sorted(times), "out of order"
    bodies = Counter(post.body() for post in MORNING)
    assert any(n > 1 for n in bodies.values()), "a whole request is sent twice"
    assert any(len({e.event_id for e in post.events}) < len(post.events) for post in MORNING)
    assert {post.form for post in MORNING} == {"array", "envelope", "ndjson"}
    assert {post.gzipped for post in MORNING} == {True, False}


def test_about_the_planned_share_of_events_is_invalid_with_at_least_eight_error_codes() -> None:
    codes = Counter(event.code for event in events() if event.code)
    assert len(codes) >= 8
    assert 0.005 < codes.total() / len(events()) < 0.025


def test_plan_with_zero_shares_produces_no_duplicate_late_or_invalid_events() -> None:
    clean = list(posts(replace(PLAN, duplicates=0, late=0, invalid=0)))
    ids = [event.event_id for event in events(clean)]
    assert len(ids) == len(set(ids))
    assert not any(event.code or "replayed" in event.text for event in events(clean))


def test_no_request_exceeds_the_batch_size() -> None:
    small = replace(PLAN, batch_size=5, duplicates=0.5)
    assert max(len(post.events) for post in posts(small)) == 5


def test_endless_mornings_have_new_trucks_and_use_bounded_memory() -> None:
    sent = endless(replace(PLAN, trucks=3, farms=5))
    ids = {event.event_id[8:14] for post in islice(sent, 100) for event in post.events}
    assert len(ids) > 3
    tracemalloc.start()
    for _ in islice(sent, 1000):
        pass
    # Count only the fleet's own allocations, because threads that other tests left running may allocate, too.
    own = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/tools/fleet/*")])
    tracemalloc.stop()
    assert sum(trace.size for trace in own.traces) < 500_000, "1,000 posts take 3.7 MB"
