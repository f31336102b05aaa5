"""Test that the ledger expects exactly the events of a simulated morning, and lists missing and unexpected events."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.visits import Rule, visits_of
from ops.read_stores import stay
from tools.fleet.client import Delivery
from tools.fleet.event_file import TOO_LARGE
from tools.fleet.ledger import Ledger
from tools.fleet.phones import Post, posts
from tools.fleet.rounds import Planned
from tools.fleet.traffic_parameters import Plan

BEGIN = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)
MORNING = list(posts(Plan("0a1b2c3d", BEGIN, trucks=4)))
EVENTS = [event for post in MORNING for event in post.events]
ACCEPTED = {event.event_id: event for event in EVENTS if event.code is None}


def answered(post: Post, rejected: Sequence[tuple[int, str]] | None = None) -> Delivery:
    """Return the delivery of a post with the response that the contract requires. If `rejected` is given, the
    response rejects these events instead; each is an (index, error code).
    """
    if rejected is None:
        rejected = [(i, event.code) for i, event in enumerate(post.events) if event.code]
    ids = [event.event_id for i, event in enumerate(post.events) if i not in dict(rejected)]
    answer: dict[str, object] = {
        "received": len(post.events),
        "accepted": len(set(ids)),
        "duplicates": len(ids) - len(set(ids)),
        "rejected": len(rejected),
        "object_key": "events/a",
        "rejected_key": "rejected/a" if rejected else None,
        "errors": [{"index": i, "code": code} for i, code in rejected],
    }
    return Delivery(post, "delivered", 202, answer, BEGIN, 0.1, (202,))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite", now=BEGIN) as ledger:
        yield ledger


def test_ledger_finds_no_difference_if_all_responses_are_correct(ledger: Ledger) -> None:
    for post in MORNING:
        ledger.add(answered(post))
    assert ledger.sent == ledger.received == len(EVENTS)
    assert ledger.count("accepted") == ledger.count("answered") == len(ACCEPTED)
    assert ledger.differences("accepted", "answered") == []
    assert ledger.rejected_truth == ledger.rejected_found
    assert ledger.rejected_truth.total() > 0
    assert (
        ledger.sent
        == ledger.count("accepted")
        + (ledger.accepted_copies - ledger.count("accepted"))
        + ledger.rejected_truth.total()
    )
    assert ledger.accepted_copies == ledger.answered_copies
    assert ledger.wrong_receipts == 0


def test_rejected_valid_event_is_listed_as_a_difference(ledger: Ledger) -> None:
    post = next(post for post in MORNING if all(event.code is None for event in post.events))
    ledger.add(answered(post, rejected=[(0, "odd")]))
    assert ledger.differences("accepted", "answered") == [post.events[0].event_id]
    assert ledger.rejected_truth != ledger.rejected_found


def test_receipt_whose_numbers_do_not_add_up_is_counted_as_wrong(ledger: Ledger) -> None:
    good = answered(MORNING[0])
    ledger.add(replace(good, answer=good.answer | {"accepted": 0}))
    assert ledger.wrong_receipts == 1
    one_more = {"accepted": good.answer["accepted"] - 1, "rejected": good.answer["rejected"] + 1}
    ledger.add(replace(good, answer=good.answer | one_more))
    assert ledger.wrong_receipts == 2, "more rejected events than errors"


def test_rejected_events_whose_errors_a_long_response_omits_are_not_listed_as_differences(
    ledger: Ledger,
) -> None:
    events = tuple(Planned(f"{n}", "", code="missing_id") for n in range(5))
    whole = answered(Post(events, BEGIN))
    cut = {"errors": whole.answer["errors"][:2], "errors_omitted": 3}
    ledger.add(replace(whole, answer=whole.answer | cut))
    assert ledger.rejected_found == ledger.rejected_truth == {"missing_id": 5}
    assert (ledger.wrong_receipts, ledger.count("answered")) == (0, 0)
    ledger.add(replace(whole, answer=whole.answer | cut | {"rejected": 4, "accepted": 1}))
    assert ledger.wrong_receipts == 1, "one event too few was rejected"


def test_missing_and_unexpected_events_are_listed(ledger: Ledger) -> None:
    for post in MORNING:
        ledger.add(answered(post))
    missing, *there = ACCEPTED
    ledger.mark("archived", there)
    assert ledger.differences("accepted", "archived") == [missing]
    ledger.mark("archived", [missing, "a stranger"])
    assert ledger.differences("accepted", "archived") == ["a stranger"]
    ledger.mark("loaded", [*ACCEPTED, "a stranger"], only_ours=True)
    assert ledger.differences("accepted", "loaded") == ["a stranger"], (
        "`only_ours` includes the unexpected event, because an earlier mark recorded it"
    )


def test_object_key_from_several_responses_is_returned_as_new_only_once(ledger: Ledger) -> None:
    clean = next(post for post in MORNING if not any(event.code for event in post.events))
    assert ledger.add(answered(clean)) == ["events/a"]
    assert ledger.add(answered(clean)) == []
    assert ledger.keys("events/") == ["events/a"]


def test_rejected_events_of_a_resent_request_are_expected_once_in_the_archive(ledger: Ledger) -> None:
    post = next(post for post in MORNING if any(event.code for event in post.events))
    for _ in range(3):
        ledger.add(answered(post))
    assert ledger.distinct_rejects == sum(event.code is not None for event in post.events)
    assert ledger.rejected_truth.total() == 3 * ledger.distinct_rejects


def test_rejected_events_of_a_request_resent_in_the_next_hour_are_expected_twice_in_the_archive(
    ledger: Ledger,
) -> None:
    """The object's key contains the hour, so the second request stores its rejected events in a second object."""
    first = answered(next(post for post in MORNING if any(event.code for event in post.events)))
    for delivery in (first, replace(first, answer=first.answer | {"rejected_key": "rejected/b"})):
        ledger.add(delivery)
    assert ledger.distinct_rejects == ledger.rejected_truth.total() > 0
    assert ledger.keys("rejected/") == ["rejected/a", "rejected/b"]


def test_repeated_events_do_not_change_the_expected_visits(ledger: Ledger) -> None:
    for post in [*MORNING, *reversed(MORNING)]:
        ledger.add(answered(post))
    crossings = [event.crossing for event in EVENTS if event.crossing]
    expected = {stay(pair, visit) for pair, h in visits_of(crossings).items() for visit in h.visits}
    assert set(ledger.stays()) == set(ledger.stays(recent=True)) == expected
    assert expected


def test_expected_visits_follow_the_visit_rule_of_the_stage(tmp_path: Path) -> None:
    rule = Rule(timedelta(seconds=1), min_confidence=3)
    with Ledger(tmp_path / "l.sqlite", now=BEGIN, rule=rule) as ledger:
        for post in MORNING:
            ledger.add(answered(post))
        crossings = [event.crossing for event in EVENTS if event.crossing]
        expected = {stay(pair, visit) for pair, h in visits_of(crossings, rule).items() for visit in h.visits}
        assert set(ledger.stays()) == expected


def test_events_too_old_for_the_consumer_are_not_expected_to_be_consumed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite", now=BEGIN + timedelta(days=81)) as ledger:
        for post in MORNING:
            ledger.add(answered(post))
        assert ledger.count("crossing") > 0
        assert ledger.count("recent") == 0
        assert list(ledger.stays(recent=True)) == []
        assert ledger.pairs_not_consumed(9) == []
        assert list(ledger.stays())


def test_pairs_not_consumed_are_the_device_fence_pairs_with_an_unconsumed_event(ledger: Ledger) -> None:
    for post in MORNING:
        ledger.add(answered(post))
    crossings = {event.event_id: event.crossing for event in EVENTS if event.crossing}
    last = next(iter(crossings.values()))
    ledger.mark(
        "consumed",
        [i for i, c in crossings.items() if c.fence != last.fence or c.device_id != last.device_id],
    )
    assert [(pair.device_id, pair.fence) for pair in ledger.pairs_not_consumed(9)] == [
        (last.device_id, last.fence)
    ]


def test_event_dropped_after_a_413_response_is_counted_as_dropped_but_not_as_rejected(ledger: Ledger) -> None:
    post = MORNING[0]
    alone = replace(post, events=(Planned("x" * 10, "", code=TOO_LARGE),))
    ledger.add(Delivery(alone, "dropped", 413, {"limit": 1}, BEGIN, 0.1, (413,)))
    ledger.add(answered(post))
    assert ledger.sent == ledger.received + 1
    assert ledger.dropped_truth == ledger.dropped_found == 1
    assert ledger.rejected_truth == ledger.rejected_found
    assert ledger.distinct_rejects == sum(event.code is not None for event in post.events)


def test_unexpectedly_dropped_event_is_listed_as_a_difference(ledger: Ledger) -> None:
    [event] = [event for event in EVENTS if event.code is None][:1]
    alone = replace(MORNING[0], events=(event,))
    ledger.add(Delivery(alone, "dropped", 413, {"limit": 1}, BEGIN, 0.1, (413,)))
    assert (ledger.dropped_truth, ledger.dropped_found) == (0, 1)
    assert ledger.differences("accepted", "answered") == [event.event_id]
