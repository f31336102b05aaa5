"""In INSERT, UPDATE and MERGE, explicitly cast each value to its column's type if DuckDB's implicit cast would give a
different result from Snowflake's. Refuse text for a VARIANT or BINARY column.
"""

from collections.abc import Callable, Iterator, Mapping

from sqlglot import exp

from local_snowflake.column_types import DECIMAL, INTEGER, NUMBER_LITERAL, TEXT_LITERAL, TEXTS, Types
from local_snowflake.errors import unsupported
from local_snowflake.expression_types import call

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
    if isinstance(statement, exp.Insert):
        name_columns_of_stars(statement, kinds)
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


def name_columns_of_stars(insert: exp.Insert, kinds: Mapping[str, str]) -> None:
    """Rewrite the query of INSERT … SELECT * so that each of its columns can be cast:
    SELECT * REPLACE (c0 AS c0, …) FROM (query) AS q (c0, …).
    """
    query = insert.expression
    if not isinstance(query, exp.Query) or not any(each.is_star for row in selects_of(query) for each in row):
        return
    columns = [each.name.upper() for each in getattr(insert.this, "expressions", [])] or list(kinds)
    names = [f"_local_{at}" for at in range(len(columns))]
    values = [exp.alias_(exp.column(name), name) for name in names]
    outer = exp.Select(expressions=[exp.Star(replace=values)])
    given = exp.Subquery(this=query.unnest().copy())
    insert.set("expression", outer.from_(exp.alias_(given, "_local", table=names)))


def selects_of(query: exp.Expr) -> Iterator[list[exp.Expr]]:
    if isinstance(query, exp.SetOperation):
        yield from selects_of(query.this)
        yield from selects_of(query.expression)
    elif isinstance(query, exp.Subquery):
        yield from selects_of(query.this)
    elif isinstance(query, exp.Select):
        yield query.expressions


def set_columns(update: exp.Update) -> Assigned:
    for each in update.expressions:
        if isinstance(each, exp.EQ):
            yield each.this.name.upper(), each.expression


def rows_of(source: exp.Expr | None) -> Iterator[list[exp.Expr]]:
    """Yield the expressions of each row of VALUES or, for a query, of each SELECT.

    For a SELECT that `name_columns_of_stars` made, these are the expressions in its REPLACE.
    """
    if isinstance(source, exp.Values):
        yield from (row.expressions for row in source.expressions)
    elif source:
        for values in selects_of(source):
            star = values[0] if values and isinstance(values[0], exp.Star) else None
            yield star.args["replace"] if star else values


def cast_value(value: exp.Expr, kind: str, types: Types) -> None:
    inner = value.this if isinstance(value, exp.Alias) else value
    if isinstance(inner, exp.Placeholder | exp.Null | exp.Boolean):
        return
    given = types.of(inner)
    is_text = given is not None and bool(given) and given <= {TEXTS, TEXT_LITERAL}
    if kind == "JSON" and is_text:
        raise unsupported("text stored in a VARIANT. Use PARSE_JSON or TO_VARIANT.")
    if kind == "JSON" and given is None and isinstance(inner, exp.Column):
        inner.replace(call("no_text", inner.copy()))
    if kind == "BLOB" and is_text:
        raise unsupported("text stored in a BINARY column")
    if kind == "VARCHAR" and (given is None or not given <= AS_TEXT):
        inner.replace(exp.cast(inner.copy(), "VARCHAR", dialect="snowflake"))
    elif (kind in ("BIGINT", "HUGEINT") or kind.startswith("DECIMAL")) and (
        given is None or not given <= UNCHANGED | {TEXT_LITERAL}
    ):
        target = kind if kind.startswith("DECIMAL") else "NUMBER(38,0)"
        inner.replace(exp.cast(inner.copy(), target, dialect="snowflake"))
