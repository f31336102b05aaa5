"""Rewrite comparisons and orderings. The comparison of a VARIANT depends on the type of the other operand."""

import re

from sqlglot import exp

from local_snowflake.column_types import NUMBER as NUMBER_TYPE
from local_snowflake.column_types import TEXTS, differ, groups
from local_snowflake.duckdb_macros import HOME
from local_snowflake.duckdb_macros import NUMBER as NUMBER_PATTERN
from local_snowflake.errors import unsupported
from local_snowflake.expression_types import (
    BOOLEAN,
    KIND,
    MAYBE,
    NULL,
    NUMBER,
    SCALAR,
    TEXT,
    VARIANT,
    VARIANT_NAMES,
    call,
    is_aggregated,
    text,
    typed,
)
from local_snowflake.infer_kinds import Translation
from local_snowflake.translate_text import scalar_of
from local_snowflake.translate_variants import unified

ORDERS = {
    exp.Max: "MAX", exp.Min: "MIN", exp.ArgMax: "MAX_BY", exp.ArgMin: "MIN_BY", exp.Greatest: "GREATEST",
    exp.Least: "LEAST", exp.Ordered: "ORDER BY", exp.Median: "MEDIAN", exp.Mode: "MODE",
}  # fmt: skip


def compare(node: exp.Expr, translation: Translation) -> exp.Expr | None:
    if isinstance(node.parent, exp.Update) and node.arg_key == "expressions":
        return None  # an assignment in UPDATE … SET
    as_one_type(node, "this", node.expression, translation)
    as_one_type(node, "expression", node.this, translation)
    first, second = node.this, node.expression
    for one, other in ((first, second), (second, first)):
        beside_literal(one, translation.kind(other), translation)
    first, second = node.this, node.expression
    kinds = (translation.kind(first), translation.kind(second))
    if VARIANT in kinds or MAYBE in kinds:
        if isinstance(node, exp.GT | exp.GTE | exp.LT | exp.LTE):
            for name, each in (("this", first), ("expression", second)):
                node.set(name, ordered(each, "an order comparison", translation))
        return call("alike", node.this.copy(), node.expression.copy(), node.copy())
    return None


def as_one_type(node: exp.Expr, key: str, other: exp.Expr, translation: Translation) -> None:
    """Compare text with a number as two numbers if one of them is a literal (Snowflake: "Data type conversion").
    DuckDB would cast the text '1.4' to the number's type, and thus round it. Refuse a comparison of different types
    if neither operand is a literal.
    """
    value, beside = node.args[key], other.unnest()
    types = translation.types
    if types is None or isinstance(value.unnest(), exp.Literal):
        return
    kinds, against = types.of(value) or frozenset(), types.of(beside) or frozenset()
    if not differ(kinds, against) or VARIANT in kinds | against:
        return
    literal = beside.this if isinstance(beside, exp.Neg) else beside
    if not isinstance(literal, exp.Literal):
        raise unsupported(f"a comparison of {written(value)} with a value of another type. Cast one of them.")
    if not literal.is_string and groups(kinds) == {TEXTS}:
        node.set(key, typed("float", value.copy()))
    elif literal.is_string and groups(kinds) == {NUMBER_TYPE} and re.fullmatch(NUMBER_PATTERN, literal.name):
        literal.replace(exp.Literal.number(literal.name.strip()))


def beside_literal(node: exp.Expr, literal: str, translation: Translation) -> None:
    """Cast a VARIANT to the type of the literal that it is compared with."""
    kind = translation.kind(node)
    if literal not in (TEXT, NUMBER, BOOLEAN) or kind not in (VARIANT, MAYBE):
        return
    inner = node.unnest()
    if is_aggregated(node):
        raise unsupported(
            "a comparison of an aggregated VARIANT with a literal. "
            "Cast the argument of the aggregate or window function."
        )
    if type(inner) is exp.JSONExtract:
        made = scalar_of(inner)
        made = made if literal == TEXT else typed("float" if literal == NUMBER else "boolean", made)
        made.meta[KIND] = TEXT if literal == TEXT else SCALAR
    else:
        made = typed(f"beside_{literal}", node.copy())
    node.replace(made)


def contained(node: exp.Expr, translation: Translation) -> None:
    """Cast a VARIANT before IN or BETWEEN to the type of the literals that follow. Handle values of other
    types as `as_one_type` does.
    """
    others = node.expressions or [each for each in (node.args.get("low"), node.args.get("high")) if each]
    if not translation.may_be_variant(node.this):
        for other in others:
            as_one_type(node, "this", other, translation)
        return
    kinds = {translation.kind(each) for each in others} - {NULL}
    beside_literals(node, kinds, "IN or BETWEEN", translation)


def beside_literals(node: exp.Expr, kinds: set[str], what: str, translation: Translation) -> None:
    if len(kinds) == 1 and kinds <= {TEXT, NUMBER, BOOLEAN}:
        beside_literal(node.this, kinds.pop(), translation)
    else:
        node.set(
            "this", ordered(node.this, f"{what} with operands that are not literals of one type", translation)
        )


def simple_case(node: exp.Expr, translation: Translation) -> None:
    """In CASE x WHEN y, cast a VARIANT x to the type of the literals after WHEN. Handle values of other
    types as `as_one_type` does.
    """
    unified(node, translation)
    compared = [branch.this for branch in node.args["ifs"]] if node.this else []
    if any(translation.may_be_variant(each) for each in compared):
        raise unsupported("a VARIANT after WHEN. Cast it to a type.")
    if node.this and translation.may_be_variant(node.this):
        beside_literals(node, {translation.kind(each) for each in compared} - {NULL}, "CASE", translation)
    elif node.this:
        for other in compared:
            as_one_type(node, "this", other, translation)


def null_if(node: exp.Expr, translation: Translation) -> None:
    refuse_two_types(node, node.this, [node.expression], translation)
    node.set("this", ordered(node.this, "NULLIF", translation))
    node.set("expression", ordered(node.expression, "NULLIF", translation))


def refuse_two_types(
    node: exp.Expr, value: exp.Expr, others: list[exp.Expr], translation: Translation
) -> None:
    types = translation.types
    if types and any(differ(types.of(value), types.of(each)) for each in others):
        what = "NULLIF" if isinstance(node, exp.Nullif) else "DECODE"
        raise unsupported(f"{what} of {written(value)} and a value of another type. Cast one of them.")


def written(node: exp.Expr) -> str:
    """Return an expression's SQL as the user wrote it, or "an expression" if the translation has already changed it."""
    sql = node.sql(dialect="snowflake")
    return "an expression" if HOME in sql.lower() else sql


def set_operation(node: exp.Expr, translation: Translation) -> None:
    """Refuse a set operation on columns of different types, which Snowflake casts to one of the types ("Set
    operators") but DuckDB casts to text.
    """
    assert isinstance(node, exp.SetOperation)
    for one, other in zip(node.left.selects, node.right.selects, strict=False):
        if one.is_star or other.is_star:
            return
        if translation.types and differ(translation.types.of(one), translation.types.of(other)):
            kind = type(node).__name__.upper()
            raise unsupported(f"{kind} of {written(one)} with a column of another type. Cast one of them.")


def decode(node: exp.Expr, translation: Translation) -> None:
    compared = node.expressions[1 : len(node.expressions) - 1 : 2]
    refuse_two_types(node, node.expressions[0], compared, translation)
    node.set("expressions", [ordered(each, "DECODE", translation) for each in node.expressions])


def ordered(node: exp.Expr, what: str, translation: Translation) -> exp.Expr:
    kind = translation.kind(node)
    if kind == VARIANT:
        raise unsupported(f"a VARIANT in {what}. Cast it to a type.")
    return call("ordered", node.copy(), text(what)) if kind == MAYBE else node


def in_order(node: exp.Expr, translation: Translation) -> None:
    what = ORDERS[type(node)]
    if isinstance(node, exp.Ordered) and isinstance(node.this, exp.Literal) and not node.this.is_string:
        by_position(node, translation)
        return
    key = "expression" if isinstance(node, exp.ArgMax | exp.ArgMin) else "this"
    if isinstance(node, exp.Ordered) and is_of_window(node) and translation.kind(node.this) == MAYBE:
        # DuckDB accepts no macro that can raise an error in the ORDER BY of a window.
        raise unsupported(
            f"ORDER BY {node.this.sql()} in a window, because it may be a VARIANT. Cast it to a type."
        )
    if isinstance(node.args.get(key), exp.Expr):
        node.set(key, ordered(node.args[key], what, translation))
    if isinstance(node, exp.Greatest | exp.Least):
        node.set("expressions", [ordered(each, what, translation) for each in node.expressions])


def by_position(node: exp.Ordered, translation: Translation) -> None:
    """Refuse ORDER BY with a column's position, such as ORDER BY 1, if the column is a VARIANT. If the column's type
    is not known here, refuse ORDER BY only in a subquery. For the outermost query, the session checks the types of the
    result.
    """
    query = node.parent.parent if node.parent else None
    if not isinstance(query, exp.Query):
        return
    root = query.parent is None
    for select in query.find_all(exp.Select) if isinstance(query, exp.SetOperation) else (query,):
        columns = select.expressions[: int(node.this.name)]
        kind = translation.kind(columns[-1]) if columns else NULL
        if any(each.is_star for each in columns):
            kind = MAYBE if translation.variants - VARIANT_NAMES else SCALAR
        if kind == VARIANT or (kind == MAYBE and not root):
            raise unsupported(
                "ORDER BY the position of a VARIANT column. Name the column, and cast it to a type."
            )


def is_of_window(node: exp.Expr) -> bool:
    return isinstance(node.parent, exp.Order) and isinstance(node.parent.parent, exp.Window)
