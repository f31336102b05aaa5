"""Test manual queries and repaired files (`milkrun warehouse query` and `repair`) on a local Snowflake and
moto; no stack is needed.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.archive_object import object_name
from local_snowflake.testing import Aws, LocalProcess, eventually
from tests.unit.snowpipe.warehouse_stage import Stage


@pytest.fixture(scope="module")
def stage(aws: Aws, local: LocalProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Yield one stage for the whole module, with the DDL applied to its database."""
    stage = Stage(tmp_path_factory.mktemp("by-hand") / "stage", local, aws)
    stage.create_objects()
    yield stage
    stage.close()


@pytest.mark.parametrize(
    ("sql", "row"),
    [
        ("SELECT 1 AS id, 2 AS id", {"id": 1, "id_2": 2}),
        ("SELECT 1 AS id, 2 AS id, 3 AS id", {"id": 1, "id_2": 2, "id_3": 3}),
        ("SELECT 1 AS id, 2 AS id, 3 AS id_2", {"id": 1, "id_3": 2, "id_2": 3}),
        ('SELECT 1 AS "id", 2 AS ID', {"id": 1, "id_2": 2}),
        ("SELECT a.n, b.n FROM (SELECT 1 AS n) a JOIN (SELECT 2 AS n) b ON a.n < b.n", {"n": 1, "n_2": 2}),
    ],
)
def test_query_shows_all_columns_even_if_column_names_repeat(
    stage: Stage, sql: str, row: dict[str, int]
) -> None:
    assert stage.run("query", sql, "--json").rows == [row]
    shown = stage.run("query", sql).out
    assert all(name in shown for name in row)


def test_brackets_in_a_column_name_are_printed_as_text(stage: Stage) -> None:
    assert "[red]" in stage.run("query", 'SELECT 1 AS "[red]"').out


@pytest.mark.parametrize(
    "sql", ["SELEC", "SELECT 1;; nonsense", "SELECT no_such_column", "USE nowhere.at.all"]
)
def test_statement_rejected_by_snowflake_is_reported_with_a_one_line_error(stage: Stage, sql: str) -> None:
    said = stage.run("query", sql)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
    assert "unexpected" not in said.err


@pytest.mark.parametrize(
    "sql", ["CREATE TEMPORARY TABLE RAW.T (a INT)", "SELECT 1 AS a WHERE FALSE", "SELECT NULL AS a"]
)
def test_ddl_empty_results_and_null_values_are_not_errors(stage: Stage, sql: str) -> None:
    assert stage.run("query", sql).code == 0
    json.loads(stage.run("query", sql.replace("RAW.T", "RAW.U"), "--json").out)


FAILED = "events/dt=2026-11-16/hh=08/put-by-hand.ndjson"


@pytest.mark.parametrize(
    ("instead_of", "folder", "table"),
    [
        (FAILED, "events/dt=2026-11-16/hh=08/", "EVENTS"),
        ("rejected/dt=2026-11-16/hh=09/a.json", "rejected/dt=2026-11-16/hh=09/", "REJECTED"),
        ("", "events/dt=", "EVENTS"),
    ],
)
@pytest.mark.parametrize("pack", ["plain", "gzip"])
def test_repaired_file_is_loaded_under_a_valid_object_key(
    stage: Stage, tmp_path: Path, instead_of: str, folder: str, table: str, pack: str
) -> None:
    text = b'\xef\xbb\xbf{ "_id": "%s-%s",\t"n": 1.50 }\r\n\r\n{"_id":"second"}\n' % (
        table.encode(),
        pack.encode(),
    )
    file = tmp_path / "repaired"
    file.write_bytes(gzip.compress(text) if pack == "gzip" else text)
    said = stage.run("repair", str(file), "--instead-of", instead_of, "--json")
    [row] = said.rows
    assert row["lines"] == 2
    assert row["key"].startswith(folder)
    assert object_name(row["key"]) is not None
    sql = f"SELECT COUNT(*) AS n FROM {stage.database}.RAW.{table} WHERE FILE_NAME = '{row['key']}'"
    eventually(lambda: stage.warehouse.query(sql)[0]["n"] == 2)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        b"[1]\n",
        b'{"_id": "a"}\n{"_id": }\n',
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b"\x1f\x8bcut",
    ],
)
def test_repair_of_a_file_that_is_still_invalid_fails_with_a_one_line_error(
    stage: Stage, tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "file").write_bytes(text)
    said = stage.run("repair", str(tmp_path / "file"), "--instead-of", FAILED)
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), said
