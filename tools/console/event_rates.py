"""The number of events that passed a stage of the pipeline in each second of the last hour."""

from collections.abc import Mapping

WINDOW_MINUTES = 60
WINDOW_S = WINDOW_MINUTES * 60
RATE_S = 60


class Meter:
    """Event counts per second in the last hour (the window). Times are epoch seconds. `total` also includes
    events before the window.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, int] = {}
        self.total = 0
        self.last_at: float | None = None
        self.lag_s: float | None = None
        # Counts before this second have been dropped, but a store may report them again.
        self._dropped_to = 0

    def add(self, at: float, n: int) -> None:
        if not n:
            return
        second = int(at)
        self._seconds[second] = self._seconds.get(second, 0) + n
        self.total += n
        self.last_at = at if self.last_at is None else max(self.last_at, at)

    def touch(self, at: float) -> None:
        """Record that the stage was active at this time, without counting an event."""
        self.last_at = at if self.last_at is None else max(self.last_at, at)

    def put(self, counts: Mapping[int, int], since: int) -> None:
        """Replace the counts of all seconds from `since` on with the counts that a store reports."""
        for second in [second for second in self._seconds if second >= since]:
            self.total -= self._seconds.pop(second)
        fresh = {second: n for second, n in counts.items() if second >= self._dropped_to}
        self._seconds |= fresh
        self.total += sum(fresh.values())
        if counts:
            newest = float(max(counts))
            self.last_at = newest if self.last_at is None else max(self.last_at, newest)

    def per_minute(self, now: float) -> list[int]:
        """Return the counts per minute of the last hour, the oldest first and the current minute last.
        Discard the counts of older seconds.
        """
        minutes = [0] * WINDOW_MINUTES
        newest = int(now // 60)
        self._dropped_to = (newest - WINDOW_MINUTES + 1) * 60
        gone = []
        for second, n in self._seconds.items():
            ago = newest - second // 60
            if ago >= WINDOW_MINUTES:
                gone.append(second)
            else:
                # An event from a clock that is slightly ahead of ours counts for the current minute.
                minutes[WINDOW_MINUTES - 1 - max(0, ago)] += n
        for second in gone:
            del self._seconds[second]
        return minutes

    def rate(self, now: float) -> float:
        """Return the average number of events per second over the last minute."""
        return round(sum(n for second, n in self._seconds.items() if second > now - RATE_S) / RATE_S, 2)

    def first_after(self, at: float) -> float | None:
        return min((second for second in self._seconds if second > at), default=None)
