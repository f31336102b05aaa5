"""A time zone for tests that need it to be a certain time of day."""

from datetime import UTC, datetime


def zone_in_which_it_is_one_in_the_afternoon() -> str:
    """Return a time zone in which it is between 13:00 and 14:00 now, so that the past twelve hours are today's."""
    # As in POSIX, + is west of Greenwich in these names.
    return f"Etc/GMT{datetime.now(UTC).hour - 13:+d}"
