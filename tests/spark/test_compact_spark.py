"""Test that compaction with Spark writes the same lines as with DuckDB (tests/unit/glue/test_compact.py)."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from pyspark.sql import SparkSession

from glue.archive import Folder, Hours
from glue.compact import MAX_TYPES, compact_with_duckdb, compacted_files, stale
from glue.parquet import FULL_BYTES
from glue.spark_compact import compact_with_spark
from tests.spark.killing import kill_all
from tests.unit.glue.sample_archives import HOUR, archived, line, payloads
from tests.unit.glue.test_compact import Flaky, some_lines, spoil

LATER = HOUR + timedelta(hours=1)
HOURS = Hours(HOUR, HOUR + timedelta(hours=2))


def test_spark_and_duckdb_write_the_same_lines_and_file_names(spark: SparkSession, tmp_path: Path) -> None:
    """In the archive's first hour one device sends 30 % of the events. The second hour contains many event types
    and every kind of damaged object.
    """
    skewed = [line(f"m{n}", device="van-mad" if n % 10 < 3 else f"van-{n % 50}") for n in range(600)]
    many = [line(f"t{n}", f"type {n}") for n in range(MAX_TYPES + 20)]
    stores = [Folder(tmp_path / "spark"), Folder(tmp_path / "duckdb")]
    for store in stores:
        archived(store.path, skewed, HOUR)
        archived(store.path, many, LATER)
        reasons = spoil(store.path, archived(store.path, some_lines(60), LATER, batch=10))
    by_spark = list(compact_with_spark(spark, stores[0], stale(stores[0], HOURS, 4000)))
    by_duckdb = list(compact_with_duckdb(stores[1], stale(stores[1], HOURS, 4000)))
    for one, other in zip(by_spark, by_duckdb, strict=True):
        same = set(one) - {"engine", "files"}
        assert {name: one[name] for name in same} == {name: other[name] for name in same}
    assert {each["key"]: each["code"] for each in by_spark[1]["set_aside"]} == reasons
    first = [{key.rpartition(".")[0].rpartition(".")[0] for key in compacted_files(s, HOURS)} for s in stores]
    assert first[0] == first[1]
    lines = [*skewed, *many, *some_lines(60)[-10:]]
    assert sorted(payloads(stores[0], compacted_files(stores[0], HOURS))) == sorted(lines)
    assert stale(stores[0], HOURS, 4000) == []


def test_hour_of_tiny_objects_is_compacted_despite_an_unreadable_object(
    spark: SparkSession, tmp_path: Path
) -> None:
    keys = archived(tmp_path, (line(f"e{n}") for n in range(3000)), batch=1)
    (tmp_path / "unreadable").write_text(keys[17])
    [manifest] = compact_with_spark(spark, Flaky(tmp_path), stale(Folder(tmp_path), HOURS, FULL_BYTES))
    assert (manifest["objects"], manifest["lines"], len(manifest["files"])) == (2999, 2999, 1)
    assert [each["key"] for each in manifest["unreadable"]] == [keys[17]]
    assert len(stale(Folder(tmp_path), HOURS)) == 1


class Deadly(Folder):
    """A folder that kills the first worker that reads an object, and the first that has written a file."""

    def _die_once(self, moment: str) -> None:
        died = self.path / f"died-{moment}"
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def read(self, key: str) -> bytes:
        if key.startswith("events/"):
            self._die_once("reading")
        return super().read(key)

    def write_file(self, key: str, path: Path) -> None:
        super().write_file(key, path)
        self._die_once("writing")


def test_killed_workers_neither_lose_nor_duplicate_lines(spark: SparkSession, tmp_path: Path) -> None:
    lines = some_lines(90)
    archived(tmp_path, lines, batch=5)
    [manifest] = compact_with_spark(spark, Deadly(tmp_path), stale(Folder(tmp_path), HOURS))
    assert {path.name for path in tmp_path.glob("died-*")} == {"died-reading", "died-writing"}
    assert manifest["lines"] == 90
    files = compacted_files(Folder(tmp_path), HOURS)
    assert sorted(payloads(Folder(tmp_path), files)) == sorted(lines)
    assert {stored.key for stored in Folder(tmp_path).list("compacted/dt=")} == set(files)


KILLED = """
import sys
from pathlib import Path
from glue import compact
from glue.archive import Folder, hours_between
from glue.session import session
from glue.spark_compact import compact_with_spark
import glue.spark_compact, time

def slow(store, source, *rest):
    Path(sys.argv[1], "reached").touch()
    time.sleep(60)

glue.spark_compact.commit = slow  # files are written, the manifest is not
store = Folder(Path(sys.argv[1]))
hours = hours_between("2026-11-16T08:00Z", "2026-11-16T09:00Z")
with session("milkrun-killed", "local[1]") as spark:
    list(compact_with_spark(spark, store, compact.stale(store, hours)))
"""


def test_killed_compaction_keeps_the_old_files_and_the_next_run_completes(
    spark: SparkSession, tmp_path: Path
) -> None:
    store, hours = Folder(tmp_path), Hours(HOUR, LATER)
    old, new = some_lines(20), some_lines(40)
    archived(tmp_path, old)
    list(compact_with_duckdb(store, stale(store, hours)))
    archived(tmp_path, new[20:])
    job = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2], start_new_session=True
    )
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / "reached").exists():
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        kill_all(job)  # the driver and its JVM
    assert len(list(store.list("compacted/dt="))) > len(compacted_files(store, hours))
    assert sorted(payloads(store, compacted_files(store, hours))) == sorted(old)
    list(compact_with_spark(spark, store, stale(store, hours)))
    assert sorted(payloads(store, compacted_files(store, hours))) == sorted(new)
