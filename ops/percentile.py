"""The percentile calculation shared by the console, `milkrun send`, `milkrun demo` and the load test."""

import math
from collections.abc import Iterable


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the nearest-rank percentile, which is always one of the values; 0.0 if there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else 0.0
