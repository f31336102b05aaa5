"""Each function as Lambda runs it, many environments on one vCPU, against the simulated AWS of `tests.load.aws`.

An environment takes one invocation at a time and mostly waits, so a vCPU can serve many of them: how many (the knee),
how many invocations a second then, and what each costs in CPU.
"""

import gzip
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.load.leaks import Leak, judged
from tools.fleet.send import percentile

ROOT = Path(__file__).parents[2]
VCPU_MB = 1769  # AWS Lambda Developer Guide, "Configure Lambda function memory": one vCPU
SWEEP = (1, 2, 4, 8, 16, 32, 64)
SECONDS = 4.0
LIFE_SECONDS = 4 * 3600  # an environment that is always busy: Lambda ends it within hours

type Invocation = Mapping[str, Any]


class Context:
    aws_request_id = function_name = "load"
    memory_limit_in_mb = 1024
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:load"

    def get_remaining_time_in_millis(self) -> int:
        return 28_000


@dataclass(frozen=True)
class Function:
    """`prepare(n)` makes the n-th environment's invocations, so that making them is not measured."""

    title: str
    events: int  # of one invocation
    memory_mb: int
    entry: Callable[[], Callable[[Any, Any], Any]]
    prepare: Callable[[int], Iterator[Invocation]]
    is_good: Callable[[Any], bool]
    refused: bool = False  # by Kinesis


def _ingest() -> Callable[[Any, Any], Any]:
    from handler.main import ingest

    return ingest


def _redrive() -> Callable[[Any, Any], Any]:
    from handler.redrive import redrive

    return redrive


def _consume() -> Callable[[Any, Any], Any]:
    from consumer.main import consume

    return consume


def requests(batch: int) -> Callable[[int], Iterator[Invocation]]:
    def prepare(_: int) -> Iterator[Invocation]:
        from tests.bench.handler import events, request_of

        bodies = [json.dumps(events(batch)).encode() for _ in range(32)]
        return itertools.cycle([request_of(body) for body in bodies])

    return prepare


def claims(number: int) -> Iterator[Invocation]:
    """Ten claim checks an invocation, each for the four geofence events of a request of twenty."""
    from tests.bench.handler import events

    keys = []
    for n in range(10):
        key = f"events/dt=2026-11-16/hh=08/{number:032x}{n:032x}.20.ndjson.gz"
        body = gzip.compress(b"\n".join(json.dumps(each).encode() for each in events(20)), 1)
        address = f"{os.environ['AWS_ENDPOINT_URL']}/archive/{key.replace('=', '%3D')}"
        urllib.request.urlopen(urllib.request.Request(address, body, method="PUT")).close()
        keys.append(key)
    messages = [
        {
            "messageId": str(n),
            "receiptHandle": str(n),
            "body": json.dumps({"bucket": "archive", "key": key, "lines": [1, 6, 11, 16]}),
            "attributes": {"ApproximateReceiveCount": "1"},
        }
        for n, key in enumerate(keys)
    ]
    return itertools.repeat({"Records": messages})


def batches(
    number: int, shape: str = "200", records: int = 200, calls_a_group: int = 4
) -> Iterator[Invocation]:
    """Records of tests.bench.consumer's shapes, without an end; every group of trucks comes back in the next hours."""
    from tests.bench.consumer import SHAPES
    from tests.unit.consumer.strategies import batch_of

    for n in itertools.count():
        group, hour = f"{number}-{n // calls_a_group}-", 8 + n % calls_a_group
        yield batch_of(
            [
                data.replace(b"truck-", b"truck-" + group.encode())
                .replace(b'"_id": "', f'"_id": "{group}{hour}-'.encode())
                .replace(b"T08:", f"T{hour:02}:".encode())
                for data in SHAPES[shape][:records]
            ]
        )


def _accepted(answer: Any) -> bool:
    return bool(answer["statusCode"] == 202)


def _done(answer: object) -> bool:
    return bool(answer == {"batchItemFailures": []})


FUNCTIONS = {
    "ingest@20": Function("ingest, 20 events", 20, 1024, _ingest, requests(20), _accepted),
    "ingest@100": Function("ingest, 100 events", 100, 1024, _ingest, requests(100), _accepted),
    "redrive": Function("redrive, 10 claim checks of 4 events", 40, 512, _redrive, claims, _done),
    "consume": Function(
        "consume, 200 records",
        200,
        512,
        _consume,
        lambda n: iter(list(itertools.islice(batches(n), 80))),
        _done,
    ),
}
# For leaks: the consumer keeps the keys of the last 4,096 pairs, which must be full before anything is judged.
PAIRS = Function(
    "consume, 50 records of 50 trucks", 50, 512, _consume, lambda n: batches(n, "200 pairs", 50, 2), _done
)
REFUSED = Function(
    "ingest, 20 events, Kinesis refuses", 20, 1024, _ingest, requests(20), _accepted, refused=True
)
BY_TITLE = {function.title: function for function in (*FUNCTIONS.values(), PAIRS, REFUSED)}


@contextmanager
def simulated_aws(*options: str, cpu: int | None = None) -> Iterator[str]:
    """Its address, which this process' environment then names, as a stage names everything to its functions."""
    pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
    process = subprocess.Popen(
        [*pinned, sys.executable, "-m", "tests.load.aws", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    named = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "load",
        "AWS_SECRET_ACCESS_KEY": "load",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "ARCHIVE_BUCKET": "archive",
        "STREAM_NAME": "geofence",
        "REDRIVE_QUEUE_URL": f"{address}/000000000000/redrive",
        "VISITS_TABLE": "visits",
        "EVENT_BUS_NAME": "visits",
    }
    try:
        with mock.patch.dict(os.environ, named):
            yield address
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Ran:
    """One environment's invocations."""

    seconds: Sequence[float]  # of each
    cpu_seconds: float
    elapsed: float


def environment(
    function: Function, number: int, until: Callable[[int, float], bool], go: Any, cpu: int
) -> Ran:
    """In a process of its own: everything is built and warm before `go`."""
    os.sched_setaffinity(0, {cpu})
    handler, invocations, context = function.entry(), function.prepare(number), Context()
    with Path(os.devnull).open("w") as nowhere:
        told, sys.stdout = sys.stdout, nowhere  # log lines are written, to nowhere
        try:
            assert function.is_good(handler(next(invocations), context))
            go.wait()
            seconds: list[float] = []
            began, cpu_began = time.perf_counter(), time.process_time()
            for invocation in invocations:
                if until(len(seconds), time.perf_counter() - began):
                    break
                call_began = time.perf_counter()
                answer = handler(invocation, context)
                seconds.append(time.perf_counter() - call_began)
                assert function.is_good(answer)
            return Ran(seconds, time.process_time() - cpu_began, time.perf_counter() - began)
        finally:
            sys.stdout = told


def side_by_side(function: Function, environments: int, seconds: float, cpu: int = 0) -> dict[str, float]:
    """So many environments on one vCPU, all at once."""
    fork = multiprocessing.get_context(
        "fork"
    )  # imports and bytecode once, as each environment has its own anyway
    go, results = fork.Barrier(environments), fork.SimpleQueue()

    def run(number: int) -> None:
        def until(_: int, elapsed: float) -> bool:
            return elapsed >= seconds

        try:
            results.put(environment(function, number, until, go, cpu))
        except BaseException as error:
            go.abort()
            results.put(error)

    children = [fork.Process(target=run, args=(number,)) for number in range(environments)]
    for child in children:
        child.start()
    ran = [results.get() for _ in children]
    for child in children:
        child.join()
    for each in ran:
        if isinstance(each, BaseException):
            raise each
    calls = [call for each in ran for call in each.seconds]
    rate = sum(len(each.seconds) / each.elapsed for each in ran)
    cpu_seconds = sum(each.cpu_seconds for each in ran)
    return {
        "environments": environments,
        "invocations_per_s": round(rate, 2),
        "events_per_s": round(rate * function.events, 1),
        "p50_ms": round(percentile(calls, 50) * 1000, 1),
        "p99_ms": round(percentile(calls, 99) * 1000, 1),
        "cpu_ms": round(cpu_seconds / len(calls) * 1000, 2),
        "vcpu_busy": round(cpu_seconds / statistics.mean(each.elapsed for each in ran), 2),
    }


def swept(function: Function, sweep: Sequence[int] = SWEEP, seconds: float = SECONDS) -> dict[str, object]:
    """From one environment on until twice as many bring less than a tenth more."""
    function.entry()
    steps: list[dict[str, float]] = []
    for environments in sweep:
        steps.append(side_by_side(function, environments, seconds))
        if len(steps) > 1 and steps[-1]["invocations_per_s"] < 1.1 * steps[-2]["invocations_per_s"]:
            break
    return {"title": function.title, "events": function.events, "steps": steps, **summary(function, steps)}


def summary(function: Function, steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By the asymptotes of operational analysis: rate ≤ environments / seconds of one, and ≤ 1 / CPU of one.

    They cross at the knee. (Denning and Buzen, "The Operational Analysis of Queueing Network Models", 1978.)
    """
    alone = steps[0]
    seconds = 1 / alone["invocations_per_s"]
    cpu = min(step["cpu_ms"] for step in steps) / 1000
    wait = max(0.0, seconds - alone["cpu_ms"] / 1000)
    share = function.memory_mb / VCPU_MB
    on_lambda = wait + cpu / min(1.0, share)
    return {
        "seconds_alone": round(seconds, 4),
        "cpu_ms": round(cpu * 1000, 2),
        "events_per_s_per_vcpu": round(function.events / cpu, 0),
        "measured_most_events_per_s": max(step["events_per_s"] for step in steps),
        "knee_environments": round(seconds / cpu, 1),
        "seconds_on_lambda": round(on_lambda, 4),
        "events_per_s_per_environment": round(function.events / on_lambda, 0),
    }


def while_refused(calls: int = 200) -> float:
    """Mean seconds of a request while Kinesis refuses, after the one of an environment that found out."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    with simulated_aws("--refuse"):
        child = fork.Process(
            target=lambda: results.put(
                environment(REFUSED, 0, lambda done, _: done >= calls, fork.Barrier(1), cpu=0).seconds
            )
        )
        child.start()
        seconds: list[float] = results.get()
        child.join()
    return statistics.mean(seconds)


# --- memory -------------------------------------------------------------------------------------


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_of(
    function: Function, calls: int, every: int, spoil: Callable[[Invocation], None] | None
) -> list[int]:
    """Resident bytes of one environment, after each `every` invocations. `spoil` is a seeded leak."""
    # Spawned, not forked: on a heap that inherits a parent's holes, what is sound grows while it fills them.
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    child = spawn.Process(target=_remember, args=(function.title, calls, every, spoil, results))
    child.start()
    found: list[int] = results.get()
    child.join()
    return found


def _remember(
    title: str, calls: int, every: int, spoil: Callable[[Invocation], None] | None, results: Any
) -> None:
    function = BY_TITLE[title]
    handler, context, seen = function.entry(), Context(), []
    invocations = itertools.chain.from_iterable(function.prepare(n) for n in itertools.count())
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = nowhere
        for number in range(calls):
            invocation = next(invocations)
            assert function.is_good(handler(invocation, context))
            if spoil:
                spoil(invocation)
            if number % every == every - 1:
                seen.append(resident_bytes())
    results.put(seen)


def leak_of(
    function: Function, calls: int, seconds_a_call: float, spoil: Callable[[Invocation], None] | None = None
) -> Leak:
    """Judged by what an environment that is always busy may grow in its life: a tenth of what it has left."""
    every = max(1, calls // 100)
    seen = memory_of(function, calls, every, spoil)
    room = function.memory_mb * 2**20 - seen[0]
    allowed = 0.1 * room / (LIFE_SECONDS / seconds_a_call)
    done = [float(n * every) for n in range(1, len(seen) + 1)]
    return judged(done, [float(each) for each in seen], allowed)
