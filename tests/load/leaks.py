"""Detect memory leaks: estimate the slope of memory over work or time, and compare its lower bound with the
allowed growth.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

# Ignore the first share of each run, in which caches, pools and arenas are filled.
WARM_UP = 0.4
# A smaller total growth cannot be distinguished from the steps in which allocators grow.
NOISE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Leak:
    """An estimated growth of memory. `slope` is in bytes per unit of x (an invocation or a second), and `lower_bound`
    is the lower end of its 95 % confidence interval. It is a leak if the bound exceeds `allowed` and the total growth
    exceeds `noise`.
    """

    slope: float
    lower_bound: float
    allowed: float
    grown: float
    noise: float

    @property
    def found(self) -> bool:
        return self.lower_bound > self.allowed and self.grown > self.noise


def estimate(xs: Sequence[float], sizes: Sequence[float], allowed: float, noise: float = NOISE_BYTES) -> Leak:
    """Return the Theil-Sen slope (the median slope of all pairs of points, robust against single jumps) and
    its lower bound.

    (P. K. Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968.)
    """
    first = int(len(xs) * WARM_UP)
    points = list(zip(xs[first:], sizes[first:], strict=True))
    if len(points) < 8:
        raise ValueError(f"{len(points)} samples after the warm-up are too few")
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0])
    n = len(points)
    margin = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    lower_bound = slopes[max(0, int((len(slopes) - margin) / 2))]
    fifth = max(1, n // 5)
    grown = statistics.median(y for _, y in points[-fifth:]) - statistics.median(y for _, y in points[:fifth])
    return Leak(statistics.median(slopes), lower_bound, allowed, grown, noise)
