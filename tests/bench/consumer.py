"""Measure the consumer and compare it with a peer: `python -m tests.bench.consumer [--json]`.

Our consumer and a peer based on Powertools (`peers/powertools_consumer.py`) do the same work with the same in-memory
fake of DynamoDB and EventBridge, where each call takes 5 ms. The results are records per second, calls per event, and
the ratios of our time, CPU time and calls to the peer's. Our own CPU time per event is measured in one thread without
those 5 ms, minus the time of the fake itself.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from aws.table import Table
from consumer.consume import Ports, consume
from consumer.event_bus import EventBus
from consumer.records import records_of
from consumer.store import Store
from consumer.visits import Rule
from contract.geofence_event_types import Kind
from tests.bench import figures
from tests.bench.fake_aws import Aws, Inline
from tests.bench.figures import Figures, progress
from tests.unit.consumer.fakes import FakeSetAside
from tests.unit.consumer.strategies import as_json, batch_of, event

type Batch = Mapping[str, Any]
"""A batch of Kinesis records, as Lambda passes it to the function."""
type Run = Callable[[Batch], object]
CALL_SECONDS = 0.005
# Kind of an event, and seconds since the start of its visit
KINDS: tuple[tuple[Kind, int], ...] = (("enter", 0), ("exit", 300))


def rounds(devices: int, fences: int, visits: int = 1) -> list[bytes]:
    """Return the events of several devices, interleaved as on a stream. Each device enters and leaves each
    fence `visits` times.
    """
    made = [
        (
            seconds,
            event(
                kind,
                seconds,
                f"{device:05}-{fence:05}-{visit:03}-{kind}",
                device=f"truck-{device}",
                fence=farm,
            ),
        )
        for device in range(devices)
        for fence in range(fences)
        for visit in range(visits)
        for kind, after in KINDS
        for seconds in [600 * (fence + fences * visit) + after]
        for farm in [FENCE._replace(external_id=f"farm-{fence}")]
    ]
    return [as_json(e) for _, e in sorted(made, key=lambda pair: pair[0])]


FENCE = event("enter", 0).fence
SHAPES = {
    # 500 events of 50 devices, each of which enters and leaves five fences
    "500": rounds(50, 5),
    # 500 events of 50 devices, each of which enters and leaves one fence five times
    "500 at one fence": rounds(50, 1, visits=5),
    # 200 events each: of 20 devices at five fences; of 200 pairs of a device and a fence (only arrivals); and of a
    # single pair
    "200": rounds(20, 5),
    "200 pairs": [*rounds(200, 1)[:200]],
    "one pair": rounds(1, 1, visits=100),
}


class Context:
    aws_request_id = "bench"
    function_name = "bench"

    def get_remaining_time_in_millis(self) -> int:
        return 600_000


def ports(aws: Any, side_by_side: Executor) -> Ports:
    table, bus = Table(aws, "visits", side_by_side), EventBus(aws, "bus", side_by_side)
    return Ports(Store(table, bus, Rule(), side_by_side), FakeSetAside())


def ours(aws: object, side_by_side: Executor) -> Run:
    wired = ports(aws, side_by_side)

    def run(batch: Batch) -> None:
        outcome = consume(records_of(batch), wired)
        assert outcome.stopped_at is None
        assert outcome.added == len(batch["Records"])

    return run


def peer(aws: object) -> Run:
    from tests.bench.peers.powertools_consumer import Consumer

    consumer = Consumer(aws, aws)

    def run(batch: Batch) -> None:
        assert consumer(batch, Context()) == {"batchItemFailures": []}

    return run


def timed[T](run: Callable[[T], object], batch: T) -> tuple[float, float]:
    cpu, began = time.process_time(), time.perf_counter()
    run(batch)
    return time.perf_counter() - began, time.process_time() - cpu


def against_powertools(rounds_: int = 3) -> Figures:
    batch = batch_of(SHAPES["500"])
    mine: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    calls: dict[str, float] = {}
    with ThreadPoolExecutor(16) as side_by_side:
        for n in range(rounds_):
            progress(f"measuring consumer and peer with 500 events, round {n + 1} of {rounds_}")
            for name, make, times in (
                ("ours", lambda aws: ours(aws, side_by_side), mine),
                ("powertools", peer, theirs),
            ):
                aws = Aws(CALL_SECONDS)
                times.append(timed(make(aws), batch))
                calls[name] = aws.calls.total() / 500
    seconds, cpu = (statistics.median(column) for column in zip(*mine, strict=True))
    peer_seconds, peer_cpu = (statistics.median(column) for column in zip(*theirs, strict=True))
    return Figures(
        ratios={
            "consumer/powertools@500": seconds / peer_seconds,
            "consumer_cpu/powertools@500": cpu / peer_cpu,
            "consumer_calls/powertools@500": calls["ours"] / calls["powertools"],
        },
        rates={
            "consumer/records_per_s": 500 / seconds,
            "consumer/records_per_s powertools": 500 / peer_seconds,
            "consumer/calls_per_event": calls["ours"],
            "consumer/calls_per_event powertools": calls["powertools"],
        },
    )


def calls_per_event() -> Figures:
    """Measure the AWS calls per event for each shape in SHAPES, once for a first batch and once for a second batch with
    the same devices and fences.
    """
    found = Figures()
    for name, datas in SHAPES.items():
        aws = Aws(0)
        run = ours(aws, Inline())
        run(batch_of(datas))
        found.rates[f"consumer/calls_per_event {name}"] = aws.calls.total() / len(datas)
        before = aws.calls.total()
        run(batch_of([again(data) for data in datas], first=len(datas) + 1))
        found.rates[f"consumer/calls_per_event {name}, again"] = (aws.calls.total() - before) / len(datas)
    return found


def again(data: bytes) -> bytes:
    """Return a copy of the event with a new id; a time between 08:00 and 09:00 is moved by one hour."""
    return data.replace(b"T08:", b"T09:").replace(b'"_id": "', b'"_id": "again-')


def padded(data: bytes) -> bytes:
    """Pad an event to 500 bytes, the typical size of a phone's event."""
    return data[:-1] + b', "note": "' + b"x" * (488 - len(data)) + b'"}'


def own_cpu(shape: str, rounds_: int = 15) -> Figures:
    datas = [padded(data) for data in SHAPES[shape]]
    spent, loads = [], []
    batch = batch_of(datas)
    progress(f"measuring the consumer's own CPU time with the batch `{shape}`")
    for _ in range(rounds_):
        aws = Aws(0)
        run = ours(aws, Inline())
        _, cpu = timed(run, batch)
        spent.append(cpu - aws.own_seconds)
        _, cpu = timed(lambda some: [json.loads(data) for data in some], datas)
        loads.append(cpu)
    own, floor = statistics.median(spent) / 500 * 1e6, statistics.median(loads) / 500 * 1e6
    return Figures(
        ratios={f"consumer_cpu/json.loads@{shape}": own / floor},
        rates={f"consumer/own_us_per_event {shape}": own, f"consumer/json.loads_us {shape}": floor},
    )


def measure() -> Figures:
    found = against_powertools()
    for part in (calls_per_event(), own_cpu("500"), own_cpu("500 at one fence")):
        found.add(part)
    return found


if __name__ == "__main__":
    sys.exit(figures.main(measure, sys.argv[1:]))
