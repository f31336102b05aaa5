"""Fixes that belong in fakesnow 0.12.1, each with its reason. `tests/test_fixes.py` has the tests that
fakesnow would need.
"""

import shutil
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

import fakesnow.arrow
import fakesnow.transforms.stage
import pyarrow as pa

transforms: Any = import_module("fakesnow.transforms.transforms")
_as_struct = fakesnow.arrow.timestamp_to_sf_struct


def timestamps(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Convert timestamps as fakesnow does, but keep NULL: fakesnow's structs have no mask, so NULL became
    1970-01-01.
    """
    struct = _as_struct(column)
    parts = [part.fill_null(0) for part in struct.flatten()]
    nulls = column.is_null()
    if isinstance(nulls, pa.ChunkedArray):
        nulls = nulls.combine_chunks()
    return pa.StructArray.from_arrays(parts, fields=list(struct.type), mask=nulls)


def remove_temporary_folder() -> None:
    """Delete the folder for internal stages that importing fakesnow creates in each process and never
    deletes.
    """
    folder = Path(fakesnow.transforms.stage.LOCAL_BUCKET_PATH)
    if folder.name.startswith("fakesnow_bucket_"):
        shutil.rmtree(folder, ignore_errors=True)


HAS_KEY = """CASE WHEN EXISTS (
    SELECT 1 FROM duckdb_constraints() AS key
    WHERE (key.database_name, key.schema_name, key.table_name) = (table_catalog, table_schema, _fs_columns.table_name)
        AND key.constraint_type = '{}' AND list_contains(key.constraint_column_names, column_name)
    ) THEN 'Y' ELSE 'N' END AS"""
DESCRIBED = {
    "'N' AS \"primary key\"": HAS_KEY.format("PRIMARY KEY") + ' "primary key"',
    "'N' AS \"unique key\"": HAS_KEY.format("UNIQUE") + ' "unique key"',
    'NULL::VARCHAR AS "comment"': 'comment AS "comment"',
}


def describe_table() -> str:
    """Answer DESC TABLE with keys and comments; fakesnow gives N and NULL for every column."""
    sql: str = transforms.SQL_DESCRIBE_TABLE.template
    for constant, value in DESCRIBED.items():
        sql = sql.replace(constant, value)
    return sql


def apply() -> None:
    transforms.SQL_DESCRIBE_TABLE = Template(describe_table())
    fakesnow.arrow.timestamp_to_sf_struct = timestamps  # type: ignore[assignment]
