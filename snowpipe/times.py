"""Times as people give them."""

from datetime import UTC, datetime

from snowpipe.refusal import Refusal


def instant(text: str) -> datetime:
    """ISO-8601, or a phrase such as `2 hours ago`, `yesterday` or `now`; aware, in UTC (which is assumed)."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        import dateparser  # 0.3 s: only for phrases

        settings = {"TIMEZONE": "UTC", "RETURN_AS_TIMEZONE_AWARE": True}
        phrase = dateparser.parse(text, languages=["en"], settings=settings)
        if phrase is None:
            raise Refusal(f"{text!r} is no time: give ISO-8601 or a phrase such as '2 hours ago'") from None
        found = phrase
    try:
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except OverflowError:
        raise Refusal(f"{text!r} is before the year 1 or after 9999") from None


def literal(at: datetime) -> str:
    """The instant as a SQL literal."""
    return f"'{at.astimezone(UTC).isoformat(timespec='milliseconds')}'::TIMESTAMP_LTZ"
