"""Is it a leak? Memory against work done, or time: the robust slope, its lower bound, and what is allowed."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

# The first part of any run fills caches, pools and arenas: it is looked at by nobody.
WARM_UP = 0.4
# Below this much growth in all, allocators' own steps cannot be told from a leak.
NOISE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Leak:
    """`slope` in bytes an x; `least` is its lower bound at 95 %. A leak is one whose least is over what is allowed."""

    slope: float
    least: float
    allowed: float
    grown: float
    noise: float

    @property
    def found(self) -> bool:
        return self.least > self.allowed and self.grown > self.noise


def judged(xs: Sequence[float], sizes: Sequence[float], allowed: float, noise: float = NOISE_BYTES) -> Leak:
    """Theil and Sen's slope: the median of the slopes of all pairs, deaf to single jumps; Sen's own lower bound.

    (P. K. Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968.)
    """
    first = int(len(xs) * WARM_UP)
    points = list(zip(xs[first:], sizes[first:], strict=True))
    if len(points) < 8:
        raise ValueError(f"{len(points)} looks at the steady part are too few to judge by")
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0])
    n = len(points)
    margin = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    least = slopes[max(0, int((len(slopes) - margin) / 2))]
    fifth = max(1, n // 5)
    grown = statistics.median(y for _, y in points[-fifth:]) - statistics.median(y for _, y in points[:fifth])
    return Leak(statistics.median(slopes), least, allowed, grown, noise)
