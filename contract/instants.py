"""The accepted formats of device times.

An event is stored with the original text of its time, so dbt, the SQL files, Spark and SQLite must accept the same
formats. All of them are tested with the table in tests/unit/contract/instants.py.
"""

import re
from datetime import UTC, datetime

from contract.event_limits import MAX_AGE_AT_RECEIPT, MAX_CLOCK_AHEAD

_DATE_AND_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?"
_HOUR, _SIXTIETH = "(?:[01][0-9]|2[0-3])", "[0-5][0-9]"
# RFC 3339 and the variants of ISO 8601 and common formatters: +0000 (Java, iOS), +00 (PostgreSQL), a space
# before the time or the offset (Ruby, NSDate), a comma (ISO 8601), no seconds (java.time), a minus sign U+2212.
# The macro `instant` of snowpipe/dbt has the same pattern.
_OFFSET = f" ?(?:[Zz]|[-+\u2212]{_HOUR}(?::?{_SIXTIETH})?)"
PATTERN = f"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[Tt ]{_HOUR}:{_SIXTIETH}(?::{_SIXTIETH}(?:[.,][0-9]+)?)?{_OFFSET}"
_is_instant = re.compile(_DATE_AND_TIME + _OFFSET).fullmatch  # fromisoformat checks the ranges

_REJECTED_FORMS = [
    (r"[-+]?[0-9]{9,}([.,][0-9]+)?", "a Unix timestamp"),
    (r"(?s).*[0-9]\s?[AaPp]\.?[Mm]\b.*", "a time on a 12-hour clock"),
    (_DATE_AND_TIME, "a time without an offset"),
    (r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "a date without a time"),
    (_DATE_AND_TIME + r" ?[A-Za-z][A-Za-z/_]+", "a time with the name of a time zone, not an offset"),
    (r"[0-9]{8}[Tt ][0-9].*", "a date without hyphens"),
    (r"[0-9]{4}-?W[0-9].*", "a week date"),
    (_DATE_AND_TIME + r"( ?[Zz]| ?[-+][0-9]{2}:?[0-9]{2})", "a day or time that does not exist"),
]


def instant(text: str) -> datetime:
    """Parse a time in one of the accepted formats. Returns it in UTC, truncated to microseconds. Raises ValueError."""
    if not _is_instant(text):
        raise ValueError("not a time with an offset")
    try:
        if text[10] != "T" or text[-1] != "Z":
            text = text[:11].upper() + text[11:].upper().replace(" ", "").replace("\u2212", "-")
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("not a time") from error


def rejected_form(text: str) -> str:
    """Return a description of a string's unsupported time format, or "" if the format is unknown."""
    return next((name for form, name in _REJECTED_FORMS if re.fullmatch(form, text)), "")


def fault_at_receipt(created_at: datetime, received_from: datetime, received_until: datetime) -> str:
    """Return the rejection code if a device time is too old or too far in the future, otherwise "".

    An archive key contains only the hour of receipt, so readers of the archive accept every event that was valid at
    some time between `received_from` and `received_until`.
    """
    if created_at - received_until > MAX_CLOCK_AHEAD:
        return "created_at_in_future"
    return "created_at_too_old" if received_from - created_at > MAX_AGE_AT_RECEIPT else ""
