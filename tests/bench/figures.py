"""The figures of a benchmark, and the command line that all benchmarks share: `python -m tests.bench.<name>
[--json]`.

Each of the `ratios` is a figure divided by another one of the same run, so it can be compared between machines.
`rates` are other figures; most are specific to this machine. `series` are points [x, y] that show growth.
"""

import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

type Points = list[tuple[float, float]]
type Part = dict[str, Any]
"""The figures of one part of the run as JSON, with the time and duration of the part, the machine and the machine's
load.
"""
type Parts = dict[str, Part]


@dataclass
class Figures:
    ratios: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    series: dict[str, Points] = field(default_factory=dict)

    def add(self, other: "Figures") -> None:
        self.ratios |= other.ratios
        self.rates |= other.rates
        for name, points in other.series.items():
            self.series[name] = sorted({**dict(self.series.get(name, ())), **dict(points)}.items())


def exponent(points: Points) -> float:
    """Return the exponent k of y ~ x^k, fitted over the upper decade of x, where fixed costs do not hide the
    growth, or over the last three points if the decade has fewer.
    """
    ordered = sorted(points)
    upper = [(x, y) for x, y in ordered if x >= ordered[-1][0] / 10]
    logs = [(math.log(x), math.log(max(y, 1e-9))) for x, y in (upper if len(upper) > 2 else ordered[-3:])]
    x_mean, y_mean = (statistics.mean(column) for column in zip(*logs, strict=True))
    spread = sum((x - x_mean) ** 2 for x, _ in logs)
    return float(sum((x - x_mean) * (y - y_mean) for x, y in logs) / spread)


def machine() -> str:
    model = next(
        (
            x.partition(": ")[2]
            for x in Path("/proc/cpuinfo").read_text().splitlines()
            if x.startswith("model name")
        ),
        "",
    )
    return f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs ({model})"


def progress(words: str) -> None:
    print(f"  … {words}", file=sys.stderr, flush=True)


def main(measure: Callable[[], Figures | Iterator[Figures]], arguments: Sequence[str]) -> int:
    """Run a benchmark and print its figures. `measure` returns the figures or, if it takes hours, yields all figures
    so far after each step.
    """
    made = measure()
    figures = Figures()
    for figures in [made] if isinstance(made, Figures) else made:
        if "--json" in arguments:
            print(json.dumps(asdict(figures)), flush=True)
    if "--json" in arguments:
        return 0
    for name, value in {**figures.ratios, **figures.rates}.items():
        print(f"{name:50} {value:12.3f}")
    for name, points in figures.series.items():
        if len(points) < 2:
            continue
        print(
            f"{name:50} grows as x^{exponent(points):.2f}  " + "  ".join(f"{x:g}:{y:.3g}" for x, y in points)
        )
    return 0
