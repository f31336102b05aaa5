"""Test that the console shows the same visits as the visits table, in whatever order the notifications arrive."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer import keys, notifications, visit_diff
from consumer.visits import Pair, Rule, Visit, visits_of
from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import Kind
from tools.console import known_visits
from tools.console.known_visits import KnownVisits
from tools.console.state import ConsoleState

PAIR = Pair("truck-1", Fence("farm", "farm-1"))
BEGIN = datetime(2026, 11, 23, 6, tzinfo=UTC)


def crossing(n: int, kind: Kind, minute: float) -> GeofenceEvent:
    return GeofenceEvent(
        f"e{n}", f"user.{kind}", kind, PAIR.device_id, PAIR.fence, BEGIN + timedelta(minutes=minute)
    )


def notified(
    batches: Sequence[Sequence[GeofenceEvent]],
) -> tuple[list[tuple[str, dict[str, object]]], list[Visit]]:
    """Return the notifications that the consumer sends for these batches, and the resulting visits."""
    notices: list[tuple[str, dict[str, object]]] = []
    taken: list[GeofenceEvent] = []
    for version, batch in enumerate(batches, 1):
        changed = visit_diff.visit_diff(None, sorted(taken, key=_order), list(batch), [], Rule())
        for news in notifications.news_of(changed):
            notice = notifications.notification(PAIR, version, news)
            # Serialise as EventBridge does.
            notices.append((notice.kind, msgspec.json.decode(msgspec.json.encode(notice.detail))))
        taken += batch
    history = visits_of(taken).get(PAIR)
    return notices, list(history.visits) if history else []


def _order(event: GeofenceEvent) -> object:
    from consumer.visits import order_of

    return order_of(event)


def shown(known: KnownVisits) -> set[tuple[str, str | None, bool]]:
    return {
        (visit.entered_at, visit.exited_at, visit.exit_missed)
        for visit in known.between("0", "9", None, None).values()
    }


def truth(visits: list[Visit]) -> set[tuple[str, str | None, bool]]:
    return {
        (str(row["entered_at"]), row["exited_at"], bool(row["exit_missed"]))
        for row in (notifications.fields_of(PAIR, visit) for visit in visits)
    }


crossings = st.lists(
    st.tuples(st.sampled_from(["enter", "exit", "dwell"]), st.integers(0, 12)), min_size=1, max_size=8
)


@settings(max_examples=150, deadline=None)
@given(crossings, st.data())
def test_console_shows_the_correct_visits_after_repeated_and_reordered_notifications(kinds, data):
    events = [crossing(n, kind, minute) for n, (kind, minute) in enumerate(kinds)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(events)))) | {0, len(events)})
    notices, visits = notified([events[first:last] for first, last in pairwise(cuts)])
    known = KnownVisits()
    for kind, detail in data.draw(st.permutations(notices + notices)):
        known.tell(kind, detail)
    assert shown(known) == truth(visits)
    assert {row["entered_event_id"] for row in known.there()} == {
        visit.entered_event_id for visit in visits if visit.is_open
    }
    changes, _ = known.take_changes()
    assert len({change["id"] for change in changes}) == len(changes), (
        "a repeated notification was reported again"
    )


def test_brief_exit_followed_by_an_enter_is_shown_as_one_restated_visit():
    notices, _ = notified([[crossing(1, "enter", 0)], [crossing(2, "exit", 5)], [crossing(3, "enter", 6)]])
    known = KnownVisits()
    for kind, detail in notices:
        known.tell(kind, detail)
    [row] = known.there()
    assert (row["open"], row["restated"], row["entered_event_id"]) == (True, True, "e1")
    assert [change["kind"] for change in known.take_changes()[0]] == ["arrived", "departed", "visit_restated"]


def test_outdated_row_of_the_visits_table_does_not_undo_a_notification():
    notices, _ = notified([[crossing(1, "enter", 0)], [crossing(2, "exit", 5)]])
    known = KnownVisits()
    for kind, detail in notices:
        known.tell(kind, detail)
    known.read([notifications.fields_of(PAIR, Visit(BEGIN, "e1"))])
    assert known.there() == []


def test_outdated_row_of_the_visits_table_does_not_restore_a_visit_that_was_merged_with_another():
    apart = [crossing(1, "enter", 0), crossing(2, "exit", 5), crossing(3, "enter", 10)]
    notices, _ = notified([apart, [crossing(4, "enter", 6), crossing(5, "exit", 9)]])
    known = KnownVisits()
    for kind, detail in notices:
        known.tell(kind, detail)
    known.take_changes()
    known.read([notifications.fields_of(PAIR, Visit(BEGIN + timedelta(minutes=10), "e3"))])
    assert known.take_changes() == ([], False)
    assert [row["entered_event_id"] for row in known.there()] == ["e1"]


def test_visit_deleted_from_the_visits_table_is_removed_from_the_console():
    known = KnownVisits()
    known.read(
        [
            notifications.fields_of(PAIR, Visit(BEGIN, "e1")),
            notifications.fields_of(PAIR, Visit(BEGIN + timedelta(hours=1), "e2")),
        ]
    )
    known.take_changes()
    known.read([notifications.fields_of(PAIR, Visit(BEGIN - timedelta(hours=1), "e0"))], as_news=False)
    known.reread(
        "truck-1",
        [notifications.fields_of(PAIR, Visit(BEGIN, "e1", BEGIN + timedelta(minutes=9), "e3"))],
        keys.timestamp(BEGIN),
    )
    assert [row["entered_event_id"] for row in known.there()] == ["e0"], (
        "the visit before the period that was read again is missing"
    )
    assert {each["previous"]["entered_event_id"] for each in known.take_changes()[0]} == {"e1", "e2"}


def test_visit_that_is_loaded_as_history_is_shown_but_not_sent_as_a_change():
    known = KnownVisits()
    known.read([notifications.fields_of(PAIR, Visit(BEGIN, "e1"))], as_news=False)
    assert known.take_changes() == ([], True)
    assert [row["device_id"] for row in known.there()] == ["truck-1"]


def test_number_of_visits_in_memory_is_limited(monkeypatch):
    monkeypatch.setattr(known_visits, "MAX_VISITS", 50)
    known = KnownVisits()
    for n in range(400):
        known.read([notifications.fields_of(PAIR, Visit(BEGIN + timedelta(minutes=n), f"e{n}"))])
    assert len(known.there()) == 50
    assert known.there()[-1]["entered_event_id"] == "e399"


def test_closed_visits_are_dropped_from_memory_before_open_ones(monkeypatch):
    monkeypatch.setattr(known_visits, "MAX_VISITS", 50)
    known = KnownVisits()
    known.read([notifications.fields_of(PAIR, Visit(BEGIN, "overdue"))])
    for n in range(1, 400):
        entered = BEGIN + timedelta(minutes=n)
        known.read([notifications.fields_of(PAIR, Visit(entered, f"e{n}", entered, f"x{n}"))])
    assert [row["entered_event_id"] for row in known.there()] == ["overdue"]
    assert len(list(known.rows())) == 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"entered_at": "half past six"}, {"entered_at": None}, {"exited_at": "later"}, {"exited_at": 5},
        {"last_seen_at": "x"}, {"dwell_seconds": "long"}, {"crossings": "two"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("tag", ["farm", "yard"])
def test_notification_of_another_producer_with_an_invalid_visit_changes_nothing(wrong, tag):
    state = ConsoleState({"stage": "local"})
    visit = notifications.fields_of(Pair("truck-1", Fence(tag, "f1")), Visit(BEGIN, "e1"))
    detail = {"id": "n1", "version": 1, "previous": None, "visit": visit | wrong}
    state.tell_visit("arrived", detail)
    snapshot = state.snapshot()
    assert (snapshot["there"], snapshot["fences"], state.news()) == ([], [], [])
    state.visits.learn_usual()
    state.tell_visit("arrived", detail | {"visit": visit})
    assert len(state.visits.there()) == 1
