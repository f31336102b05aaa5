"""In INSERT, UPDATE and MERGE, explicitly cast each value to its column's type if DuckDB's implicit cast would give a
different result from Snowflake's. Refuse text for a VARIANT or BINARY column.
"""

from collections.abc import Callable, Iterator, Mapping

from sqlglot import exp

from local_snowflake.column_types import DECIMAL, INTEGER, NUMBER_LITERAL, TEXT_LITERAL, TEXTS, Types
from local_snowflake.errors import unsupported

UNCHANGED = frozenset({INTEGER, DECIMAL, NUMBER_LITERAL, "boolean"})
AS_TEXT = frozenset({TEXTS, TEXT_LITERAL, "date"}) | UNCHANGED

type Assigned = Iterator[tuple[str, exp.Expr]]


def cast_assigned(
    statement: exp.Expr, kinds_of: Callable[[exp.Table], Mapping[str, str]], types: Types
) -> None:
    if not isinstance(statement, exp.Insert | exp.Update | exp.Merge):
        return
    target = statement.this.find(exp.Table) if statement.this else None
    kinds = kinds_of(target) if target else {}
    if not kinds:
        return
    for column, value in list(assigned(statement, list(kinds))):
        cast_value(value, kinds.get(column, ""), types)


def assigned(statement: exp.Insert | exp.Update | exp.Merge, columns: list[str]) -> Assigned:
    """Yield the name, in upper case, and the value of each column that the statement sets."""
    if isinstance(statement, exp.Insert):
        named = [each.name.upper() for each in getattr(statement.this, "expressions", [])] or columns
        for row in rows_of(statement.expression):
            yield from zip(named, row, strict=False)
    elif isinstance(statement, exp.Update):
        yield from set_columns(statement)
    else:
        for update in statement.find_all(exp.Update):
            yield from set_columns(update)
        for insert in statement.find_all(exp.Insert):
            named = [each.name.upper() for each in insert.this.expressions] if insert.this else columns
            values = insert.expression
            yield from zip(named, values.expressions if values else (), strict=False)


def set_columns(update: exp.Update) -> Assigned:
    for each in update.expressions:
        if isinstance(each, exp.EQ):
            yield each.this.name.upper(), each.expression


def rows_of(source: exp.Expr | None) -> Iterator[list[exp.Expr]]:
    """Yield the expressions of each row of VALUES or, for a query, of each SELECT.

    A SELECT's expressions after a star (`*`) are omitted, because their positions are unknown.
    """
    if isinstance(source, exp.Values):
        yield from (row.expressions for row in source.expressions)
    elif isinstance(source, exp.SetOperation):
        yield from rows_of(source.this)
        yield from rows_of(source.expression)
    elif isinstance(source, exp.Subquery):
        yield from rows_of(source.this)
    elif isinstance(source, exp.Select):
        stars = [at for at, each in enumerate(source.expressions) if each.is_star]
        yield source.expressions[: stars[0] if stars else None]


def cast_value(value: exp.Expr, kind: str, types: Types) -> None:
    inner = value.this if isinstance(value, exp.Alias) else value
    if isinstance(inner, exp.Placeholder | exp.Null | exp.Boolean):
        return
    given = types.of(inner)
    is_text = given is not None and bool(given) and given <= {TEXTS, TEXT_LITERAL}
    if kind == "JSON" and is_text:
        raise unsupported("text stored in a VARIANT: use PARSE_JSON or TO_VARIANT")
    if kind == "BLOB" and is_text:
        raise unsupported("text stored in a BINARY column")
    if kind == "VARCHAR" and (given is None or not given <= AS_TEXT):
        inner.replace(exp.cast(inner.copy(), "VARCHAR", dialect="snowflake"))
    elif (kind in ("BIGINT", "HUGEINT") or kind.startswith("DECIMAL")) and (
        given is None or not given <= UNCHANGED | {TEXT_LITERAL}
    ):
        target = kind if kind.startswith("DECIMAL") else "NUMBER(38,0)"
        inner.replace(exp.cast(inner.copy(), target, dialect="snowflake"))
