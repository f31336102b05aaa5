"""Test parsing the times that users enter."""

from datetime import UTC, datetime, timedelta

import pytest

from cli.parse_time import parse_time

NOW = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-16T08:00Z", datetime(2026, 11, 16, 8, tzinfo=UTC)),
        ("2026-11-16T09:00+01:00", datetime(2026, 11, 16, 8, tzinfo=UTC)),
        ("2026-11-16", datetime(2026, 11, 16, tzinfo=UTC)),
        ("2026-11-16 8:00", datetime(2026, 11, 16, 8, tzinfo=UTC)),
        ("2026-11-16T8:00-05:00", datetime(2026, 11, 16, 13, tzinfo=UTC)),
        ("8:00", datetime(2026, 11, 22, 8, tzinfo=UTC)),
        ("2 hours ago", NOW - timedelta(hours=2)),
        ("1.5 hours ago", NOW - timedelta(minutes=90)),
        ("now", NOW),
        ("Nov 3", datetime(2026, 11, 3, tzinfo=UTC)),
        ("3rd of November 2026 10am", datetime(2026, 11, 3, 10, tzinfo=UTC)),
        ("3 Nov 10:30", datetime(2026, 11, 3, 10, 30, tzinfo=UTC)),
    ],
)
def test_time_is_parsed_from_iso_8601_or_a_phrase(text: str, at: datetime) -> None:
    parsed = parse_time(text, NOW)
    assert parsed == at
    assert parsed.tzinfo is UTC


def test_invalid_time_raises_value_error() -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_time("soonish, perhaps", NOW)


@pytest.mark.parametrize(
    "text",
    [
        "05/11/2026",
        "05.11.2026 08:00",
        "2026-13-01",
        "2026-02-30 8:00",
        "2026-11",
        "2026",
        "90",
        "November 2026",
        "march",
        "Sept 10am",
        "10:00 June",
    ],
)
def test_time_that_could_only_be_guessed_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_time(text, NOW)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_time_before_year_1_or_after_year_9999_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="year"):
        parse_time(text, NOW)
