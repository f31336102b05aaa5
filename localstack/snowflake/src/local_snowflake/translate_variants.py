"""Rewrite functions that create a VARIANT, and expressions in which only some branches are VARIANTs."""

from sqlglot import exp

from local_snowflake.column_types import TEXT_LITERAL, TEXTS, TIMESTAMP, branches
from local_snowflake.errors import SnowflakeError, unsupported
from local_snowflake.expression_types import (
    KIND,
    VARIANT,
    call,
    is_aggregated,
    text,
)
from local_snowflake.infer_kinds import Translation
from local_snowflake.json_text import parsed, place_and_message, text_of
from local_snowflake.translate_numbers import with_three_digits
from local_snowflake.translate_text import as_text


def as_variant(value: exp.Expr, translation: Translation) -> exp.Expr:
    """Format a timestamp in a VARIANT with milliseconds and, for a TIMESTAMP_TZ, an offset, as Snowflake does."""
    types = translation.types
    given = types.of(value) if types else frozenset()
    if is_aggregated(value) or (given is not None and TIMESTAMP not in given):
        return value
    return call("as_variant", value.copy(), kind=VARIANT)


def to_variant(node: exp.Expr, translation: Translation) -> None:
    node.set("this", as_variant(node.this, translation))


def unified(node: exp.Expr, translation: Translation) -> None:
    """Convert text to a VARIANT if another branch of the same CASE or similar expression is a VARIANT,
    because DuckDB would parse the text as JSON.
    """
    given = (
        [(each, translation.types.of(each) or frozenset()) for each in branches(node) if each]
        if (translation.types)
        else []
    )
    if any(VARIANT in types or translation.kind(each) == VARIANT for each, types in given):
        for each, types in given:
            if each and types and types <= {TEXTS, TEXT_LITERAL}:
                made = exp.Anonymous(this="to_json", expressions=[each.copy()])
                made.meta[KIND] = VARIANT
                each.replace(made)


def array_agg(node: exp.Expr, translation: Translation) -> exp.Expr:
    """Rewrite ARRAY_AGG so that it skips NULLs and returns an empty array if there are no rows (Snowflake:
    "ARRAY_AGG").

    Also rewrite PERCENTILE_CONT of numbers so that the result has three more decimal digits than the argument
    (Snowflake: "PERCENTILE_CONT").
    """
    if isinstance(node.this, exp.PercentileCont) and isinstance(node, exp.WithinGroup):
        for each in node.expression.expressions:
            each.set("this", with_three_digits(each.this))
        return node
    if isinstance(node.parent, exp.WithinGroup | exp.Window):
        if isinstance(node.parent, exp.Window):
            raise unsupported("ARRAY_AGG as a window function")
        return node
    within = node if isinstance(node, exp.WithinGroup) else None
    if within and not isinstance(within.this, exp.ArrayAgg):
        return node
    inner = within.this.this if within else node.this
    value = inner.expressions[0] if isinstance(inner, exp.Distinct) else inner
    item = inner.copy() if isinstance(inner, exp.Distinct) else as_variant(inner, translation)
    listed = exp.Order(this=item, expressions=within.expression.expressions) if within else item.copy()
    present = exp.Where(this=exp.Not(this=exp.Is(this=value.copy(), expression=exp.Null())))
    present_only = exp.Filter(this=exp.Anonymous(this="LIST", expressions=[listed]), expression=present)
    empty = exp.cast(text("[]"), "JSON", dialect="duckdb")
    made = exp.Coalesce(this=exp.Anonymous(this="TO_JSON", expressions=[present_only]), expressions=[empty])
    made.meta[KIND] = VARIANT
    return made


def array(node: exp.Expr, translation: Translation) -> exp.Expr:
    values = [as_variant(each, translation) for each in node.expressions]
    made = exp.Anonymous(this="json_array", expressions=values)
    made.meta[KIND] = VARIANT
    return made


def parse_json(node: exp.Expr, translation: Translation) -> exp.Expr | None:
    if not (isinstance(node.this, exp.Literal) and node.this.is_string):
        safe = "try_" if node.args.get("safe") else ""
        return call(f"{safe}parse_json", as_text(node.this, translation), kind=VARIANT)
    document = node.this.name
    try:
        node.this.replace(text(text_of(parsed(document.encode()))) if document.strip() else exp.Null())
    except ValueError as error:
        if node.args.get("safe"):
            return exp.ParseJSON(this=exp.Null())
        raise SnowflakeError("100069", "22P02", place_and_message(error)[1]) from None
    return None


def object_agg(node: exp.Expr, translation: Translation) -> exp.Expr:
    """Rewrite OBJECT_AGG so that it skips NULLs and sorts the keys (Snowflake: "OBJECT_AGG")."""
    if isinstance(node.parent, exp.Window):
        raise unsupported("OBJECT_AGG as a window function")
    key, value = node.this, as_variant(node.expression, translation)
    present = exp.and_(
        *(exp.Not(this=exp.Is(this=each.copy(), expression=exp.Null())) for each in (key, value))
    )
    lists = [
        exp.Filter(
            this=exp.Anonymous(
                this="LIST",
                expressions=[exp.Order(this=each.copy(), expressions=[exp.Ordered(this=key.copy())])],
            ),
            expression=exp.Where(this=present.copy()),
        )
        for each in (key, value)
    ]
    made = exp.Anonymous(this="TO_JSON", expressions=[exp.Anonymous(this="MAP", expressions=lists)])
    made.meta[KIND] = VARIANT
    return made


def json_object(node: exp.Expr, translation: Translation) -> None:
    if any(each.is_star for each in node.expressions):
        raise unsupported("OBJECT_CONSTRUCT_KEEP_NULL(*)")
    for each in node.expressions:
        if isinstance(each, exp.PropertyEQ | exp.JSONKeyValue):
            each.set("expression", as_variant(each.expression, translation))
