"""The phases of the load on the local stack: a warm-up, a steady rate, bursts and a ramp."""

from collections.abc import Sequence
from dataclasses import dataclass

STEADY = "steady"
DEFAULT_RATE = 4.0  # requests per second, with up to 20 events each (`make load RATE=…`)
DEFAULT_STEADY_S = 240.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the load. `first` and `last` are the rates at its start and end, in requests per second. In
    a burst phase, `at_once` requests are sent together every `every` seconds.
    """

    name: str
    seconds: float
    first: float = 0.0
    last: float = 0.0
    at_once: int = 0
    every: float = 0.0


def phases(rate: float, steady_s: float) -> list[Phase]:
    return [
        Phase("warm-up", 30, rate, rate),
        Phase(STEADY, steady_s, rate, rate),
        Phase("burst", 60, at_once=int(10 * rate), every=20),
        Phase("ramp", 90, rate / 2, rate * 3),
    ]


def window(plan: Sequence[Phase], name: str) -> tuple[float, float]:
    """Return the start and end of a phase, in seconds after the start of the load."""
    start = 0.0
    for phase in plan:
        if phase.name == name:
            return start, start + phase.seconds
        start += phase.seconds
    raise LookupError(name)
