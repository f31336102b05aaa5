"""Test that SQLite, the plain SQL queries and dbt's staging view TYPED_EVENTS read any text or number identically."""

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_snowflake.testing import Aws, LocalProcess
from snowpipe.archive import Object
from snowpipe.sqlite import load
from tests.e2e.pipeline import Event
from tests.unit.snowpipe.warehouse_stage import Stage

SQL = Path(__file__).parents[2] / "snowpipe" / "sql"
MORNING = datetime(2026, 11, 16, 6, tzinfo=UTC)
NUMBERS = itertools.count()

# Engines differ on NUL, case, trailing blanks, normal forms, quotes, wildcards, line separators and words for
# NULL.
PIECES = [
    *("a", "A", " ", "\0", "'", '"', "\\", "%", "_", "\t", "\n", "\x7f", "--", ";"),
    *("\u00e9", "e\u0301", "\u00df", "\u0130", "\u212a", "\u2028", "\uffff", "\u0663", "\U0001f69a"),
    *("NULL", "null", "NaN", "true", "1,5", "1e5", "0x1F", ".5", "5.", "1_000"),
]
texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join) | st.text(
    st.characters(codec="utf-8"), min_size=1, max_size=4
)
numbers_said = st.one_of(
    texts,
    st.from_regex(r"[ +-]?[0-9.,_]{0,4}([eE][+-]?[0-9]{1,3})?\n?", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**30), 10**30),
    st.booleans() | st.none() | st.lists(st.integers(0, 9), max_size=2),
)
truths = st.one_of(st.booleans(), st.none(), st.integers(-1, 5), st.floats(-2, 2), texts, st.just("TRUE"))
times = st.integers(0, 24 * 60 - 1).map(lambda minutes: (MORNING + timedelta(minutes=minutes)).isoformat())
devices = st.sampled_from(["d", "d\0", "d\0x", "D", "d ", "\u00e9", "e\u0301"]) | texts


@st.composite
def events(draw: st.DrawFn) -> Event:
    event: Event = {"_id": draw(texts), "createdAt": draw(times), "replayed": draw(truths)}
    device = draw(devices)
    event |= draw(st.sampled_from([{"deviceId": device}, {"user": {"deviceId": device}}]))
    if draw(st.booleans()):
        event["type"] = "pickup.completed"
        event["metadata"] = draw(
            st.fixed_dictionaries({"litres": numbers_said}) | st.none() | st.lists(texts, max_size=1) | texts
        )
        return event
    event["type"] = draw(st.sampled_from(["user.entered_geofence", "user.exited_geofence"]))
    event["geofence"] = {"tag": draw(st.just("farm") | texts), "externalId": draw(texts)}
    event["duration"] = draw(st.none() | st.floats(0, 1000) | st.just(1e308))
    # A confidence must be a whole number from 0 to 3. Both engines must treat an event with another number as invalid.
    event["confidence"] = draw(st.none() | st.integers(-1, 4) | st.sampled_from([2.0, 2.5, 3.5]))
    return event


@pytest.fixture(scope="module")
def stage(aws: Aws, local: LocalProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Yield a stage whose database contains the staging view TYPED_EVENTS."""
    stage = Stage(tmp_path_factory.mktemp("stage"), local, aws)
    stage.done("apply")
    stage.done("dbt", "--quiet", "run", "--select", "typed_events")
    yield stage
    stage.close()


TYPED = """
SELECT event_id, event_type, device_id, geofence_tag, geofence_external_id, duration_minutes, confidence,
    COALESCE(is_replayed, FALSE) AS is_replayed, invalid_code IS NULL AS is_event
FROM {database}.STAGING.TYPED_EVENTS ORDER BY file_row_number
"""
SMALL = """
SELECT event_id, event_type, device_id, geofence_tag, geofence_external_id, duration_minutes, confidence,
    is_replayed, invalid_code IS NULL AS is_event
FROM events ORDER BY file_row_number
"""
QUERIES = {
    "fleet_daily": (("event_date", "device_id"), ("events", "replayed_events", "litres")),
    "daily_farm_collections": (
        ("collection_date", "geofence_tag", "geofence_external_id"),
        ("visits", "devices", "pickups", "litres", "dwell_seconds", "missed_exits", "open_visits"),
    ),
}


@pytest.mark.slow
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(sent=st.lists(events(), min_size=1, max_size=40))
def test_sqlite_and_the_warehouse_return_the_same_result_for_any_text_or_number(
    stage: Stage, tmp_path: Path, sent: list[dict[str, object]]
) -> None:
    # Snowpipe loads each key once. The first event is different in each example, so that the object's key is new.
    number = next(NUMBERS)
    new = {"_id": f"n{number}", "type": "x", "createdAt": MORNING.isoformat(), "deviceId": "n"}
    stage.query(f"DELETE FROM {stage.database}.RAW.EVENTS")
    stage.loaded([stage.put([new, *sent], received_at=MORNING + timedelta(hours=2))])
    raw = stage.query(f"SELECT file_name, file_row_number FROM {stage.database}.RAW.EVENTS")
    assert len(raw) == len(sent) + 1

    path = tmp_path / f"events-{number}.db"
    [*_] = load(path, OneObject(stage, str(raw[0]["file_name"])))
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        small = [dict(row) for row in database.execute(SMALL)]
        typed = stage.query(TYPED.format(database=stage.database))
        for event, mine, theirs in zip([new, *sent], small, typed, strict=True):
            assert bool(mine["is_event"]) == theirs["is_event"], event
            if theirs["is_event"]:
                assert plain(mine) == plain(theirs), event
        stage.query(f"USE DATABASE {stage.database}")
        for name, (key, columns) in QUERIES.items():
            ours = stage.query((SQL / f"{name}.sql").read_text())
            twins = [dict(row) for row in database.execute((SQL / f"{name}.sqlite.sql").read_text())]
            assert keyed(ours, key, columns) == keyed(twins, key, columns), name


class OneObject:
    """An archive that contains only one object of the stage's bucket, for the SQLite loader."""

    def __init__(self, stage: Stage, key: str) -> None:
        from snowpipe.archive import Archive

        self._archive = Archive(stage.aws.s3, stage.bucket)
        self._key = key

    def objects(self) -> Iterator[Object]:
        return self._archive.objects(self._key)

    def body(self, key: str) -> bytes | None:
        return self._archive.body(key)


def plain(row: dict[str, object]) -> dict[str, object]:
    numbers = ("duration_minutes", "confidence")
    return {
        name: float(value) if name in numbers and value is not None else value for name, value in row.items()
    }


def keyed(
    rows: list[dict[str, object]], key: tuple[str, ...], columns: tuple[str, ...]
) -> dict[tuple[str, ...], tuple[float, ...]]:
    return {tuple(str(r[k]) for k in key): tuple(round(float(r[c]), 4) for c in columns) for r in rows}
