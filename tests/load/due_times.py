"""Compute when each request is due: at a steady rate, in bursts, or on a ramp."""

import math
from collections.abc import Iterator

from tests.load.load_profile import Phase


def due_times(phase: Phase) -> Iterator[float]:
    """Yield the time at which each request is due, in seconds after the start of the phase."""
    if phase.at_once:
        for pulse in range(int(phase.seconds // phase.every)):
            yield from [pulse * phase.every] * phase.at_once
        return
    # Request n is due when the integral of the rate reaches n.
    growth = (phase.last - phase.first) / phase.seconds
    for n in range(int((phase.first + phase.last) / 2 * phase.seconds)):
        if abs(growth) < 1e-9:
            yield n / phase.first
        else:
            due = (math.sqrt(phase.first**2 + 2 * growth * n) - phase.first) / growth
            yield min(max(0.0, due), phase.seconds)
