"""Test the daily report that a dispatcher reads. The tests fill marts in a local Snowflake, so no stack is needed."""

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from cli.refusal import Refusal
from local_snowflake.testing import LocalProcess
from ops import daily_report, fleet_day
from ops.daily_report import Report, as_csv, as_html
from snowpipe.warehouse import Snowflake

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
DAY = date(2026, 11, 27)

TABLES = (
    "MARTS.GEOFENCE_VISITS (visit_key VARCHAR, device_id VARCHAR, geofence_tag VARCHAR,"
    " geofence_external_id VARCHAR, entered_at TIMESTAMP_NTZ, exited_at TIMESTAMP_NTZ,"
    " dwell_seconds NUMBER(18, 6), exit_missed BOOLEAN)",
    "MARTS.CURRENT_PRESENCE (visit_key VARCHAR, contradicted_by_event_id VARCHAR,"
    " exit_inferred_at TIMESTAMP_NTZ)",
    "MARTS.INGEST_QUALITY (received_hour TIMESTAMP_NTZ, outcome VARCHAR, code VARCHAR, events INTEGER,"
    " conflicts INTEGER)",
    "STAGING.STG_EVENTS (device_id VARCHAR, event_type VARCHAR, occurred_at TIMESTAMP_NTZ, metadata VARIANT)",
)


@pytest.fixture(scope="module")
def session(local: LocalProcess) -> Iterator[Snowflake]:
    """Yield a Snowflake session with a database DB that contains the schemas MARTS and STAGING."""
    with local.connect() as connection:
        session = Snowflake(connection, "the local Snowflake")
        session.query("CREATE DATABASE DB")
        for schema in ("MARTS", "STAGING"):
            session.query(f"CREATE SCHEMA DB.{schema}")
        yield session


@pytest.fixture
def marts(session: Snowflake) -> Snowflake:
    """Fill the marts with one day's data, and return the session.

    The data contains three visits by truck-1 (one with an inferred exit), one visit with a missing exit by a device
    named `=1+1`, and a pickup. truck-9 last sent an event a week earlier.
    """
    for table in TABLES:
        session.query(f"CREATE OR REPLACE TABLE DB.{table}")
    session.query(
        "INSERT INTO DB.MARTS.GEOFENCE_VISITS VALUES"
        " ('1', 'truck-1', 'farm', 'farm-1', '2026-11-27 05:00', '2026-11-27 05:20', 1200, FALSE),"
        " ('2', 'truck-1', 'farm', 'farm-2', '2026-11-27 06:00', NULL, NULL, FALSE),"
        " ('3', 'truck-1', 'plant', 'plant-1', '2026-11-27 07:00', '2026-11-27 08:00', 3600, FALSE),"
        " ('4', '=1+1', 'farm', '<b>', '2026-11-27 05:00', NULL, NULL, TRUE)"
    )
    session.query("INSERT INTO DB.MARTS.CURRENT_PRESENCE VALUES ('2', 'e-3', '2026-11-27 07:00')")
    session.query(
        "INSERT INTO DB.STAGING.STG_EVENTS SELECT column1, column2, column3::TIMESTAMP_NTZ, PARSE_JSON(column4)"
        " FROM VALUES ('truck-9', 'user.updated_trip', '2026-11-20 09:00', '{}'),"
        " ('truck-1', 'pickup.completed', '2026-11-27 05:10', '{\"litres\": 2400}'),"
        " ('truck-1', 'user.updated_trip', '2026-11-27 08:00', '{}')"
    )
    session.query(
        "INSERT INTO DB.MARTS.INGEST_QUALITY VALUES ('2026-11-27 05:00', 'accepted', '', 90, 2),"
        " ('2026-11-27 05:00', 'rejected', 'missing_id', 3, 0)"
    )
    return session


def report(session: Snowflake, day: date = DAY) -> Report:
    return daily_report.report(session, "DB", day, AMSTERDAM, datetime(2026, 11, 28, 6, tzinfo=UTC))


def test_report_lists_totals_places_missing_exits_silent_trucks_and_data_quality(marts: Snowflake) -> None:
    found = report(marts)
    assert found.totals == {
        "visits": 4, "collections": 3, "litres": 2400, "trucks with visits": 2, "places visited": 4,
        "missing exits": 2,
    }  # fmt: skip
    tables = {table.title: list(table.rows) for table in found.tables}
    assert ("farm/farm-2", 1, 1, 0, 60.0, 60.0, 1) in tables["By place"], (
        "a visit with an inferred exit must have a dwell time and be counted under inferred exits"
    )
    assert tables["Missing exits"] == [
        ("=1+1", "farm/<b>", "2026-11-27 06:00", ""),
        ("truck-1", "farm/farm-2", "2026-11-27 07:00", "2026-11-27 08:00"),
    ]
    assert tables["Silent trucks"] == [("truck-9", "2026-11-20 10:00")]
    assert tables["Data quality"] == [
        ["accepted", 90], ["rejected missing_id", 3], ["sent again with different content", 2],
    ]  # fmt: skip


def test_pickup_counts_only_for_the_farm_if_the_truck_is_also_in_another_kind_of_fence(
    marts: Snowflake,
) -> None:
    marts.query(
        "INSERT INTO DB.MARTS.GEOFENCE_VISITS VALUES"
        " ('5', 'truck-1', 'region', 'north', '2026-11-27 04:00', '2026-11-27 09:00', 18000, FALSE)"
    )
    found = report(marts)
    assert found.totals["litres"] == 2400
    litres = {row[0]: row[3] for table in found.tables if table.title == "By place" for row in table.rows}
    assert (litres["farm/farm-1"], litres["region/north"]) == (2400, 0)


def test_day_begins_and_ends_at_midnight_in_the_fleets_time_zone(marts: Snowflake) -> None:
    marts.query(
        "INSERT INTO DB.MARTS.GEOFENCE_VISITS SELECT column1, 'truck-2', 'farm', 'farm-1', column2, NULL, NULL, FALSE"
        " FROM VALUES ('5', '2026-11-26 22:59:59'), ('6', '2026-11-26 23:00:00'),"
        " ('7', '2026-11-27 22:59:59'), ('8', '2026-11-27 23:00:00')"
    )
    assert report(marts).totals["visits"] == 4 + 2


def test_all_visits_of_a_large_fleet_are_counted(marts: Snowflake) -> None:
    """Add 12,000 visits by 2,000 trucks to the fixture's four visits. Half of the added visits have a missing exit."""
    marts.query(
        "INSERT INTO DB.MARTS.GEOFENCE_VISITS SELECT 'many-' || n, 'van-' || MOD(n, 2000), 'farm', 'f-' || MOD(n, 30),"
        " DATEADD('second', n, '2026-11-27 06:00'::TIMESTAMP_NTZ), NULL, NULL, MOD(n, 2) = 0"
        " FROM (SELECT SEQ4() AS n FROM TABLE(GENERATOR(ROWCOUNT => 12000)))"
    )
    found = report(marts)
    assert found.totals == {
        "visits": 12_004, "collections": 12_003, "litres": 2400, "trucks with visits": 2002, "places visited": 34,
        "missing exits": 6002,
    }  # fmt: skip
    tables = {table.title: table.rows for table in found.tables}
    assert sum(int(str(row[1])) for row in tables["By place"]) == 12_004
    assert sum(int(str(row[1])) for row in tables["By truck"]) == 12_004
    assert len(tables["Missing exits"]) == daily_report.MAX_LISTED
    assert found.notes == ["The table of missing exits lists the first 5,000 of 6,002."]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-27", 24)])
def test_day_has_23_or_25_hours_when_the_clocks_change_and_24_otherwise(day: str, hours: int) -> None:
    start, end = fleet_day.bounds(date.fromisoformat(day), AMSTERDAM)
    assert (end - start).total_seconds() == hours * 3600


def test_truck_that_sent_an_event_in_the_first_hour_of_a_25_hour_day_is_not_silent(marts: Snowflake) -> None:
    # 00:30 in Amsterdam
    marts.query(
        "INSERT INTO DB.STAGING.STG_EVENTS (device_id, occurred_at) VALUES ('truck-2', '2026-10-24 22:30')"
    )
    found = report(marts, date(2026, 10, 25))
    assert [list(table.rows) for table in found.tables if table.title == "Silent trucks"] == [[]]


def test_hostile_names_are_escaped_in_the_html_page_and_the_csv_file(marts: Snowflake) -> None:
    found = report(marts)
    page = as_html(found)
    assert "farm/&lt;b&gt;" in page
    assert "<b>" not in page
    assert "<script" not in page
    rows = list(csv.reader(io.StringIO(as_csv(found))))
    assert ["'=1+1", "1", "1", "0.0"] in [row[:4] for row in rows]


def test_missing_marts_are_reported_with_the_command_that_builds_them(marts: Snowflake) -> None:
    marts.query("DROP TABLE DB.MARTS.CURRENT_PRESENCE")
    with pytest.raises(Refusal, match="milkrun warehouse dbt build"):
        report(marts)
