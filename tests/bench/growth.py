"""Measure how the costs of the handler and the consumer grow: `python -m tests.bench.growth [--json]`.

The handler's CPU time, calls to AWS and memory are measured by events per request; the consumer's CPU time and
calls by devices per batch, by size of the batch, and by events already in the table. The loader and dbt benchmarks
measure their own growth.
"""

import gc
import json
import random
import statistics
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial

from contract.geofence_event_types import Kind
from tests.bench import consumer, figures, handler
from tests.bench.fake_aws import Aws, Inline
from tests.bench.figures import Figures, Points, progress
from tests.unit.consumer.strategies import as_json, batch_of, event

REQUESTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
DEVICES = (1, 5, 10, 25, 50, 125, 250)
BATCHES = (100, 200, 500, 1000, 2000, 5000, 10_000)
IN_TABLE = (1000, 2000, 5000, 10_000, 20_000, 50_000)
ROUNDS = 3


def requests() -> Figures:
    """Measure the CPU time, calls and peak memory of requests with increasing numbers of events."""
    from handler import main

    found = Figures(series={f"handler/{what} by events": [] for what in ("cpu_ms", "calls", "peak_mib")})
    with handler.sink(), handler.silence():
        handle = partial(main.ingest, context=handler.Context())
        for size in REQUESTS:
            progress(f"growth: measuring a request of {size} events")
            # Random notes, so that gzip cannot compress them away.
            events = [e | {"note": random.randbytes(100).hex()} for e in handler.events(size)]
            request = handler.request_of(json.dumps(events).encode())
            handle(request)
            handler.read_counts()
            (cpu,) = handler.interleaved(partial(handle, request), times=max(2, 100 // size))
            calls = handler.read_counts()["calls"]
            made = (calls["PUT"] + calls["POST"]) / (handler.ROUNDS * max(2, 100 // size))
            for what, value in (("cpu_ms", cpu * 1e3), ("calls", made), ("peak_mib", peak(handle, request))):
                found.series[f"handler/{what} by events"].append((size, value))
    return found


def peak(handle: Callable[[object], object], request: object) -> float:
    """Return the peak memory of the call in MiB. It is traced by tracemalloc, because the resident size of a process
    rarely falls after an earlier peak.
    """
    gc.collect()
    tracemalloc.start()
    handle(request)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 2**20


def devices() -> Figures:
    """Measure batches of 500 events from increasing numbers of devices."""
    shapes = {n: consumer.rounds(n, 1, visits=250 // n) for n in DEVICES}
    return against("devices", {n: ([], datas) for n, datas in shapes.items()})


def batches() -> Figures:
    """Measure batches of increasing size, like those read from a backlog. Lambda's maximum is 10,000 records."""
    return against("batch", {n: ([], consumer.rounds(n // 10, 5)) for n in BATCHES})


def table() -> Figures:
    """Measure a batch of 200 events of twenty devices at one fence, with a growing history in the table.

    The events of the batch are either newer or older than the whole history.
    """
    new = crossings(200, first=1_000_000, run="new")
    old = crossings(200, first=-200_000, run="old")
    there = {n: crossings(n, first=0, run="there") for n in IN_TABLE}
    found = against("table", {n: (datas, new) for n, datas in there.items()})
    found.add(against("table, late events", {n: (datas, old) for n, datas in there.items()}))
    return found


def crossings(count: int, first: float, run: str) -> list[bytes]:
    """Return enter and exit events of twenty trucks in turn; each visit lasts five minutes."""
    made = []
    for n in range(count):
        kind: Kind = "enter" if n // 20 % 2 == 0 else "exit"
        seconds = first + 300 * (n // 20)
        made.append(as_json(event(kind, seconds, f"{run}-{n}", device=f"truck-{n % 20}")))
    return made


def arrived(datas: Sequence[bytes]) -> consumer.Batch:
    """Return a batch that arrives twenty days later than one of `batch_of`, so that no event is in the future."""
    batch = batch_of(datas)
    for record in batch["Records"]:
        record["kinesis"]["approximateArrivalTimestamp"] += 20 * 86_400
    return batch


def against(what: str, shapes: dict[int, tuple[Sequence[bytes], Sequence[bytes]]]) -> Figures:
    """Measure the consumer's own CPU time and its calls for one batch per x value of the series. `shapes` maps each
    x value to the events that are already in the table and the events of the batch.
    """
    cpu: Points = []
    calls: Points = []
    for x, (there, datas) in shapes.items():
        progress(f"growth: measuring the consumer by {what}: {x}")
        seconds = []
        for _ in range(ROUNDS if x <= 5000 else 1):
            aws = Aws(0)
            run = consumer.ours(aws, Inline())
            for start in range(0, len(there), 5000):
                run(arrived(there[start : start + 5000]))
            aws.own_seconds, made = 0.0, aws.calls.total()
            _, spent = consumer.timed(run, arrived(datas))
            seconds.append(spent - aws.own_seconds)
        cpu.append((x, statistics.median(seconds) * 1e3))
        calls.append((x, aws.calls.total() - made))
    return Figures(series={f"consumer/cpu_ms by {what}": cpu, f"consumer/calls by {what}": calls})


def measure() -> Figures:
    found = requests()
    for part in (devices, batches, table):
        found.add(part())
    return found


if __name__ == "__main__":
    sys.exit(figures.main(measure, sys.argv[1:]))
