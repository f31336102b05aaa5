"""Patches for bugs in fakesnow 0.12.1, each with its reason. Their tests are in `tests/test_fakesnow_patches.py` and
`tests/test_other_objects.py`.
"""

import shutil
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import fakesnow.arrow
import fakesnow.transforms.stage
import pyarrow as pa
from fakesnow.transforms import show
from fakesnow.variables import Variables
from snowflake.connector.errors import ProgrammingError
from sqlglot.errors import ParseError
from sqlglot.tokenizer_core import TokenType

from local_snowflake.sql import STRINGS, syntax_error, tokens_of
from local_snowflake.tables import DEFAULT_SHOWN

transforms: Any = import_module("fakesnow.transforms.transforms")
_as_struct = fakesnow.arrow.timestamp_to_sf_struct


def timestamps(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Convert timestamps as fakesnow does, but preserve NULL. fakesnow builds Arrow structs without a null
    mask, so NULL would become 1970-01-01.
    """
    struct = _as_struct(column)
    parts = [part.fill_null(0) for part in struct.flatten()]
    nulls = column.is_null()
    if isinstance(nulls, pa.ChunkedArray):
        nulls = nulls.combine_chunks()
    return pa.StructArray.from_arrays(parts, fields=list(struct.type), mask=nulls)


def remove_temporary_folder() -> None:
    """Delete fakesnow's folder for internal stages, which every process that imports fakesnow creates and
    never deletes.
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
    # These types occur for integer expressions whose type comes from neither a cast nor a column.
    "ELSE data_type END": "WHEN data_type IN ('INTEGER', 'SMALLINT', 'TINYINT', 'HUGEINT') THEN 'NUMBER(38,0)'"
    " ELSE data_type END",
    "'N' AS \"primary key\"": HAS_KEY.format("PRIMARY KEY") + ' "primary key"',
    "'N' AS \"unique key\"": HAS_KEY.format("UNIQUE") + ' "unique key"',
    'NULL::VARCHAR AS "comment"': 'comment AS "comment"',
    'column_default AS "default"': f'{DEFAULT_SHOWN} AS "default"',
    # fakesnow looks only in the session's database, and describes a relation of another database without columns.
    "FROM _fs_information_schema": 'FROM "${catalog}"._fs_information_schema',
}


def describe_table() -> str:
    """Return SQL for DESC TABLE that shows keys and comments; fakesnow's SQL shows every key as N and no comments."""
    sql: str = transforms.SQL_DESCRIBE_TABLE.template
    for constant, value in DESCRIBED.items():
        sql = sql.replace(constant, value)
    return sql


NEW_VIEW, REPLACED_VIEW = "create view if not exists", "create or replace view"
FIRST_TIME = "to_timestamp(0)::timestamptz as"
UNKNOWN = {
    NEW_VIEW: REPLACED_VIEW,
    FIRST_TIME: "NULL::TIMESTAMPTZ as",
    "0 as rows": "NULL::BIGINT as rows",
    "0 as bytes": "NULL::BIGINT as bytes",
    "'' as comment": """coalesce((SELECT comments.comment
        FROM _fs_global._fs_information_schema._fs_tables_ext AS comments
        WHERE (ext_table_catalog, ext_table_schema, ext_table_name) = (table_catalog, table_schema, table_name)), '')
        as comment""",
}


def shown_relations() -> str:
    """Return SQL for the views that SHOW statements read, with NULL for unknown times and sizes. fakesnow's views show
    the year 1970 and the size 0.
    """
    relations = (
        show.SQL_CREATE_VIEW_SHOW_TABLES,
        show.SQL_CREATE_VIEW_SHOW_VIEWS,
        show.SQL_CREATE_VIEW_SHOW_OBJECTS,
    )
    made = ";".join(relations)
    for constant, value in UNKNOWN.items():
        made = made.replace(constant, value)
    others = (
        show.SQL_CREATE_VIEW_SHOW_DATABASES,
        show.SQL_CREATE_VIEW_SHOW_SCHEMAS,
        show.SQL_CREATE_VIEW_SHOW_SEQUENCES,
    )
    for view in others:
        made += ";" + view.replace(NEW_VIEW, REPLACED_VIEW).replace(FIRST_TIME, UNKNOWN[FIRST_TIME])
    return made


def syntax_failure(error: ParseError) -> ProgrammingError:
    """Return a syntax error with Snowflake's wording, because fakesnow uses the wording of its parser."""
    known = syntax_error(error)
    return ProgrammingError(msg=known.message, errno=int(known.code), sqlstate=known.sqlstate)


def inline_variables(self: Variables, sql: str) -> str:
    """Replace `$name` with the session variable's value, except within string literals, where fakesnow would
    replace it too.
    """
    if "$" not in sql:
        return sql
    values = {name.upper(): value for name, value in self._variables.items()}
    made, at = "", 0
    for mark, name in pairwise(tokens_of(sql)):
        touching = mark.text == "$" and mark.token_type not in STRINGS and name.start == mark.end + 1
        if not touching or name.token_type == TokenType.NUMBER:
            continue
        if name.text.upper() not in values:
            raise ProgrammingError(msg=f"Session variable '${name.text.upper()}' does not exist")
        made += sql[at : mark.start] + values[name.text.upper()]
        at = name.end + 1
    return made + sql[at:]


def apply() -> None:
    Variables.inline_variables = inline_variables  # type: ignore[method-assign]
    for module in ("fakesnow.cursor", "fakesnow.dialect"):
        import_module(module).__dict__["syntax_error"] = syntax_failure
    transforms.SQL_DESCRIBE_TABLE = Template(describe_table())
    fakesnow.arrow.timestamp_to_sf_struct = timestamps  # type: ignore[assignment]
