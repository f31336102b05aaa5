"""Write strings, times and names in SQL. The code must be valid in Python 3.11, which Glue runs."""

import re
from datetime import UTC, datetime


def quoted(text: str) -> str:
    """Return the text as a SQL string literal, for parts of a statement that accept no bind variable."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return an object's name as SHOW returns it, quoted if necessary, such as `"data-engineers"`."""
    return name if re.fullmatch("[A-Z_][A-Z0-9_$]*", name) else '"' + name.replace('"', '""') + '"'


def timestamp_literal(at: datetime) -> str:
    """Return a time as a SQL literal of type TIMESTAMP_LTZ."""
    return f"'{at.astimezone(UTC).isoformat(timespec='milliseconds')}'::TIMESTAMP_LTZ"
