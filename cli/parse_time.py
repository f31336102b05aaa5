"""Parse the times that users enter: ISO 8601, and phrases such as `2 hours ago` and `now`."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime

# A numeric date, or a bare number. dateparser would guess that 05/11/2026 is in May, and that 90 is the year 1990.
_NUMBERS = re.compile(r"(?<![\d:.])\d+(?:[/-]\d+)+|\d+\.\d+\.\d+|^\s*\d{1,9}\s*$")
# The name of a month. If the text has no day (`_DAY`), dateparser uses the day of `now`.
_MONTH = re.compile(
    r"\b(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|nov(ember)?"
    r"|dec(ember)?)\b",
    re.IGNORECASE,
)
_DAY = re.compile(r"(?<![\d:.])\d{1,2}(?![\d:]|\s?[ap]\.?m)", re.IGNORECASE)


def parse_time(text: str, now: datetime) -> datetime:
    """Parse a time or an English phrase relative to `now`; return it in UTC, which is also the default time zone.

    Raises ValueError if the text is invalid.
    """
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        import dateparser  # takes 0.3 s to import, and only phrases need it

        found = None
        has_day = not _MONTH.search(text) or _DAY.search(text)
        if has_day and all(map(_is_iso_date, _NUMBERS.findall(text))):
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


def _is_iso_date(text: str) -> bool:
    with suppress(ValueError):
        year, month, day = text.split("-")
        return len(year) == 4 and bool(date(int(year), int(month), int(day)))
    return False
