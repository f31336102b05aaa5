"""The lifetime of the items in the visits table (DynamoDB's time to live)."""

from datetime import datetime, timedelta

# Ten days longer than MAX_AGE, so that the events of the days before an accepted event are still stored.
KEPT_FOR = timedelta(days=90)
OPEN_KEPT_FOR = timedelta(days=400)  # for logs with an open visit


def expires_at(at: datetime, kept_for: timedelta = KEPT_FOR) -> int:
    """Return the expiry time, in epoch seconds, of an item whose last event occurred at `at`."""
    return int((at + kept_for).timestamp())
