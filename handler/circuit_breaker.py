"""Skip Kinesis for a while after it accepted no record of a request."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from handler.publish import MAX_ROUNDS, Published

OPEN_SECONDS = 5.0


@dataclass(slots=True)
class CircuitBreaker:
    """After a request of which the stream accepted no record, skip the stream for OPEN_SECONDS, then try it once.

    Otherwise each request of an outage would hold its concurrency slot until its budget ends. Each execution
    environment has its own circuit breaker, because it handles one request at a time. It uses the wall clock,
    because the monotonic clock of a frozen environment stands still.
    """

    now: Callable[[], float] = time.time
    opened_at: float | None = None

    def rounds(self) -> int:
        """Return how many rounds of PutRecords calls this request may make.

        0 while the breaker is open, then 1, otherwise MAX_ROUNDS.
        """
        if self.opened_at is None:
            return MAX_ROUNDS
        return 0 if 0 <= self.now() - self.opened_at < OPEN_SECONDS else 1

    def record(self, outcome: Published) -> None:
        if outcome.calls:
            self.opened_at = self.now() if outcome.refused and not outcome.taken else None
