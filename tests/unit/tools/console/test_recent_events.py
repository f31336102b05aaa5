"""Test that the list of recent events is sorted newest first, searchable, and limited in number and bytes, and that
all events are counted exactly.
"""

import pytest

from tools.console import parse_object, recent_events
from tools.console.parse_object import Event
from tools.console.recent_events import RecentEvents


def event(n: int, kind: str = "good", **more) -> Event:
    fields = {"event_id": f"e{n}", "type": "ping", "device_id": f"t{n % 3}", "at": None} | more
    return Event(
        kind, received_at="2026-11-23T08:00:00.000Z", key="k", line=n, size=100, stored=b"{}", **fields
    )


@pytest.fixture
def held() -> RecentEvents:
    held = RecentEvents()
    for n in range(10):
        held.add(event(n, "bad", codes=("missing_id",)) if n % 5 == 4 else event(n))
    return held


def ids(events: list[Event]) -> list[str | None]:
    return [each.event_id for each in events]


def test_all_events_and_bad_events_are_listed_newest_first_in_pages(held):
    assert ids(held.matching("all", limit=4)) == ["e9", "e8", "e7", "e6"]
    assert ids(held.matching("bad", limit=4)) == ["e9", "e4"]
    last = held.matching("all", limit=4)[-1]
    assert ids(held.matching("all", limit=2, before=last.seq)) == ["e5", "e4"]


def test_events_can_be_filtered_by_type_device_error_code_or_id_and_searched_by_part_of_the_type(held):
    held.add(event(10, type="Pickup.Completed"))
    assert ids(held.matching("all", limit=9, type_="Pickup.Completed")) == ["e10"]
    assert ids(held.matching("good", limit=9, device="t0")) == ["e6", "e3", "e0"]
    assert ids(held.matching("all", limit=9, code="missing_id")) == ["e9", "e4"]
    assert ids(held.matching("all", limit=9, q="pickup")) == ["e10"]
    assert ids(held.matching("all", limit=9, event_id="e3")) == ["e3"]
    assert ids(held.matching("all", limit=9, type_="Pickup")) == []


def test_search_by_part_of_an_event_id_ignores_device_ids_that_contain_it(
    held,
):
    for n in range(100, 200):
        held.add(event(n, device_id="e3-truck"))
    assert ids(held.with_id_like("E3", 8)) == ["e3"]


def test_number_of_events_in_memory_is_limited_but_all_are_counted(held, monkeypatch):
    monkeypatch.setattr(recent_events, "BOUNDS", {"good": (5, 1 << 20), "bad": (100, 300)})
    for n in range(100, 200):
        held.add(event(n))
        held.add(event(n, "bad"))
    held.skipped("good", 1000)
    assert held.held() == {"good": 5, "bad": 3}
    assert held.counted == {"good": 1108, "bad": 102}


def test_new_events_are_returned_once_with_the_number_of_omitted_events(held):
    fresh, left_out = held.take_fresh(3)
    assert (ids(fresh["good"]), ids(fresh["bad"]), left_out) == (["e8", "e7", "e6"], ["e9", "e4"], 5)
    assert held.take_fresh(3) == ({"good": [], "bad": []}, 0)


def test_reset_deletes_all_events_and_sets_their_counts_to_zero(held):
    held.forget()
    assert held.matching("all", limit=9) == []
    assert held.counted == {"good": 0, "bad": 0}
    held.add(event(11))
    assert held.matching("all", limit=9)[0].seq > 10, (
        "numbers are not reused, because an open page still uses earlier ones"
    )


def test_event_that_was_rejected_for_a_very_long_id_is_found_by_this_id(held):
    shown = parse_object.cut("x" * 300)
    held.add(event(10, "bad", event_id=shown, device_id=shown))
    for value in ("x" * 300, shown):
        assert ids(held.matching("bad", limit=9, event_id=value, device=value)) == [shown]
    assert ids(held.matching("bad", limit=9, event_id="x" * 200)) == []


def test_sql_for_an_event_escapes_a_quote_in_the_object_key():
    added = event(1)
    added.key = "events/driver's day.ndjson"
    sql = recent_events.whole(added, "bucket", "MILKRUN")["sql"]
    assert "file_name = 'events/driver''s day.ndjson' AND" in sql
