"""Test the daily report that a dispatcher reads, made from the marts."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ops import fleet_day
from ops.daily_report import as_csv, as_html, report
from snowpipe.refusal import MissingObject, Refusal

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
DAY = date(2026, 11, 27)


def at(hour: int, minute: int = 0) -> datetime:
    """Return a time as the marts store it: TIMESTAMP_NTZ in UTC."""
    return datetime(2026, 11, 27, hour, minute)


def visit(
    device: str, tag: str, place: str, entered: datetime, exited: datetime | None, **known: Any
) -> dict[str, Any]:
    return {
        "device_id": device,
        "geofence_tag": tag,
        "geofence_external_id": place,
        "entered_at": entered,
        "exited_at": exited,
        "dwell_seconds": exited and Decimal(f"{(exited - entered).total_seconds():.6f}"),
        "exit_missed": False,
        "is_there_now": exited is None,
        "entered_event_id": f"{device}-{place}",
    } | known


class Marts:
    """A fake warehouse that returns the rows of the table named in the statement."""

    def __init__(self, **rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.asked: list[tuple[str, Sequence[object]]] = []

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        self.asked.append((sql, parameters))
        name = next(
            name
            for name in ("pickup", "CURRENT_PRESENCE", "INGEST_QUALITY", "STG_EVENTS", "VISITS")
            if name in sql
        )
        if name not in self.rows:
            raise MissingObject(name)
        return self.rows[name]


def marts(**changes: list[dict[str, Any]]) -> Marts:
    return Marts(
        **{
            "VISITS": [
                visit("truck-1", "farm", "farm-1", at(5), at(5, 20)),
                visit("truck-1", "farm", "farm-2", at(6), None),
                visit("truck-1", "plant", "plant-1", at(7), at(8)),
                visit("=1+1", "farm", "<b>", at(5), None, exit_missed=True, is_there_now=False),
            ],
            "pickup": [
                {"geofence_tag": "farm", "geofence_external_id": "farm-1", "pickups": 1, "litres": 2400}
            ],
            "STG_EVENTS": [
                {"device_id": "truck-9", "last_at": datetime(2026, 11, 20, 9)},
                {"device_id": "truck-1", "last_at": at(8)},
            ],
            "INGEST_QUALITY": [
                {"outcome": "accepted", "code": "", "events": 90, "conflicts": 2},
                {"outcome": "rejected", "code": "missing_id", "events": 3, "conflicts": 0},
            ],
            "CURRENT_PRESENCE": [
                {"device_id": "truck-1", "entered_event_id": "truck-1-farm-2", "exit_inferred_at": at(7)}
            ],
        }
        | changes
    )


def made(warehouse: Marts) -> Any:
    return report(warehouse, "DB", DAY, AMSTERDAM, datetime(2026, 11, 28, 6, tzinfo=UTC))  # type: ignore[arg-type]


def test_report_has_totals_places_missing_exits_silent_trucks_and_quality() -> None:
    found = made(marts())
    assert found.totals == {
        "visits": 4, "collections": 3, "litres": 2400, "trucks with visits": 2, "places visited": 4,
        "missing exits": 2,
    }  # fmt: skip
    tables = {table.title: table.rows for table in found.tables}
    assert ["farm/farm-2", 1, 1, 0, 60.0, 60.0, 1] in tables["By place"], (
        "an inferred exit gives a dwell and is counted as inferred"
    )
    assert tables["Missing exits"] == [
        ["truck-1", "farm/farm-2", "2026-11-27 07:00", "2026-11-27 08:00"],
        ["=1+1", "farm/<b>", "2026-11-27 06:00", ""],
    ]
    assert tables["Silent trucks"] == [["truck-9", "2026-11-20 10:00"]]
    assert tables["Data quality"] == [
        ["accepted", 90], ["rejected missing_id", 3], ["ids sent again with different content", 2],
    ]  # fmt: skip


def test_day_ends_at_midnight_in_the_fleets_time_zone() -> None:
    warehouse = marts()
    made(warehouse)
    _, parameters = warehouse.asked[0]
    assert parameters == ["2026-11-26 23:00:00", "2026-11-27 23:00:00"]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-27", 24)])
def test_day_of_a_clock_change_has_23_or_25_hours(day: str, hours: int) -> None:
    start, end = fleet_day.bounds(date.fromisoformat(day), AMSTERDAM)
    assert (end - start).total_seconds() == hours * 3600


def test_truck_heard_in_the_first_hour_of_a_25_hour_day_is_not_silent() -> None:
    heard_at = datetime(2026, 10, 24, 22, 30)  # 00:30 in Amsterdam
    warehouse = marts(STG_EVENTS=[{"device_id": "truck-1", "last_at": heard_at}])
    now = datetime(2026, 10, 26, tzinfo=UTC)
    found = report(warehouse, "DB", date(2026, 10, 25), AMSTERDAM, now)  # type: ignore[arg-type]
    assert [table.rows for table in found.tables if table.title == "Silent trucks"] == [[]]


def test_hostile_names_are_escaped_in_the_page_and_the_csv_file() -> None:
    found = made(marts())
    page = as_html(found)
    assert "farm/&lt;b&gt;" in page
    assert "<b>" not in page
    assert "<script" not in page
    rows = list(csv.reader(io.StringIO(as_csv(found))))
    assert ["'=1+1", "1", "1", "0"] in [row[:4] for row in rows]


def test_missing_presence_mart_infers_no_exits() -> None:
    warehouse = marts()
    del warehouse.rows["CURRENT_PRESENCE"]
    assert made(warehouse).totals["missing exits"] == 1


def test_missing_marts_are_reported_with_the_command_that_builds_them() -> None:
    with pytest.raises(Refusal, match="milkrun warehouse dbt build"):
        made(Marts())
