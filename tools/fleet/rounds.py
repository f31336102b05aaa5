"""The rounds of milk collection trucks on a morning: where each truck drives and stops, and the events that its
phone records. `phones.py` turns the events into requests.

Each event has its expected outcome (accepted, or rejected with a code), so the sender knows what to expect without
asking the system under test.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import Kind
from tools.fleet.traffic_parameters import (
    FLAPPING,
    MINUTES_BETWEEN_POSITIONS,
    MISSED_ENTERS,
    MISSED_EXITS,
    PICKUP_LITRES,
    SPEED_KMH,
    STOP_MINUTES,
    Plan,
)

type Form = Literal["array", "envelope", "ndjson"]
type Json = dict[str, object]

_KM_PER_DEGREE = 111.2
_FORMS: tuple[Form, ...] = ("envelope", "array", "ndjson")


@dataclass(frozen=True, slots=True)
class Planned:
    """An event and its expected outcome: accepted if `code` is None, otherwise rejected (or dropped) with that code.

    `crossing` is set only for accepted geofence events. Senders that check no outcomes leave `code` and `crossing`
    None.
    """

    text: str
    event_id: str
    code: str | None = None
    crossing: GeofenceEvent | None = None


@dataclass(frozen=True, slots=True)
class Place:
    fence: Fence
    longitude: float
    latitude: float

    def km_to(self, other: "Place") -> float:
        narrowing = math.cos(math.radians(self.latitude))
        east = (other.longitude - self.longitude) * narrowing
        return _KM_PER_DEGREE * math.hypot(east, other.latitude - self.latitude)


def places(plan: Plan) -> list[Place]:
    """Return the plan's places: the plant, followed by its farms."""
    rng = random.Random(f"{plan.seed}/farms/{plan.first_truck}")
    depot = plan.first_truck // plan.trucks
    plant = Place(
        Fence("plant", f"plant-{depot + 1}"), 5.79 + 0.6 * (depot % 7), 53.09 - 0.4 * (depot // 7 % 7)
    )
    places = [plant]
    for n in range(depot * plan.farms + 1, (depot + 1) * plan.farms + 1):
        km, angle = 3 + 17 * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
        north, east = km * math.cos(angle) / _KM_PER_DEGREE, km * math.sin(angle) / _KM_PER_DEGREE
        longitude = plant.longitude + east / math.cos(math.radians(plant.latitude))
        places.append(Place(Fence("farm", f"farm-{n:02d}"), longitude, plant.latitude + north))
    return places


@dataclass(slots=True)
class Truck:
    """A truck on its round: the time, the truck's position, and the events that its phone has recorded but
    not yet sent.
    """

    plan: Plan
    number: int
    rng: random.Random
    at: datetime
    place: Place
    spelling: Callable[[str], str]
    skew: timedelta
    form: Form
    user: Json
    broken: int = 0
    noted: list[tuple[datetime, Planned]] = field(default_factory=list)
    sequence: int = 0

    @property
    def device_id(self) -> str:
        return f"truck-{self.number + 1:02d}-{self.plan.run}"

    def wait(self, **span: float) -> None:
        self.at += timedelta(**span)

    def note(self, type_: str, fields: Json, position: Place | None = None) -> Json:
        """Return an event as the phone would write it, with the phone's time and the truck's position."""
        here = position or self.place
        self.sequence += 1
        return {
            "_id": f"{self.plan.run}{self.number:06x}{self.sequence:010x}",
            "type": type_,
            "createdAt": written(self.at + self.skew),
            "live": True,
            "user": self.user,
            "location": {
                "type": "Point",
                "coordinates": [
                    round(here.longitude + self.rng.gauss(0, 5e-5), 6),
                    round(here.latitude + self.rng.gauss(0, 3e-5), 6),
                ],
            },
            "locationAccuracy": round(self.rng.uniform(4, 30), 1),
            "foreground": self.rng.random() < 0.1,
            "stopped": False,
        } | fields

    def keep(self, event: Json, crossing: GeofenceEvent | None = None) -> None:
        self.noted.append((self.at, Planned(compact(event), str(event["_id"]), crossing=crossing)))

    def tell(self, type_: str, *, position: Place | None = None, **fields: object) -> None:
        self.keep(self.note(type_, fields, position))

    def cross(self, kind: Kind, duration_minutes: float | None = None) -> None:
        """Record an enter, dwell or exit event at the fence where the truck is."""
        verb = {"enter": "entered", "dwell": "dwelled_in", "exit": "exited"}[kind]
        confidence = self.rng.choices((1, 2, 3), (1, 2, 7))[0]
        fence = self.place.fence
        details: Json = {
            "geofence": {"tag": fence.tag, "externalId": fence.external_id},
            "confidence": confidence,
        }
        if duration_minutes is not None:
            details["duration"] = duration_minutes
        event = self.note(self.spelling(f"user.{verb}_geofence"), details)
        crossing = GeofenceEvent(
            event_id=str(event["_id"]),
            type=str(event["type"]),
            kind=kind,
            device_id=self.device_id,
            fence=fence,
            occurred_at=datetime.fromisoformat(str(event["createdAt"])),
            duration_minutes=duration_minutes,
            confidence=confidence,
        )
        self.keep(event, crossing)


def truck_of(plan: Plan, number: int, fences: list[Place]) -> Truck:
    rng = random.Random(f"{plan.seed}/truck/{number}")
    # Every fifth phone has an older SDK that writes user_entered_geofence; every eighth phone's clock is
    # wrong.
    spelling = (lambda name: name.replace("user.", "user_", 1)) if number % 5 == 4 else (lambda name: name)
    skew = timedelta(seconds=rng.uniform(-900, 900)) if number % 8 == 7 else timedelta(0)
    at = plan.begins_at + timedelta(seconds=rng.uniform(0, 1200), milliseconds=rng.randrange(1000))
    form: Form = _FORMS[number % len(_FORMS)]
    truck = Truck(plan, number, rng, at, fences[0], spelling, skew, form, {})
    truck.user = {
        "_id": f"{plan.seed & 0xFFFF:04x}{number:020x}",
        "userId": f"driver-{number + 1:02d}",
        "deviceId": truck.device_id,
        "metadata": {"route": f"route-{number % 9 + 1}"},
    }
    return truck


def _drive(truck: Truck, goal: Place) -> None:
    """Move the truck to a place at SPEED_KMH, and record its position about every MINUTES_BETWEEN_POSITIONS."""
    start, km = truck.place, truck.place.km_to(goal)
    minutes = max(2.0, km / SPEED_KMH * 60)
    legs = max(1, round(minutes / MINUTES_BETWEEN_POSITIONS))
    for leg in range(1, legs):
        truck.wait(minutes=minutes / legs, milliseconds=truck.rng.randrange(900))
        share = leg / legs
        between = Place(
            goal.fence,
            start.longitude + share * (goal.longitude - start.longitude),
            start.latitude + share * (goal.latitude - start.latitude),
        )
        last = leg == legs - 1 and legs > 2
        truck.tell("user.approaching_trip_destination" if last else "user.updated_trip", position=between)
    truck.wait(minutes=minutes / legs)
    truck.place = goal


def _stop(truck: Truck, minutes: float) -> None:
    """Record a stop: enter, collect (or unload) milk, and leave. As on real phones, some crossings are missed, and some
    are repeated (flapping).
    """
    rng, entered_at = truck.rng, truck.at
    if rng.random() >= MISSED_ENTERS:
        truck.cross("enter")
    if rng.random() < FLAPPING:
        for _ in range(rng.randint(1, 3)):
            truck.wait(seconds=rng.uniform(5, 40))
            truck.cross("exit", _minutes(truck.at - entered_at))
            truck.wait(seconds=rng.uniform(5, 90))
            truck.cross("enter")
    work = "pickup" if truck.place.fence.tag == "farm" else "unload"
    truck.wait(seconds=rng.uniform(20, 90))
    truck.tell(
        f"{work}.started", metadata={"tank": rng.randint(1, 3), "temperature": round(rng.uniform(3, 6), 1)}
    )
    truck.wait(minutes=minutes / 2)
    truck.cross("dwell", None)
    truck.wait(minutes=minutes / 2)
    truck.tell(
        f"{work}.completed", metadata={"litres": rng.randint(*PICKUP_LITRES), "sample": rng.random() < 0.9}
    )
    truck.wait(seconds=rng.uniform(15, 60))
    if rng.random() >= MISSED_EXITS:
        truck.cross("exit", _minutes(truck.at - entered_at))


def stretches(truck: Truck, plant: Place, farms: list[Place]) -> Iterator[None]:
    """Advance the truck through its morning, and yield after each stretch: the drive to a place and the stop there."""
    for _ in range(truck.plan.rounds):
        truck.tell("user.started_trip")
        tour = truck.rng.sample(farms, min(len(farms), truck.rng.randint(4, 5)))
        for goal in [*tour, plant]:
            _drive(truck, goal)
            _stop(truck, truck.rng.uniform(*STOP_MINUTES))
            if goal is plant:
                truck.tell("user.arrived_at_trip_destination")
                truck.tell("user.stopped_trip")
            yield
        truck.wait(minutes=truck.rng.uniform(5, 20))


def written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _minutes(span: timedelta) -> float:
    return round(span.total_seconds() / 60, 3)


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
