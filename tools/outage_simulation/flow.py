"""The flow of events, modelled as queues and workers. SimPy provides the clock.

Events move in parcels. A parcel is a whole number of events that were sent in the same tick. On the way to
each destination (archive, visits, warehouse), an event is always counted exactly once: in a queue, as
delivered, or as given up.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import simpy

from tools.outage_simulation.sizes import Size

type Part = Literal["kinesis", "snowpipe"]
type Process = Generator[simpy.Event]

TICK = 10.0  # the duration of a parcel, and the time between two samples, in seconds
RECORD_AGE_SECONDS = 21_600  # serverless/functions.yml: older records are written to S3, and an alarm fires


@dataclass(frozen=True, slots=True)
class Outage:
    part: Part
    begins: float = 600.0
    seconds: float = 3600.0

    @property
    def ends(self) -> float:
        return self.begins + self.seconds


@dataclass(frozen=True, slots=True)
class Sample:
    """The state at one time: the number of events waiting in each queue, the age in seconds of the oldest
    event in each queue, and the totals of events since the start.
    """

    at: float
    sent: int
    phones: int
    archived: int
    geofence: int  # the number of geofence events among the archived events
    redrive: int
    stream: int
    consumed: int
    given_up: int  # older than RECORD_AGE_SECONDS: in S3, where `milkrun replay --on-failure` finds them
    pipe: int
    loaded: int
    oldest: dict[str, float]


class Queue:
    """A first-in, first-out queue that passes on at most `per_second()` events per second; a rate of 0 stops
    the queue.
    """

    def __init__(
        self,
        env: simpy.Environment,
        per_second: Callable[[], float],
        onward: Callable[[int, float], None],
    ) -> None:
        self._env, self._per_second, self._onward = env, per_second, onward
        self._parcels: deque[tuple[float, int]] = deque()  # (time of arrival, number of events)
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
            part = min(events, max(1, int(rate * TICK)))  # at most one tick, because rates may change
            yield self._env.timeout(part / rate)
            if part == events:
                self._parcels.popleft()
            else:
                self._parcels[0] = (since, events - part)
            self.waiting -= part
            self._onward(part, self._env.now - since)


class Flow:
    """The whole flow: phones → ingest → archive → pipe; and, for the share of geofence events, → stream (or
    redrive queue → stream) → visits.
    """

    def __init__(self, size: Size, outage: Outage | None) -> None:
        self.env = simpy.Environment()
        self.size, self.outage = size, outage
        self.sent = self.archived = self.geofence = self.consumed = self.given_up = self.loaded = 0
        self.phones = Queue(self.env, self._ingest_rate, self._archive)
        self.redrive = Queue(self.env, self._redrive_rate, lambda events, _: self.stream.put(events))
        self.stream = Queue(self.env, self._consume_rate, self._consume)
        self.pipe = Queue(self.env, self._load_rate, self._load)
        self.env.process(self._send())

    def is_down(self, part: Part) -> bool:
        outage = self.outage
        return outage is not None and outage.part == part and outage.begins <= self.env.now < outage.ends

    def sample(self) -> Sample:
        queues = {"phones": self.phones, "redrive": self.redrive, "stream": self.stream, "pipe": self.pipe}
        return Sample(
            at=self.env.now,
            sent=self.sent,
            archived=self.archived,
            geofence=self.geofence,
            consumed=self.consumed,
            given_up=self.given_up,
            loaded=self.loaded,
            **{name: queue.waiting for name, queue in queues.items()},
            oldest={name: queue.oldest for name, queue in queues.items()},
        )

    def _send(self) -> Process:
        while True:
            due = int(self.size.events_per_second * (self.env.now + TICK)) - self.sent
            self.sent += due
            self.phones.put(due)
            yield self.env.timeout(TICK)

    def _ingest_rate(self) -> float:
        return self.size.ingest_while_throttled if self.is_down("kinesis") else self.size.ingest

    def _archive(self, events: int, _: float) -> None:
        self.archived += events
        self.pipe.put(events)
        share = int(self.archived * self.size.geofence_share) - self.geofence
        self.geofence += share
        (self.redrive if self.is_down("kinesis") else self.stream).put(share)

    def _redrive_rate(self) -> float:
        if self.is_down("kinesis"):
            return 0.0
        # New events use the shards first, but a hundredth of the shards' capacity is reserved for the backlog.
        new = self.size.geofence_per_second
        return min(self.size.redrive, max(self.size.stream_write - new, 0.01 * self.size.stream_write))

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
class Simulation:
    """A finished simulation. `samples` contains the state after every tick until the simulation ended (see
    `simulate`).
    """

    size: Size
    outage: Outage
    samples: Sequence[Sample]

    def largest(self, queue: str) -> int:
        waiting: int = max(getattr(sample, queue) for sample in self.samples)
        return waiting

    def oldest(self, queue: str) -> float:
        return max(sample.oldest[queue] for sample in self.samples)

    def recovered_after(self, queue: str) -> float | None:
        """Return the seconds from the end of the outage until the queue is as short as before the outage;
        None if that does not happen before the simulation ends.
        """
        before = max(getattr(sample, queue) for sample in self.samples if sample.at < self.outage.begins)
        late = [
            sample.at
            for sample in self.samples
            if sample.at >= self.outage.ends and getattr(sample, queue) > before
        ]
        if not late:
            return 0.0
        return None if late[-1] == self.samples[-1].at else late[-1] + TICK - self.outage.ends

    @property
    def lost(self) -> int:
        """Return the number of events that are missing or counted twice on the way to the archive, the visits
        or the warehouse.
        """
        end = self.samples[-1]
        return (
            abs(end.sent - end.phones - end.archived)
            + abs(end.geofence - end.redrive - end.stream - end.consumed - end.given_up)
            + abs(end.archived - end.pipe - end.loaded)
        )


QUEUES = ("phones", "redrive", "stream", "pipe")


def simulate(size: Size, outage: Outage, limit: float = 14 * 86_400) -> Simulation:
    """Simulate an outage. Stop when the oldest event in every queue has been at most two ticks (20 s) old for an hour,
    or `limit` seconds after the outage.
    """
    flow = Flow(size, outage)
    samples: list[Sample] = []
    calm = 0
    while calm < 360 and flow.env.now < outage.ends + limit:
        flow.env.run(until=flow.env.now + TICK)
        samples.append(flow.sample())
        quiet = flow.env.now > outage.ends and max(samples[-1].oldest.values()) <= 2 * TICK
        calm = calm + 1 if quiet else 0
    return Simulation(size, outage, samples)


def expected_recovery(size: Size, outage: Outage) -> float | None:
    """Return the recovery time in seconds according to a formula: the number of events that arrive during the outage,
    divided by the spare capacity of the slowest part. For Kinesis, only geofence events are counted.

    Return None if ingest is so slow during the outage that events wait on the phones; no simple formula
    covers that case.
    """
    if outage.part == "kinesis" and size.ingest_while_throttled < size.events_per_second:
        return None
    if outage.part == "snowpipe":
        return outage.seconds * size.events_per_second / (size.load - size.events_per_second)
    spare = min(
        size.redrive,
        size.stream_write - size.geofence_per_second,
        size.consume - size.geofence_per_second,
    )
    return outage.seconds * size.geofence_per_second / spare
