"""Test that the external table lists exactly the files in the manifests."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
import sqlglot

from glue.archive import Folder, Hours
from glue.compact import compact_with_duckdb, compacted_files, stale, superseded_files
from glue.publish import ROOT
from glue.tables import main, statements
from snowpipe.ddl_files import DDL
from tests.unit.glue.sample_archives import HOUR, archived
from tests.unit.glue.test_compact import some_lines

HOURS = Hours(HOUR, HOUR + timedelta(hours=1))


def test_new_files_are_added_to_the_external_table_and_superseded_files_are_removed(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    archived(tmp_path, some_lines(10))
    list(compact_with_duckdb(store, stale(store, HOURS)))
    old = compacted_files(store, HOURS)
    archived(tmp_path, some_lines(10, start=10))
    list(compact_with_duckdb(store, stale(store, HOURS)))
    add, remove = statements(store, HOURS, "MILKRUN")
    assert add.startswith("ALTER EXTERNAL TABLE MILKRUN.RAW.COMPACTED_EVENTS ADD FILES (")
    assert {f"compacted/{key}" for key in re.findall("'(.*?)'", add)} == set(compacted_files(store, HOURS))
    assert {f"compacted/{key}" for key in re.findall("'(.*?)'", remove)} == set(old)


def test_hour_stays_in_the_external_table_if_it_is_compacted_again_while_the_sql_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Folder(tmp_path)
    archived(tmp_path, some_lines(10))
    list(compact_with_duckdb(store, stale(store, HOURS)))

    def after_a_compaction(store: Folder, hours: Hours) -> list[str]:
        archived(tmp_path, some_lines(10, start=10))
        list(compact_with_duckdb(store, stale(store, hours)))
        return superseded_files(store, hours)

    monkeypatch.setattr("glue.tables.superseded_files", after_a_compaction)
    [add] = statements(store, HOURS, "MILKRUN")
    assert " ADD FILES (" in add


def test_tables_command_prints_valid_sql(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archived(tmp_path, some_lines(10))
    list(compact_with_duckdb(Folder(tmp_path), stale(Folder(tmp_path), HOURS)))
    range_ = ["--from", "2026-11-16", "--to", "2026-11-17"]
    assert main(["--archive", str(tmp_path), *range_, "--create"]) == 0
    sql = capsys.readouterr().out
    parsed = [each.sql("snowflake", comments=False) for each in sqlglot.parse(sql, read="snowflake") if each]
    assert [each.split()[0] for each in parsed] == ["CREATE", "CREATE", "CREATE", "ALTER"]


def test_snowflake_reads_the_times_in_parquet_files_as_times() -> None:
    """Without USE_LOGICAL_TYPE, Snowflake reads their microseconds as seconds, which gives years above 55,000,000."""
    places = (ROOT / "glue/compacted.sql", ROOT / "docs/scale-out.md")
    formats = [found for place in places for found in re.findall(r"TYPE = PARQUET\b(.*)", place.read_text())]
    assert len(formats) == 2
    assert all(each.startswith(" USE_LOGICAL_TYPE = TRUE") for each in formats)


@pytest.mark.parametrize("archive", ["s3://milkrun-dev", "s3://milkrun-dev/"])
def test_printed_stage_statement_names_the_bucket_and_the_storage_integration_of_the_ddl(
    archive: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glue.tables.statements", lambda *_: [])
    assert main(["--archive", archive, "--last-hours", "1", "--create", "--database", "MILKRUN_DEV"]) == 0
    sql = capsys.readouterr().out
    assert "URL = 's3://milkrun-dev/compacted/'" in sql
    (integration,) = re.findall(r"STORAGE_INTEGRATION = (\w+)", sql)
    created = next(DDL.glob("*_storage_integration.sql")).read_text().replace("{database}", "MILKRUN_DEV")
    assert f"CREATE STORAGE INTEGRATION IF NOT EXISTS {integration}\n" in created
