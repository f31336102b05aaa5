"""Correct or refuse expressions that fakesnow would silently evaluate wrongly."""

import re
from collections.abc import Callable, Mapping

import snowflake.connector.errors
from sqlglot import exp

from local_snowflake.duckdb_macros import OFFSET, TIMESTAMP


def flatten_options(node: exp.Expr) -> exp.Expr:
    """Refuse FLATTEN with PATH, with a MODE other than BOTH, or with RECURSIVE => TRUE, because fakesnow ignores these
    arguments. Also refuse it for a text literal and in an outer join. Replace FLATTEN with OUTER => TRUE by a macro.
    """
    if not isinstance(node, exp.Lateral | exp.TableFromRows) or not isinstance(node.this, exp.Explode):
        return node
    if isinstance(node.parent, exp.Join) and node.parent.side:  # DuckDB loses the rows without elements
        raise unsupported(f"{node.parent.side} JOIN of FLATTEN. Use a comma and OUTER => TRUE.")
    arguments = {"INPUT": node.this.this}
    for argument in (node.this.this, *node.this.expressions):
        if isinstance(argument, exp.Kwarg):
            arguments[argument.this.name.upper()] = argument.expression
    outer = arguments.pop("OUTER", None)
    source = arguments.pop("INPUT")
    if source.is_string:
        raise unsupported("FLATTEN of text. Use PARSE_JSON.")
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
    """Rewrite v['a'][0]['b'] as v:a[0].b, because fakesnow translates only the last index of a chain. Refuse an
    index that is negative or not a literal.
    """
    if isinstance(node, exp.JSONPathSubscript) and isinstance(node.this, int) and node.this < 0:
        raise unsupported(f"a negative index: [{node.this}]")  # DuckDB counts from the end
    steps: list[exp.Expr] = []
    inner = node
    while isinstance(inner, exp.GetExtract) or (
        isinstance(inner, exp.Bracket) and len(inner.expressions) == 1
    ):
        index = inner.expression if isinstance(inner, exp.GetExtract) else inner.expressions[0]
        if isinstance(index, exp.Neg):
            raise unsupported(f"a negative index: {inner.sql(dialect='snowflake')}")
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


def cast_times(insert: exp.Insert, kinds_of: Callable[[exp.Table], Mapping[str, str]]) -> None:
    """Cast each timestamp literal with a UTC offset in INSERT … VALUES to the timestamp type of its column.

    DuckDB does not parse the offsets +0200 and -0; Snowflake does (Snowflake: "Date and time input and
    output formats").
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


INFORMATION_SCHEMA = {"COLUMNS", "DATABASES", "SCHEMATA", "TABLES", "VIEWS"}


def refuse_views(statement: exp.Expr) -> None:
    """Refuse statements that read INFORMATION_SCHEMA views which fakesnow lacks or fills with DuckDB's own
    objects.
    """
    for table in statement.find_all(exp.Table):
        if table.db.upper() == "INFORMATION_SCHEMA" and table.name.upper() not in INFORMATION_SCHEMA:
            raise unsupported(f"the view INFORMATION_SCHEMA.{table.name.upper()}")


def refuse_show_options(statement: exp.Expr) -> None:
    """Refuse SHOW with HISTORY, STARTS WITH or LIMIT … FROM, which fakesnow ignores."""
    for name in ("history", "starts_with", "from_"):
        if isinstance(statement, exp.Show) and statement.args.get(name):
            raise unsupported(f"SHOW {statement.name.upper()} with {name.upper().replace('_', ' ').strip()}")


UNITS = {
    "YEARS": "YEAR", "YY": "YEAR", "QUARTERS": "QUARTER", "QTR": "QUARTER", "MONTHS": "MONTH", "MM": "MONTH",
    "WEEKS": "WEEK", "WK": "WEEK", "DAYS": "DAY", "DD": "DAY", "HOURS": "HOUR", "HH": "HOUR", "MINUTES": "MINUTE",
    "MI": "MINUTE", "SECONDS": "SECOND", "SEC": "SECOND", "SS": "SECOND", "MILLISECONDS": "MILLISECOND",
    "MS": "MILLISECOND", "MICROSECONDS": "MICROSECOND", "US": "MICROSECOND",
}  # fmt: skip


def plain_units(statement: exp.Expr) -> None:
    """Replace each date part in DATEADD, DATEDIFF and DATE_TRUNC with its canonical name (Snowflake: "Date & time
    functions": supported date and time parts).
    """
    for node in statement.find_all(exp.DateAdd, exp.DateDiff, exp.TimestampTrunc):
        unit = node.args.get("unit")
        if isinstance(unit, exp.Var) and unit.name.upper() in UNITS:
            node.set("unit", exp.var(UNITS[unit.name.upper()]))


def object_keys(statement: exp.Expr) -> None:
    """Preserve the case of the keys in {'a': 1}, which fakesnow would mistake for column names."""
    for struct in statement.find_all(exp.Struct):
        for each in struct.expressions:
            if isinstance(each, exp.PropertyEQ) and isinstance(each.this, exp.Identifier):
                each.set("this", exp.Literal.string(each.this.name))


def refuse_positions(statement: exp.Expr) -> None:
    if any(each.name.isdigit() for each in statement.find_all(exp.Parameter)):
        raise unsupported("$1 or another column position outside COPY. Name the column.")


def refuse_wrong_answers(statement: exp.Expr) -> None:
    for refuse in (refuse_typeof, refuse_positions, refuse_views, refuse_show_options):
        refuse(statement)


def write_plainly(statement: exp.Expr) -> None:
    """Write date parts and object keys in the form that the cases in `supported_sql_cases.tsv` use."""
    plain_units(statement)
    object_keys(statement)


def unsupported(what: str) -> Exception:
    return snowflake.connector.errors.ProgrammingError(
        msg=f"Not supported by the local Snowflake: {what}", errno=2, sqlstate="0A000"
    )


READS_THE_CLOCK_FACE = (
    exp.DateDiff,
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
WITH_DAYS = {"DAY", "WEEK", "MONTH", "QUARTER", "YEAR"}
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
    """Refuse expressions that need the local date or time of a TIMESTAMP_TZ, because DuckDB keeps the
    instant but not the offset, which Snowflake would use. Only an expression directly around the cast can
    be detected; the lost offset of a column's values cannot (compatibility.md).
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
                "whose offset is lost here. Name the time zone, as in CONVERT_TIMEZONE('UTC', …): "
                + (outer.sql(dialect="snowflake") if outer else ""),
                errno=2,
                sqlstate="0A000",
            )


def reads_the_clock_face(node: exp.Expr | None) -> bool:
    if isinstance(node, exp.Cast):
        return node.to.this in WITHOUT_OFFSET
    if isinstance(node, exp.Extract) and node.name.upper().startswith("EPOCH"):
        return False
    if isinstance(node, exp.DateDiff) and node.text("unit").upper() not in WITH_DAYS:
        return False
    if isinstance(node, exp.Anonymous):
        return node.name.upper() in NAMED
    return isinstance(node, READS_THE_CLOCK_FACE)


def is_utc(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and node.name.endswith(("Z", "+00:00"))
