"""Test the patches of fakesnow for NULL timestamps, temporary folders, DESC TABLE and sequences."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from local_snowflake.fakesnow_patches import timestamps
from local_snowflake.testing import Warehouse

BEFORE_1970 = datetime(1969, 12, 31, 23, 59, 59, 500_000)
KINDS: dict[str, Callable[[pa.Array], pa.Array | pa.ChunkedArray]] = {
    "array": lambda column: column,
    "chunks": lambda column: pa.chunked_array([column.slice(0, 1), column.slice(1)]),
    "no chunk": lambda column: pa.chunked_array([], type=column.type),
}


@pytest.mark.parametrize("zone", [None, "UTC"])
@pytest.mark.parametrize("kind", KINDS)
def test_null_timestamp_stays_null_and_other_timestamps_keep_their_value(kind: str, zone: str | None) -> None:
    values = [None, BEFORE_1970.replace(tzinfo=UTC if zone else None), None]
    column = KINDS[kind](pa.array(values, pa.timestamp("us", tz=zone)))
    made = timestamps(column)
    instant = {"epoch": -1, "fraction": 500_000_000} | ({"timezone": 1440} if zone else {})
    assert made.to_pylist() == ([] if kind == "no chunk" else [None, instant, None])


def test_connector_returns_none_for_a_null_timestamp(warehouse: Warehouse) -> None:
    for type_ in ("TIMESTAMP_NTZ", "TIMESTAMP_LTZ"):
        rows = warehouse.run(f"SELECT NULL::{type_} AS A, '1969-12-31 23:59:59.5'::{type_} AS B")
        assert rows[0]["A"] is None
        assert rows[0]["B"].replace(tzinfo=None) == BEFORE_1970


def test_importing_the_package_leaves_no_folder_in_the_temporary_directory(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import local_snowflake.session"], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_desc_table_shows_keys_and_comments(warehouse: Warehouse) -> None:
    """Source: Snowflake's pages "DESCRIBE TABLE" and "COMMENT"."""
    warehouse.run("USE SCHEMA RAW")
    warehouse.run("CREATE TABLE T (id INT PRIMARY KEY COMMENT 'a key', code INT UNIQUE, name VARCHAR)")
    warehouse.run("CREATE TABLE IF NOT EXISTS T (id INT COMMENT 'not this')")
    warehouse.run("ALTER TABLE T ALTER COLUMN name COMMENT 'it''s a name'")
    warehouse.run("COMMENT ON COLUMN T.code IS 'a code'")
    keys = ("name", "primary key", "unique key", "comment")
    assert [tuple(row[key] for key in keys) for row in warehouse.run("DESC TABLE T")] == [
        ("ID", "Y", "N", "a key"),
        ("CODE", "N", "Y", "a code"),
        ("NAME", "N", "N", "it's a name"),
    ]


def test_sequence_in_another_schema_provides_values_and_column_defaults(warehouse: Warehouse) -> None:
    """Source: Snowflake's page "Using sequences"."""
    other, name = f"{warehouse.database}.PUBLIC", f"{warehouse.database}.RAW.NUMBERS"
    for schema in ("RAW", "PUBLIC"):
        warehouse.run(
            f"CREATE SEQUENCE {warehouse.database}.{schema}.NUMBERS START {100 if schema == 'RAW' else 7}"
        )
    warehouse.run(f"USE SCHEMA {other}")
    assert warehouse.run(f"SELECT {name}.NEXTVAL AS N") == [{"N": 100}]
    warehouse.run(f"CREATE TABLE T (id INT NOT NULL DEFAULT {name}.NEXTVAL, name VARCHAR)")
    warehouse.run("INSERT INTO T (name) VALUES ('a')")
    warehouse.run(f"INSERT INTO T VALUES ({name}.NEXTVAL, 'b')")
    assert [row["ID"] for row in warehouse.run("SELECT id FROM T ORDER BY name")] == [101, 102]
