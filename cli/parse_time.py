"""Parse the times that users enter: ISO 8601, and phrases such as `2 hours ago` and `now`."""

from datetime import UTC, datetime


def parse_time(text: str, now: datetime) -> datetime:
    """Parse a time or an English phrase relative to `now`; return it in UTC, which is also the default time zone.

    Raises ValueError if the text is invalid.
    """
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        import dateparser  # takes 0.3 s to import, and only phrases need it

        found = dateparser.parse(
            text,
            languages=["en"],
            settings={
                "RELATIVE_BASE": now.astimezone(UTC).replace(tzinfo=None),
                "TIMEZONE": "UTC",
                "RETURN_AS_TIMEZONE_AWARE": True,
            },
        )
        if found is None:
            raise ValueError(
                f"{text!r} is not a time: give an ISO 8601 time such as 2026-11-16T08:00Z, or a phrase such as "
                "`2 hours ago`"
            ) from None
        at = found
    try:
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is before the year 1 or after the year 9999") from None
