"""Parse the times that users enter, and write times as SQL literals."""

from datetime import UTC, datetime

from cli.refusal import Refusal


def instant(text: str) -> datetime:
    """Parse an ISO 8601 time or a phrase such as `2 hours ago`; return it in UTC, which is also the default
    time zone.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        import dateparser  # takes 0.3 s to import, and only phrases need it

        settings = {"TIMEZONE": "UTC", "RETURN_AS_TIMEZONE_AWARE": True}
        phrase = dateparser.parse(text, languages=["en"], settings=settings)
        if phrase is None:
            raise Refusal(
                f"{text!r} is not a time: give an ISO 8601 time or a phrase such as '2 hours ago'"
            ) from None
        found = phrase
    try:
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except OverflowError:
        raise Refusal(f"{text!r} is before the year 1 or after the year 9999") from None


def literal(at: datetime) -> str:
    """Return a time as a SQL literal of type TIMESTAMP_LTZ."""
    return f"'{at.astimezone(UTC).isoformat(timespec='milliseconds')}'::TIMESTAMP_LTZ"
