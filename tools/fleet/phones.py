"""The requests that the phones of a fleet send on a morning, including the faults of real phones: dead zones, shuffled
and late batches, duplicates and invalid events.

`posts(plan)` yields the requests in the order in which they are sent, and keeps only one stretch of each truck's
round (the drive to a place and the stop there) in memory. The same plan always produces the same bytes.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count

from tools.fleet.rounds import (
    Form,
    Json,
    Place,
    Planned,
    Truck,
    compact,
    places,
    stretches,
    truck_of,
    written,
)
from tools.fleet.traffic_parameters import SWAPPED, Plan


@dataclass(frozen=True, slots=True)
class Post:
    """One request. `user` is used only for an envelope, which contains it once, beside the list of events."""

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


def ended_by(plan: Plan, end: datetime) -> tuple[Plan, int]:
    """Return the plan and its number of events. If the last request would be sent after `end`, the plan begins earlier
    by the difference, because a stage rejects events that are too far ahead of its clock.
    """
    events, last = 0, end
    for post in posts(plan):
        events, last = events + len(post.events), max(last, post.sent_at)
    return replace(plan, begins_at=plan.begins_at - (last - end)), events


def endless(plan: Plan) -> Iterator[Post]:
    """Yield the requests of one morning after another, each with its own trucks and farms, endlessly and in
    bounded memory.
    """
    for depot in count():
        yield from posts(replace(plan, first_truck=plan.first_truck + depot * plan.trucks))


def _phone(plan: Plan, number: int, fences: list[Place]) -> Iterator[Post]:
    """Yield the requests of one phone: batches of events, a shuffled burst after each dead zone, and duplicates."""
    truck = truck_of(plan, number, fences)
    rng = truck.rng
    sent_at = plan.begins_at
    again: list[tuple[datetime, Planned]] = []
    for _ in stretches(truck, fences[0], fences[1:]):
        _break_some(truck)
        dark = rng.random() < plan.late
        noted, truck.noted = truck.noted, []
        if dark:
            truck.wait(seconds=rng.uniform(1, 30))
            noted = [(truck.at, _replayed(event, truck.at)) for _, event in noted]
            rng.shuffle(noted)
        noted, again = again + noted, []
        for i in range(len(noted) - 1):
            if rng.random() < SWAPPED:
                noted[i], noted[i + 1] = noted[i + 1], noted[i]
        while noted:
            size = rng.randint(max(1, plan.batch_size // 2), plan.batch_size)
            batch, noted = noted[:size], noted[size:]
            sent_at = max(sent_at, *(at for at, _ in batch))
            twice = [note for note in batch if note[1].code is None and rng.random() < plan.duplicates / 2]
            for note in twice:
                (batch if rng.random() < 0.5 and len(batch) < plan.batch_size else again).append(note)
            post = _posted([event for _, event in batch], truck, sent_at)
            yield post
            if rng.random() < plan.duplicates / 2:
                yield post


def _posted(events: list[Planned], truck: Truck, sent_at: datetime) -> Post:
    user = compact(truck.user)
    if truck.form == "envelope":
        events = [replace(event, text=event.text.replace(f'"user":{user},', "", 1)) for event in events]
        # Other fields of Radar's envelope about the driver are personal data and must not be stored.
        user = compact(truck.user | {"ip": "192.0.2.7", "metadata": {"phone": "+31 6 00000000"}})
    return Post(tuple(events), sent_at, truck.form, user, gzipped=truck.number % 2 == 0)


def _replayed(event: Planned, sent_at: datetime) -> Planned:
    addition = f',"replayed":true,"actualCreatedAt":"{written(sent_at)}"}}'
    return replace(event, text=event.text[:-1] + addition) if event.text.endswith("}") else event


type _Breakage = Callable[[Truck, Json], str]


def _without(name: str) -> _Breakage:
    return lambda _, event: compact({key: value for key, value in event.items() if key != name})


def _with(**fields: object) -> _Breakage:
    return lambda _, event: compact(event | fields)


def _with_text(old: str, new: str) -> _Breakage:
    return lambda _, event: compact(event).replace(old, new, 1)


# Errors that real phones made, with the reason code that Milkrun returns.
BREAKAGES: tuple[tuple[str, _Breakage], ...] = (
    ("missing_id", _without("_id")),
    ("invalid_created_at", _with(createdAt="half past six")),
    ("created_at_in_future", lambda truck, event: compact(event | {"createdAt": written(_ahead(truck))})),
    ("missing_type", _without("type")),
    (
        "missing_geofence",
        lambda truck, event: compact(event | {"type": truck.spelling("user.entered_geofence")}),
    ),
    (
        "missing_device",
        lambda truck, event: compact(
            event
            | {
                "type": "user.exited_geofence",
                "user": {"userId": truck.user["userId"]},
                "geofence": {"tag": "farm", "externalId": "farm-01"},
            }
        ),
    ),
    ("field_length", lambda _, event: compact(event | {"_id": f"{event['_id']}".ljust(200, "0")})),
    ("invalid_json_value", _with_text('"live":true', '"live":true,"speed":NaN')),
    ("invalid_json_value", _with_text('"live":true', '"live":true,"live":false')),
    ("invalid_json_value", _with_text('"live":true', '"live":true,"note":"\\ud800"')),
    ("event_too_large", _with(metadata={"log": "x" * 66_000})),
    ("not_json", lambda _, event: compact(event)[:-9]),
)


def _ahead(truck: Truck) -> datetime:
    return truck.at + timedelta(days=400)


def _break_some(truck: Truck) -> None:
    """Add invalid events, which cycle through BREAKAGES (without the last if the truck does not send NDJSON). Their
    number is, on average, the plan's `invalid` fraction of the recorded events.
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
