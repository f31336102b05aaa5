"""Measure the work per event, write it to ops/measured.yml, and convert it to dollars per million events:
`python -m tests.bench.cost [--json]`.

Our functions are compared with two other implementations (tests/bench/peers). CPU time is measured in
this process. The sink for S3 and Kinesis, and moto's server for DynamoDB and EventBridge, are separate processes, so
that their CPU time does not count. Calls and bytes are counted by the sink; DynamoDB units are counted in another run,
against a fake that bills like AWS. `ops.monthly_bill` does the conversion.
"""

import io
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import yaml

from aws.credentials import FixedCredentials
from aws.json_client import JsonClient
from consumer.batch_log import report
from consumer.consume import consume
from consumer.records import records_of
from contract import logs
from contract.metrics import with_metrics
from ops.monthly_bill import SECONDS_A_DAY, SMALL, Load, Prices, Way, Work, bill, lane_records_a_second
from tests.bench import consumer, figures, handler
from tests.bench.fake_aws import Aws, Inline
from tests.bench.figures import Figures, Points, progress
from tests.unit.consumer.strategies import batch_of

MEASURED = Path(__file__).parents[2] / "ops" / "measured.yml"
PEERS = ("ours", "naive", "powertools")
CONSUMERS = ("ours", "powertools")
SIZES = (1, 20, 100)
# Use two batch sizes, to separate the cost per batch from the cost per event.
CONSUMED = (20, 200)
ROUNDS = 3
HEAD = """\
# Measured by `make bench` (tests/bench/cost.py); ops/monthly_bill.py converts the work under `ours` to dollars.
# `naive` and `powertools` are other implementations of the same functions, for comparison (tests/bench/peers).
# CPU milliseconds were measured in Python on the machine named below; calls, units and bytes are counted.
"""


def ingest_work() -> dict[str, dict[str, float]]:
    """Measure each handler's CPU milliseconds per request and per event (a regression over SIZES), and the PUTs,
    the compression and the log bytes of a request with 100 events.
    """
    with (
        handler.sink(),
        redirect_stdout(io.StringIO()) as printed,
    ):  # Powertools' logger keeps the stdout that exists when it is created
        handlers = handler.all_handlers()
        handlers["ours"] = handlers.pop("handler")
        cpu: dict[str, Points] = {name: [] for name in PEERS}
        for size in SIZES:
            progress(f"measuring the CPU time of a request of {size} events")
            request = handler.request_of(json.dumps(handler.events(size)).encode())
            calls = [partial(handlers[name], request, handler.Context()) for name in PEERS]
            seconds = handler.interleaved(*calls, times=max(2, 20 // size))
            for name, each in zip(PEERS, seconds, strict=True):
                cpu[name].append((size, each * 1e3))
        return {
            name: line(points, "ingest_cpu_ms_request", "ingest_cpu_ms_event")
            | counted(handlers[name], printed)
            for name, points in cpu.items()
        }


def line(points: Points, fixed: str, growing: str) -> dict[str, float]:
    """Return the fixed cost per request or batch and the additional cost per event, by linear regression."""
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return {fixed: max(0.0, intercept), growing: slope}


def counted(handle: Callable[..., object], printed: io.StringIO) -> dict[str, float]:
    events = handler.events(100)
    size = sum(len(json.dumps(event, separators=(",", ":"))) + 1 for event in events)
    handler.read_counts()
    before = len(printed.getvalue())
    handle(handler.request_of(json.dumps(events).encode()), handler.Context())
    calls = handler.read_counts()["calls"]
    assert calls["POST"] == 1
    return {
        "puts_a_request": calls["PUT"],
        "gzip_share": calls["PUT bytes"] / size,
        "log_bytes_request": len(printed.getvalue()) - before,
    }


# --- the consumer -----------------------------------------------------------------------------------------


@contextmanager
def moto() -> Iterator[str]:
    code = (
        "from moto.server import ThreadedMotoServer as S; s = S(ip_address='127.0.0.1', port=0, verbose=False);"
        "s.start(); print(s.get_host_and_port()[1], flush=True); import sys; sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def tables(dynamodb: Any, events: Any) -> None:
    for name, keys in (("visits", ("pk", "sk")), ("idempotency", ("id",))):
        dynamodb.create_table(
            TableName=name,
            KeySchema=[
                {"AttributeName": k, "KeyType": t} for k, t in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
            AttributeDefinitions=[{"AttributeName": k, "AttributeType": "S"} for k in keys],
            BillingMode="PAY_PER_REQUEST",
        )
    events.create_event_bus(Name="bus")


def consumer_cpu() -> dict[str, Points]:
    """Measure each consumer's CPU milliseconds per batch, for each batch size, with real clients over HTTP."""
    rounds: dict[str, dict[int, list[float]]] = {name: {size: [] for size in CONSUMED} for name in CONSUMERS}
    with moto() as url, ThreadPoolExecutor(16) as side_by_side:
        session = boto3.Session("bench", "bench", region_name="us-east-1")
        dynamodb = session.client("dynamodb", endpoint_url=url)
        events = session.client("events", endpoint_url=url)
        tables(dynamodb, events)
        keys = FixedCredentials("bench", "bench", None)
        direct = [
            JsonClient(service, region="us-east-1", credentials=keys, url=url)
            for service in ("dynamodb", "events")
        ]
        runs = {
            "ours": consumer.ours(Both(*direct), side_by_side),
            "powertools": consumer.peer(Both(dynamodb, events)),
        }
        for name, run in runs.items():
            run(crossings(20, f"warm-{name}"))
        for n in range(ROUNDS):
            progress(f"measuring the consumer's CPU time over HTTP, round {n + 1} of {ROUNDS}")
            for name, run in runs.items():
                for size in CONSUMED:
                    _, cpu = consumer.timed(run, crossings(size, f"{n}-{name}"))
                    rounds[name][size].append(cpu * 1e3)
    return medians(rounds)


def consumer_waits() -> dict[str, Points]:
    """Return the milliseconds that each consumer waits per batch, for each batch size, at 5 ms per call.

    The peer's calls are sequential, so its waiting time is computed from their number. Our calls overlap, so
    our waiting time is measured with calls that take ten times as long, and divided by ten. This reduces the effect
    of a busy machine.
    """
    found: dict[str, Points] = {name: [] for name in CONSUMERS}
    with ThreadPoolExecutor(16) as side_by_side:
        for size in CONSUMED:
            aws = Aws(10 * consumer.CALL_SECONDS)
            seconds, _ = consumer.timed(consumer.ours(aws, side_by_side), crossings(size, "wait"))
            found["ours"].append((size, seconds / 10 * 1e3))
            aws = Aws(0)
            consumer.peer(aws)(crossings(size, "wait"))
            found["powertools"].append((size, aws.calls.total() * consumer.CALL_SECONDS * 1e3))
    return found


def medians(rounds: dict[str, dict[int, list[float]]]) -> dict[str, Points]:
    return {
        name: [(size, statistics.median(each)) for size, each in of.items()] for name, of in rounds.items()
    }


class Both:
    """One object that combines a DynamoDB and an EventBridge client, because the benchmark's consumers take
    one object for both services.
    """

    def __init__(self, dynamodb: Any, events: Any) -> None:
        self._dynamodb, self.put_events = dynamodb, events.put_events

    def __getattr__(self, name: str) -> object:
        return getattr(self._dynamodb, name)


def crossings(count: int, run: str) -> consumer.Batch:
    """Return a batch of arrivals and departures at five fences per device; event and device ids are unique
    per run.
    """
    named = f"{run}-{count}-".encode()
    return batch_of(
        [
            consumer.padded(data.replace(b'"_id": "', b'"_id": "' + named).replace(b'"truck-', b'"' + named))
            for data in consumer.rounds(max(1, count // 10), 5)[:count]
        ]
    )


def billed(name: str) -> dict[str, float]:
    """Return the billed DynamoDB units, the notifications and the stored bytes per event. Each pair of a device and a
    fence has two visits, and each batch contains one event.
    """
    aws = Aws(0, billed=True)
    run = consumer.ours(aws, Inline()) if name == "ours" else consumer.peer(aws)
    datas = consumer.SHAPES["200"]
    for number, data in enumerate([*datas, *map(consumer.again, datas)], 1):
        run(batch_of([data], first=number))
    events = 2 * len(datas)
    return {
        "write_units_event": (aws.units["write"] + aws.units["index write"]) / events,
        "read_units_event": aws.units["read"] / events,
        "notices_event": aws.units["entry"] / events,
        "stored_bytes_event": aws.stored_bytes / events,
    }


def log_bytes_batch() -> float:
    logs.configure("INFO", with_metrics("bench"))
    aws = Aws(0)
    batch = batch_of(consumer.SHAPES["200"])
    records = list(records_of(batch))
    printed = io.StringIO()
    with redirect_stdout(printed):
        report(records, consume(records, consumer.ports(aws, Inline())))
    return len(printed.getvalue())


def consumer_work() -> dict[str, dict[str, float]]:
    cpu, waits, log_bytes = consumer_cpu(), consumer_waits(), log_bytes_batch()
    return {
        name: line(cpu[name], "consume_cpu_ms_batch", "consume_cpu_ms_event")
        | line(waits[name], "consume_wait_ms_batch", "consume_wait_ms_event")
        | {"log_bytes_batch": log_bytes}
        | billed(name)
        for name in CONSUMERS
    }


# --- dollars ----------------------------------------------------------------------------------------------


def write(works: dict[str, Work]) -> None:
    kept = {
        name: {key: float(f"{value:.3g}") for key, value in asdict(work).items()}
        for name, work in works.items()
    }
    facts = {"measured_at": datetime.now(UTC).date(), "machine": figures.machine()}
    MEASURED.write_text(HEAD + yaml.safe_dump(facts | kept, sort_keys=False))


def measure() -> Figures:
    ingest, consumed = ingest_work(), consumer_work()
    works = {
        "ours": Work(**ingest["ours"], **consumed["ours"]),
        # The counterpart of the naive handler is the consumer in the documentation of Powertools.
        "naive": Work(**ingest["naive"], **consumed["powertools"]),
        "powertools": Work(**ingest["powertools"], **consumed["powertools"]),
    }
    write(works)
    found = Figures()
    for size in SIZES:
        load = Load(events_per_day=1_000_000, batch=size, work=works["ours"])
        dollars = {name: usd_per_million(replace(load, work=work)) for name, work in works.items()}
        dollars["firehose"] = usd_per_million(load, "firehose")
        for name, usd in dollars.items():
            found.rates[f"cost/usd_per_million {name}@{size}"] = usd
            if name != "ours":
                found.ratios[f"cost/{name}@{size}"] = dollars["ours"] / usd
        for name, work in works.items():
            spent = usd_per_million(replace(load, work=work), only=("ingest function", "consumer"))
            found.rates[f"cost/usd_per_million of functions {name}@{size}"] = spent
    for name, work in works.items():
        found.rates |= {f"cost/{key} {name}": value for key, value in asdict(work).items()}
    for memory in (512, 1024, 1769):
        found.rates[f"cost/lane_records_per_s@{memory}"] = lane_records_a_second(works["ours"], memory)
    found.rates |= goals_of_the_bill(works["ours"])
    found.ratios["consumer_http_cpu/powertools@200"] = cpu_at(works["ours"], 200) / cpu_at(
        works["powertools"], 200
    )
    return found


def goals_of_the_bill(work: Work) -> dict[str, float]:
    medium = Load(events_per_day=1000 * SECONDS_A_DAY, batch=20, work=work)
    full = replace(medium, batch=100)
    small = Load(1_000_000, 20, work=work, **SMALL)
    idle = replace(small, events_per_day=1)
    return {
        "bill/usd per million events at 1000/s": usd_per_million(medium),
        "bill/usd per million events at 1000/s without notifications": usd_per_million(
            replace(medium, notifications=False)
        ),
        "bill/usd per million events at 1000/s, 100 per request": usd_per_million(full),
        "bill/usd per million events at 1000/s, 100 per request without notifications": usd_per_million(
            replace(full, notifications=False)
        ),
        "bill/usd per million events at 1M a day": usd_per_million(
            Load(events_per_day=1_000_000, batch=20, work=work)
        ),
        "bill/usd per million events at 1M a day, small": usd_per_million(small),
        "bill/usd a month fixed, small": sum(line.usd for line in bill(idle, Prices())),
    }


def usd_per_million(load: Load, way: Way = "rest", only: tuple[str, ...] = ()) -> float:
    lines = [line for line in bill(load, Prices(), way) if not only or line.component in only]
    return sum(line.usd for line in lines) / load.events * 1e6


def cpu_at(work: Work, events: int) -> float:
    return work.consume_cpu_ms_batch + events * work.consume_cpu_ms_event


if __name__ == "__main__":
    sys.exit(figures.main(measure, sys.argv[1:]))
