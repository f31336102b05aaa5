"""Days of the fleet, from midnight to midnight in the stage's time zone (fleetTimeZone)."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone with this name. Raises ValueError if the IANA database does not contain it."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone; use an IANA name such as Europe/Amsterdam") from None


def bounds(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return the midnights at which a day begins and ends, in UTC. A day with a clock change has 23 or 25 hours."""
    first, last = (datetime.combine(day + timedelta(days=n), time(), zone).astimezone(UTC) for n in (0, 1))
    return first, last


def day_of(at: datetime, zone: ZoneInfo) -> date:
    return at.astimezone(zone).date()
