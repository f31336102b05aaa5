"""Test the notes in the CSV output of `milkrun report`."""

import csv
import io
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from ops.daily_report import Report, as_csv


def test_csv_report_has_the_notes_about_missing_rows_and_an_unfinished_day() -> None:
    notes = ("The table of missing exits lists the first 5,000 of 7,000.", "The day is not over yet.")
    day = Report(
        date(2026, 11, 27), ZoneInfo("UTC"), datetime(2026, 11, 27, tzinfo=UTC), {"visits": 7000}, (), notes
    )
    rows = list(csv.reader(io.StringIO(as_csv(day))))
    assert rows[1:] == [["visits", "7000"], *([note] for note in notes)]
