"""Rewrite casts, conversion functions and date arithmetic."""

import re
from collections.abc import Callable
from datetime import datetime

from sqlglot import exp

from local_snowflake.column_types import TEXT_LITERAL, TEXTS
from local_snowflake.errors import unsupported
from local_snowflake.expression_types import (
    KIND,
    SCALAR,
    TEXT,
    TEXT_TYPES,
    TYPE,
    VARIANT,
    call,
    is_aggregated,
    typed,
)
from local_snowflake.infer_kinds import Translation
from local_snowflake.translate_text import as_text, scalar_of

WHOLE_TYPES = {exp.DType.BIGINT, exp.DType.INT, exp.DType.SMALLINT, exp.DType.TINYINT}
DECIMAL_TYPES = {exp.DType.DECIMAL}
FLOAT_TYPES = {exp.DType.FLOAT, exp.DType.DOUBLE}
NTZ_TYPES = {exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ}
TZ_TYPES = {exp.DType.TIMESTAMPTZ, exp.DType.TIMESTAMPLTZ}
LONGEST_TEXT = 16_777_216


def cast(node: exp.Expr, translation: Translation) -> exp.Expr | None:
    if node.find_ancestor(exp.Schema, exp.ColumnDef):
        return None
    target: exp.DataType = node.args["to"]
    kind = target.this
    prefix = "try_" if isinstance(node, exp.TryCast) else ""
    if prefix and node.args.get("requires_string"):
        refuse_other_than_text(node, translation)
    if kind in TEXT_TYPES:
        made = as_text(node.this, translation)
        most = target.expressions[0].this if target.expressions else None
        if most is not None and int(most.name) < LONGEST_TEXT:
            made = call(f"{prefix}fits", made, most.copy(), kind=TEXT)
        return exp.cast(made, "VARCHAR", dialect="snowflake") if made.is_string else made
    if is_plain(node.this, kind):
        return None
    value = operand(node.this)
    if kind in WHOLE_TYPES | DECIMAL_TYPES:
        whole = kind in WHOLE_TYPES or is_whole(target)
        return with_operand(node, typed(f"{prefix}{'whole' if whole else 'number'}", value))
    for kinds, name in CASTS:
        if kind in kinds:
            made = typed(f"{prefix}{name}", value)
            return with_operand(node, made) if is_aggregated(value) else made
    return None


def refuse_other_than_text(node: exp.Expr, translation: Translation) -> None:
    """Refuse TRY_CAST of a value that is not text, which is an error in Snowflake too (Snowflake: "TRY_CAST")."""
    given = translation.types.of(node.this) if translation.types else None
    is_variant = translation.kind(node.this) == VARIANT
    if is_variant or (given and given.isdisjoint({TEXTS, TEXT_LITERAL})):
        raise unsupported(f"{node.sql(dialect='snowflake')}, because TRY_CAST accepts only text")


def is_plain(node: exp.Expr, kind: exp.DType) -> bool:
    """Return whether DuckDB is known to cast this value as Snowflake does. This applies to NULL, and to a literal with
    an ISO 8601 date and time if the type is TIMESTAMP_TZ, TIMESTAMP_LTZ or, without an offset, TIMESTAMP_NTZ.
    """
    if isinstance(node, exp.Null):
        return True
    if not (isinstance(node, exp.Literal) and node.is_string and ISO_TIME.fullmatch(node.name)):
        return False
    try:
        offset = datetime.fromisoformat(node.name.replace(" +", "+")).tzinfo
    except ValueError:
        return False
    return kind in TZ_TYPES or (kind in NTZ_TYPES and offset is None)


ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?( ?[+-]\d\d:\d\d|Z)?")
CASTS = (
    (FLOAT_TYPES, "float"),
    ({exp.DType.BOOLEAN}, "boolean"),
    ({exp.DType.DATE}, "date"),
    (NTZ_TYPES, "timestamp"),
    (TZ_TYPES, "timestamp_tz"),
    ({exp.DType.TIME}, "time"),
)


def operand(node: exp.Expr) -> exp.Expr:
    inner = node.unnest()
    return scalar_of(inner) if type(inner) is exp.JSONExtract else node


def is_whole(target: exp.DataType) -> bool:
    scale = target.expressions[1:] or [exp.DataTypeParam(this=exp.Literal.number(0))]
    return bool(scale[0].this.name == "0")


def with_operand(node: exp.Expr, value: exp.Expr) -> exp.Expr:
    node.set("this", value)
    node.meta[KIND] = SCALAR
    return node


def converting(name: str) -> Callable[[exp.Expr, Translation], exp.Expr | None]:
    """Return a function that rewrites calls of TO_DATE or a similar function. A node with `safe` set is a
    call of the TRY_ variant.
    """

    def convert(node: exp.Expr, _: Translation) -> exp.Expr | None:
        if node.args.get("format"):
            raise unsupported(f"a format for parsing text, as in {node.sql(dialect='snowflake')}")
        return typed(("try_" if node.args.get("safe") else "") + name, operand(node.this))

    return convert


def to_number(node: exp.Expr, _: Translation) -> None:
    node.set("this", typed("try_number" if node.args.get("safe") else "number", operand(node.this)))


ANONYMOUS = {
    "TO_TIMESTAMP": "timestamp",
    "TO_TIMESTAMP_NTZ": "timestamp",
    "TO_TIMESTAMP_TZ": "timestamp_tz",
    "TO_TIMESTAMP_LTZ": "timestamp_tz",
    "TRY_TO_TIMESTAMP": "try_timestamp",
    "TRY_TO_TIMESTAMP_NTZ": "try_timestamp",
    "TRY_TO_TIMESTAMP_TZ": "try_timestamp_tz",
    "TO_DATE": "date",
    "TRY_TO_DATE": "try_date",
    "TO_TIME": "time",
    "TRY_TO_TIME": "try_time",
}


def anonymous(node: exp.Expr, _: Translation) -> exp.Expr | None:
    name = ANONYMOUS.get(node.name.upper())
    if name is None:
        return None
    if len(node.expressions) != 1:
        raise unsupported(f"{node.name.upper()} with a scale or a format")
    return typed(name, operand(node.expressions[0]))


DAYS = {"DAY", "WEEK", "MONTH", "QUARTER", "YEAR"}


def current_date(_: exp.Expr, __: Translation) -> exp.Expr:
    """Rewrite CURRENT_DATE as today(), because DuckDB would interpret it as the column's own name in
    SELECT CURRENT_DATE AS "CURRENT_DATE".
    """
    made = exp.Anonymous(this="today")
    made.meta[TYPE] = "DATE"
    return made


def is_whole_number(node: exp.Expr) -> bool:
    literal = node.this if isinstance(node, exp.Neg) else node
    return isinstance(literal, exp.Literal) and literal.is_int


def convert_timezone(node: exp.Expr, _: Translation) -> None:
    """Interpret a TIMESTAMP_NTZ in the session's time zone, UTC, if the call names no source time zone
    (Snowflake: "CONVERT_TIMEZONE").
    """
    value = node.args["timestamp"]
    if not node.args.get("source_tz") and not is_aggregated(value):
        node.set("timestamp", typed("timestamp_tz", value))


def dated(node: exp.Expr, translation: Translation) -> exp.Expr:
    value = node.this
    if isinstance(node, exp.DateAdd | exp.AddMonths) and not is_whole_number(node.expression):
        # Snowflake rounds the number of units ("DATEADD").
        rounded = exp.Round(this=node.expression.copy())
        node.set("expression", exp.cast(rounded, "BIGINT", dialect="duckdb"))
    if translation.kind(value) == TEXT:
        value = typed("timestamp", value)
        node.set("this", value)
    cast_at_once = isinstance(node.parent, exp.Cast) and node.parent.to.this in NTZ_TYPES | {exp.DType.DATE}
    if cast_at_once and is_aggregated(value):
        return node  # The cast gives the same result whether or not the value is a DATE.
    unit = node.args.get("unit")
    if isinstance(node, exp.TimestampTrunc | exp.DateTrunc) and unit and unit.name.upper() not in DAYS:
        given = translation.types.of(value) if translation.types else None
        if given == frozenset({"date"}):
            raise unsupported(
                f"{node.sql(dialect='snowflake')}, because the value is a DATE, which has no time of day"
            )
    if isinstance(node, exp.AddMonths) or (unit and unit.name.upper() in DAYS):
        return typed("dated", value.copy(), node.copy())
    return node
