"""The results of the load test on the local stack, and its pass criteria.

The test fails if requests are not delivered, events are lost, queues do not drain, or memory leaks, and if there are
too few memory samples to detect a leak.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.load.leaks import NOISE_BYTES, Leak, estimate
from tests.load.load_profile import STEADY, Phase, window
from tests.load.send_load import Sent
from tests.load.watch import KEEPERS, Sample

DRAIN_S = 180.0
# With fewer samples, as may happen on a very busy machine, the run fails without a verdict on leaks.
MIN_SAMPLES = 20

# Allowed growth: a function's environment lives for some hours on AWS, and may use a tenth of its free memory
# in four hours. In a working day of eight hours, each other process may grow by as much as would bring
# the whole stack to 2 GiB.
FUNCTION_MB = {"ingest": 1024, "redrive": 512, "consume": 512, "check": 256}
LIFE_S = 4 * 3600
# The consumer caches the keys of the last 4,096 pairs and times; on a laptop it takes hours to fill this cache.
# tests.load.functions checks the consumer's growth after the cache is full.
FILLING_BYTES = {"consume": 6 * 2**20}
STACK_BYTES = 2 * 2**30
DAY_S = 8 * 3600


@dataclass(frozen=True)
class Load:
    """The results of a load test. `problems` is empty if every pass criterion is met."""

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
            *([] if self.reconciled else ["`milkrun reconcile` found differences"]),
            *(
                [f"only {self.steady_samples} memory samples in the steady phase; {MIN_SAMPLES} are needed"]
                if self.steady_samples < MIN_SAMPLES
                else []
            ),
            *[
                f"{name} leaks: {leak.slope * 3600 / 2**20:.0f} MiB per hour"
                for name, leak in self.leaks.items()
                if leak.found
            ],
        ]


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
