"""The flow as lines of waiting events and what works them off; SimPy keeps the clock.

Events move in parcels of those that were sent in the same seconds, in whole numbers, so that at every moment each
event is in exactly one place.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import simpy

from tools.fleet.simulate.sizes import Size

type Part = Literal["kinesis", "snowpipe"]
type Process = Generator[simpy.Event]

TICK = 10.0  # seconds of one parcel, and between two looks
RECORD_AGE_SECONDS = 21_600  # serverless.yml: what is older goes whole to S3, and an alarm rings


@dataclass(frozen=True, slots=True)
class Outage:
    part: Part
    begins: float = 600.0
    seconds: float = 3600.0

    @property
    def ends(self) -> float:
        return self.begins + self.seconds


@dataclass(frozen=True, slots=True)
class Look:
    """Everything at one moment: events waiting, the age of the oldest of each line in seconds, and totals."""

    at: float
    sent: int
    phones: int
    archived: int
    geofence: int  # of what is archived
    redrive: int
    stream: int
    consumed: int
    given_up: int  # older than the record age: in S3, for `milkrun replay --on-failure`
    pipe: int
    loaded: int
    oldest: dict[str, float]


class Line:
    """First come, first served: at most `per_second()` events a second, none while that is 0."""

    def __init__(
        self,
        env: simpy.Environment,
        per_second: Callable[[], float],
        onward: Callable[[int, float], None],
    ) -> None:
        self._env, self._per_second, self._onward = env, per_second, onward
        self._parcels: deque[tuple[float, int]] = deque()  # since when they wait, how many
        self._more = env.event()
        self.waiting = 0
        env.process(self._work())

    def put(self, events: int) -> None:
        if not events:
            return
        self._parcels.append((self._env.now, events))
        self.waiting += events
        if not self._more.triggered:
            self._more.succeed()

    @property
    def oldest(self) -> float:
        return self._env.now - self._parcels[0][0] if self._parcels else 0.0

    def _work(self) -> Process:
        while True:
            if not self._parcels:
                self._more = self._env.event()
                yield self._more
            if (rate := self._per_second()) <= 0:
                yield self._env.timeout(TICK / 10)
                continue
            since, events = self._parcels[0]
            part = min(events, max(1, int(rate * TICK)))  # rates may change: never more than a tick at once
            yield self._env.timeout(part / rate)
            if part == events:
                self._parcels.popleft()
            else:
                self._parcels[0] = (since, events - part)
            self.waiting -= part
            self._onward(part, self._env.now - since)


class Flow:
    """Phones → ingest → archive → pipe; and its geofence share → stream (or redrive queue → stream) → visits."""

    def __init__(self, size: Size, outage: Outage | None) -> None:
        self.env = simpy.Environment()
        self.size, self.outage = size, outage
        self.sent = self.archived = self.geofence = self.consumed = self.given_up = self.loaded = 0
        self.phones = Line(self.env, self._ingest_rate, self._archive)
        self.redrive = Line(self.env, self._redrive_rate, lambda events, _: self.stream.put(events))
        self.stream = Line(self.env, self._consume_rate, self._consume)
        self.pipe = Line(self.env, self._load_rate, self._load)
        self.env.process(self._send())

    def is_down(self, part: Part) -> bool:
        outage = self.outage
        return outage is not None and outage.part == part and outage.begins <= self.env.now < outage.ends

    def look(self) -> Look:
        lines = {"phones": self.phones, "redrive": self.redrive, "stream": self.stream, "pipe": self.pipe}
        return Look(
            at=self.env.now,
            sent=self.sent,
            archived=self.archived,
            geofence=self.geofence,
            consumed=self.consumed,
            given_up=self.given_up,
            loaded=self.loaded,
            **{name: line.waiting for name, line in lines.items()},
            oldest={name: line.oldest for name, line in lines.items()},
        )

    def _send(self) -> Process:
        while True:
            due = int(self.size.events_per_second * (self.env.now + TICK)) - self.sent
            self.sent += due
            self.phones.put(due)
            yield self.env.timeout(TICK)

    def _ingest_rate(self) -> float:
        return self.size.ingest_while_refused if self.is_down("kinesis") else self.size.ingest

    def _archive(self, events: int, _: float) -> None:
        self.archived += events
        self.pipe.put(events)
        share = int(self.archived * self.size.geofence_share) - self.geofence
        self.geofence += share
        (self.redrive if self.is_down("kinesis") else self.stream).put(share)

    def _redrive_rate(self) -> float:
        if self.is_down("kinesis"):
            return 0.0
        # What arrives anew has its place on the shards already; a hundredth is always left for what was refused.
        fresh = self.size.geofence_per_second
        return min(self.size.redrive, max(self.size.stream_write - fresh, 0.01 * self.size.stream_write))

    def _consume_rate(self) -> float:
        return 0.0 if self.is_down("kinesis") else self.size.consume

    def _consume(self, events: int, waited: float) -> None:
        if waited > RECORD_AGE_SECONDS:
            self.given_up += events
        else:
            self.consumed += events

    def _load_rate(self) -> float:
        return 0.0 if self.is_down("snowpipe") else self.size.load

    def _load(self, events: int, _: float) -> None:
        self.loaded += events


@dataclass(frozen=True, slots=True)
class Story:
    """What was seen, tick by tick, until all was as before or patience ended."""

    size: Size
    outage: Outage
    looks: Sequence[Look]

    def most(self, line: str) -> int:
        waiting: int = max(getattr(look, line) for look in self.looks)
        return waiting

    def oldest(self, line: str) -> float:
        return max(look.oldest[line] for look in self.looks)

    def recovered_after(self, line: str) -> float | None:
        """Seconds from the outage's end until no more waits than before it; None: not within patience."""
        before = max(getattr(look, line) for look in self.looks if look.at < self.outage.begins)
        late = [
            look.at for look in self.looks if look.at >= self.outage.ends and getattr(look, line) > before
        ]
        if not late:
            return 0.0
        return None if late[-1] == self.looks[-1].at else late[-1] + TICK - self.outage.ends

    @property
    def lost(self) -> int:
        """Events that are nowhere, or in two places: of the archive, the stream's side and the pipe's."""
        end = self.looks[-1]
        return (
            abs(end.sent - end.phones - end.archived)
            + abs(end.geofence - end.redrive - end.stream - end.consumed - end.given_up)
            + abs(end.archived - end.pipe - end.loaded)
        )


LINES = ("phones", "redrive", "stream", "pipe")


def tell(size: Size, outage: Outage, patience: float = 14 * 86_400) -> Story:
    """Run until an hour after nothing of the outage is left, or until patience ends."""
    flow = Flow(size, outage)
    looks: list[Look] = []
    calm = 0
    while calm < 360 and flow.env.now < outage.ends + patience:
        flow.env.run(until=flow.env.now + TICK)
        looks.append(flow.look())
        quiet = flow.env.now > outage.ends and max(looks[-1].oldest.values()) <= 2 * TICK
        calm = calm + 1 if quiet else 0
    return Story(size, outage, looks)


def expected_recovery(size: Size, outage: Outage) -> float | None:
    """The closed form: what came in during the outage, over what is left of the slowest part's capacity.

    None where phones keep what does not come in: then there is none so simple.
    """
    if outage.part == "kinesis" and size.ingest_while_refused < size.events_per_second:
        return None
    if outage.part == "snowpipe":
        return outage.seconds * size.events_per_second / (size.load - size.events_per_second)
    spare = min(
        size.redrive,
        size.stream_write - size.geofence_per_second,
        size.consume - size.geofence_per_second,
    )
    return outage.seconds * size.geofence_per_second / spare
