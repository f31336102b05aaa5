"""Test the visit rule with examples and properties."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.visits import History, Pair, Rule, Visit, content_of, pair_of, visits_of
from contract.events import Fence, GeofenceEvent

from .strategies import START, event, events

HOME = Pair("truck-1", Fence("farm", "7"))


def at(seconds: float):
    return START + timedelta(seconds=seconds)


def history(*given_events: GeofenceEvent, **rule) -> History:
    return visits_of(given_events, Rule(**rule))[HOME]


def test_exit_closes_the_visit_that_its_enter_opened():
    assert history(event("enter", 0, "a"), event("exit", 600, "b", minutes=9.5)) == History(
        (Visit(at(0), "a", at(600), "b", app_dwell_seconds=570.0),)
    )


def test_dwell_seconds_are_computed_only_for_closed_visits():
    closed, opened = history(event("enter", 0), event("exit", 90), event("enter", 900)).visits
    assert (closed.dwell_seconds, closed.is_open) == (90.0, False)
    assert (opened.dwell_seconds, opened.is_open) == (None, True)


def test_second_enter_ends_the_open_visit_without_an_exit():
    first, second = history(event("enter", 0, "a"), event("enter", 10, "b")).visits
    assert (first.exit_missed, first.is_open, first.exited_at) == (True, False, None)
    assert second == Visit(at(10), "b")


def test_exit_without_an_open_visit_is_an_orphan():
    assert history(
        event("exit", 0), event("enter", 10, "a"), event("exit", 20, "b"), event("exit", 30)
    ) == History((Visit(at(10), "a", at(20), "b"),), orphan_exits=2)


def test_dwell_event_updates_only_the_open_visit():
    assert history(
        event("dwell", 0),
        event("enter", 10, "a"),
        event("dwell", 20),
        event("exit", 30, "b"),
        event("dwell", 40),
    ) == History((Visit(at(10), "a", at(30), "b", last_seen_at=at(20)),))


def test_consecutive_visits_within_the_merge_gap_become_one():
    flapping = [
        event("enter", 0, "a"), event("dwell", 5), event("exit", 10),
        event("enter", 130), event("exit", 140, minutes=1.0),
        event("enter", 260), event("exit", 270, "z"),
        event("enter", 391, "later"),
    ]  # fmt: skip
    merged, later = history(*flapping).visits
    assert merged == Visit(at(0), "a", at(270), "z", last_seen_at=at(5))
    assert later == Visit(at(391), "later")
    (reopened,) = history(event("enter", 0, "a"), event("exit", 10, minutes=1.0), event("enter", 20)).visits
    assert reopened == Visit(at(0), "a")
    assert len(history(*flapping, merge_gap=timedelta(seconds=119)).visits) == 4


def test_orphan_exit_between_two_visits_does_not_extend_the_first_visit():
    merged = history(
        event("enter", 0, "a"), event("exit", 10), event("exit", 100), event("enter", 131, "b")
    ).visits
    assert [v.entered_event_id for v in merged] == ["a", "b"]


def test_visit_that_ended_without_an_exit_is_not_merged_with_the_next():
    assert len(history(event("enter", 0), event("enter", 1), event("exit", 2), event("enter", 3)).visits) == 2


def test_simultaneous_events_are_ordered_by_kind_and_then_by_id():
    (visit,) = history(event("exit", 0, "a"), event("dwell", 0, "b"), event("enter", 0, "c")).visits
    assert visit == Visit(at(0), "c", at(0), "a", last_seen_at=at(0))
    first, second = history(event("enter", 0, "b"), event("enter", 0, "B")).visits
    assert (first.entered_event_id, second.entered_event_id) == ("B", "b")


def test_event_that_sorts_first_is_used_if_events_with_one_id_differ_in_content():
    enter = event("enter", 0, "a")
    for less, more in [
        (event("exit", 60, "x"), event("enter", 90, "x")),
        (event("dwell", 60, "x"), event("enter", 60, "x")),  # "user.dwelled…" < "user.entered…"
        (event("exit", 60, "x"), event("exit", 60, "x", minutes=0.0)),
        (event("exit", 60, "x", minutes=2.0), event("exit", 60, "x", minutes=10.0)),
    ]:
        assert history(enter, more, less) == history(enter, less, more) == history(enter, less)
        assert history(enter, less) != history(enter, more)
    low, high = event("exit", 60, "x", confidence=0), event("exit", 60, "x", confidence=3)
    assert history(enter, high, low, min_confidence=1).visits[0].is_open


def test_confidence_is_checked_only_for_the_event_that_sorts_first_among_those_with_one_id():
    low, high = event("enter", 0, "x", confidence=1), event("enter", 60, "x", confidence=3)
    assert history(low, high, min_confidence=2) == History()
    assert history(event("enter", 0, "x"), min_confidence=2).visits == (Visit(at(0), "x"),)


def test_events_with_the_same_id_at_two_fences_are_different_events():
    both = visits_of([event("enter", 0, "x"), event("enter", 0, "x", fence=Fence("farm", "8"))])
    assert [len(h.visits) for h in both.values()] == [1, 1]


@settings(deadline=None, max_examples=150)
@given(st.data(), st.lists(events(), max_size=40))
def test_order_and_repetition_of_events_do_not_change_visits(data, some):
    shuffled = data.draw(st.permutations(some + some[: len(some) // 2]))
    assert visits_of(shuffled) == visits_of(some)


@settings(deadline=None, max_examples=100)
@given(st.lists(events(), max_size=40), events())
def test_event_changes_only_visits_of_its_device_and_fence(some, another):
    before, after = visits_of(some), visits_of([*some, another])
    before.pop(pair_of(another), None)
    after.pop(pair_of(another))
    assert after == before


@settings(deadline=None, max_examples=150)
@given(st.lists(events(), max_size=40))
def test_visits_do_not_overlap_and_only_the_last_may_be_open(some):
    for found in visits_of(some).values():
        for earlier, later in zip(found.visits, found.visits[1:], strict=False):
            assert not earlier.is_open
            assert earlier.exit_missed == (earlier.exited_at is None)
            assert (earlier.exited_at or earlier.entered_at) <= later.entered_at
            assert earlier.exited_at is None or later.entered_at - earlier.exited_at > timedelta(seconds=120)
        for visit in found.visits:
            assert visit.exited_at is None or visit.exited_at >= visit.entered_at


@settings(deadline=None, max_examples=100)
@given(st.lists(events(), max_size=40))
def test_every_exit_closes_a_visit_or_counts_as_an_orphan(some):
    without_merging = visits_of(some, Rule(timedelta(seconds=-1)))
    for pair, found in without_merging.items():
        least: dict[str, GeofenceEvent] = {}
        for e in (e for e in some if pair_of(e) == pair):
            least[e.event_id] = min(least.get(e.event_id, e), e, key=content_of)
        kinds = [e.kind for e in least.values()]
        closed = sum(v.exited_at is not None for v in found.visits)
        assert closed + found.orphan_exits == kinds.count("exit")
        assert len(found.visits) == kinds.count("enter")
        assert visits_of(some)[pair].orphan_exits == found.orphan_exits
