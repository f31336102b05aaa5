"""Test compaction with DuckDB. tests/spark tests that Spark produces the same result."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from contract.archive_object import hour_folder, lines_of
from glue.archive import Folder, Hours, Stored
from glue.compact import (
    MAX_TYPES,
    IncompleteWrite,
    ReadSummary,
    commit,
    compact_with_duckdb,
    compacted_files,
    main,
    manifest_of,
    stale,
    sweep,
)
from glue.parquet import FULL_BYTES, ReadBackMismatch, Written, write_parquet
from tests.unit.glue.sample_archives import HOUR, ROUNDS, archived, line, payloads, rounds_archived

ROOT = Path(__file__).resolve().parents[3]
HOURS = Hours(HOUR, HOUR + timedelta(hours=1))
DAY = Hours(HOUR.replace(hour=0), HOUR.replace(hour=0) + timedelta(days=1))


def compacted(store: Folder, hours: Hours = HOURS, full_bytes: int = FULL_BYTES) -> list[dict[str, object]]:
    return list(compact_with_duckdb(store, stale(store, hours, full_bytes)))


def some_lines(count: int, start: int = 0) -> list[bytes]:
    types = ["user.updated_trip", "user.entered_geofence", "pickup.full"]
    return [line(f"e{n}", types[n % 3], device=f"van-{n % 7}") for n in range(start, start + count)]


def test_compacted_files_contain_every_line_of_the_hour_once(tmp_path: Path) -> None:
    store, lines = Folder(tmp_path), some_lines(100)
    archived(tmp_path, lines)
    [manifest] = compacted(store)
    assert (manifest["objects"], manifest["lines"]) == (5, 100)
    assert sorted(payloads(store, compacted_files(store, HOURS))) == sorted(lines)


def test_parquet_files_are_stored_by_day_and_type_outside_the_prefixes_loaded_by_snowpipe(
    tmp_path: Path,
) -> None:
    archived(tmp_path, some_lines(30))
    compacted(Folder(tmp_path))
    folders = {key.rpartition("/")[0] for key in compacted_files(Folder(tmp_path), HOURS)}
    assert folders == {
        f"compacted/dt=2026-11-16/type={each}"
        for each in ("user.updated_trip", "user.entered_geofence", "pickup.full")
    }


def test_compacted_row_contains_the_fields_of_its_event_and_its_object_key_and_line_number(
    tmp_path: Path,
) -> None:
    [key] = archived(tmp_path, [line("e1", "user.updated_trip", HOUR, "van-9")])
    compacted(Folder(tmp_path))
    [file] = compacted_files(Folder(tmp_path), HOURS)
    [row] = pq.read_table(tmp_path / file, partitioning=None).to_pylist()
    assert (row["event_id"], row["event_type"], row["device_id"]) == ("e1", "user.updated_trip", "van-9")
    assert (row["created_at"], row["file_name"], row["file_row_number"]) == (HOUR, key, 1)


def test_unchanged_hour_is_not_compacted_again(tmp_path: Path) -> None:
    archived(tmp_path, some_lines(10))
    assert len(compacted(Folder(tmp_path))) == 1
    assert compacted(Folder(tmp_path)) == []


def test_late_object_triggers_recompaction_and_old_files_are_deleted_after_the_grace_period(
    tmp_path: Path,
) -> None:
    store = Folder(tmp_path)
    archived(tmp_path, some_lines(10))
    compacted(store)
    before = compacted_files(store, HOURS)
    archived(tmp_path, some_lines(10, start=10))
    compacted(store)
    after = compacted_files(store, HOURS)
    assert set(before).isdisjoint(after)
    now = datetime.now(UTC) + timedelta(seconds=2)
    assert sweep(store, HOURS, now, timedelta(hours=1)) == 0
    assert sweep(store, HOURS, now, timedelta(0)) == len(before)
    assert sorted(payloads(store, compacted_files(store, HOURS))) == sorted(some_lines(20))


def made_older(folder: Path, age: timedelta) -> None:
    """Set the modification times of all Parquet files and manifests to `age` ago."""
    then = (datetime.now(UTC) - age).timestamp()
    for path in (folder / "compacted").rglob("*.*"):
        os.utime(path, (then, then))


def test_old_file_superseded_a_moment_ago_is_kept_for_its_readers(tmp_path: Path) -> None:
    """A reader may have read the previous manifest shortly before it was replaced."""
    store = Folder(tmp_path)
    archived(tmp_path, some_lines(10))
    compacted(store)
    made_older(tmp_path, timedelta(days=1))
    before = compacted_files(store, HOURS)
    archived(tmp_path, some_lines(10, start=10))
    compacted(store)
    assert sweep(store, HOURS, datetime.now(UTC)) == 0
    assert sweep(store, HOURS, datetime.now(UTC) + timedelta(hours=4)) == len(before)


def test_later_run_deletes_the_superseded_files_of_hours_up_to_a_day_before_its_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Folder(tmp_path)
    for start in (0, 10):
        archived(tmp_path, some_lines(10, start))
        compacted(store)
    made_older(tmp_path, timedelta(hours=4))
    day_later = [(HOUR + timedelta(days=days)).isoformat() for days in (1, 2)]
    assert main(["--archive", str(tmp_path), "--from", day_later[0], "--to", day_later[1]]) == 0
    assert json.loads(capsys.readouterr().out)["swept"] > 0
    assert {each.key for each in store.list("compacted/dt=")} == set(compacted_files(store, HOURS))


def test_parquet_files_of_an_hour_whose_objects_were_deleted_are_no_longer_listed(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    archived(tmp_path, some_lines(10))
    compacted(store)
    store.delete([each.key for each in store.list("events/")])
    compacted(store)
    assert compacted_files(store, HOURS) == []


def test_large_hour_is_split_into_files_with_distinct_names(tmp_path: Path) -> None:
    store, lines = Folder(tmp_path), some_lines(400)
    archived(tmp_path, lines)
    [manifest] = compacted(store, full_bytes=2000)
    assert len(compacted_files(store, HOURS)) > 6
    assert manifest["lines"] == 400
    assert sorted(payloads(store, compacted_files(store, HOURS))) == sorted(lines)


def test_unusual_event_types_produce_a_limited_number_of_valid_folders(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    odd = ["../../etc", "a/b", "x" * 3000, "ünï cödé", ".", ".."]
    lines = [
        line(f"e{n}", type_) for n, type_ in enumerate([*odd, *(f"t{n}" for n in range(MAX_TYPES + 50))])
    ]
    archived(tmp_path, lines)
    compacted(store)
    files = compacted_files(store, HOURS)
    assert len({key.split("/")[2] for key in files}) <= MAX_TYPES + 1
    assert all(len(key.encode()) < 1024 and key.count("/") == 3 for key in files)
    assert sorted(payloads(store, files)) == sorted(lines)


def test_no_line_is_lost_if_the_schema_changes_within_an_hour(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    old = [line(f"old{n}", metadata={"full": True}) for n in range(5)]
    new = [line(f"new{n}", metadata="v2", trip={"id": n}, live=1) for n in range(5)]
    broken = [b'{"_id":"no type"}', b"not json"]  # the handler accepts neither, but a script could write them
    archived(tmp_path, [*old, *new, *broken])
    compacted(store)
    files = compacted_files(store, HOURS)
    assert sorted(payloads(store, files)) == sorted([*old, *new, *broken])
    assert any("type=__unreadable__" in key for key in files)


def spoil(folder: Path, keys: list[str]) -> dict[str, str]:
    """Damage all but the last of six objects, each in a different way; return the expected fault codes by key."""
    corrupt, cut, other, empty, strange, _ = keys
    (folder / corrupt).write_bytes(b"this is not gzip")
    (folder / cut).write_bytes((folder / cut).read_bytes()[:-9])
    (folder / other).write_bytes((folder / keys[-1]).read_bytes())
    (folder / empty).write_bytes(b"")
    (folder / strange).rename(folder / strange.replace(".ndjson.gz", ".txt"))
    return {
        corrupt: "corrupt_gzip",
        cut: "corrupt_gzip",
        other: "wrong_digest",
        empty: "wrong_digest",
        strange.replace(".ndjson.gz", ".txt"): "unknown_key",
    }


def test_unreadable_objects_are_quarantined_and_the_rest_is_compacted(tmp_path: Path) -> None:
    store, lines = Folder(tmp_path), some_lines(60)
    keys = archived(tmp_path, lines, batch=10)
    reasons = spoil(tmp_path, keys)
    [manifest] = compacted(store)
    assert {each["key"]: each["code"] for each in manifest["set_aside"]} == reasons
    assert sorted(payloads(store, compacted_files(store, HOURS))) == sorted(lines[-10:])
    aside = [json.loads(each) for each in lines_of(store.read(str(manifest["set_aside_key"])))]
    assert {each["origin"]["object"]: each["reasons"][0]["code"] for each in aside} == reasons
    assert compacted(store) == []  # permanent faults are not retried


class Flaky(Folder):
    """A folder with one object that is temporarily unreadable."""

    def read(self, key: str) -> bytes:
        if key == (self.path / "unreadable").read_text():
            raise PermissionError("access denied")
        return super().read(key)


def test_temporarily_unreadable_object_is_retried_in_the_next_run(tmp_path: Path) -> None:
    keys = archived(tmp_path, some_lines(20), batch=10)
    (tmp_path / "unreadable").write_text(keys[0])
    store = Flaky(tmp_path)
    [manifest] = compacted(store)
    assert [each["code"] for each in manifest["unreadable"]] == ["unreadable_object"]
    assert (manifest["lines"], manifest["set_aside_key"]) == (10, None)
    (tmp_path / "unreadable").write_text("")
    [manifest] = compacted(store)
    assert (manifest["lines"], manifest["unreadable"]) == (20, [])


def test_second_attempt_at_an_hour_overwrites_no_file_of_the_first_attempt(tmp_path: Path) -> None:
    """Both attempts have the same source keys, so file names must not depend only on these keys."""
    keys = archived(tmp_path, some_lines(20), batch=10)
    (tmp_path / "unreadable").write_text(keys[0])
    compacted(Flaky(tmp_path))
    before = compacted_files(Folder(tmp_path), HOURS)
    held = {key: (tmp_path / key).read_bytes() for key in before}
    (tmp_path / "unreadable").write_text("")
    compacted(Flaky(tmp_path))
    assert set(before).isdisjoint(compacted_files(Folder(tmp_path), HOURS))
    assert {key: (tmp_path / key).read_bytes() for key in before} == held


def test_a_thousand_tiny_objects_of_one_type_are_compacted_into_one_file(tmp_path: Path) -> None:
    archived(tmp_path, (line(f"e{n}") for n in range(1000)), batch=1)
    [manifest] = compacted(Folder(tmp_path))
    assert (manifest["objects"], manifest["lines"]) == (1000, 1000)
    assert len(compacted_files(Folder(tmp_path), HOURS)) == 1


def test_compaction_that_exceeds_its_memory_writes_nothing_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(tmp_path / "archive", [line(f"e{n}", note="x" * 900 + str(n)) for n in range(20_000)], batch=500)
    (tmp_path / ".tmp").write_text("")  # DuckDB's default folder, which therefore cannot be created
    monkeypatch.chdir(tmp_path)
    store = Folder(tmp_path / "archive")
    [manifest] = compact_with_duckdb(store, stale(store, HOURS), memory="40MB")
    assert manifest["lines"] == 20_000


def test_compaction_stops_if_a_stored_file_differs_from_the_written_rows(tmp_path: Path) -> None:
    class Lossy(Folder):
        def write_file(self, key: str, path: Path) -> None:
            table = pq.read_table(path)
            pq.write_table(table.slice(1), path)
            super().write_file(key, path)

    archived(tmp_path, some_lines(10))
    with pytest.raises(ReadBackMismatch):
        compacted(Lossy(tmp_path))
    assert manifest_of(Folder(tmp_path), HOUR) is None


def test_compaction_stops_if_a_line_is_lost_between_reading_and_writing(tmp_path: Path) -> None:
    archived(tmp_path, some_lines(10))
    [source] = stale(Folder(tmp_path), HOURS)
    with pytest.raises(IncompleteWrite):
        commit(Folder(tmp_path), source, ReadSummary(1, 10, 55, ()), [Written("k", 9, 1, 55)], "none")


def test_writing_parquet_fails_if_the_batches_of_a_group_are_not_consecutive(tmp_path: Path) -> None:
    import pyarrow as pa

    batch = pa.record_batch({"payload": ["{}"]})
    runs = [("a", batch), ("b", batch), ("a", batch)]
    with pytest.raises(ReadBackMismatch):
        list(write_parquet(runs, Folder(tmp_path), lambda group, part: f"{group}.{part}"))


DIES = """
import os, signal, sys
from pathlib import Path
from glue import compact
from glue.archive import Folder

class Dies(Folder):
    left = int(sys.argv[2])
    def _count(self):
        Dies.left -= 1
        if Dies.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def write(self, key, body):
        self._count(); super().write(key, body); self._count()
    def delete(self, keys):
        for key in keys:
            self._count(); super().delete([key])

from datetime import UTC, datetime, timedelta
from glue.archive import hours_between
store = Dies(Path(sys.argv[1]))
hours = hours_between("2026-11-16T08:00Z", "2026-11-16T09:00Z")
list(compact.compact_with_duckdb(store, compact.stale(store, hours)))
compact.sweep(store, hours, datetime.now(UTC) + timedelta(hours=9))
"""


@pytest.mark.slow
def test_readers_see_either_the_old_or_the_new_files_after_a_killed_compaction(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    old, new = some_lines(12), some_lines(24)
    archived(tmp_path, old)
    compacted(store)
    archived(tmp_path, new[12:])
    seen = []
    for moment in range(30):
        ended = subprocess.run(
            [sys.executable, "-c", DIES, str(tmp_path), str(moment)], cwd=ROOT, check=False
        )
        found = sorted(payloads(store, compacted_files(store, HOURS)))
        assert found in (sorted(old), sorted(new))
        seen.append(found == sorted(new))
        if ended.returncode == 0:
            break
    assert ended.returncode == 0
    assert seen[0] is False
    assert seen[-1] is True
    assert {each.key for each in store.list("compacted/dt=")} == set(compacted_files(store, HOURS))


def test_compact_command_reports_its_result_and_does_nothing_when_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archived(tmp_path, some_lines(10))
    command = ["--archive", str(tmp_path), "--from", "2026-11-16", "--to", "2026-11-17"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    second = json.loads(capsys.readouterr().out)
    assert (first["event"], first["engine"], first["hours"], first["lines"]) == (
        "hours_compacted",
        "duckdb",
        1,
        10,
    )
    assert second["hours"] == 0


@pytest.mark.parametrize(
    "wrong",
    [["--from", "yesterday"], ["--engine", "flink"], ["--unknown", "1"], ["--archive", "s3://b/prefix"]],
)
def test_invalid_argument_is_reported_with_exit_code_2(
    tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    right = ["--archive", str(tmp_path), "--from", "2026-11-16", "--to", "2026-11-17"]
    with pytest.raises(SystemExit) as ended:
        main([*right, *wrong])
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.skipif(not ROUNDS.exists(), reason="shared/data with the real rounds does not exist")
def test_real_day_of_delivery_rounds_is_compacted_without_losing_a_line(tmp_path: Path) -> None:
    hours = rounds_archived(tmp_path, batch=100)
    store = Folder(tmp_path)
    manifests = compacted(store, DAY)
    assert sum(int(str(m["lines"])) for m in manifests) == 30_921
    for hour, lines in hours.items():
        files = compacted_files(store, Hours(hour, hour + timedelta(hours=1)))
        assert sorted(payloads(store, files)) == sorted(lines)


def test_folder_store_lists_objects_by_prefix_as_s3_does(tmp_path: Path) -> None:
    [key] = archived(tmp_path, some_lines(3))
    assert key.startswith(f"events/{hour_folder(HOUR)}/")
    [found] = Folder(tmp_path).list("events/dt=2026-11-16/hh=0")
    assert found == Stored(key, (tmp_path / key).stat().st_size, found.modified_at)
    assert list(Folder(tmp_path).list("events/dt=2027")) == []
