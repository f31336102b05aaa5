"""Test the CSV file of visits."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from consumer import notifications
from consumer.visits import Pair, Visit
from contract.events import Fence
from tools.console import visits_csv
from tools.console.known_visits import KnownVisits


def test_csv_of_visits_contains_utc_and_local_times_and_escapes_formulas():
    row = notifications.fields_of(
        Pair("=cmd()", Fence("farm", "1")),
        Visit(
            datetime(2026, 11, 27, 23, 30, tzinfo=UTC), "e", datetime(2026, 11, 28, 0, 10, tzinfo=UTC), "x"
        ),
    )
    known = KnownVisits()
    known.read([row])
    amsterdam = ZoneInfo("Europe/Amsterdam")
    header, [line] = (
        visits_csv.header(amsterdam),
        visits_csv.as_csv(known.rows(), amsterdam).splitlines(),
    )
    assert header.endswith("entered (Europe/Amsterdam),left (Europe/Amsterdam)\r\n")
    assert line.startswith("'=cmd(),farm,1,2026-11-27T23:30:00.000Z,2026-11-28T00:10:00.000Z,2400.0")
    assert line.endswith("2026-11-28 00:30:00,2026-11-28 01:10:00")
