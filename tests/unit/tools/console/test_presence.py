"""Test that the console shows the trucks at the places where the presence rule puts them, in whatever order the
events arrive.
"""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer import keys, notifications
from consumer.visits import visits_of
from contract.events import Fence, GeofenceEvent
from ops.presence_rule import presence
from tests.unit.consumer.strategies import World, event, events
from tests.unit.ops.test_presence_rule import delivery_rounds
from tools.console.known_visits import KnownVisits

FARM, FARM_2, PLANT, REGION = (
    Fence("farm", "1"),
    Fence("farm", "2"),
    Fence("plant", "1"),
    Fence("region", "n"),
)
WORLD = World(devices=("truck-1",), fences=(FARM, FARM_2, PLANT, REGION), last_second=3600)


def shown(found: list[GeofenceEvent], tags: tuple[str, ...], rng: random.Random) -> dict[str, str | None]:
    """Return the open visits that the console shows after it has read visits from the visits table and enter events
    from the archive, in random order. Each key is a device and a fence; each value is the id of the event that
    contradicts the visit, or None.
    """
    known = KnownVisits(tags)
    inputs: list[GeofenceEvent | notifications.VisitFields] = [each for each in found if each.kind == "enter"]
    inputs += [
        notifications.fields_of(pair, visit)
        for pair, history in visits_of(found).items()
        for visit in history.visits
    ]
    rng.shuffle(inputs)
    for each in inputs:
        if isinstance(each, GeofenceEvent):
            known.entered(each)
        else:
            known.read([each])
    return {f"{row['device_id']} {row['fence_id']}": row["contradicted_by_event_id"] for row in known.there()}


def by_rule(found: list[GeofenceEvent], tags: tuple[str, ...]) -> dict[str, str | None]:
    return {
        f"{each.pair.device_id} {keys.fence_key(each.pair.fence)}": each.contradicted_by
        and each.contradicted_by.event_id
        for each in presence(found, tags)
    }


def one_kind_per_id(found: GeofenceEvent) -> GeofenceEvent:
    """Prefix the event's id with its kind, so that no exit event reuses the id of an enter event. Such an exit
    changes the visits in the table, but the console does not notice it, because it reads only enter events.
    """
    return replace(found, event_id=f"{found.kind}-{found.event_id}")


# At most 18 events, because the console keeps only the latest 20 enter events of a device.
@given(st.lists(events(WORLD).map(one_kind_per_id), max_size=18), st.randoms(use_true_random=False))
def test_console_and_presence_rule_agree_for_any_set_of_at_most_18_events(
    found: list[GeofenceEvent], rng: random.Random
) -> None:
    assert shown(found, ("farm", "plant"), rng) == by_rule(found, ("farm", "plant"))


def test_console_and_presence_rule_agree_for_real_delivery_rounds() -> None:
    found = delivery_rounds()
    assert shown(found, ("stop",), random.Random(1)) == by_rule(found, ("stop",))


def known_of(*found: GeofenceEvent) -> KnownVisits:
    known = KnownVisits()
    known.read(
        notifications.fields_of(pair, visit)
        for pair, history in visits_of(found).items()
        for visit in history.visits
    )
    return known


def test_visit_contradicted_by_a_later_visit_elsewhere_is_listed_last_and_not_counted() -> None:
    known = known_of(
        event("enter", 0, "a", fence=FARM),
        event("enter", 600, "b", fence=PLANT),
        event("enter", 300, "c", device="truck-2", fence=FARM),
    )
    rows = known.there()
    assert [(row["entered_event_id"], row["contradicted_by_event_id"]) for row in rows] == [
        ("c", None),
        ("b", None),
        ("a", "b"),
    ]
    assert (rows[-1]["seen_at_fence_id"], rows[-1]["exit_inferred_at"]) == (
        "plant#1",
        "2026-11-16T08:10:00.000Z",
    )
    assert known.at() == {"farm#1": 1, "plant#1": 1}
    assert known.inside() == {"truck-1": ["plant#1"], "truck-2": ["farm#1"]}


def test_visit_is_no_longer_contradicted_after_its_later_enter_event_is_read() -> None:
    """A visit shows only when it began. Only the enter events in the visits table show that the truck entered the
    geofence again later, during the same visit.
    """
    found = [
        event("enter", 0, "a", fence=FARM), event("exit", 300, "b", fence=FARM),
        event("enter", 310, "c", fence=FARM_2), event("exit", 340, "d", fence=FARM_2),
        event("enter", 350, "e", fence=FARM),
    ]  # fmt: skip
    known = known_of(*found)
    assert [row["contradicted_by_event_id"] for row in known.there()] == ["c"]
    assert list(known.doubtful()) == ["truck-1"]
    known.verified("truck-1", [each for each in found if each.kind == "enter"])
    assert [row["contradicted_by_event_id"] for row in known.there()] == [None]
    assert known.doubtful() == {}


@pytest.mark.parametrize(("visits", "usual"), [(2, 900.0), (3, 600.0)])
def test_median_dwell_time_covers_all_fences_with_the_same_tag_if_the_fence_has_few_visits(
    visits: int, usual: float
) -> None:
    found = []
    for n in range(visits):
        start = n * 10_000
        found += [
            event("enter", start, f"a{n}", fence=FARM),
            event("exit", start + 600, f"b{n}", fence=FARM),
            event("enter", start, f"c{n}", device="truck-2", fence=FARM_2),
            event("exit", start + 1200, f"d{n}", device="truck-2", fence=FARM_2),
        ]
    known = known_of(*found, event("enter", 99_000, "now", fence=FARM))
    known.learn_usual()
    [row] = known.there()
    assert row["usual_dwell_seconds"] == usual
    known.learn_usual({"farm#1": 42.0})
    assert known.there()[0]["usual_dwell_seconds"] == 42.0, "the median from the marts takes precedence"
