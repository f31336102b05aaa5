"""Test that visits stay correct although DynamoDB deletes their items one by one, some of them days after expiry."""

import random
from copy import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.item_lifetime import KEPT_FOR
from consumer.store import Store
from consumer.visits import Rule, visits_of

from .fakes import FakeBus, FakeTable, Inline
from .strategies import START, TYPES, event, events
from .test_store import HOME, ONE_PAIR, SIZES, Died, grouped, small, store

DAY = 86400
# DynamoDB deletes items "within a few days" of their expiry, in no particular order.
DAYS_LATE = 5


def expire(table: FakeTable, now: float, chance: random.Random) -> None:
    epoch = START.timestamp() + now
    for key, item in list(table.stored.items()):
        late_by = epoch - item.get("expires_at", float("inf"))
        if late_by >= DAYS_LATE * DAY or (late_by >= 0 and chance.random() < 0.7):
            del table.stored[key]


def recent(visits, now):
    since = START + timedelta(seconds=now - 79 * DAY)
    seen = [v if v.last_seen_at and v.last_seen_at > since else replace(v, last_seen_at=None) for v in visits]
    return [v for v in seen if v.is_open or (v.exited_at or v.last_seen_at or v.entered_at) > since]


# Days until some events arrive, and the age of each event at that time
arrivals = st.tuples(
    st.sampled_from([0, 1, 45, 70, 92, 95]),
    st.lists(
        st.tuples(st.sampled_from(list(TYPES)), st.sampled_from([0, 60, 3600, DAY, 30 * DAY, 79 * DAY])),
        min_size=1,
        max_size=4,
    ),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(arrivals, min_size=1, max_size=6), st.integers(0, 10**6), st.sets(st.integers(0, 80)), SIZES)
def test_expiry_of_items_does_not_change_recent_visits(all_arrivals, seed, deaths, sizes):
    """A visit can outlast its stored events. Processes are killed at random calls, and their batches are retried."""
    with small(sizes):
        check_expiry(all_arrivals, seed, deaths)


def check_expiry(all_arrivals, seed, deaths):
    table, now, sent, bus = FakeTable(), 0.0, [], FakeBus()
    chance, calls = random.Random(seed), iter(range(10**9))

    def dies(_):
        if next(calls) in deaths:
            raise Died

    for days, some in all_arrivals:
        now += days * DAY
        expire(table, now, chance)
        batch = [event(kind, now - age, f"{len(sent) + n:03}") for n, (kind, age) in enumerate(some)]
        sent += batch
        for _ in range(99):
            try:
                store(table.seen_by(dies), bus).add(grouped(batch))
            except Died:
                continue
            break

    assert recent(table.visits(HOME), now) == recent(visits_of(sent)[HOME].visits, now)


# A few events within minutes, as a device at the border of a fence sends them
flaps = st.lists(
    st.tuples(st.sampled_from(list(TYPES)), st.sampled_from([0, 15, 30, 60, 90, 120, 150])),
    min_size=1,
    max_size=6,
)
# Days until events arrive, how many days ago they happened, and whether they happened a merge gap (120 s) earlier
flapping = st.tuples(
    st.sampled_from([0, 1, 30, 45, 92]),
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3, 40, 79]), st.sampled_from([0, 120]), flaps),
        min_size=1,
        max_size=3,
    ),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(flapping, min_size=1, max_size=6), st.integers(0, 10**6), SIZES)
def test_visits_of_many_months_are_correct_despite_flapping_devices_and_late_events(all_flaps, seed, sizes):
    with small(sizes):
        check_flaps(all_flaps, seed)


def check_flaps(all_flaps, seed):
    table, now, chance = FakeTable(), 0.0, random.Random(seed)
    sent = [event("enter", -1000, "parked")]
    store(table).add(grouped(sent))
    for days, arrived in all_flaps:
        now += days * DAY
        expire(table, now, chance)
        crossings = [(kind, now - age * DAY - shift + s) for age, shift, some in arrived for kind, s in some]
        batch = [event(kind, at - 300, f"{len(sent) + n:03}") for n, (kind, at) in enumerate(crossings)]
        sent += batch
        store(table).add(grouped(batch))
    assert recent(table.visits(HOME), now) == recent(visits_of(sent)[HOME].visits, now)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.lists(st.tuples(events(ONE_PAIR), st.integers(0, 3)), min_size=1, max_size=6),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([0, 2]),
    st.sampled_from([-1, 30, 120]),
)
def test_late_event_in_a_visit_of_many_days_is_applied_correctly(batches, min_confidence, gap):
    """Visits are recomputed from the chunk of the late event on, not from the start of the visit."""
    rule = Rule(timedelta(seconds=gap), min_confidence)
    table, so_far = FakeTable(), []
    for batch in batches:
        some = [event_days_later(e, days) for e, days in batch]
        so_far += some
        Store(table, FakeBus(), rule, Inline()).add(grouped(some))
    expected = visits_of(so_far, rule)[HOME]
    assert table.visits(HOME) == list(expected.visits)


def event_days_later(e, days):
    seconds = (e.occurred_at - START).total_seconds() + days * DAY
    return event(
        e.kind, seconds, e.event_id, minutes=e.duration_minutes, confidence=e.confidence, spelt=e.type[4]
    )


def test_notification_versions_keep_increasing_after_all_items_of_a_device_have_expired():
    table, bus = FakeTable(), FakeBus()
    for n in range(30):
        store(table, bus).add({HOME: [event("enter", n * 1000), event("exit", n * 1000 + 500)]})
    expire(table, 100 * DAY, random.Random(1))
    assert table.stored == {}
    store(table, bus).add({HOME: [event("enter", 100 * DAY)]})
    versions = [notice.detail["version"] for notice in bus.notified]
    assert versions == sorted(versions)
    assert len(set(versions)) == 31


@pytest.mark.parametrize("left", ["#e#", "#head", "nothing"])
def test_remaining_items_of_an_expired_pair_do_not_hide_a_new_change(left):
    """A process is killed after it has committed a change and before it writes the change's chunk. The next process
    must complete the change, and must not mistake an item of the expired pair for that chunk.
    """
    table, bus = FakeTable(), FakeBus()
    today = [event("exit", 92 * DAY - 60), event("enter", 92 * DAY, "now")]
    seen = []

    def dies_before_its_chunk(what):
        seen.append(what)
        if seen.count("put if") == 2:
            raise Died

    with small((0, 1, 16_000)):
        store(table, bus).add({HOME: [event("enter", 0), event("exit", 600)]})
        table.stored = {key: item for key, item in table.stored.items() if left in key[1]}
        with pytest.raises(Died):
            store(table.seen_by(dies_before_its_chunk), bus).add({HOME: today})
        store(table, bus).add({HOME: today})
    assert [v.entered_event_id for v in table.visits(HOME) if v.is_open] == ["now"]
    assert len(table.visits(HOME)) == (2 if left == "#head" else 1)


def test_exit_closes_the_visit_of_a_truck_parked_longer_than_events_are_kept():
    table, days = FakeTable(), KEPT_FOR.days + 10
    parked, back = event("enter", 0, "parked"), event("enter", days * DAY, "back")
    left_late = event("exit", days * DAY - 3600, "left")
    store(table).add({HOME: [parked]})
    expire(table, days * DAY, random.Random(1))
    store(table).add({HOME: [back]})
    expire(table, (days + 1) * DAY, random.Random(1))
    store(table).add({HOME: [left_late]})
    assert table.visits(HOME) == list(visits_of([parked, back, left_late])[HOME].visits)


def test_late_event_in_a_visit_with_1440_events_reads_fewer_than_40_items():
    table = FakeTable()
    dwells = [event("dwell", n * 3600) for n in range(1, 60 * 24)]
    store(table).add({HOME: [event("enter", 0, "parked"), *dwells]})
    reads = []
    late = event("dwell", 60 * DAY - 900, "late")
    store(table.seen_by(reads.append)).add({HOME: [late]})
    assert reads.count("query") < 40
    assert table.visits(HOME) == list(visits_of([event("enter", 0, "parked"), *dwells, late])[HOME].visits)


def test_no_event_is_added_to_a_chunk_if_all_later_chunks_have_expired():
    table = FakeTable()
    now = event("enter", 92 * DAY, "now")
    with small((0, 1, 16_000)):
        for each in (event("enter", 0, "missed"), event("enter", 60), event("exit", 3600)):
            store(table).add({HOME: [each]})
        table.stored = {key: item for key, item in table.stored.items() if "missed" in str(item["events"])}
        assert len(table.stored) == 1
        store(table).add({HOME: [now]})
        store(table).add({HOME: [event("dwell", 92 * DAY - 60)]})
    assert table.visits(HOME) == list(visits_of([now])[HOME].visits)


@pytest.mark.parametrize("left", [0, 1, None])
def test_truck_that_flaps_for_longer_than_events_are_kept_has_one_visit(left):
    """DynamoDB has deleted some expired chunks: every odd one if `left` is 0, every even one if it is 1, or all of
    them if it is None.
    """
    table, last_day = FakeTable(), KEPT_FOR.days + 10
    flaps = [
        e
        for day in range(1, last_day + 1)
        for e in (event("exit", day * DAY - 7200), event("enter", day * DAY - 7140))
    ]
    parked = [event("enter", 0, "parked"), *flaps]
    with small((0, 3, 16_000)):
        for each in parked:
            store(table).add({HOME: [each]})
    table.stored = {
        key: item
        for number, (key, item) in enumerate(sorted(table.stored.items()))
        if item["expires_at"] > START.timestamp() + last_day * DAY or number % 2 == left
    }
    late = event("dwell", last_day * DAY - 3600)
    store(table).add({HOME: [event("dwell", last_day * DAY)]})
    store(table).add({HOME: [late]})
    gone = event("exit", last_day * DAY - 1800, "gone")
    store(table).add({HOME: [gone]})
    (visit,) = table.visits(HOME)
    assert (visit.entered_event_id, visit.exited_event_id) == ("parked", "gone")
    assert visit.last_seen_at == late.occurred_at


@pytest.mark.parametrize("seconds", [-90, -30, 0, 30, 90])
def test_re_entry_one_day_before_a_late_exit_is_merged(seconds):
    late = event("exit", 3 * DAY, "late")
    since = 2 * DAY - 120 + seconds
    some = [
        event("enter", 0, "parked"),
        event("exit", since - 30),
        event("dwell", since),
        event("enter", since + 30),
    ]
    table = FakeTable()
    store(table).add({HOME: [*some, event("dwell", 4 * DAY)]})
    store(table).add({HOME: [late]})
    expected = visits_of([*some, event("dwell", 4 * DAY), late])[HOME].visits
    assert table.visits(HOME) == list(expected)


def test_late_exit_closes_the_visit_whose_id_sorts_last_if_two_visits_begin_simultaneously():
    """Ids must be compared unencoded: `a#` sorts before `a$`, but its encoded form `a%23` sorts after it."""
    some = [event("enter", 0, "a#"), event("enter", 0, "a$")]
    table = FakeTable()
    store(table).add({HOME: [*some, event("enter", 5 * DAY, "next")]})
    store(table).add({HOME: [event("exit", 3 * DAY, "late")]})
    expected = visits_of([*some, event("enter", 5 * DAY, "next"), event("exit", 3 * DAY, "late")])
    assert table.visits(HOME) == list(expected[HOME].visits)


def test_orphan_exit_in_a_merged_gap_one_day_before_a_late_exit_is_ignored():
    late, last = event("exit", 3 * DAY, "late"), event("dwell", 3 * DAY + 60)
    since = 2 * DAY - 120
    some = [
        event("enter", 0, "parked"),
        event("dwell", 60),
        event("exit", since - 30),
        event("dwell", since + 5),
        event("exit", since + 10),
        event("enter", since + 30),
        last,
    ]
    table = FakeTable()
    store(table).add({HOME: some})
    store(table).add({HOME: [late]})
    assert table.visits(HOME) == list(visits_of([*some, late])[HOME].visits)


def test_visit_is_kept_while_one_of_its_events_may_still_arrive():
    """The visit ended without an exit when the next one began, so its last event may date from any time until then."""
    table = FakeTable()
    begun, following = event("enter", -79 * DAY, "begun"), event("enter", 0, "following")
    store(table).add({HOME: [following]})
    store(table).add({HOME: [begun]})
    expire(table, 70 * DAY, random.Random(1))
    late = event("exit", -8 * DAY, "late")
    store(table).add({HOME: [late]})
    assert table.visits(HOME) == list(visits_of([begun, following, late])[HOME].visits)


def test_event_of_an_expired_chunk_is_not_added_to_the_previous_chunk():
    table = FakeTable()
    with small((0, 1, 16_000)):
        for each in (event("enter", 0, "missed"), event("enter", DAY), event("exit", 2 * DAY)):
            store(table).add({HOME: [each]})
        store(table).add({HOME: [event("enter", 80 * DAY, "now")]})
        table.stored = {
            key: item
            for key, item in table.stored.items()
            if item["expires_at"] > START.timestamp() + 93 * DAY or "missed" in str(item["events"])
        }
        assert len(table.stored) == 2
        before = table.visits(HOME)
        store(table).add({HOME: [event("exit", 14 * DAY, "late")]})
    assert table.visits(HOME) == before


def test_open_visit_expires_400_days_and_a_closed_one_90_days_after_its_last_event():
    table = FakeTable()
    store(table).add({HOME: [event("enter", 0, "parked"), event("dwell", 9 * DAY)]})
    (log,) = table.stored.values()
    assert log["expires_at"] == START.timestamp() + 409 * DAY
    store(table).add({HOME: [event("exit", 10 * DAY)]})
    (log,) = table.stored.values()
    assert log["expires_at"] == START.timestamp() + 100 * DAY
