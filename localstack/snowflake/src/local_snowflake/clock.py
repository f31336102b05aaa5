"""The time as a dependency, so that 7, 14 and 64 days can pass in a test."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

type Clock = Callable[[], datetime]


class AdvancedClock:
    """A clock that is a number of days ahead."""

    def __init__(self, days_ahead: float = 0) -> None:
        self.days_ahead = days_ahead

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days_ahead)
