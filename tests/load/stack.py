"""Put load on a running local stack at a steady rate, in bursts and on a ramp, and sample its memory and queues."""

import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ops.outputs import Outputs
from ops.percentile import percentile
from ops.polling import until
from tests.load.leaks import NOISE_BYTES, Leak, estimate
from tests.load.shapes import SENDERS, Phase, Sent, sent
from tests.load.watch import KEEPERS, Sample, Watch
from tools.fleet import rounds
from tools.fleet.client import Client
from tools.fleet.send import new_run_id
from tools.stack.settings import Settings

ROOT = Path(__file__).parents[2]
CLIENT_TIMEOUT_S = 120.0
DRAIN_S = 180.0
STEADY = "steady"
MIN_SAMPLES = 20  # With fewer samples, on a very busy machine, the run fails without a verdict on leaks

# Allowed growth: a function's environment lives for some hours on AWS, and may use a tenth of its free memory
# in four hours. The rest of the stack may grow to 2 GiB within a working day of eight hours.
FUNCTION_MB = {"ingest": 1024, "redrive": 512, "consume": 512, "check": 256}
LIFE_S = 4 * 3600
# The consumer caches the keys of the last 4,096 pairs and times; on a laptop it takes hours to fill this cache.
# tests.load.functions checks its growth after the cache is full.
FILLING_BYTES = {"consume": 6 * 2**20}
STACK_BYTES = 2 * 2**30
DAY_S = 8 * 3600


def phases(rate: float, steady_s: float) -> list[Phase]:
    return [
        Phase("warm-up", 30, rate, rate),
        Phase(STEADY, steady_s, rate, rate),
        Phase("burst", 60, at_once=int(10 * rate), every=20),
        Phase("ramp", 90, rate / 2, rate * 3),
    ]


@dataclass(frozen=True)
class Load:
    """The results of a load test. `problems` is empty if every expectation is met."""

    plan: Sequence[Phase]
    sent: Sequence[Sent]
    samples: Sequence[Sample]
    drained_s: float | None
    reconciled: bool
    leaks: Mapping[str, Leak]

    @property
    def steady_samples(self) -> int:
        first, last = window(self.plan, STEADY)
        return sum(first <= sample.at <= last for sample in self.samples)

    @property
    def problems(self) -> list[str]:
        undelivered = sum(not each.delivered for each in self.sent)
        return [
            *([f"{undelivered} requests were never delivered"] if undelivered else []),
            *([f"queues were not empty within {DRAIN_S:.0f} s"] if self.drained_s is None else []),
            *([] if self.reconciled else ["accepted, archived, loaded and consumed events are not equal"]),
            *(
                [f"only {self.steady_samples} memory samples in the steady phase"]
                if self.steady_samples < MIN_SAMPLES
                else []
            ),
            *[
                f"{name} leaks: {leak.slope * 3600 / 2**20:.0f} MiB per hour"
                for name, leak in self.leaks.items()
                if leak.found
            ],
        ]


def run(settings: Settings, outputs: Outputs, rate: float, steady_s: float, seed: int) -> Load:
    plan = phases(rate, steady_s)
    posts = rounds.endless(
        rounds.Plan(run=new_run_id(), begins_at=datetime.now(UTC) - timedelta(hours=8), seed=seed, trucks=40)
    )
    client = Client(outputs.endpoint, outputs.api_key, timeout_s=CLIENT_TIMEOUT_S, connections=SENDERS)
    began_at, began = datetime.now(UTC), time.monotonic()
    with Watch(settings, outputs, began) as watch:
        answers = sent(plan, posts, client, began)
        answered = time.monotonic()
        left = until(watch.waiting, lambda left: not left, timeout_s=DRAIN_S, every_s=1.0)
        drained_s = None if left else time.monotonic() - answered
    leaks = leaks_of(plan, watch.samples)
    return Load(plan, answers, watch.samples, drained_s, reconciled(settings, began_at), leaks)


def reconciled(settings: Settings, since: datetime) -> bool:
    """Return whether `milkrun reconcile` finds that all accepted events are archived, loaded and consumed.

    It ignores the last minute.
    """

    def reconcile() -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, "-m", "ops", "reconcile", "--from", since.isoformat(), "--json"],
            cwd=ROOT,
            env={**os.environ, "MILKRUN_LOCAL": str(settings.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    code, output = until(reconcile, lambda found: found[0] == 0, timeout_s=90, every_s=5)
    if code:
        print(output[-3000:], file=sys.stderr)
    return code == 0


def window(plan: Sequence[Phase], name: str) -> tuple[float, float]:
    """Return the start and end of a phase, in seconds after the start of the load."""
    start = 0.0
    for phase in plan:
        if phase.name == name:
            return start, start + phase.seconds
        start += phase.seconds
    raise LookupError(name)


def leaks_of(plan: Sequence[Phase], samples: Sequence[Sample]) -> dict[str, Leak]:
    """Estimate the memory growth of each process that is present in at least 80 % of the steady phase's samples.

    LocalStack and its Kinesis mock (KEEPERS) are left out. Returns {} if there are fewer than MIN_SAMPLES samples.
    """
    first, last = window(plan, STEADY)
    steady = [sample for sample in samples if first <= sample.at <= last]
    series: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in steady:
        for name, size in sample.memory.items():
            # DuckDB's buffers have their own limit, so they are not counted.
            bounded = sample.buffered if name.startswith("snowflake ") else 0
            series[name].append((sample.at, float(size - bounded)))
    if len(steady) < MIN_SAMPLES:
        return {}
    stack_now = sum(steady[0].memory.values())
    found = {}
    for name, points in series.items():
        what = name.rpartition(" ")[0]
        if what in KEEPERS or len(points) < 0.8 * len(steady):
            continue
        room = (
            0.1 * (FUNCTION_MB[what] * 2**20 - points[0][1]) / LIFE_S
            if what in FUNCTION_MB
            else max(0.0, STACK_BYTES - stack_now) / DAY_S
        )
        xs, sizes = zip(*points, strict=True)
        found[name] = estimate(xs, sizes, room, FILLING_BYTES.get(what, NOISE_BYTES))
    return found


# --- reports -----------------------------------------------------------------------------------


def latencies(load: Load) -> list[dict[str, object]]:
    """Return a table row per phase with the latencies that phones saw, measured from the time at which each
    request was due.
    """
    rows = []
    for phase in load.plan:
        of = [each for each in load.sent if each.phase == phase.name]
        seconds = [each.seconds for each in of]
        answers = Counter(str(status or "no response") for each in of for status in each.statuses)
        rows.append(
            {
                "phase": phase.name,
                "requests": len(of),
                "events": sum(each.events for each in of),
                "requests_per_s": round(len(of) / phase.seconds, 1),
                **{f"p{p:g}_ms": round(percentile(seconds, p) * 1000) for p in (50, 90, 99, 100)},
                "not_2xx": sum(n for status, n in answers.items() if not status.startswith("2")),
                "undelivered": sum(not each.delivered for each in of),
            }
        )
    return rows


def memories(load: Load) -> list[dict[str, object]]:
    """Return a table row per part of the stack: its number of processes, its memory at the start and end of
    the steady phase, its maximum, and its growth.
    """
    first, last = window(load.plan, STEADY)
    steady = [sample for sample in load.samples if first <= sample.at <= last]
    parts = sorted({name.rpartition(" ")[0] for sample in load.samples for name in sample.memory})
    requests = sum(each.phase == STEADY for each in load.sent)
    rows = []
    for part in parts:
        estimates = [leak for name, leak in load.leaks.items() if name.rpartition(" ")[0] == part]
        begin, end = (sum(of(sample, part)) / 2**20 for sample in (steady[0], steady[-1]))
        rows.append(
            {
                "part": part,
                "processes": max(len(of(sample, part)) for sample in load.samples),
                "mib_at_start": round(begin),
                "mib_at_end": round(end),
                "mib_max": round(max(sum(of(sample, part)) for sample in load.samples) / 2**20),
                "kib_per_request": round((end - begin) * 1024 / requests, 1) if part in KEEPERS else None,
                "mib_per_hour_max": _mib_per_hour([leak.slope for leak in estimates]),
                "mib_per_hour_allowed": _mib_per_hour(
                    [min(leak.allowed for leak in estimates)] if estimates else []
                ),
                "leaks": any(leak.found for leak in estimates),
            }
        )
    return rows


def of(sample: Sample, part: str) -> list[int]:
    return [size for name, size in sample.memory.items() if name.rpartition(" ")[0] == part]


def _mib_per_hour(slopes: Sequence[float]) -> float | None:
    return round(max(slopes) * 3600 / 2**20, 1) if slopes else None


def queues(load: Load) -> list[dict[str, object]]:
    """Return a table row per phase with the maximum length of each queue."""
    rows = []
    for phase in load.plan:
        first, last = window(load.plan, phase.name)
        inside = [sample.queues for sample in load.samples if first <= sample.at <= last]
        names = inside[0] if inside else {}
        rows.append({"phase": phase.name, **{name: round(max(q[name] for q in inside), 1) for name in names}})
    return rows
