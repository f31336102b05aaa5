"""Rewrite arithmetic and aggregates of numbers."""

from sqlglot import exp

from local_snowflake.errors import unsupported
from local_snowflake.expression_types import (
    call,
    is_aggregated,
    text,
    type_of,
)
from local_snowflake.infer_kinds import Translation


def finite(node: exp.Expr, _: Translation) -> exp.Expr:
    """Make a function such as SQRT, LOG or ASIN raise an error, as Snowflake does, if DuckDB would return NaN or an
    infinity.
    """
    made = node.copy()
    if isinstance(node, exp.Log) and node.expression:  # DuckDB returns 0 if the base is 0
        invalid = exp.LTE(this=node.this.copy(), expression=exp.Literal.number(0))
        made = exp.Case().when(invalid, exp.cast(text("nan"), "DOUBLE", dialect="duckdb")).else_(made)
    return call("finite", made, text(type(node).__name__.upper()))


def epoch_second(node: exp.Expr, _: Translation) -> exp.Expr | None:
    """Make EXTRACT(epoch_second …) round down to whole seconds; DuckDB would round to the nearest second."""
    if node.name.upper() != "EPOCH_SECOND":
        return None
    seconds = exp.Extract(this=exp.var("EPOCH"), expression=node.expression.copy())
    return exp.cast(exp.Floor(this=seconds), "BIGINT", dialect="duckdb")


def count(node: exp.Expr, _: Translation) -> None:
    if isinstance(node.this, exp.Column) and isinstance(node.this.this, exp.Star):
        raise unsupported(
            f"{node.sql(dialect='snowflake')}, which counts only rows without a NULL. Name a column."
        )


def total(node: exp.Expr, translation: Translation) -> None:
    if translation.types and translation.types.of(node.this) == frozenset({"boolean"}):
        raise unsupported(
            f"{node.sql(dialect='snowflake')}, because the argument is a BOOLEAN. Cast it, or use COUNT_IF."
        )


def divide(node: exp.Expr, _: Translation) -> exp.Expr:
    aggregated = "any_" if is_aggregated(node) else ""
    return call(f"{aggregated}divide", node.this, node.expression, type_of(node.this))


def remainder(node: exp.Expr, _: Translation) -> exp.Expr:
    return call("remainder", node.this, node.expression)


def multiply(node: exp.Expr, _: Translation) -> None:
    """Cast integer literals in a product to 64 bits, because DuckDB treats them as 32-bit integers, whose product may
    overflow. In Snowflake they are NUMBER(38, 0).
    """
    for name in ("this", "expression"):
        factor = node.args[name].unnest()
        if isinstance(factor, exp.Literal) and factor.is_int:
            node.set(name, exp.cast(factor.copy(), "BIGINT", dialect="duckdb"))


def sign(node: exp.Expr, _: Translation) -> exp.Expr:
    return exp.cast(exp.Sign(this=node.this.copy()), "BIGINT", dialect="duckdb")


def average(node: exp.Expr, translation: Translation) -> exp.Expr:
    """Rewrite AVG of numbers so that the result, like a quotient, has six more decimal digits than the argument, but at
    most twelve.
    """
    total(node, translation)
    parts: list[exp.Expr] = [exp.Sum(this=node.this.copy()), exp.Count(this=node.this.copy(), big_int=True)]
    window = node.parent if isinstance(node.parent, exp.Window) else None
    if window:
        for at, part in enumerate(parts):
            over = window.copy()
            over.set("this", part)
            parts[at] = over
    made = call("any_divide", *parts, type_of(parts[0]))
    if window:
        window.replace(made)
        return node
    return made


def median(node: exp.Expr, _: Translation) -> exp.Expr:
    """Rewrite MEDIAN of numbers so that the result has three more decimal digits than the argument
    (Snowflake: "MEDIAN").
    """
    node.set("this", with_three_digits(node.this))
    return node


def with_three_digits(value: exp.Expr) -> exp.Expr:
    thousandths = exp.cast(exp.Literal.number(1), exp.DataType.build("DECIMAL(4,3)", dialect="duckdb"))
    return exp.Mul(this=exp.Paren(this=value.copy()), expression=thousandths)
