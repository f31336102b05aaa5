"""The time, as an argument: so that 7, 14 and 64 days can pass in a test."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

type Clock = Callable[[], datetime]


def clock_ahead(days: float) -> Clock:
    ahead = timedelta(days=days)
    return lambda: datetime.now(UTC) + ahead
