"""Run the ingest, redrive and consume functions as on Lambda, each with many environments on one vCPU, against the
simulated AWS of `tests.load.simulated_aws`.

An environment handles one invocation at a time and mostly waits, so one vCPU can serve many environments.
The module measures the throughput with increasing numbers of environments, and the CPU time per invocation. From
these it computes the number of environments that saturate the vCPU (the knee).
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
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest import mock

from ops.percentile import percentile
from tests.load.leaks import Leak, estimate

ROOT = Path(__file__).parents[2]
# A function with this memory size has one vCPU (AWS Lambda Developer Guide, "Configure Lambda function memory").
VCPU_MB = 1769
SWEEP = (1, 2, 4, 8, 16, 32, 64)
SECONDS = 4.0
LIFE_SECONDS = 4 * 3600  # assumed lifetime of a busy environment, which Lambda ends after some hours

type Invocation = Mapping[str, object]
type Entry = Callable[[Any, Any], object]


@dataclass(frozen=True)
class Context:
    timeout_ms: int
    aws_request_id = function_name = "load"
    memory_limit_in_mb = 1024
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:load"

    def get_remaining_time_in_millis(self) -> int:
        return self.timeout_ms


@dataclass(frozen=True)
class Function:
    """A Lambda function to measure. `prepare(n)` builds the invocations for environment n in advance, so that
    the measurement excludes building them.
    """

    title: str
    events: int  # per invocation
    memory_mb: int
    entry: Callable[[], Callable[[object, object], object]]
    prepare: Callable[[int], Iterator[Invocation]]
    is_good: Callable[[object], bool]
    throttled: bool = False  # by Kinesis

    @property
    def context(self) -> Context:
        """The context of an invocation with the timeout that serverless/functions.yml sets."""
        return Context(28_000 if self.entry is _ingest else 60_000)


def _ingest() -> Entry:
    from handler.main import ingest

    return ingest


def _redrive() -> Entry:
    from handler.redrive import redrive

    return redrive


def _consume() -> Entry:
    from consumer.main import consume

    return consume


def requests(batch: int) -> Callable[[int], Iterator[Invocation]]:
    def prepare(_: int) -> Iterator[Invocation]:
        from tests.bench.handler import events, request_of

        bodies = [json.dumps(events(batch)).encode() for _ in range(32)]
        return itertools.cycle([request_of(body) for body in bodies])

    return prepare


def claims(number: int) -> Iterator[Invocation]:
    """Store ten objects of twenty events; return an endless series of invocations, each with ten claim checks.

    Each claim check refers to one object and its four geofence events.
    """
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
    number: int, shape: str = "200", records: int = 200, calls_per_group: int = 4
) -> Iterator[Invocation]:
    """Yield an endless series of batches like those of tests.bench.consumer.

    Each group of trucks sends `calls_per_group` batches, one per hour, before the next group starts.
    """
    from tests.bench.consumer import SHAPES
    from tests.unit.consumer.strategies import batch_of

    for n in itertools.count():
        group, hour = f"{number}-{n // calls_per_group}-", 8 + n % calls_per_group
        yield batch_of(
            [
                data.replace(b"truck-", b"truck-" + group.encode())
                .replace(b'"_id": "', f'"_id": "{group}{hour}-'.encode())
                .replace(b"T08:", f"T{hour:02}:".encode())
                for data in SHAPES[shape][:records]
            ]
        )


def _accepted(answer: object) -> bool:
    return isinstance(answer, dict) and answer["statusCode"] == 202


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
# For leak tests, because the consumer caches the keys of the last 4,096 pairs, and its memory grows until this cache is
# full.
PAIRS = Function(
    "consume, 50 records of 50 trucks", 50, 512, _consume, lambda n: batches(n, "200 pairs", 50, 2), _done
)
THROTTLED = Function(
    "ingest, 20 events, Kinesis throttles", 20, 1024, _ingest, requests(20), _accepted, throttled=True
)
BY_TITLE = {function.title: function for function in (*FUNCTIONS.values(), PAIRS, THROTTLED)}


@contextmanager
def simulated_aws(*options: str, cpu: int | None = None) -> Iterator[str]:
    """Start the simulated AWS and set the environment variables that a stage sets for its functions; yield
    the URL of the simulated AWS.
    """
    pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
    process = subprocess.Popen(
        [*pinned, sys.executable, "-m", "tests.load.simulated_aws", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    variables = {
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
        with mock.patch.dict(os.environ, variables):
            yield address
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Run:
    """The measured invocations of one environment."""

    seconds: Sequence[float]  # of each invocation
    cpu_seconds: float
    elapsed: float


def environment(
    function: Function, number: int, until: Callable[[int, float], bool], go: Barrier, cpu: int
) -> Run:
    """Run invocations in this process until `until(count, elapsed seconds)` is true.

    Before waiting at the barrier `go`, the function is imported and invoked once, so that it is warm.
    """
    os.sched_setaffinity(0, {cpu})
    handler, invocations, context = function.entry(), function.prepare(number), function.context
    with Path(os.devnull).open("w") as devnull:
        stdout, sys.stdout = sys.stdout, devnull  # log lines are written and discarded
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
            return Run(seconds, time.process_time() - cpu_began, time.perf_counter() - began)
        finally:
            sys.stdout = stdout


def side_by_side(function: Function, environments: int, seconds: float, cpu: int = 0) -> dict[str, float]:
    """Run several environments concurrently on one vCPU; return their throughput, latency percentiles and CPU
    time.
    """
    # Forked, so that modules are imported only once.
    fork = multiprocessing.get_context("fork")
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
    runs = [results.get() for _ in children]
    for child in children:
        child.join()
    for each in runs:
        if isinstance(each, BaseException):
            raise each
    calls = [call for each in runs for call in each.seconds]
    rate = sum(len(each.seconds) / each.elapsed for each in runs)
    cpu_seconds = sum(each.cpu_seconds for each in runs)
    return {
        "environments": environments,
        "invocations_per_s": round(rate, 2),
        "events_per_s": round(rate * function.events, 1),
        "p50_ms": round(percentile(calls, 50) * 1000, 1),
        "p99_ms": round(percentile(calls, 99) * 1000, 1),
        "cpu_ms": round(cpu_seconds / len(calls) * 1000, 2),
        "vcpu_busy": round(cpu_seconds / statistics.mean(each.elapsed for each in runs), 2),
    }


def swept(function: Function, sweep: Sequence[int] = SWEEP, seconds: float = SECONDS) -> dict[str, object]:
    """Run the steps of `sweep` until one adds less than 10 % throughput; return these steps and a summary."""
    function.entry()
    steps: list[dict[str, float]] = []
    for environments in sweep:
        steps.append(side_by_side(function, environments, seconds))
        if len(steps) > 1 and steps[-1]["invocations_per_s"] < 1.1 * steps[-2]["invocations_per_s"]:
            break
    return {"title": function.title, "events": function.events, "steps": steps, **summary(function, steps)}


def summary(function: Function, steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the figures of the throughput curve: the knee, the measured maximum, and estimates for Lambda.

    `seconds_alone` is the duration of an invocation when only one environment runs. The rate is bounded by
    environments / `seconds_alone` and by 1 / CPU time per invocation; the knee is where the two bounds intersect.
    (Denning and Buzen, "The Operational Analysis of Queueing Network Models", 1978.)
    `seconds_on_lambda` is `seconds_alone`, recalculated for the share of a vCPU that a function with this memory size
    gets (VCPU_MB).
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
        "measured_max_events_per_s": max(step["events_per_s"] for step in steps),
        "knee_environments": round(seconds / cpu, 1),
        "seconds_on_lambda": round(on_lambda, 4),
        "events_per_s_per_environment": round(function.events / on_lambda, 0),
    }


def seconds_while_throttled(calls: int = 200) -> float:
    """Return the mean duration of a request in seconds while Kinesis throttles.

    The first request, which detects the throttling, is excluded.
    """
    fork = multiprocessing.get_context("fork")

    def run(results: "Connection[Any, Any]") -> None:
        results.send(environment(THROTTLED, 0, lambda done, _: done >= calls, fork.Barrier(1), cpu=0).seconds)

    with simulated_aws("--throttle"):
        seconds: list[float] = _result_of(fork, run)
    return statistics.mean(seconds)


def _result_of(context: ForkContext | SpawnContext, target: Callable[..., None], *arguments: object) -> Any:
    """Run `target(*arguments, results)` in a child process, and return the object that it sends to `results`.

    Raises EOFError if the child process ends without a result.
    """
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(*arguments, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        child.join()


# --- memory -------------------------------------------------------------------------------------


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_of(
    function: Function, calls: int, every: int, leak: Callable[[Invocation], None] | None
) -> list[int]:
    """Run one environment; return its resident bytes, measured once per `every` invocations.

    Tests of this measurement pass a function `leak`, which is called after each invocation to simulate a leak.
    """
    # Spawn a process instead of forking it. A forked process inherits a heap with holes, and its resident memory grows
    # without a leak until the holes are filled.
    spawn = multiprocessing.get_context("spawn")
    found: list[int] = _result_of(spawn, _measure_memory, function.title, calls, every, leak)
    return found


def _measure_memory(
    title: str,
    calls: int,
    every: int,
    leak: Callable[[Invocation], None] | None,
    results: "Connection[Any, Any]",
) -> None:
    function = BY_TITLE[title]
    handler, context, sizes = function.entry(), function.context, []
    invocations = itertools.chain.from_iterable(function.prepare(n) for n in itertools.count())
    with Path(os.devnull).open("w") as devnull:
        sys.stdout = devnull
        for number in range(calls):
            invocation = next(invocations)
            assert function.is_good(handler(invocation, context))
            if leak:
                leak(invocation)
            if number % every == every - 1:
                sizes.append(resident_bytes())
    results.send(sizes)


def leak_of(
    function: Function, calls: int, seconds_per_call: float, leak: Callable[[Invocation], None] | None = None
) -> Leak:
    """Estimate a function's memory growth per invocation. The limit allows the function to fill a tenth of its
    free memory during the assumed lifetime of a busy environment.
    """
    every = max(1, calls // 100)
    sizes = memory_of(function, calls, every, leak)
    room = function.memory_mb * 2**20 - sizes[0]
    allowed = 0.1 * room / (LIFE_SECONDS / seconds_per_call)
    done = [float(n * every) for n in range(1, len(sizes) + 1)]
    return estimate(done, [float(each) for each in sizes], allowed)
