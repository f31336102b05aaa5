"""Rewrite arithmetic, aggregates, and functions that make semi-structured data."""

from sqlglot import exp

from local_snowflake.errors import SnowflakeError, compilation, unsupported
from local_snowflake.expression_types import KIND, VARIANT, Translation, call, is_aggregated, text, type_of
from local_snowflake.json_text import parsed, place_and_message, text_of
from local_snowflake.translate_text import as_text


def divide(node: exp.Expr, _: Translation) -> exp.Expr:
    aggregated = "any_" if is_aggregated(node) else ""
    return call(f"{aggregated}divide", node.this, node.expression, type_of(node.this))


def remainder(node: exp.Expr, _: Translation) -> exp.Expr:
    return call("remainder", node.this, node.expression)


def multiply(node: exp.Expr, _: Translation) -> None:
    """Make integer factors 64 bits wide: in Snowflake they are NUMBER(38, 0), in DuckDB 32 bits."""
    for name in ("this", "expression"):
        factor = node.args[name].unnest()
        if isinstance(factor, exp.Literal) and factor.is_int:
            node.set(name, exp.cast(factor.copy(), "BIGINT", dialect="duckdb"))


def sign(node: exp.Expr, _: Translation) -> exp.Expr:
    return exp.cast(exp.Sign(this=node.this.copy()), "BIGINT", dialect="duckdb")


def average(node: exp.Expr, _: Translation) -> exp.Expr:
    """Rewrite AVG of numbers: as for a division, the result has six more digits."""
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
    """Rewrite MEDIAN of numbers: the result has three more digits ("MEDIAN")."""
    thousandths = exp.cast(exp.Literal.number(1), exp.DataType.build("DECIMAL(4,3)", dialect="duckdb"))
    node.set("this", exp.Mul(this=exp.Paren(this=node.this.copy()), expression=thousandths))
    return node


def array_agg(node: exp.Expr, _: Translation) -> exp.Expr:
    """Rewrite ARRAY_AGG: it skips NULLs, and without rows gives an empty array ("ARRAY_AGG")."""
    if isinstance(node.parent, exp.WithinGroup | exp.Window):
        if isinstance(node.parent, exp.Window):
            raise unsupported("ARRAY_AGG as a window function")
        return node
    within = node if isinstance(node, exp.WithinGroup) else None
    if within and not isinstance(within.this, exp.ArrayAgg):
        return node
    inner = within.this.this if within else node.this
    value = inner.expressions[0] if isinstance(inner, exp.Distinct) else inner
    listed = (
        exp.Order(this=inner.copy(), expressions=within.expression.expressions) if within else inner.copy()
    )
    present = exp.Where(this=exp.Not(this=exp.Is(this=value.copy(), expression=exp.Null())))
    present_only = exp.Filter(this=exp.Anonymous(this="LIST", expressions=[listed]), expression=present)
    empty = exp.cast(text("[]"), "JSON", dialect="duckdb")
    made = exp.Coalesce(this=exp.Anonymous(this="TO_JSON", expressions=[present_only]), expressions=[empty])
    made.meta[KIND] = VARIANT
    return made


def array(node: exp.Expr, _: Translation) -> exp.Expr:
    made = exp.Anonymous(this="json_array", expressions=node.expressions)
    made.meta[KIND] = VARIANT
    return made


def parse_json(node: exp.Expr, translation: Translation) -> exp.Expr | None:
    if isinstance(node.find_ancestor(exp.Values, exp.Select), exp.Values):
        raise compilation(
            f"Invalid expression [{node.sql(dialect='snowflake')}] in VALUES clause", "002014", "22000"
        )
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


def object_agg(node: exp.Expr, _: Translation) -> exp.Expr:
    """Rewrite OBJECT_AGG: it skips NULLs, and the keys are sorted ("OBJECT_AGG")."""
    if isinstance(node.parent, exp.Window):
        raise unsupported("OBJECT_AGG as a window function")
    key, value = node.this, node.expression
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


def json_object(node: exp.Expr, _: Translation) -> None:
    if any(each.is_star for each in node.expressions):
        raise unsupported("OBJECT_CONSTRUCT_KEEP_NULL(*)")
