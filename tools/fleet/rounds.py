"""A morning of milk collection, as the phones of a fleet would send it.

`posts(plan)` yields the requests in the order in which they are sent, and keeps only one stretch of each
truck's round in memory. The same plan always produces the same bytes. Each event has its expected outcome
(accepted, or rejected with a code), so the sender knows what to expect without asking the system under test.
"""

import heapq
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Literal

from contract.events import Fence, GeofenceEvent, Kind

type Form = Literal["array", "envelope", "ndjson"]
type Json = dict[str, object]

DEFAULT_TRUCKS = 12
DEFAULT_FARMS = 40
_KM_PER_DEGREE = 111.2
SPEED_KMH = 50
_FORMS: tuple[Form, ...] = ("envelope", "array", "ndjson")


def checked_run_id(text: str) -> str:
    """Return the run id unchanged if it is valid. Raises ValueError otherwise."""
    if len(text) != 8 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"a run id must have 8 hexadecimal digits, not {text!r}")
    return text


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a morning. `run` (8 hex digits) is a prefix of all event ids and a suffix of all device ids.

    `duplicates`, `late` and `invalid` are fractions of the number of events: events sent twice, events sent
    only after a dead zone, and additional invalid events. `begins_at` must have a time zone; the events span
    about `rounds` × 3 hours from then.
    """

    run: str
    begins_at: datetime
    seed: int = 1
    trucks: int = DEFAULT_TRUCKS
    farms: int = DEFAULT_FARMS
    rounds: int = 2
    duplicates: float = 0.04
    late: float = 0.12
    invalid: float = 0.012
    batch_size: int = 20
    first_truck: int = 0

    def __post_init__(self) -> None:
        checked_run_id(self.run)
        if self.begins_at.tzinfo is None:
            raise ValueError("begins_at must have a time zone")
        for name in ("trucks", "farms", "rounds", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


@dataclass(frozen=True, slots=True)
class Planned:
    """An event and its expected outcome: accepted if `code` is None, otherwise rejected (or dropped) with that code.

    `crossing` is set only for accepted geofence events.
    """

    text: str
    event_id: str
    code: str | None = None
    crossing: GeofenceEvent | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """One request of one phone. An envelope contains `user` once, next to the events."""

    events: tuple[Planned, ...]
    sent_at: datetime
    form: Form = "ndjson"
    user: str = ""
    gzipped: bool = False

    @property
    def content_type(self) -> str:
        return "application/x-ndjson" if self.form == "ndjson" else "application/json"

    def body(self) -> bytes:
        texts = [event.text for event in self.events]
        match self.form:
            case "ndjson":
                text = "\n".join(texts)
            case "array":
                text = f"[{','.join(texts)}]"
            case "envelope":
                text = f'{{"events":[{",".join(texts)}],"user":{self.user}}}'
        # A line of a file may have bytes that are not UTF-8; they are sent unchanged.
        return text.encode("utf-8", "surrogateescape")


def posts(plan: Plan) -> Iterator[Post]:
    """Yield the requests of one morning in the order in which they are sent."""
    fences = places(plan)
    numbers = range(plan.first_truck, plan.first_truck + plan.trucks)
    yield from heapq.merge(*(_phone(plan, n, fences) for n in numbers), key=lambda post: post.sent_at)


def endless(plan: Plan) -> Iterator[Post]:
    """Yield the requests of one morning after another, each with its own trucks and farms, endlessly and in
    bounded memory.
    """
    for depot in count():
        yield from posts(replace(plan, first_truck=plan.first_truck + depot * plan.trucks))


# --- the trucks


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
class _Truck:
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
        """Return an event as the phone would write it, with the time of the phone's clock and the truck's
        position.
        """
        here = position or self.place
        self.sequence += 1
        return {
            "_id": f"{self.plan.run}{self.number:06x}{self.sequence:010x}",
            "type": type_,
            "createdAt": _written(self.at + self.skew),
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
        self.noted.append((self.at, Planned(_compact(event), str(event["_id"]), crossing=crossing)))

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


def _truck(plan: Plan, number: int, fences: list[Place]) -> _Truck:
    rng = random.Random(f"{plan.seed}/truck/{number}")
    # Every fifth phone has an older SDK that writes user_entered_geofence; every eighth phone's clock is
    # wrong.
    spelling = (lambda name: name.replace("user.", "user_", 1)) if number % 5 == 4 else (lambda name: name)
    skew = timedelta(seconds=rng.uniform(-900, 900)) if number % 8 == 7 else timedelta(0)
    at = plan.begins_at + timedelta(seconds=rng.uniform(0, 1200), milliseconds=rng.randrange(1000))
    form: Form = _FORMS[number % len(_FORMS)]
    truck = _Truck(plan, number, rng, at, fences[0], spelling, skew, form, {})
    truck.user = {
        "_id": f"{plan.seed & 0xFFFF:04x}{number:020x}",
        "userId": f"driver-{number + 1:02d}",
        "deviceId": truck.device_id,
        "metadata": {"route": f"route-{number % 9 + 1}"},
    }
    return truck


def _drive(truck: _Truck, goal: Place) -> None:
    """Move the truck to a place at SPEED_KMH, and record its position about every two minutes."""
    start, km = truck.place, truck.place.km_to(goal)
    minutes = max(2.0, km / SPEED_KMH * 60)
    legs = max(1, round(minutes / 2.2))
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


def _stop(truck: _Truck, minutes: float) -> None:
    """Record a stop: enter, collect (or unload) milk, and leave, with the flapping and the missed crossings
    of real phones.
    """
    rng, entered_at = truck.rng, truck.at
    if rng.random() >= 0.03:
        truck.cross("enter")
    if rng.random() < 0.2:
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
    truck.tell(f"{work}.completed", metadata={"litres": rng.randint(400, 6000), "sample": rng.random() < 0.9})
    truck.wait(seconds=rng.uniform(15, 60))
    if rng.random() >= 0.06:
        truck.cross("exit", _minutes(truck.at - entered_at))


def _stretches(truck: _Truck, plant: Place, farms: list[Place]) -> Iterator[bool]:
    """Advance the truck through its morning, one stretch at a time; for each stretch, yield whether the phone
    had no network in it.
    """
    for _ in range(truck.plan.rounds):
        truck.tell("user.started_trip")
        tour = truck.rng.sample(farms, min(len(farms), truck.rng.randint(4, 5)))
        for goal in [*tour, plant]:
            _drive(truck, goal)
            _stop(truck, truck.rng.uniform(8, 18))
            if goal is plant:
                truck.tell("user.arrived_at_trip_destination")
                truck.tell("user.stopped_trip")
            _break_some(truck)
            yield truck.rng.random() < truck.plan.late
        truck.wait(minutes=truck.rng.uniform(5, 20))


# --- the phones


def _phone(plan: Plan, number: int, fences: list[Place]) -> Iterator[Post]:
    """Yield the requests of one phone: batches of events, a shuffled burst after each dead zone, and duplicates."""
    truck = _truck(plan, number, fences)
    rng = truck.rng
    sent_at = plan.begins_at
    again: list[tuple[datetime, Planned]] = []
    for dark in _stretches(truck, fences[0], fences[1:]):
        noted, truck.noted = truck.noted, []
        if dark:
            truck.wait(seconds=rng.uniform(1, 30))
            noted = [(truck.at, _replayed(event, truck.at)) for _, event in noted]
            rng.shuffle(noted)
        noted, again = again + noted, []
        for i in range(len(noted) - 1):
            if rng.random() < 0.03:
                noted[i], noted[i + 1] = noted[i + 1], noted[i]
        while noted:
            size = rng.randint(max(1, plan.batch_size // 2), plan.batch_size)
            batch, noted = noted[:size], noted[size:]
            sent_at = max(sent_at, *(at for at, _ in batch))
            twice = [note for note in batch if note[1].code is None and rng.random() < plan.duplicates / 2]
            for note in twice:
                (batch if rng.random() < 0.5 else again).append(note)
            post = _posted([event for _, event in batch], truck, sent_at)
            yield post
            if rng.random() < plan.duplicates / 2:
                yield post


def _posted(events: list[Planned], truck: _Truck, sent_at: datetime) -> Post:
    user = _compact(truck.user)
    if truck.form == "envelope":
        events = [replace(event, text=event.text.replace(f'"user":{user},', "", 1)) for event in events]
        # Other fields of Radar's envelope about the driver are personal data and must not be stored.
        user = _compact(truck.user | {"ip": "192.0.2.7", "metadata": {"phone": "+31 6 00000000"}})
    return Post(tuple(events), sent_at, truck.form, user, gzipped=truck.number % 2 == 0)


def _replayed(event: Planned, sent_at: datetime) -> Planned:
    addition = f',"replayed":true,"actualCreatedAt":"{_written(sent_at)}"}}'
    return replace(event, text=event.text[:-1] + addition) if event.text.endswith("}") else event


type _Breakage = Callable[[_Truck, Json], str]


def _without(name: str) -> _Breakage:
    return lambda _, event: _compact({key: value for key, value in event.items() if key != name})


def _with(**fields: object) -> _Breakage:
    return lambda _, event: _compact(event | fields)


def _with_text(old: str, new: str) -> _Breakage:
    return lambda _, event: _compact(event).replace(old, new, 1)


# Errors that real phones made, with the reason code that Milkrun returns.
BREAKAGES: tuple[tuple[str, _Breakage], ...] = (
    ("missing_id", _without("_id")),
    ("invalid_created_at", _with(createdAt="half past six")),
    ("created_at_in_future", lambda truck, event: _compact(event | {"createdAt": _written(_ahead(truck))})),
    ("missing_type", _without("type")),
    (
        "missing_geofence",
        lambda truck, event: _compact(event | {"type": truck.spelling("user.entered_geofence")}),
    ),
    (
        "missing_device",
        lambda truck, event: _compact(
            event
            | {
                "type": "user.exited_geofence",
                "user": {"userId": truck.user["userId"]},
                "geofence": {"tag": "farm", "externalId": "farm-01"},
            }
        ),
    ),
    ("field_length", lambda _, event: _compact(event | {"_id": f"{event['_id']}".ljust(200, "0")})),
    ("invalid_json_value", _with_text('"live":true', '"live":true,"speed":NaN')),
    ("invalid_json_value", _with_text('"live":true', '"live":true,"live":false')),
    ("invalid_json_value", _with_text('"live":true', '"live":true,"note":"\\ud800"')),
    ("event_too_large", _with(metadata={"log": "x" * 66_000})),
    ("not_json", lambda _, event: _compact(event)[:-9]),
)


def _ahead(truck: _Truck) -> datetime:
    return truck.at + timedelta(days=400)


def _break_some(truck: _Truck) -> None:
    """Add invalid events, on average the plan's `invalid` fraction of the recorded events, cycling through
    all kinds of errors.
    """
    # In NDJSON a truncated line is one invalid event; in an array it would make the whole body unreadable.
    ways = BREAKAGES if truck.form == "ndjson" else BREAKAGES[:-1]
    for _ in list(truck.noted):
        if truck.rng.random() < truck.plan.invalid:
            event = truck.note("user.updated_trip", {})
            code, breakage = ways[(truck.number * 2 + truck.broken) % len(ways)]
            truck.broken += 1
            # An NDJSON line is a document of its own, so an error in it makes the line invalid JSON.
            if truck.form == "ndjson" and code == "invalid_json_value":
                code = "not_json"
            broken = Planned(breakage(truck, event), str(event["_id"]), code)
            truck.noted.insert(truck.rng.randrange(len(truck.noted)), (truck.at, broken))


def _written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _minutes(span: timedelta) -> float:
    return round(span.total_seconds() / 60, 3)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
