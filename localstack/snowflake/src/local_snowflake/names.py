"""Check names case-sensitively, as Snowflake does (Snowflake: "Identifier requirements"); DuckDB ignores case."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import duckdb
from sqlglot import exp

from local_snowflake.errors import SnowflakeError, compilation, missing
from local_snowflake.supported_sql import checked_part


@dataclass(frozen=True)
class Columns:
    """The columns, relations and schemas of all databases, as known when a statement is translated."""

    variants: frozenset[str] = frozenset()
    """The names, in upper case, of columns that are VARIANTs in at least one table."""
    names: frozenset[str] = frozenset()
    mixed: frozenset[str] = field(default=frozenset())
    """The names, in upper case, of databases, schemas, relations and columns that are stored in another case."""
    types: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The types (`column_types.py`) of all columns with the same name, keyed by the name in upper case."""
    tables: Mapping[tuple[str, ...], Mapping[str, str]] = field(default_factory=dict)
    """The DuckDB types of each table's columns, in column order. The keys are a table's full name and a column's name,
    all in upper case."""


def check_names(statement: exp.Expr, columns: Columns) -> None:
    """Raise an error for a name that DuckDB would resolve but Snowflake would not, because its case differs."""
    root = checked_part(statement)
    if root is None or root.find(exp.TableFromRows):
        return
    suspects = [
        identifier
        for identifier in root.find_all(exp.Identifier)
        if isinstance(identifier.parent, exp.Column | exp.Table) and is_suspect(identifier, columns)
    ]
    if not suspects:
        return
    defined = set(names_given(statement))
    for identifier in suspects:
        name = stored(identifier)
        if name not in columns.names and name not in defined:
            raise unknown(identifier, name)


OURS = ("_local", "_fs_", "_ls_")


def is_suspect(identifier: exp.Identifier, columns: Columns) -> bool:
    if identifier.name.lower().startswith(OURS):
        return False
    name = stored(identifier)
    return name != name.upper() or name in columns.mixed


def stored(identifier: exp.Identifier) -> str:
    return identifier.name if identifier.args.get("quoted") else identifier.name.upper()


def names_given(statement: exp.Expr) -> Iterator[str]:
    """Yield the names that the statement itself defines: aliases, common table expressions and their columns."""
    for node in statement.find_all(exp.Alias, exp.TableAlias, exp.PropertyEQ):
        given = [node.args.get("alias") or node.this, *(node.args.get("columns") or ())]
        yield from (stored(each) for each in given if isinstance(each, exp.Identifier))


def unknown(identifier: exp.Identifier, name: str) -> SnowflakeError:
    if isinstance(identifier.parent, exp.Table):
        return missing("Object", name)
    return compilation(f"invalid identifier '{identifier.sql(dialect='snowflake')}'", "000904")


ON_OBJECTS = (exp.Alter, exp.Comment, exp.Create, exp.Describe, exp.Drop, exp.TruncateTable, exp.Use)
LENGTHS = {"DATABASE": 1, "SCHEMA": 2}
RELATION = 3
FULL_NAMES = """SELECT name FROM (
    SELECT database_name AS name FROM duckdb_databases() WHERE NOT internal
    UNION ALL SELECT database_name || '.' || schema_name FROM duckdb_schemas() WHERE NOT internal
    UNION ALL SELECT database_name || '.' || schema_name || '.' || table_name FROM duckdb_tables() WHERE NOT internal
    UNION ALL SELECT database_name || '.' || schema_name || '.' || view_name FROM duckdb_views() WHERE NOT internal
    UNION ALL SELECT database_name || '.' || schema_name || '.' || sequence_name FROM duckdb_sequences()
) WHERE list_contains(?, upper(name))"""


def in_other_case(
    statement: exp.Expr, duck: duckdb.DuckDBPyConnection, home: tuple[str, str]
) -> tuple[str, str] | None:
    """Return the first name that a statement creates, changes, describes or uses and that differs only in case from
    an object's name, and the object's name. DuckDB would use that object. `home` is the session's database and schema.
    """
    if not isinstance(statement, ON_OBJECTS):
        return None
    query = checked_part(statement)
    of_query = set(map(id, query.find_all(exp.Table))) if query else set()
    for table in statement.find_all(exp.Table):
        parts = [stored(part) for part in table.parts if isinstance(part, exp.Identifier)]
        if id(table) in of_query or not parts:
            continue
        length = len(parts) if isinstance(statement, exp.Use) else RELATION
        length = LENGTHS.get(str(statement.args.get("kind")), length)
        parts = [*home[: length - len(parts)], *parts]
        names = [".".join(parts[: at + 1]) for at in range(len(parts))]
        found = [row[0] for row in duck.execute(FULL_NAMES, [[name.upper() for name in names]]).fetchall()]
        for name in names:
            others = [each for each in found if each.upper() == name.upper()]
            if others and name not in others:
                return name, others[0]
    return None
