"""Test that incremental runs on random events produce the same marts as a full refresh, and that each run
reads one consistent state of RAW.

dbt runs the real models on a local Snowflake whose table RAW.EVENTS is filled by SQL.
"""

import gzip
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

import pytest

from consumer.visits import visits_of
from contract.event_rules import geofence_event
from contract.events import GeofenceEvent
from local_snowflake.testing import eventually
from ops.daily_report import report
from ops.presence_rule import Presence, presence
from ops.status_checks import staging
from snowpipe.settings import Settings
from snowpipe.warehouse import Snowflake, connect
from tests.bench.dbt import make_tables, warehouse
from tests.model_runs import Dbt
from tests.unit.ops.test_presence_rule import ROUNDS, delivery_rounds

pytestmark = pytest.mark.slow  # each test runs dbt
START = datetime(2026, 3, 1, tzinfo=UTC)
RECEIVED = START + timedelta(days=220)  # so that no event is too old or ahead of its receipt
RUNS = 4
TYPES = {
    "enter": "user.entered_geofence",
    "dwell": "user.dwelled_in_geofence",
    "exit": "user.exited_geofence",
}
# The compared tables, each with the columns that may differ. `read_through` identifies the run that added the row.
# `loaded_at` may differ because a repeated event does not replace a staged geofence event, even if the repeated
# event's file was scanned earlier.
TABLES = {
    "STAGING.STG_EVENTS": ("read_through",),
    "STAGING.STG_GEOFENCE_EVENTS": ("loaded_at", "read_through"),
    "STAGING.STG_PICKUPS": ("read_through",),
    "STAGING.EVENT_CONFLICTS": (),
    "STAGING.EVENT_LEDGER": ("read_through",),
    # The end of a pair's time range is an upper bound, because its last event may have been replaced by an earlier one.
    "STAGING.GEOFENCE_PAIR_HEADS": ("last_event_at", "loaded_at"),
    "STAGING.GEOFENCE_PAIR_DAYS": (),
    "MARTS.GEOFENCE_VISITS": ("loaded_at",),
    "MARTS.GEOFENCE_PAIRS": (),
    "MARTS.DAILY_FARM_COLLECTIONS": (),
    "MARTS.FLEET_DAILY": (),
    "MARTS.INGEST_QUALITY": (),
}


@dataclass(frozen=True)
class Delivery:
    """A row of RAW: an event, the time at which its file was stored in S3, and the number of the load that
    adds the row.
    """

    event: dict[str, object]
    received_at: datetime
    run: int


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Snowflake, Settings, Dbt]]:
    with warehouse(tmp_path_factory.mktemp("marts")) as (session, settings):
        make_tables(session)
        with Dbt(settings) as dbt:
            yield session, settings, dbt


def history_of(rng: random.Random, device: str) -> list[Delivery]:
    """Return random deliveries of one device's events over several days.

    Events are delivered in order, late, repeatedly, or with different content under the same id.
    """
    made: list[Delivery] = []
    at = START + timedelta(days=rng.randrange(20), minutes=rng.randrange(1440))
    is_tidy = rng.random() < 0.4
    for number in range(rng.randrange(4, 26)):
        gaps = [0, 30, 60, 120, 121, 900, 3600, 30_000, 90_000, 86_400 * rng.randrange(1, 8)]
        at += timedelta(seconds=rng.choice(gaps))
        event_id = f"{device}-{rng.randrange(12) if rng.random() < 0.2 and not is_tidy else number}"
        kind = rng.choice(["enter", "exit", "enter", "exit", "dwell", "pickup", "trip"])
        event: dict[str, object] = {
            "_id": event_id,
            "createdAt": at.isoformat(),
            "user": {"deviceId": device},
        }
        if kind in TYPES:
            fence = {"tag": rng.choice(["farm", "farm", "plant"]), "externalId": f"f-{rng.randrange(2)}"}
            event |= {"type": TYPES[kind], "geofence": fence}
            if rng.random() < 0.3:
                event |= {"duration": rng.choice([1, 2.5]), "confidence": rng.randrange(4)}
        elif kind == "pickup":
            event |= {"type": "pickup.completed", "metadata": {"litres": rng.choice([10, 2.5, "x"])}}
        else:
            place = [5 + rng.random(), 53 + rng.random()]
            event |= {"type": "user.updated_trip", "location": {"coordinates": place}}
        # A tidy device first delivers its events in the order of their times. Another device first delivers each event
        # in a random run.
        run = min(RUNS - 1, number * RUNS // 25) if is_tidy else rng.randrange(RUNS)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            delay = timedelta(minutes=rng.choice([0, 1, 59, 600, 3000]))
            made.append(Delivery(event, RECEIVED + timedelta(days=5 * run) + delay, run))
            run = rng.randrange(run, RUNS)
    return made


def load(session: Snowflake, deliveries: Sequence[Delivery], run: int) -> None:
    rows = [
        {
            "payload": delivery.event,
            "file_name": f"events/run-{run}-{number // 7}",
            "line": number % 7 + 1,
            "received_at": f"{delivery.received_at:%Y-%m-%d %H:%M:%S}",
            # Some rows were scanned before the newest row of the previous run, but within the look-back.
            "scanned_at": f"{RECEIVED + timedelta(days=60, hours=run, minutes=-(number % 75)):%Y-%m-%d %H:%M:%S}",
        }
        for number, delivery in enumerate(deliveries)
    ]
    for first in range(0, len(rows), 400):
        session.query(
            "INSERT INTO MILKRUN.RAW.EVENTS (payload, file_name, file_row_number, file_modified_at, scanned_at)"
            " SELECT value:payload, value:file_name::VARCHAR, value:line::INTEGER,"
            " value:received_at::VARCHAR::TIMESTAMP_NTZ, value:scanned_at::VARCHAR::TIMESTAMP_LTZ"
            " FROM TABLE(FLATTEN(PARSE_JSON(%s)))",
            [json.dumps(rows[first : first + 400])],
        )


def rows_of(session: Snowflake) -> dict[str, Counter[str]]:
    return {
        table: Counter(
            json.dumps(
                {
                    name: round(value, 5) if isinstance(value, float) else value
                    for name, value in row.items()
                    if name not in left_out
                },
                default=str,
            )
            for row in session.query(f"SELECT * FROM MILKRUN.{table}")
        )
        for table, left_out in TABLES.items()
    }


@pytest.mark.timeout(900)  # because nine dbt runs are slow on a busy machine
def test_incremental_runs_produce_the_same_marts_as_a_full_refresh(
    built: tuple[Snowflake, Settings, Dbt],
) -> None:
    """The events include late, repeated and conflicting ones. The visits must also equal those that the
    consumer's rule derives.
    """
    session, _, dbt = built
    rng = random.Random(int(os.environ.get("SEED", "1")))  # SEED=2 tries another history
    session.query("DELETE FROM MILKRUN.RAW.EVENTS")
    deliveries = [each for n in range(80) for each in history_of(rng, f"van-{n}")]
    rng.shuffle(deliveries)
    for run in range(RUNS):
        load(session, [each for each in deliveries if each.run == run], run)
        dbt.run("run", *(["--full-refresh"] if run == 0 else []))
        if run >= RUNS - 2:  # a scheduler may build a model twice, and an operator may rebuild it
            again = ["--select", "event_ledger", "stg_events", "stg_geofence_events", "stg_pickups"]
            dbt.run("run", *again, *(["--full-refresh"] if run == RUNS - 2 else []))
            dbt.run("run", *again)
    incremental = rows_of(session)
    dbt.run("run", "--full-refresh")
    assert differences(incremental, rows_of(session)) == {}
    found = session.query("SELECT * FROM MILKRUN.MARTS.GEOFENCE_VISITS")
    assert by_the_mart(found) == by_the_rule(deliveries)
    assert len(found) > 100
    there = session.query("SELECT * FROM MILKRUN.MARTS.CURRENT_PRESENCE")
    assert by_presence_mart(there) == by_presence(presence(geofence_events(deliveries)))
    assert any(row["contradicted_by_event_id"] for row in there)


def by_presence(held: Iterable[Presence]) -> set[tuple[object, ...]]:
    return {
        (each.pair.device_id, *each.pair.fence, each.visit.entered_event_id, each.visit.last_seen_at,
         each.contradicted_by and each.contradicted_by.event_id, each.exit_inferred_at)
        for each in held
    }  # fmt: skip


def by_presence_mart(rows: Sequence[dict[str, object]]) -> set[tuple[object, ...]]:
    return {
        (row["device_id"], row["geofence_tag"], row["geofence_external_id"], row["entered_event_id"],
         utc(row["last_seen_at"]), row["contradicted_by_event_id"], utc(row["exit_inferred_at"]))
        for row in rows
    }  # fmt: skip


def utc(at: datetime | None) -> datetime | None:
    return at and at.replace(tzinfo=UTC)


def differences(found: dict[str, Counter[str]], expected: dict[str, Counter[str]]) -> dict[str, object]:
    return {
        table: {"extra": sorted(found[table] - rows)[:3], "missing": sorted(rows - found[table])[:3]}
        for table, rows in expected.items()
        if found[table] != rows
    }


def geofence_events(deliveries: Sequence[Delivery]) -> list[GeofenceEvent]:
    return [
        geofence_event(json.dumps(each.event).encode()) for each in deliveries if "geofence" in each.event
    ]


def by_the_rule(deliveries: Sequence[Delivery]) -> set[tuple[object, ...]]:
    return {
        (pair.device_id, *pair.fence, visit.entered_at, visit.entered_event_id, visit.exited_at,
         visit.exited_event_id, visit.exit_missed, visit.is_open, visit.last_seen_at, visit.app_dwell_seconds)
        for pair, history in visits_of(geofence_events(deliveries)).items()
        for visit in history.visits
    }  # fmt: skip


def by_the_mart(rows: Sequence[dict[str, object]]) -> set[tuple[object, ...]]:
    return {
        (row["device_id"], row["geofence_tag"], row["geofence_external_id"], utc(row["entered_at"]),
         row["entered_event_id"], utc(row["exited_at"]), row["exited_event_id"], row["exit_missed"],
         row["is_there_now"], utc(row["last_seen_at"]), row["app_dwell_seconds"])
        for row in rows
    }  # fmt: skip


@pytest.mark.timeout(3600)  # `make marts-ingest` runs twenty builds
def test_build_during_ingest_reads_a_consistent_snapshot_of_raw(
    built: tuple[Snowflake, Settings, Dbt],
) -> None:
    """Without one high-water mark per run, stg_geofence_events would read RAW later than stg_events and
    contain more events.

    `make marts-ingest` runs this test with 20 builds.
    """
    session, settings, dbt = built
    session.query("DELETE FROM MILKRUN.RAW.EVENTS")
    with Ingest(settings) as ingest:
        ingest.wait_for(20)
        for number in range(int(os.environ.get("BUILDS", "1"))):
            before = ingest.rows
            dbt.run(
                "build", "--exclude-resource-type", "unit_test", *(["--full-refresh"] if number == 0 else [])
            )
            assert ingest.rows > before, "no rows arrived while dbt ran"
            print(f"build {number + 1}: {ingest.rows - before} rows were added to RAW during the build")
    staged = session.query(
        "SELECT COUNT(*) AS n, COUNT_IF(scanned_at > scanned_through) AS late"
        " FROM MILKRUN.STAGING.STG_EVENTS CROSS JOIN MILKRUN.STAGING.HIGH_WATER_MARK"
    )
    assert staged[0]["n"] > 0
    assert staged[0]["late"] == 0


class Ingest:
    """A second session that adds geofence events to RAW, a few rows per statement, until the `with` block ends."""

    def __init__(self, settings: Settings) -> None:
        self.rows = 0
        self._stop = threading.Event()
        self._settings = settings
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def wait_for(self, rows: int) -> None:
        eventually(lambda: self._failure or self.rows, lambda found: bool(self._failure) or self.rows >= rows)

    def _run(self) -> None:
        try:
            with connect(self._settings.connection) as session:
                while not self._stop.wait(0.05):
                    session.query(ADD.format(first=self.rows))
                    self.rows += 10
        except BaseException as failure:
            self._failure = failure


ADD = """
INSERT INTO MILKRUN.RAW.EVENTS (payload, file_name, file_row_number, file_modified_at, scanned_at)
WITH numbered AS (SELECT SEQ4() + {first} AS n FROM TABLE(GENERATOR(ROWCOUNT => 10)))
SELECT
    PARSE_JSON(
        '{{"_id":"' || n || '","type":"' || IFF(MOD(n, 2) = 0, 'user.entered_geofence', 'user.exited_geofence')
        || '","createdAt":"'
        || REPLACE(DATEADD('second', n, DATEADD('day', -20, CURRENT_DATE())::TIMESTAMP_NTZ)::VARCHAR, ' ', 'T')
        || 'Z","user":{{"deviceId":"van"}},"geofence":{{"tag":"farm","externalId":"f"}}}}'
    ),
    'events/' || n, 1, CURRENT_TIMESTAMP()::TIMESTAMP_NTZ, CURRENT_TIMESTAMP()
FROM numbered
"""


def test_daily_report_shows_the_numbers_from_the_marts(built: tuple[Snowflake, Settings, Dbt]) -> None:
    """One of the events has text instead of a number of litres, and another has no device id."""
    session, _, dbt = built
    session.query("DELETE FROM MILKRUN.RAW.EVENTS")
    day, at = RECEIVED.date(), RECEIVED - timedelta(hours=20)

    def event(n: int, kind: str, minutes: int, device: str = "van", **fields: object) -> dict[str, object]:
        made = {
            "_id": f"{device}-{n}",
            "createdAt": (at + timedelta(minutes=minutes)).isoformat(),
            "type": kind,
        }
        return made | {"user": {"deviceId": device}} | fields

    farm = {"geofence": {"tag": "farm", "externalId": "f-0"}}
    other = {"geofence": {"tag": "farm", "externalId": "f-1"}}
    events = [
        event(1, TYPES["enter"], 0, **farm),
        event(2, "pickup.completed", 5, metadata={"litres": 1200.5}),
        event(3, "pickup.completed", 6, metadata={"litres": "many"}),
        event(4, TYPES["exit"], 10, **farm),
        event(5, TYPES["enter"], 60, **farm),
        event(6, TYPES["enter"], 90, **other),
        event(1, "user.updated_trip", -3 * 1440, device="silent"),
        event(1, TYPES["exit"], 30, device="exit only", **farm),
        {"_id": "bad", "createdAt": at.isoformat(), "type": TYPES["enter"], "user": {}, **farm},
    ]
    load(session, [Delivery(each, RECEIVED - timedelta(hours=10), 0) for each in events], 0)
    dbt.run("run", "--full-refresh")
    yesterday = day - timedelta(days=1)
    made = report(session, "MILKRUN", yesterday, ZoneInfo("UTC"), RECEIVED)
    assert made.totals == {
        "visits": 3,
        "collections": 3,
        "litres": 1200,
        "trucks with visits": 1,
        "places visited": 2,
        "missing exits": 1,
    }
    tables = {table.title: [list(row) for row in table.rows] for table in made.tables}
    assert tables == {
        "By place": [["farm/f-0", 2, 1, 1200, 20.0, 30.0, 1], ["farm/f-1", 1, 1, 0, None, None, 0]],
        "By truck": [["van", 3, 3, 40.0]],
        "Missing exits": [["van", "farm/f-0", f"{yesterday} 05:00", f"{yesterday} 05:30"]],
        "Silent trucks": [["silent", f"{yesterday - timedelta(days=3)} 04:00"]],
        "Data quality": [["accepted", 8], ["invalid missing_device", 1]],
    }


def crossings_at(*crossings: tuple[str, datetime, int]) -> list[Delivery]:
    """Return deliveries of one truck's geofence events at one farm.

    Each crossing is given as its kind, its time and the number of the load that contains it.
    """
    return [
        Delivery(
            {
                "_id": f"{kind}-{at:%dT%H%M%S}",
                "createdAt": at.isoformat(),
                "type": TYPES[kind],
                "user": {"deviceId": "van"},
                "geofence": {"tag": "farm", "externalId": "f-0"},
            },
            RECEIVED,
            number,
        )
        for kind, at, number in crossings
    ]


def test_marts_include_rows_that_become_visible_after_newer_rows(
    built: tuple[Snowflake, Settings, Dbt],
) -> None:
    """The late row was scanned before the newest row of the last complete run, but became visible after that run."""
    session, _, dbt = built
    session.query("DELETE FROM MILKRUN.RAW.EVENTS")
    [enter, exit_] = crossings_at(("enter", START, 0), ("exit", START + timedelta(minutes=10), 0))
    load(session, [enter], 0)
    dbt.run("run", "--full-refresh")
    load(session, [enter, exit_], 0)  # the second row was scanned a minute earlier
    dbt.run("run")
    incremental = rows_of(session)
    dbt.run("run", "--full-refresh")
    assert differences(incremental, rows_of(session)) == {}


def test_run_after_an_interrupted_run_restates_the_days_of_removed_visits(
    built: tuple[Snowflake, Settings, Dbt],
) -> None:
    """Late events move the start of a visit to the previous day. The run is interrupted after it has restated
    that visit, but before it has restated the daily marts.
    """
    session, _, dbt = built
    session.query("DELETE FROM MILKRUN.RAW.EVENTS")
    midnight = START + timedelta(days=10)
    deliveries = crossings_at(
        ("enter", midnight + timedelta(seconds=20), 0),
        ("exit", midnight + timedelta(hours=30), 0),
        ("enter", midnight - timedelta(seconds=60), 1),
        ("exit", midnight - timedelta(seconds=20), 1),
    )
    for number in range(2):
        load(session, [each for each in deliveries if each.run == number], number)
        if number == 0:
            dbt.run("run", "--full-refresh")
    dbt.run("run", "--select", "+geofence_visits")
    dbt.run("run")
    incremental = rows_of(session)
    dbt.run("run", "--full-refresh")
    assert differences(incremental, rows_of(session)) == {}


def test_dbt_run_after_an_interrupted_first_run_stores_no_row_twice(
    built: tuple[Snowflake, Settings, Dbt],
) -> None:
    session, _, dbt = built
    session.query("DELETE FROM MILKRUN.RAW.EVENTS")
    load(session, crossings_at(("enter", START, 0), ("exit", START + timedelta(minutes=10), 0)), 0)
    dbt.run("run", "--full-refresh")
    complete = rows_of(session)
    session.query("DROP TABLE MILKRUN.STAGING.COMPLETED_RUN")  # the last model of a run
    dbt.run("run")
    assert differences(rows_of(session), complete) == {}


def test_status_warns_about_staging_only_while_rows_wait_for_dbt(
    built: tuple[Snowflake, Settings, Dbt],
) -> None:
    """A repeated event adds no row to STG_EVENTS, so that table's newest row may be hours old although no row
    waits for dbt.
    """
    session, _, dbt = built
    session.query("DELETE FROM MILKRUN.RAW.EVENTS")
    [enter] = crossings_at(("enter", START, 0))
    load(session, [enter], 0)
    dbt.run("run", "--full-refresh")
    load(session, [enter], 3)  # three hours later
    found = staging(session, "MILKRUN")
    assert (found.level, found.next) == ("WARN", "milkrun warehouse dbt build")
    dbt.run("run")
    assert staging(session, "MILKRUN").level == "OK"


def test_presence_mart_matches_the_presence_rule_for_recorded_delivery_rounds(
    built: tuple[Snowflake, Settings, Dbt],
) -> None:
    """Compare the mart with the rule twice: with `stop` as an exclusive tag (a van can be at only one such place at
    a time), and without exclusive tags.
    """
    session, _, dbt = built
    held = delivery_rounds()
    session.query("DELETE FROM MILKRUN.RAW.EVENTS")
    with gzip.open(ROUNDS) as lines:
        bodies = [body for body in map(json.loads, lines) if "geofence" in body]
    for run, part in enumerate((bodies[: len(bodies) // 2], bodies[len(bodies) // 2 :])):
        load(session, [Delivery(body, RECEIVED + timedelta(days=60), run) for body in part], run)
        dbt.run("run", *(["--full-refresh"] if run == 0 else []))
    for tags in (("stop",), ()):
        variables = json.dumps({"exclusive_tags": tags, "collection_tags": tags})
        dbt.run("run", "--select", "current_presence", "--vars", variables)
        dbt.run(
            "run", "--full-refresh", "--select", "fleet_daily", "daily_farm_collections", "--vars", variables
        )
        found = by_presence_mart(session.query("SELECT * FROM MILKRUN.MARTS.CURRENT_PRESENCE"))
        assert found == by_presence(presence(held, tags))
        assert any(contradicted_by for *_, contradicted_by, _ in found) == bool(tags)
