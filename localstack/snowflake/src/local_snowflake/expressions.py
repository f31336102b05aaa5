"""Expressions that fakesnow would answer wrongly without an error: corrected, or refused."""

import re
from collections.abc import Callable

import snowflake.connector.errors
from sqlglot import exp

from local_snowflake.macros import OFFSET, TIMESTAMP


def flatten_options(node: exp.Expr) -> exp.Expr:
    """Refuse FLATTEN's PATH, MODE and RECURSIVE, which fakesnow ignores. OUTER works."""
    if not isinstance(node, exp.Lateral | exp.TableFromRows) or not isinstance(node.this, exp.Explode):
        return node
    arguments = {"INPUT": node.this.this}
    for argument in (node.this.this, *node.this.expressions):
        if isinstance(argument, exp.Kwarg):
            arguments[argument.this.name.upper()] = argument.expression
    outer = arguments.pop("OUTER", None)
    source = arguments.pop("INPUT")
    for name, value in arguments.items():
        if name == "MODE" and value.name.upper() == "BOTH":
            continue
        if name == "RECURSIVE" and isinstance(value, exp.Boolean) and not value.this:
            continue
        raise unsupported(f"FLATTEN with {name}")
    if isinstance(outer, exp.Boolean) and outer.this:
        macro = exp.Anonymous(this="_local_flatten_outer", expressions=[source])
        return exp.Table(this=macro, alias=node.args.get("alias"))
    return node


def one_path(node: exp.Expr) -> exp.Expr:
    """Rewrite v['a'][0]['b'] as v:a[0].b, because fakesnow translates only the last index of a chain."""
    steps: list[exp.Expr] = []
    inner = node
    while isinstance(inner, exp.GetExtract) or (
        isinstance(inner, exp.Bracket) and len(inner.expressions) == 1
    ):
        index = inner.expression if isinstance(inner, exp.GetExtract) else inner.expressions[0]
        if not isinstance(index, exp.Literal):
            raise unsupported(f"an index that is not a literal: {inner.sql(dialect='snowflake')}")
        name = exp.JSONPathKey(this=index.name, quoted=True)
        steps.insert(0, name if index.is_string else exp.JSONPathSubscript(this=int(index.name)))
        inner = inner.this
    if not any(isinstance(step, exp.JSONPathKey) for step in steps):
        return node
    path = exp.JSONPath(expressions=[exp.JSONPathRoot(), *steps])
    return exp.JSONExtract(this=inner, expression=path, variant_extract=True, requires_json=True)


TIMES = {"TIMESTAMP": "TIMESTAMP_NTZ", "TIMESTAMP WITH TIME ZONE": "TIMESTAMP_TZ"}


def cast_times(insert: exp.Insert, kinds_of: Callable[[exp.Table], dict[str, str]]) -> None:
    """Cast each text with a UTC offset in INSERT … VALUES to the type of its column.

    DuckDB does not parse the offsets +0200 and -0; Snowflake does ("Date and time input and output formats").
    """
    values = insert.expression
    rows = values.expressions if isinstance(values, exp.Values) else []
    texts = [text for row in rows for text in row.expressions if has_offset(text)]
    target = insert.find(exp.Table)
    if not texts or target is None:
        return
    kinds = kinds_of(target)
    named = [column.name.upper() for column in insert.this.expressions] or [name.upper() for name in kinds]
    by_name = {name.upper(): kind for name, kind in kinds.items()}
    for text in texts:
        kind = by_name.get(named[text.index]) if text.index < len(named) else None
        if kind in TIMES:
            text.replace(exp.cast(text.copy(), TIMES[kind], dialect="snowflake"))


def has_offset(node: exp.Expr) -> bool:
    text = node.name if isinstance(node, exp.Literal) and node.is_string else ""
    return bool(re.fullmatch(TIMESTAMP, text) and re.search(rf":\d\d(\.\d+)?{OFFSET}\s*$", text))


def refuse_typeof(statement: exp.Expr) -> None:
    if statement.find(exp.Typeof):
        raise unsupported("TYPEOF")


def refuse_positions(statement: exp.Expr) -> None:
    if any(each.name.isdigit() for each in statement.find_all(exp.Parameter)):
        raise unsupported("$1 and its like outside of COPY: name the column")


def unsupported(what: str) -> Exception:
    return snowflake.connector.errors.ProgrammingError(
        msg=f"Not supported by the local Snowflake: {what}", errno=2, sqlstate="0A000"
    )


READS_THE_CLOCK_FACE = (
    exp.TsOrDsToDate,
    exp.TimestampTrunc,
    exp.DateTrunc,
    exp.Extract,
    exp.TimeToStr,
    exp.ToChar,
    exp.Time,
    exp.Hour,
    exp.Minute,
    exp.Day,
    exp.Dayname,
    exp.DayOfWeek,
    exp.DayOfMonth,
    exp.DayOfYear,
    exp.Week,
    exp.WeekOfYear,
    exp.Month,
    exp.Quarter,
    exp.Year,
    exp.LastDay,
)
NAMED = {"TO_TIMESTAMP_NTZ", "TO_TIME", "TO_VARCHAR", "MONTHNAME"}
WITHOUT_OFFSET = {
    exp.DType.DATE,
    exp.DType.TIME,
    exp.DType.TIMESTAMP,
    exp.DType.TIMESTAMPNTZ,
    exp.DType.TEXT,
    exp.DType.VARCHAR,
}


def refuse_local_times(statement: exp.Expr) -> None:
    """Refuse the local date or time of a TIMESTAMP_TZ: DuckDB keeps the instant and loses the offset, which
    Snowflake would use. Only an expression directly around the cast can be detected; the lost offset of a
    column's values cannot (compatibility.md).
    """
    for cast in statement.find_all(exp.Cast):
        if cast.to.this != exp.DType.TIMESTAMPTZ or is_utc(cast.this):
            continue
        outer = cast.parent
        while isinstance(outer, exp.Paren):
            outer = outer.parent
        if reads_the_clock_face(outer):
            raise snowflake.connector.errors.ProgrammingError(
                msg="Not supported by the local Snowflake: the local date or time of a TIMESTAMP_TZ, "
                "whose offset is lost here. Say which zone is meant, as in CONVERT_TIMEZONE('UTC', …): "
                + (outer.sql(dialect="snowflake") if outer else ""),
                errno=2,
                sqlstate="0A000",
            )


def reads_the_clock_face(node: exp.Expr | None) -> bool:
    if isinstance(node, exp.Cast):
        return node.to.this in WITHOUT_OFFSET
    if isinstance(node, exp.Extract) and node.name.upper().startswith("EPOCH"):
        return False
    if isinstance(node, exp.Anonymous):
        return node.name.upper() in NAMED
    return isinstance(node, READS_THE_CLOCK_FACE)


def is_utc(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and node.name.endswith(("Z", "+00:00"))
