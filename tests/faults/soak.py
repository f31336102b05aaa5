"""Apply random faults at random times under steady load, in chapters (`make soak MINUTES=30 SEED=7`).

A chapter is 45 seconds of load with some faults, after which every event must arrive. The run ends after
MINUTES, or with the first chapter that breaks a promise. Such a chapter is repeated with fewer faults for up to ten
minutes, and the shortest list of faults that still breaks a promise is printed with the seed.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, count, islice

from tests.faults.fault_proxy import Fault, Rule
from tests.faults.faulty_stack import FaultyStack, proxy_url
from tests.faults.harness import Scenario
from tools.fleet.phones import Post
from tools.stack.stack import Stack

LOAD_S = 45.0
REQUESTS_PER_S = 4.0
MAX_FAULTS = 5
SHRINK_S = 600.0

# Calls (the service, the operation and the caller, as the proxy names them), each with its possible faults.
CALLS: tuple[tuple[str, str, str, tuple[Fault, ...]], ...] = (
    (
        "s3",
        "PutObject",
        "ingest",
        (Fault.REFUSED, Fault.THROTTLED, Fault.CUT_AFTER, Fault.SILENT, Fault.SLOW),
    ),
    ("kinesis", "PutRecords", "*", (Fault.THROTTLED, Fault.PARTLY, Fault.CUT_BEFORE, Fault.CUT_AFTER)),
    (
        "kinesis",
        "PutRecords",
        "*",
        (Fault.WRONG_BYTES, Fault.HALF_ANSWER, Fault.KILL_BEFORE, Fault.KILL_AFTER),
    ),
    ("s3", "PutObject", "ingest", (Fault.KILL_BEFORE, Fault.KILL_AFTER)),
    ("sqs", "SendMessage", "ingest", (Fault.REFUSED, Fault.CUT_AFTER)),
    ("s3", "GetObject", "*", (Fault.REFUSED, Fault.HALF_ANSWER)),
    ("dynamodb", "*", "consume", (Fault.THROTTLED, Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.KILL_AFTER)),
    ("dynamodb", "BatchGetItem", "consume", (Fault.PARTLY,)),
    ("dynamodb", "PutItem", "consume", (Fault.KILL_BEFORE,)),
    ("events", "PutEvents", "consume", (Fault.PARTLY, Fault.THROTTLED, Fault.CUT_AFTER, Fault.KILL_AFTER)),
    ("api", "POST", "phone", (Fault.CUT_AFTER, Fault.HALF_ANSWER, Fault.THROTTLED)),
    ("sqs", "*", "snowflake", (Fault.CUT_AFTER, Fault.REFUSED, Fault.KILL_BEFORE)),
    ("*", "*", "*", (Fault.REFUSED, Fault.SLOW, Fault.CUT_AFTER)),
)
STACK_FAULTS = ("kill Snowflake", "stop LocalStack", "cut AWS off", "fill Snowflake's disk")


@dataclass(frozen=True, slots=True)
class TimedFault:
    """A fault with its start time and duration.

    `what` is one of STACK_FAULTS, or empty for a fault that the proxy applies to calls.
    """

    at_s: float
    lasts_s: float
    what: str = ""
    fault: Fault = Fault.REFUSED
    service: str = "*"
    operation: str = "*"
    caller: str = "*"
    share: float = 1.0
    seed: int = 0

    def __str__(self) -> str:
        done = self.what or str(self.rule())
        return f"from {self.at_s:.1f} s for {self.lasts_s:.1f} s: {done}"

    def rule(self) -> Rule:
        # A caller killed at every call could never make progress, so limit the number of kills.
        times = 3 if self.fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER) else None
        return Rule(
            self.fault, self.service, self.operation, self.caller, self.share, times=times, seed=self.seed
        )


def faults_of(seed: str) -> list[TimedFault]:
    """Return a random list of faults; the same seed always gives the same list."""
    chance = random.Random(f"{seed}/blows")
    found: list[TimedFault] = []
    # Use each stack fault at most once, because the end of one would also end another of the same kind.
    stack_faults = chance.sample(STACK_FAULTS, len(STACK_FAULTS))
    for n in range(chance.randint(2, MAX_FAULTS)):
        at_s, lasts_s = chance.uniform(0, LOAD_S - 10), chance.uniform(1, 8)
        if chance.random() < 0.25 and stack_faults:
            found.append(TimedFault(at_s, min(lasts_s, 5), stack_faults.pop()))
            continue
        service, operation, caller, faults = chance.choice(CALLS)
        share = chance.choice((0.1, 0.3, 0.6, 1.0)) if service != "*" else 0.1
        fault = TimedFault(
            at_s, lasts_s, "", chance.choice(faults), service, operation, caller, share, seed=n
        )
        found.append(fault)
    return sorted(found, key=lambda fault: fault.at_s)


def shrunk(
    faults: Sequence[TimedFault],
    fails: Callable[[Sequence[TimedFault]], bool],
    has_time: Callable[[], bool],
) -> list[TimedFault]:
    """Remove halves, then quarters, and finally single faults from the list, as long as a promise is still broken.

    Returns the shortest list found that breaks a promise.
    """
    left, size = list(faults), max(1, len(faults) // 2)
    while has_time():
        for start in range(0, len(left), size):
            some = left[:start] + left[start + size :]
            if has_time() and fails(some):
                left, size = some, max(1, min(size, len(some) // 2))
                break
        else:
            if size == 1:
                return left
            size //= 2
    return left


class Soak:
    def __init__(self, faulty_stack: FaultyStack) -> None:
        self.faulty_stack = faulty_stack

    def chapter(self, seed: str, faults: Sequence[TimedFault]) -> Scenario:
        """Run one chapter and return its scenario. Raises AssertionError with a list of the broken promises."""
        scenario = Scenario(self.faulty_stack, f"soak {seed}", random.Random(seed).randrange(2**31))
        load = self._load(scenario)
        with scenario.under_load(lambda: list(islice(load, 6))) as phones, ExitStack() as until_the_end:
            began, sent, due = time.monotonic(), 0, list(faults)
            active: list[tuple[float, ExitStack]] = []
            while (now := time.monotonic() - began) < LOAD_S or due or active:
                while due and due[0].at_s <= now:
                    applied = until_the_end.enter_context(ExitStack())
                    applied.enter_context(self._apply(fault := due.pop(0)))
                    active.append((now + fault.lasts_s, applied))
                for end in [end for end in active if end[0] <= now]:
                    end[1].close()
                    active.remove(end)
                if now < LOAD_S and sent < now * REQUESTS_PER_S:
                    phones.send(islice(load, 1))
                    sent += 1
                self._keep_snowflake_running()
                time.sleep(0.05)
            self._keep_snowflake_running()
            scenario.repaired()
        return scenario

    def _keep_snowflake_running(self) -> None:
        if not self.faulty_stack.snowflake_runs:
            self.faulty_stack.restart_snowflake()

    def _load(self, scenario: Scenario) -> Iterator[Post]:
        begins_at = datetime.now(UTC) - timedelta(hours=8)
        return chain.from_iterable(
            scenario.morning(begins_at=begins_at, trucks=4, first_truck=4 * n) for n in count()
        )

    @contextmanager
    def _apply(self, fault: TimedFault) -> Iterator[None]:
        faulty_stack = self.faulty_stack
        self._keep_snowflake_running()
        match fault.what:
            case "kill Snowflake":
                faulty_stack.kill_snowflake()
                yield
            case "stop LocalStack":
                with faulty_stack.localstack_stopped():
                    yield
            case "cut AWS off":
                faulty_stack.proxy.stop_listening()
                try:
                    yield
                finally:
                    faulty_stack.proxy.listen()
            case "fill Snowflake's disk":
                with faulty_stack.snowflakes_disk_full():
                    yield
            case _:
                with faulty_stack.proxy.rules(fault.rule()):
                    yield


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the run; 0 derives a seed from the clock"
    )
    parser.add_argument("--chapter", type=int, default=1, help="number of the first chapter")
    parser.add_argument("--port", type=int, default=4766)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = options.seed or time.time_ns() % 1_000_000
    print(f"seed {seed}", flush=True)
    port = int(environment.get("MILKRUN_PORT", options.port))
    of_stack = {"MILKRUN_LOCAL": ".local-faults", **environment, "MILKRUN_PORT": str(port)}
    stack = Stack.of(of_stack | {"MILKRUN_LAMBDA_ENDPOINT": proxy_url(port)})
    running: AbstractContextManager[object] = ExitStack() if stack.is_up() else stack
    with running, FaultyStack(stack).open() as faulty_stack:
        return run(Soak(faulty_stack), seed, options.chapter, options.minutes * 60)


def run(soak: Soak, seed: int, first: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    totals = {"chapters": 0, "requests": 0, "events": 0, "failed attempts": 0}
    for n in count(first):
        if time.monotonic() > end:
            break
        name, faults = f"{seed}/{n}", faults_of(f"{seed}/{n}")
        try:
            [result] = soak.chapter(name, faults).results
        except AssertionError as broken:
            report_failure(soak, name, faults, broken)
            return 1
        totals = {
            "chapters": totals["chapters"] + 1,
            "requests": totals["requests"] + len(result.exchanges),
            "events": totals["events"] + result.events,
            "failed attempts": totals["failed attempts"] + result.failures,
        }
        print(
            f"chapter {n}: {len(faults)} faults, {len(result.exchanges)} requests, "
            f"{result.failures} failed attempts, recovered after {result.recovered_s:.0f} s",
            flush=True,
        )
    print(f"No promise was broken. Totals: {totals}; nothing was lost or duplicated, and no visit was wrong.")
    return 0


def report_failure(soak: Soak, name: str, faults: Sequence[TimedFault], broken: AssertionError) -> None:
    """Print the broken promises, and the shortest list of faults found that still breaks a promise."""
    seed, _, n = name.partition("/")
    print(f"Chapter {n} broke a promise:\n{broken}\nFaults:", *faults, sep="\n  ", flush=True)
    end = time.monotonic() + SHRINK_S

    def fails(some: Sequence[TimedFault]) -> bool:
        try:
            soak.chapter(name, some)
        except AssertionError:
            return True
        return False

    left = shrunk(faults, fails, lambda: time.monotonic() < end)
    if len(left) < len(faults):
        print(
            "These faults alone break a promise:",
            *(map(str, left) if left else ["none (the load alone breaks it)"]),
            sep="\n  ",
        )
    print(f"To repeat this chapter: make soak SEED={seed} CHAPTER={n}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
