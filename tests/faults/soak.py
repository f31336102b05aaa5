"""`make soak MINUTES=30 SEED=7`: random faults at random times under steady load, chapter after chapter.

A chapter is a minute of load with some blows; then everything must arrive, and the next one begins. The first
chapter that breaks a promise ends the run: its blows are tried again without some of them, as long as there is
time, and the shortest list that still breaks it is printed, with the seed.
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

from tests.faults.proxy import Fault, Rule
from tests.faults.story import Story
from tests.faults.yard import Yard, proxy_url
from tools.fleet.rounds import Post
from tools.stack.stack import Stack

LOAD_S = 45.0
REQUESTS_PER_S = 4.0
MOST_BLOWS = 5
SHRINK_S = 600.0

# What may happen to whom. Names are the proxy's.
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
    ("dynamodb", "Batch*", "consume", (Fault.PARTLY, Fault.KILL_BEFORE)),
    ("events", "PutEvents", "consume", (Fault.PARTLY, Fault.THROTTLED, Fault.CUT_AFTER, Fault.KILL_AFTER)),
    ("api", "POST", "phone", (Fault.CUT_AFTER, Fault.HALF_ANSWER, Fault.THROTTLED)),
    ("sqs", "*", "snowflake", (Fault.CUT_AFTER, Fault.REFUSED, Fault.KILL_BEFORE)),
    ("*", "*", "*", (Fault.REFUSED, Fault.SLOW, Fault.CUT_AFTER)),
)
ON_THE_WHOLE = ("kill Snowflake", "stop LocalStack", "cut AWS off", "fill Snowflake's disk")


@dataclass(frozen=True, slots=True)
class Blow:
    """`what` is one of ON_THE_WHOLE, or empty for what the proxy does to calls."""

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
        # Who is killed at every call never gets anywhere: that is no fault but a bug.
        times = 3 if self.fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER) else None
        return Rule(
            self.fault, self.service, self.operation, self.caller, self.share, times=times, seed=self.seed
        )


def blows_of(seed: str) -> list[Blow]:
    """The same for the same seed."""
    chance = random.Random(f"{seed}/blows")
    found: list[Blow] = []
    on_the_whole = chance.sample(
        ON_THE_WHOLE, len(ON_THE_WHOLE)
    )  # each once: two at a time would undo each other
    for n in range(chance.randint(2, MOST_BLOWS)):
        at_s, lasts_s = chance.uniform(0, LOAD_S - 10), chance.uniform(1, 8)
        if chance.random() < 0.25 and on_the_whole:
            found.append(Blow(at_s, min(lasts_s, 5), on_the_whole.pop()))
            continue
        service, operation, caller, faults = chance.choice(CALLS)
        share = chance.choice((0.1, 0.3, 0.6, 1.0)) if service != "*" else 0.1
        blow = Blow(at_s, lasts_s, "", chance.choice(faults), service, operation, caller, share, seed=n)
        found.append(blow)
    return sorted(found, key=lambda blow: blow.at_s)


def shrunk(
    blows: Sequence[Blow], fails: Callable[[Sequence[Blow]], bool], has_time: Callable[[], bool]
) -> list[Blow]:
    """The shortest list found that still fails: first halves and quarters are left out, then single blows."""
    left, size = list(blows), max(1, len(blows) // 2)
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
    def __init__(self, yard: Yard) -> None:
        self.yard = yard

    def chapter(self, seed: str, blows: Sequence[Blow]) -> Story:
        """Play it. Raises AssertionError with what was broken."""
        story = Story(self.yard, f"soak {seed}", random.Random(seed).randrange(2**31))
        load = self._load(story)
        with story.under_load(lambda: list(islice(load, 6))) as phones, ExitStack() as until_the_end:
            began, sent, due = time.monotonic(), 0, list(blows)
            under_way: list[tuple[float, ExitStack]] = []
            while (now := time.monotonic() - began) < LOAD_S or due or under_way:
                while due and due[0].at_s <= now:
                    struck = until_the_end.enter_context(ExitStack())
                    struck.enter_context(self._struck(blow := due.pop(0)))
                    under_way.append((now + blow.lasts_s, struck))
                for end in [end for end in under_way if end[0] <= now]:
                    end[1].close()
                    under_way.remove(end)
                if now < LOAD_S and sent < now * REQUESTS_PER_S:
                    phones.send(islice(load, 1))
                    sent += 1
                self._keep_snowflake_running()
                time.sleep(0.05)
            self._keep_snowflake_running()
            story.mended()
        return story

    def _keep_snowflake_running(self) -> None:
        if not self.yard.snowflake_runs:
            self.yard.restart_snowflake()

    def _load(self, story: Story) -> Iterator[Post]:
        begins_at = datetime.now(UTC) - timedelta(hours=8)
        return chain.from_iterable(
            story.morning(begins_at=begins_at, trucks=4, first_truck=4 * n) for n in count()
        )

    @contextmanager
    def _struck(self, blow: Blow) -> Iterator[None]:
        yard = self.yard
        self._keep_snowflake_running()
        match blow.what:
            case "kill Snowflake":
                yard.kill_snowflake()
                yield
            case "stop LocalStack":
                with yard.localstack_stopped():
                    yield
            case "cut AWS off":
                yard.proxy.stop_listening()
                try:
                    yield
                finally:
                    yard.proxy.listen()
            case "fill Snowflake's disk":
                with yard.snowflakes_disk_full():
                    yield
            case _:
                with yard.proxy.rules(blow.rule()):
                    yield


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0, help="0: by the clock, and printed")
    parser.add_argument("--chapter", type=int, default=1, help="begin with this one")
    parser.add_argument("--port", type=int, default=4766)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = options.seed or time.time_ns() % 1_000_000
    print(f"seed {seed}", flush=True)
    port = int(environment.get("MILKRUN_PORT", options.port))
    of_stack = {"MILKRUN_LOCAL": ".local-faults", **environment, "MILKRUN_PORT": str(port)}
    stack = Stack.of(of_stack | {"MILKRUN_LAMBDA_ENDPOINT": proxy_url(port)})
    running: AbstractContextManager[object] = ExitStack() if stack.is_up() else stack
    with running, Yard(stack).open() as yard:
        return run(Soak(yard), seed, options.chapter, options.minutes * 60)


def run(soak: Soak, seed: int, first: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    totals = {"chapters": 0, "requests": 0, "events": 0, "5xx": 0}
    for n in count(first):
        if time.monotonic() > end:
            break
        name, blows = f"{seed}/{n}", blows_of(f"{seed}/{n}")
        try:
            [result] = soak.chapter(name, blows).results
        except AssertionError as broken:
            tell(soak, name, blows, broken)
            return 1
        totals = {
            "chapters": totals["chapters"] + 1,
            "requests": totals["requests"] + len(result.exchanges),
            "events": totals["events"] + result.events,
            "5xx": totals["5xx"] + result.failures,
        }
        print(
            f"chapter {n}: {len(blows)} blows, {len(result.exchanges)} requests, "
            f"{result.failures} 5xx, recovered after {result.recovered_s:.0f} s",
            flush=True,
        )
    print(f"No promise was broken: {totals}, lost 0, doubled 0, wrong visits 0")
    return 0


def tell(soak: Soak, name: str, blows: Sequence[Blow], broken: AssertionError) -> None:
    """What was broken, and the shortest story that breaks a promise again."""
    seed, _, n = name.partition("/")
    print(f"Broken in chapter {n}:\n{broken}\nBy these blows:", *blows, sep="\n  ", flush=True)
    end = time.monotonic() + SHRINK_S

    def fails(some: Sequence[Blow]) -> bool:
        try:
            soak.chapter(name, some)
        except AssertionError:
            return True
        return False

    left = shrunk(blows, fails, lambda: time.monotonic() < end)
    if len(left) < len(blows):
        print("This is enough:", *(map(str, left) if left else ["the load alone"]), sep="\n  ")
    print(f"Again: make soak SEED={seed} CHAPTER={n}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
