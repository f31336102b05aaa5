"""An injectable clock, so that tests can advance the time by 7, 14 or 64 days."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

type Clock = Callable[[], datetime]


class AdvancedClock:
    """A clock that runs a number of days ahead of the system clock."""

    def __init__(self, days_ahead: float = 0) -> None:
        self.days_ahead = days_ahead

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days_ahead)
