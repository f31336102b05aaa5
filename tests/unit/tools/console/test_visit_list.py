"""Test the list of visits that the console combines from the mart, the visits table and its memory."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from consumer import notifications
from consumer.visits import Pair, Visit
from contract.events import Fence
from tools.console import known_visits, visit_list
from tools.console.known_visits import Known, KnownVisits

NOW = datetime.now(UTC)
FARM = Fence("farm", "f1")


def visit(days_ago: int, device: str = "t1", fence: Fence = FARM) -> Known:
    entered = NOW - timedelta(days=days_ago)
    closed = Visit(entered, f"e{days_ago}", entered + timedelta(minutes=9), f"x{days_ago}")
    return known_visits.known(notifications.fields_of(Pair(device, fence), closed))


class Stores:
    """A fake of the console's queries, with the visits that the mart and the visits table contain."""

    def __init__(self, mart: list[Known], table: list[Known]) -> None:
        self.mart = mart
        self.table = table

    def mart_visits(self, *question: object) -> tuple[list[Known], int]:
        most = int(str(question[-1]))
        return self.mart[-most:], max(0, len(self.mart) - most)

    def count_visits(self, *_: object) -> int:
        return len(self.mart)

    def visits_after(self, *_: object) -> tuple[list[Known], None]:
        return self.mart, None

    def device_visits(self, *_: object) -> list[Known]:
        return self.table


async def ask[T](_: str, question: Callable[[], T]) -> T:
    return question()


WANTED = visit_list.Wanted(NOW - timedelta(days=365), NOW, "t1", None, "", lambda fence: fence.external_id)


def found(wanted: visit_list.Wanted, stores: Stores, bus: KnownVisits | None = None) -> list[str]:
    listed = asyncio.run(visit_list.find(wanted, 100, bus or KnownVisits(), stores, ask))
    return [visit.entered_event_id for visit in listed.visits]


def test_visits_of_a_truck_that_have_expired_from_the_visits_table_are_listed_from_the_mart():
    stores = Stores(mart=[visit(120), visit(91), visit(30), visit(2)], table=[visit(2), visit(1)])
    assert found(WANTED, stores) == ["e120", "e91", "e2", "e1"], (
        "the visit of 30 days ago is outdated, because the visits table no longer contains it"
    )


def test_visits_are_filtered_by_the_beginning_of_a_truck_or_place_name_or_of_an_external_id():
    places = {FARM: "Meierhof", Fence("farm", "f2"): "f2"}
    rows = [visit(2), visit(1, fence=Fence("farm", "f2"))]

    def begins(prefix: str) -> list[str]:
        wanted = replace(WANTED, device_id=None, prefix=prefix, place_name=places.__getitem__)
        return found(wanted, Stores(rows, []))

    assert begins("meier") == begins("f1") == ["e2"]
    assert begins("t1") == ["e2", "e1"]
    assert begins("farm") == [], "a tag matched, although the page shows none"


def test_visit_that_was_restated_since_the_last_dbt_run_is_listed_and_exported_once():
    outdated, bus = visit(1), KnownVisits()
    entered = NOW - timedelta(days=1, minutes=5)
    pair = Pair("t1", FARM)
    now = notifications.fields_of(pair, Visit(entered, "e0", entered + timedelta(minutes=14), "x1"))
    previous = notifications.fields_of(
        pair, Visit(NOW - timedelta(days=1), "e1", NOW - timedelta(days=1, minutes=-9), "x1")
    )
    bus.tell("visit_restated", {"id": "n", "version": 3, "visit": now, "previous": previous})
    wanted, stores = replace(WANTED, device_id=None), Stores([outdated], [])

    async def exported() -> list[str]:
        parts = visit_list.in_parts(wanted, bus, stores, ask)
        return [each.entered_event_id async for part in parts for each in part]

    assert found(wanted, stores, bus) == ["e0"]
    assert asyncio.run(exported()) == ["e0"]


def test_visits_of_a_truck_that_are_in_the_mart_and_in_the_table_are_counted_once():
    each = [visit(days) for days in (9, 8, 7, 6, 5)]
    stores, bus = Stores(mart=each, table=each), KnownVisits()
    for wanted in (WANTED, replace(WANTED, device_id=None)):
        listed = asyncio.run(visit_list.find(wanted, 3, bus, stores, ask))
        assert ([visit.entered_event_id for visit in listed.visits], listed.more) == (["e7", "e6", "e5"], 2)
