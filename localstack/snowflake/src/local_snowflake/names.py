"""Check names case-sensitively, as Snowflake does (Snowflake: "Identifier requirements"); DuckDB ignores case."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

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
    if identifier.args.get("quoted"):
        return not identifier.name.isupper() and any(letter.isalpha() for letter in identifier.name)
    return identifier.name.upper() in columns.mixed


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
