"""A circuit breaker that stops calling Kinesis for a while after Kinesis accepted none of a request's records."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from handler.publish_with_retries import MAX_ROUNDS, Published

OPEN_SECONDS = 5.0


@dataclass(slots=True)
class CircuitBreaker:
    """Opens when the stream accepts no record of a request. After OPEN_SECONDS, one request makes a trial call.

    Each execution environment has its own circuit breaker and handles one request at a time. The wall clock is used,
    because the monotonic clock stops while an environment is frozen.
    """

    now: Callable[[], float] = time.time
    opened_at: float | None = None

    def rounds(self) -> int:
        """Return how many rounds a request may make: 0 while the breaker is open, 1 for the trial, else MAX_ROUNDS."""
        if self.opened_at is None:
            return MAX_ROUNDS
        return 0 if 0 <= self.now() - self.opened_at < OPEN_SECONDS else 1

    def record(self, outcome: Published) -> None:
        if outcome.calls:
            self.opened_at = self.now() if outcome.refused and not outcome.taken else None
