"""`milkrun demo --live`: send the events of moving trucks until Ctrl-C. The map shows a movement a few
seconds later.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from uuid import uuid4

from contract.events import Fence
from tools.fleet.client import Delivery
from tools.fleet.phones import Post
from tools.fleet.rounds import Place, Planned, places
from tools.fleet.send import Tally
from tools.fleet.traffic_parameters import LIVE_SPEED_KMH, LIVE_STOP_SECONDS, LIVE_TICK_SECONDS, Plan


class Phone(Protocol):
    def deliver(self, post: Post) -> list[Delivery]: ...


@dataclass(slots=True)
class LiveTruck:
    """A truck that drives to a place, or stays at a place until `leaves_at` (seconds since the demo began)."""

    name: str
    number: int
    place: Place
    goal: Place
    rng: random.Random
    leaves_at: float | None = None

    def tick(self, elapsed: float, now: datetime, goals: Sequence[Place]) -> Iterator[Planned]:
        """Move the truck by one tick; yield the events that its phone would send: positions or geofence events."""
        if self.leaves_at is not None:
            if elapsed < self.leaves_at:
                return
            self.leaves_at = None
            yield self._event("user.exited_geofence", now, fence=self.place.fence)
            self.goal = self.rng.choice([each for each in goals if each is not self.place])
        left = self.place.km_to(self.goal)
        step = LIVE_SPEED_KMH / 3600 * LIVE_TICK_SECONDS
        if left <= step:
            self.place, self.leaves_at = self.goal, elapsed + LIVE_STOP_SECONDS
            yield self._event("user.entered_geofence", now, fence=self.goal.fence)
            return
        share = step / left
        self.place = Place(
            self.place.fence,
            self.place.longitude + share * (self.goal.longitude - self.place.longitude),
            self.place.latitude + share * (self.goal.latitude - self.place.latitude),
        )
        yield self._event("user.updated_trip", now)

    def _event(self, type_: str, now: datetime, fence: Fence | None = None) -> Planned:
        event_id = uuid4().hex[:24]
        event: dict[str, object] = {
            "_id": event_id,
            "type": type_,
            "createdAt": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "live": True,
            "user": {"userId": f"driver-{self.number:02d}", "deviceId": self.name},
            "location": {
                "type": "Point",
                "coordinates": [round(self.place.longitude, 6), round(self.place.latitude, 6)],
            },
        }
        if fence is not None:
            event |= {"geofence": {"tag": fence.tag, "externalId": fence.external_id}, "confidence": 3}
        return Planned(json.dumps(event, allow_nan=False, separators=(",", ":")), event_id)


@dataclass(slots=True)
class LiveFleet:
    """A fleet of simulated trucks that drive between the plant and the farms of a plan."""

    plan: Plan
    goals: list[Place] = field(init=False)
    trucks: list[LiveTruck] = field(init=False)

    def __post_init__(self) -> None:
        self.goals = places(self.plan)
        rng = random.Random(self.plan.seed)
        self.trucks = []
        for number in range(1, self.plan.trucks + 1):
            start, goal = rng.sample(self.goals, 2) if len(self.goals) > 1 else (self.goals[0], self.goals[0])
            own = random.Random(f"{self.plan.seed}/live/{number}")
            self.trucks.append(LiveTruck(f"truck-{number:02d}", number, start, goal, own))

    def post(self, elapsed: float, now: datetime) -> Post | None:
        """Move every truck by one tick; return a request with the events, or None if there are none."""
        events = [event for truck in self.trucks for event in truck.tick(elapsed, now, self.goals)]
        return Post(tuple(events), now) if events else None


def drive(fleet: LiveFleet, phone: Phone, report: Callable[[Tally], None], stopped: threading.Event) -> Tally:
    """Send the events of one tick every LIVE_TICK_SECONDS until `stopped` is set; return the totals."""
    tally, began = Tally(), time.monotonic()
    while not stopped.is_set():
        elapsed = time.monotonic() - began
        post = fleet.post(elapsed, datetime.now(UTC))
        for delivery in phone.deliver(post) if post else ():
            tally.add(delivery)
        report(tally)
        stopped.wait(max(0.0, LIVE_TICK_SECONDS - (time.monotonic() - began - elapsed)))
    return tally
