"""Write strings and times as SQL literals. The code must be valid in Python 3.11, which Glue runs."""

from datetime import UTC, datetime


def quoted(text: str) -> str:
    """Return the text as a SQL string literal, for parts of a statement that accept no bind variable."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def timestamp_literal(at: datetime) -> str:
    """Return a time as a SQL literal of type TIMESTAMP_LTZ."""
    return f"'{at.astimezone(UTC).isoformat(timespec='milliseconds')}'::TIMESTAMP_LTZ"
