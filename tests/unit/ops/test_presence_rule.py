"""Test the presence rule with single cases, with random sets of events, and with real delivery rounds."""

import gzip
import json
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.visits import Rule, counting_events, order_of, pair_of, visits_of
from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import GEOFENCE_KINDS
from contract.instants import instant
from ops.presence_rule import EXCLUSIVE_TAGS, presence
from tests.unit.consumer.strategies import START, World, event, events

ROUNDS = Path(__file__).resolve().parents[4] / "shared/data/delivery-rounds.ndjson.gz"
FARM, FARM_2, PLANT, REGION = (
    Fence("farm", "1"),
    Fence("farm", "2"),
    Fence("plant", "1"),
    Fence("region", "n"),
)
WORLD = World(devices=("truck-1", "truck#2"), fences=(FARM, FARM_2, PLANT, REGION))


def contradicted(
    found: Sequence[GeofenceEvent], tags: Sequence[str] = EXCLUSIVE_TAGS
) -> dict[Fence, str | None]:
    """Return, for each open visit, the id of the event that contradicts the visit, or None."""
    return {
        each.pair.fence: each.contradicted_by and each.contradicted_by.event_id
        for each in presence(found, tags)
    }


def test_open_visit_is_contradicted_by_a_later_enter_event_at_another_exclusive_place() -> None:
    found = [event("enter", 0, "a", fence=FARM), event("enter", 900, "b", fence=PLANT)]
    assert contradicted(found) == {FARM: "b", PLANT: None}
    [farm, plant] = presence(found)
    assert farm.exit_inferred_at == START + timedelta(seconds=900)
    assert farm.visit.is_open, "the visit itself was rewritten"
    assert plant.exit_inferred_at is None


def test_exit_is_inferred_from_the_first_of_several_later_enter_events_elsewhere() -> None:
    found = [
        event("enter", 0, "a", fence=FARM), event("enter", 600, "b", fence=PLANT),
        event("exit", 900, "c", fence=PLANT), event("enter", 1500, "d", fence=FARM_2),
    ]  # fmt: skip
    assert contradicted(found) == {FARM: "b", FARM_2: None}


@pytest.mark.parametrize("kind", ["dwell", "exit"])
def test_only_an_enter_event_contradicts_a_visit(kind: str) -> None:
    other = event("exit" if kind == "exit" else "dwell", 600, "b", fence=PLANT)
    assert contradicted([event("enter", 0, "a", fence=FARM), other]) == {FARM: None}


def test_region_around_a_farm_is_not_an_exclusive_place() -> None:
    found = [event("enter", 0, "a", fence=REGION), event("enter", 60, "b", fence=FARM)]
    assert contradicted(found) == {REGION: None, FARM: None}
    found = [event("enter", 0, "b", fence=FARM), event("enter", 60, "a", fence=REGION)]
    assert contradicted(found) == {REGION: None, FARM: None}


def test_truck_flapping_between_two_fences_is_at_the_fence_entered_last() -> None:
    """A visit continues after a short gap, so the visit that began first may contain the later enter event."""
    found = [
        event("enter", 0, "a", fence=FARM), event("exit", 300, "b", fence=FARM),
        event("enter", 310, "c", fence=FARM_2), event("exit", 340, "d", fence=FARM_2),
        event("enter", 350, "e", fence=FARM), event("exit", 390, "f", fence=FARM),
    ]  # fmt: skip
    assert contradicted(found[:5]) == {FARM: None}
    assert contradicted([*found[:3], *found[4:5]]) == {FARM: None, FARM_2: "e"}


def test_simultaneous_enter_events_are_ordered_by_event_id_and_then_by_fence() -> None:
    assert contradicted([event("enter", 0, "b", fence=FARM), event("enter", 0, "a", fence=PLANT)]) == {
        FARM: None, PLANT: "b",
    }  # fmt: skip
    assert contradicted([event("enter", 0, "a", fence=PLANT), event("enter", 0, "a", fence=FARM)]) == {
        FARM: "a", PLANT: None,
    }  # fmt: skip


def test_exclusive_tags_are_configurable() -> None:
    found = [event("enter", 0, "a", fence=REGION), event("enter", 60, "b", fence=FARM)]
    assert contradicted(found, ("farm", "region")) == {REGION: "b", FARM: None}
    assert contradicted(found, ()) == {REGION: None, FARM: None}


def test_enter_event_below_the_minimum_confidence_contradicts_no_visit() -> None:
    found = [
        event("enter", 0, "a", fence=FARM),
        event("enter", 60, "b", fence=PLANT, confidence=1),
    ]
    assert [each.contradicted_by for each in presence(found, rule=Rule(min_confidence=2))] == [None]


def by_definition(found: Sequence[GeofenceEvent], tags: Sequence[str]) -> dict[object, str | None]:
    """Compare all enter events, which is slow, to find the event that contradicts each open visit."""
    enters = [e for some in counting_events(found).values() for e in some if e.kind == "enter"]

    def place(e: GeofenceEvent) -> tuple[object, ...]:
        return order_of(e)[0], order_of(e)[2], e.fence

    answer: dict[object, str | None] = {}
    for pair, history in visits_of(found).items():
        for visit in history.visits:
            if not visit.is_open:
                continue
            last = max(place(e) for e in enters if pair_of(e) == pair)
            others = [
                e
                for e in enters
                if e.device_id == pair.device_id and e.fence != pair.fence and e.fence.tag in tags
                if place(e) > last and pair.fence.tag in tags
            ]
            answer[pair] = min(others, key=place).event_id if others else None
    return answer


@given(st.lists(events(WORLD), max_size=40), st.randoms(use_true_random=False))
def test_presence_depends_only_on_the_set_of_events(found: list[GeofenceEvent], rng: random.Random) -> None:
    shuffled = [*found, *found[:5]]
    rng.shuffle(shuffled)
    answer = {
        each.pair: each.contradicted_by and each.contradicted_by.event_id for each in presence(shuffled)
    }
    assert answer == by_definition(found, EXCLUSIVE_TAGS)
    for device in WORLD.devices:
        held = [p for p, by in answer.items() if p.device_id == device and by is None]
        assert sum(p.fence.tag in EXCLUSIVE_TAGS for p in held) <= 1, "a truck is at several exclusive places"


def delivery_rounds() -> list[GeofenceEvent]:
    if not ROUNDS.exists():
        pytest.skip(f"{ROUNDS} does not exist")
    found = []
    with gzip.open(ROUNDS) as lines:
        for line in lines:
            body = json.loads(line)
            if body["type"] in GEOFENCE_KINDS:
                fence = Fence(body["geofence"]["tag"], body["geofence"]["externalId"])
                found.append(
                    GeofenceEvent(
                        body["_id"], body["type"], GEOFENCE_KINDS[body["type"]], body["user"]["deviceId"], fence,
                        instant(body["createdAt"]), body.get("duration"), body.get("confidence"),
                    )
                )  # fmt: skip
    return found


def test_van_on_real_delivery_rounds_is_never_at_two_stops_at_once() -> None:
    found = delivery_rounds()
    answer = presence(found, ("stop",))
    assert {e.pair: e.contradicted_by and e.contradicted_by.event_id for e in answer} == by_definition(
        found, ("stop",)
    )
    held = [each.pair.device_id for each in answer if each.contradicted_by is None]
    assert len(held) == len(set(held))
    assert (len(answer), len(held)) == (223, 207)
