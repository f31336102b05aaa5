"""The simulated latency of a notification between the queue and the pipe, in seconds or as a range of seconds."""

from typing import NamedTuple


class Latency(NamedTuple):
    """A uniformly distributed time between two bounds in seconds."""

    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, text: str) -> "Latency":
        """Parse `30` or `5-60` (seconds). Raises ValueError if the text is invalid."""
        low, _, high = text.partition("-")
        latency = cls(float(low), float(high or low))
        if not 0 <= latency.low <= latency.high:
            raise ValueError(text)
        return latency


AT_ONCE = Latency()
