"""Test that the rebuild with DuckDB, which runs dbt's SQL, produces the same visits as the consumer.

tests/spark tests the same for Spark.
"""

import json
import random
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.archive_object import lines_of
from contract.event_limits import MAX_CONTENTS_PER_EVENT
from glue.archive import Folder, Hours
from glue.compact import compact_with_duckdb, stale
from glue.rebuild import Rebuild, Rebuilt, Rule, begin, finish, main, parts_of, rebuild_with_duckdb, rows_of
from glue.rows import parse_geofence_event
from tests.unit.glue.sample_archives import (
    HOUR,
    ROUNDS,
    archived,
    crossing_line,
    expected_conflicts,
    expected_visits,
    line,
    random_crossings,
    rebuilt_rows,
    rounds_archived,
)

HOURS = Hours(HOUR, HOUR + timedelta(hours=1))
RULE = Rule()
DAY = Hours(HOUR.replace(hour=0), HOUR.replace(hour=0) + timedelta(days=1))


def rebuilt(store: Folder, hours: Hours = HOURS, rule: Rule = RULE, name: str = "test") -> Rebuilt:
    begin(store, name)
    job = Rebuild(store, name, hours, tuple(parts_of(store, hours, rule.conflicts)), rule)
    result = rebuild_with_duckdb(job)
    finish(job, "duckdb", result)
    return result


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 3), st.sampled_from([0, 60, 120]))
def test_dbt_rule_on_duckdb_produces_the_same_visits_as_the_consumer(
    seed: int, min_confidence: int, gap: int
) -> None:
    events = random_crossings(seed)
    with TemporaryDirectory() as folder:
        archived(Path(folder), map(crossing_line, events))
        rebuilt(Folder(Path(folder)), rule=Rule(gap, min_confidence, conflicts=False))
        assert rebuilt_rows(Folder(Path(folder)), "test") == expected_visits(events, gap, min_confidence)


def test_order_batching_and_repetition_do_not_change_visits(tmp_path: Path) -> None:
    lines = [crossing_line(event) for event in random_crossings(1)]
    results = []
    for number in range(3):
        random.Random(number).shuffle(lines)
        folder = tmp_path / str(number)
        archived(folder, lines, batch=number * 10 + 1)
        archived(folder, lines[: number * 20], batch=7)
        rebuilt(Folder(folder))
        results.append(rebuilt_rows(Folder(folder), "test"))
    assert results[0] == results[1] == results[2] != []


def test_content_that_differs_from_the_first_delivery_is_a_conflict(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    same = b'{"_id":"a","type":"t","createdAt":"2026-11-16T08:00:00Z","deviceId":"d","x":1,"y":2}'
    reordered = b'{"y":2,"x":1,"deviceId":"d","createdAt":"2026-11-16T08:00:00Z","type":"t","_id":"a"}'
    keys = archived(tmp_path, [same, line("b", n=1)], batch=2)
    keys += archived(tmp_path, [reordered, line("b", n=2), line("b", n=2), line("b", n=3)], batch=4)
    assert rebuilt(store).conflicts == 2
    found = rebuilt_rows(store, "test", "conflicts")
    assert found == expected_conflicts(store, keys)
    assert {row[1] for row in found} == {"b"}


def test_same_event_id_from_two_devices_is_not_a_conflict(tmp_path: Path) -> None:
    archived(tmp_path, [line("pickup", device=f"van-{n}", n=n) for n in range(3)], batch=2)
    assert rebuilt(Folder(tmp_path)).conflicts == 0


def test_number_of_conflicts_listed_per_event_is_limited(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    keys = archived(tmp_path, [line("b", n=n) for n in range(40)], batch=7)
    assert rebuilt(store).conflicts == MAX_CONTENTS_PER_EVENT - 1
    assert rebuilt_rows(store, "test", "conflicts") == expected_conflicts(store, keys)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**9))
def test_rebuilt_conflicts_equal_the_conflicts_found_by_a_simple_loop(seed: int) -> None:
    with TemporaryDirectory() as folder:
        keys = archived(Path(folder), map(crossing_line, random_crossings(seed)), batch=9)
        rebuilt(Folder(Path(folder)))
        assert rebuilt_rows(Folder(Path(folder)), "test", "conflicts") == expected_conflicts(
            Folder(Path(folder)), keys
        )


def test_rebuild_from_parquet_equals_rebuild_from_objects(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    archived(tmp_path, [*map(crossing_line, random_crossings(5)), *(line(f"p{n}") for n in range(50))])
    rebuilt(store, name="objects")
    list(compact_with_duckdb(store, stale(store, HOURS)))
    assert all(
        each.key.endswith(".parquet") for part in parts_of(store, HOURS, True) for each in part.objects
    )
    rebuilt(store, name="parquet")
    for what in ("visits", "conflicts"):
        assert rebuilt_rows(store, "parquet", what) == rebuilt_rows(store, "objects", what) != []


def test_rebuild_that_does_not_search_for_conflicts_reads_only_geofence_files(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    archived(tmp_path, [crossing_line(e) for e in random_crossings(5)] + [line(f"p{n}") for n in range(50)])
    list(compact_with_duckdb(store, stale(store, HOURS)))
    [part] = parts_of(store, HOURS, conflicts=False)
    assert not any("updated_trip" in each.key for each in part.objects)
    rebuilt(store, rule=Rule(conflicts=False))
    assert rebuilt_rows(store, "test") == expected_visits(random_crossings(5))


def test_rebuild_does_not_read_outdated_parquet_files(tmp_path: Path) -> None:
    store, events = Folder(tmp_path), random_crossings(6)
    archived(tmp_path, map(crossing_line, events[:30]))
    list(compact_with_duckdb(store, stale(store, HOURS)))
    archived(tmp_path, map(crossing_line, events[30:]))
    rebuilt(store)
    assert rebuilt_rows(store, "test") == expected_visits(events)


def test_visit_that_crosses_the_end_of_the_range_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fence = {"geofence": {"tag": "farm", "externalId": "f"}}
    archived(tmp_path, [line("in", "user.entered_geofence", HOUR + timedelta(minutes=50), **fence)], HOUR)
    later = HOUR + timedelta(hours=1)
    others = {"geofence": {"tag": "farm", "externalId": "of the next range"}}
    then = [
        line("out", "user.exited_geofence", later + timedelta(minutes=5), **fence),
        line("at the end", "user.entered_geofence", later, **others),
    ]
    archived(tmp_path, then, later)
    range_ = ["--from", HOUR.isoformat(), "--to", later.isoformat(), "--name", "edge"]
    assert main(["--archive", str(tmp_path), *range_]) == 0
    [row] = rows_of(Folder(tmp_path), "edge", "visits").to_pylist()
    assert (row["entered_event_id"], row["exited_event_id"]) == ("in", "out")
    assert json.loads(capsys.readouterr().out)["visits"] == 1


def test_rebuild_quarantines_and_reports_unreadable_objects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = random_crossings(7)
    keys = archived(tmp_path, map(crossing_line, events), batch=20)
    (tmp_path / keys[0]).write_bytes(b"nothing")
    command = ["--archive", str(tmp_path), "--from", "2026-11-16", "--to", "2026-11-17"]
    assert main(command) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["unreadable"] == 1
    [quarantined] = map(json.loads, lines_of((tmp_path / printed["set_aside_key"]).read_bytes()))
    assert (quarantined["origin"]["object"], quarantined["reasons"][0]["code"]) == (keys[0], "corrupt_gzip")


def test_repeated_rebuild_replaces_the_previous_one_completely(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    keys = archived(tmp_path, map(crossing_line, random_crossings(8)))
    rebuilt(store)
    store.delete(keys)
    assert rebuilt(store).visits == 0
    assert rebuilt_rows(store, "test") == []


@pytest.mark.parametrize(
    "spelling",
    [
        b'{"_id":"e","type":"user.entered\\u005fgeofence","createdAt":"2026-11-16T08:00:00Z",'
        b'"deviceId":"d","geofence":{"tag":"t","externalId":"x"}}',
        b'{"geofence":{"externalId":"x","tag":"t"},"deviceId":"d","createdAt":"2026-11-16T08:00:00Z",'
        b'"type":"user_entered_geofence","_id":"e"}',
    ],
)
def test_geofence_event_is_found_despite_escapes_and_key_order(spelling: bytes) -> None:
    found = parse_geofence_event(spelling)
    assert found is not None
    assert (found.event_id, found.kind) == ("e", "enter")


def test_mention_of_a_geofence_type_in_another_event_is_ignored() -> None:
    assert parse_geofence_event(line("e", note="user.entered_geofence")) is None


@pytest.mark.skipif(not ROUNDS.exists(), reason="shared/data with the real rounds does not exist")
def test_rebuilt_visits_of_real_delivery_rounds_equal_the_consumers_visits(tmp_path: Path) -> None:
    lines = [each for those in rounds_archived(tmp_path, 200).values() for each in those]
    assert rebuilt(Folder(tmp_path), DAY, Rule(conflicts=False)).visits == 896
    events = [event for event in map(parse_geofence_event, lines) if event]
    assert len(events) == 1977
    assert rebuilt_rows(Folder(tmp_path), "test") == expected_visits(events)


def test_object_that_the_compaction_could_not_read_is_reported_by_the_rebuild(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Folder(tmp_path)
    keys = archived(tmp_path, map(crossing_line, random_crossings(7)), batch=20)
    (tmp_path / keys[0]).write_bytes(b"nothing")
    command = ["--archive", str(tmp_path), "--from", "2026-11-16", "--to", "2026-11-17", "--name"]
    assert main([*command, "objects"]) == 1
    list(compact_with_duckdb(store, stale(store, HOURS)))
    assert main([*command, "parquet"]) == 1
    assert main([*command, "visits", "--without-conflicts"]) == 1
    first, *others = [json.loads(text)["unreadable"] for text in capsys.readouterr().out.splitlines()]
    assert [first, *others] == [1, 1, 1]
    assert rebuilt_rows(store, "parquet") == rebuilt_rows(store, "objects")


@pytest.mark.parametrize(
    "wrong",
    [("--name", "../events"), ("--name", "a/b"), ("--margin-hours", "-1"), ("--merge-gap-seconds", "x")],
)
def test_rebuild_refuses_an_invalid_name_margin_or_merge_gap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]
) -> None:
    """A rebuild first deletes an earlier rebuild of the same name, and a negative margin would omit objects."""
    archived(tmp_path, [line("a")])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(["--archive", str(tmp_path), "--from", "2026-11-16T08", "--to", "2026-11-16T09", *wrong])
    assert ended.value.code == 2
    assert f"argument {wrong[0]}: {wrong[1]!r}: " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
