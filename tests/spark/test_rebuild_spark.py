"""Test that the rebuild with Spark produces the same visits as the visit rule and the rebuild with DuckDB."""

from datetime import timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from contract.events import Fence, GeofenceEvent
from glue.archive import Folder, Hours
from glue.compact import compact_with_duckdb, stale
from glue.rebuild import Rebuild, Rebuilt, Rule, begin, finish, parts_of, rebuild_with_duckdb
from glue.rows import parse_geofence_event
from glue.spark_rebuild import rebuild_with_spark
from tests.unit.glue.sample_archives import (
    HOUR,
    ROUNDS,
    archived,
    crossing_line,
    expected_conflicts,
    expected_visits,
    random_crossings,
    rebuilt_rows,
    rounds_archived,
)

HOURS = Hours(HOUR, HOUR + timedelta(hours=1))
DAY = Hours(HOUR.replace(hour=0), HOUR.replace(hour=0) + timedelta(days=1))


def job_of(store: Folder, name: str, rule: Rule, hours: Hours = HOURS) -> Rebuild:
    begin(store, name)
    return Rebuild(store, name, hours, tuple(parts_of(store, hours, rule.conflicts)), rule)


def by_spark(spark: SparkSession, job: Rebuild) -> Rebuilt:
    result = rebuild_with_spark(spark, job)
    finish(job, "spark", result)
    return result


@pytest.mark.parametrize(("gap", "min_confidence"), [(120, 0), (60, 2)])
def test_fifty_random_event_sets_give_the_same_visits_on_every_engine(
    spark: SparkSession, tmp_path: Path, gap: int, min_confidence: int
) -> None:
    """One run per engine covers all fifty sets, because each set has its own devices and ids."""
    store, rule = Folder(tmp_path), Rule(gap, min_confidence)
    events = [event for seed in range(50) for event in random_crossings(seed * 7 + gap)]
    keys = archived(tmp_path, map(crossing_line, events), batch=50)
    by_spark(spark, job_of(store, "spark", rule))
    rebuild_with_duckdb(job_of(store, "duckdb", rule))
    assert rebuilt_rows(store, "spark") == expected_visits(events, gap, min_confidence)
    assert rebuilt_rows(store, "spark") == rebuilt_rows(store, "duckdb")
    conflicts = expected_conflicts(store, keys)
    assert (
        rebuilt_rows(store, "spark", "conflicts")
        == rebuilt_rows(store, "duckdb", "conflicts")
        == conflicts
        != []
    )


def test_rebuild_of_skewed_events_skips_only_the_damaged_object(spark: SparkSession, tmp_path: Path) -> None:
    """One device sends 30 percent of the events."""
    store = Folder(tmp_path)
    events = [
        GeofenceEvent(
            f"m{n}",
            f"user.{'entered' if n % 2 else 'exited'}_geofence",
            "enter" if n % 2 else "exit",
            "van-mad" if n % 10 < 3 else f"van-{n % 70}",
            Fence("farm", "f1"),
            HOUR + timedelta(milliseconds=251 * (n * 7919 % 12_000)),
        )
        for n in range(12_000)
    ]
    keys = archived(tmp_path, map(crossing_line, events), batch=400)
    (tmp_path / keys[0]).write_bytes(b"")
    result = by_spark(spark, job_of(store, "skew", Rule(conflicts=False)))
    assert [fault.code for fault in result.faults] == ["wrong_digest"]
    assert rebuilt_rows(store, "skew") == expected_visits(events[400:])


@pytest.mark.skipif(not ROUNDS.exists(), reason="shared/data with the real rounds does not exist")
def test_visits_of_real_delivery_rounds_are_rebuilt_from_parquet(spark: SparkSession, tmp_path: Path) -> None:
    store = Folder(tmp_path)
    lines = [each for those in rounds_archived(tmp_path, 400).values() for each in those]
    list(compact_with_duckdb(store, stale(store, DAY)))
    assert by_spark(spark, job_of(store, "rounds", Rule(conflicts=False), DAY)).visits == 896
    assert rebuilt_rows(store, "rounds") == expected_visits(filter(None, map(parse_geofence_event, lines)))
