"""Rewrite a statement so that DuckDB computes what Snowflake computes, where the two differ.

The types of columns are unknown here. What depends on them becomes a call of a macro (`macros.py`), which
DuckDB resolves when it binds the statement. `verified.py` has checked that the statement contains nothing
else.
"""

import re
from collections.abc import Callable
from datetime import datetime

from sqlglot import exp

from local_snowflake.errors import SnowflakeError, compilation, unsupported
from local_snowflake.expression_types import (
    BOOLEAN,
    KIND,
    MAYBE,
    NULL,
    NUMBER,
    SCALAR,
    TEXT,
    TEXT_TYPES,
    VARIANT,
    VARIANT_NAMES,
    WANTS_TEXT,
    Translation,
    aliases_of_variants,
    call,
    is_aggregated,
    text,
    type_of,
    typed,
)
from local_snowflake.json_text import parsed, place_and_message, text_of

WHOLE_TYPES = {exp.DType.BIGINT, exp.DType.INT, exp.DType.SMALLINT, exp.DType.TINYINT}
DECIMAL_TYPES = {exp.DType.DECIMAL}
FLOAT_TYPES = {exp.DType.FLOAT, exp.DType.DOUBLE}
NTZ_TYPES = {exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ}
TZ_TYPES = {exp.DType.TIMESTAMPTZ, exp.DType.TIMESTAMPLTZ}
LONGEST_TEXT = 16_777_216
TEXT_ARGUMENTS = ("this", "expression", "substr", "replacement", "delimiter", "fill_pattern", "from_", "to")
NUMBERS_OF = {exp.Pad: {"expression"}, exp.Left: {"expression"}, exp.Right: {"expression"}}
ORDERS = {
    exp.Max: "MAX", exp.Min: "MIN", exp.ArgMax: "MAX_BY", exp.ArgMin: "MIN_BY", exp.Greatest: "GREATEST",
    exp.Least: "LEAST", exp.Ordered: "ORDER BY", exp.Median: "MEDIAN", exp.Mode: "MODE",
}  # fmt: skip


# ---- text


def as_text(node: exp.Expr, translation: Translation) -> exp.Expr:
    kind = translation.kind(node)
    if kind in (TEXT, NULL):
        return node
    inner = node.unnest()
    if isinstance(inner, exp.JSONExtract) and not isinstance(inner, exp.JSONExtractScalar):
        return scalar_of(inner)
    return typed("text", node, kind=TEXT)


def scalar_of(extract: exp.JSONExtract) -> exp.Expr:
    return exp.JSONExtractScalar(this=extract.this, expression=extract.expression)


def wants_text(node: exp.Expr, translation: Translation) -> exp.Expr | None:
    numbers = next((names for kind, names in NUMBERS_OF.items() if isinstance(node, kind)), ())
    for name in TEXT_ARGUMENTS:
        argument = node.args.get(name)
        if (
            isinstance(argument, exp.Expr)
            and name not in numbers
            and not isinstance(argument, exp.Any | exp.All)
        ):
            node.set(name, as_text(argument, translation))
    if isinstance(node, exp.Concat | exp.ConcatWs):
        node.set("expressions", [as_text(each, translation) for each in node.expressions])
    # sqlglot would write the argument four times, for the case that it is binary.
    return exp.Anonymous(this="length", expressions=[node.this]) if isinstance(node, exp.Length) else None


def to_char(node: exp.Expr, translation: Translation) -> exp.Expr:
    form = node.args.get("format")
    if form is None:
        return as_text(node.this, translation)
    return typed("format", node.this, text(strftime_of(form)), kind=TEXT)


MAPPED = re.compile(r"%(?:Y|y|m|d|-d|b|B|a|H|I|p|M|S|f_three|f(?!_))|[^A-Za-z%\"]|[TZ]")


def time_to_str(node: exp.Expr, _: Translation) -> exp.Expr:
    """Rewrite TO_CHAR with a format that the parser has read."""
    form = node.args["format"]
    if not form.is_string:
        return typed("format", node.this, text(strftime_of(form)), kind=TEXT)
    if "".join(MAPPED.findall(form.name)) != form.name:
        raise unsupported(f"the format of {node.sql(dialect='snowflake')}")
    mapped = form.name.replace("%-d", "%d").replace("%f_three", "%g")
    return typed("format", node.this, text(mapped), kind=TEXT)


DAYS = {"DAY", "WEEK", "MONTH", "QUARTER", "YEAR"}


def dated(node: exp.Expr, translation: Translation) -> exp.Expr:
    value = node.this
    if translation.kind(value) == TEXT:
        value = typed("timestamp", value)
        node.set("this", value)
    cast_at_once = isinstance(node.parent, exp.Cast) and node.parent.to.this in NTZ_TYPES | {exp.DType.DATE}
    if cast_at_once and is_aggregated(value):
        return node  # whether it is a DATE makes no difference
    unit = node.args.get("unit")
    if isinstance(node, exp.AddMonths) or (unit and unit.name.upper() in DAYS):
        return typed("dated", value.copy(), node.copy())
    return node


ELEMENTS = {
    "YYYY": "%Y", "YY": "%y", "MMMM": "%B", "MON": "%b", "MM": "%m", "DD": "%d", "DY": "%a", "HH24": "%H",
    "HH12": "%I", "AM": "%p", "PM": "%p", "MI": "%M", "SS": "%S", "FF3": "%g", "FF6": "%f", "UTC": "UTC",
}  # fmt: skip
ELEMENT = re.compile(
    "|".join(sorted(ELEMENTS, key=len, reverse=True)) + r'|"([^"]*)"|([^A-Za-z0-9"%])', re.IGNORECASE
)


def strftime_of(form: exp.Expr) -> str:
    """Translate a date and time format to DuckDB's ("Date and time input and output formats")."""
    parts = list(form.flatten()) if isinstance(form, exp.DPipe) else [form]
    if not all(part.is_string for part in parts):
        raise unsupported("a format that is not a literal")
    words = "".join(part.name for part in parts)
    made, at = "", 0
    while at < len(words):
        found = ELEMENT.match(words, at)
        if found is None:
            raise unsupported(f"the format '{words}'")
        quoted, other = found.groups()
        made += ELEMENTS.get(found[0].upper(), quoted if quoted is not None else other)
        at = found.end()
    return made


def group_concat(node: exp.Expr, translation: Translation) -> exp.Expr:
    """Rewrite LISTAGG: the result without rows is an empty text ("LISTAGG")."""
    inner = node.this
    order = inner if isinstance(inner, exp.Order) else None
    value = order.this if order else inner
    if not node.args.get("separator"):
        node.set("separator", text(""))
    if isinstance(value, exp.Distinct) and not order:
        value.set("expressions", [as_text(each, translation) for each in value.expressions])
    elif isinstance(value, exp.Distinct):  # DuckDB can order it only by itself, so it must be text already
        if any(translation.may_be_variant(each) for each in value.expressions):
            raise unsupported("LISTAGG(DISTINCT …) of a VARIANT: cast it")
    elif order:
        order.set("this", as_text(value, translation))
    else:
        node.set("this", as_text(value, translation))
    outer = node.parent if isinstance(node.parent, exp.Window) else node
    made = exp.Coalesce(this=outer.copy(), expressions=[text("")])
    made.meta[KIND] = TEXT
    if outer is not node:
        outer.replace(made)
        return node
    return made


# ---- casts


def cast(node: exp.Expr, translation: Translation) -> exp.Expr | None:
    if node.find_ancestor(exp.Schema, exp.ColumnDef):
        return None
    target: exp.DataType = node.args["to"]
    kind = target.this
    prefix = "try_" if isinstance(node, exp.TryCast) else ""
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


def is_plain(node: exp.Expr, kind: exp.DType) -> bool:
    """Return whether DuckDB and Snowflake cast this literal alike: NULL, or an ISO 8601 date and time to TIMESTAMP."""
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
    """Rewrite TO_DATE and similar functions; `safe` means TRY_TO_DATE."""

    def convert(node: exp.Expr, _: Translation) -> exp.Expr | None:
        if node.args.get("format"):
            raise unsupported(f"{node.sql(dialect='snowflake')}: a format for reading")
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


# ---- comparisons and order


def compare(node: exp.Expr, translation: Translation) -> exp.Expr | None:
    if isinstance(node.parent, exp.Update) and node.arg_key == "expressions":
        return None  # an assignment
    first, second = node.this, node.expression
    for one, other in ((first, second), (second, first)):
        beside_literal(one, translation.kind(other), translation)
    first, second = node.this, node.expression
    kinds = (translation.kind(first), translation.kind(second))
    if VARIANT in kinds or MAYBE in kinds:
        if isinstance(node, exp.GT | exp.GTE | exp.LT | exp.LTE):
            for name, each in (("this", first), ("expression", second)):
                node.set(name, ordered(each, "an order", translation))
        return call("alike", node.this.copy(), node.expression.copy(), node.copy())
    return None


def beside_literal(node: exp.Expr, literal: str, translation: Translation) -> None:
    """Cast a VARIANT to the type of the literal that it is compared with."""
    kind = translation.kind(node)
    if literal not in (TEXT, NUMBER, BOOLEAN) or kind not in (VARIANT, MAYBE):
        return
    inner = node.unnest()
    if is_aggregated(node):
        raise unsupported("an aggregated VARIANT beside a literal: cast it")
    if type(inner) is exp.JSONExtract:
        made = scalar_of(inner)
        made = made if literal == TEXT else typed("float" if literal == NUMBER else "boolean", made)
        made.meta[KIND] = TEXT if literal == TEXT else SCALAR
    else:
        made = typed(f"beside_{literal}", node.copy())
    node.replace(made)


def contained(node: exp.Expr, translation: Translation) -> None:
    """Compare a VARIANT with IN's list or BETWEEN's bounds as the type of these literals."""
    if not translation.may_be_variant(node.this):
        return
    others = node.expressions or [each for each in (node.args.get("low"), node.args.get("high")) if each]
    kinds = {translation.kind(each) for each in others} - {NULL}
    beside_literals(node, kinds, "IN or BETWEEN", translation)


def beside_literals(node: exp.Expr, kinds: set[str], what: str, translation: Translation) -> None:
    if len(kinds) == 1 and kinds <= {TEXT, NUMBER, BOOLEAN}:
        beside_literal(node.this, kinds.pop(), translation)
    else:
        node.set("this", ordered(node.this, f"{what} with anything but literals of one type", translation))


def simple_case(node: exp.Expr, translation: Translation) -> None:
    """Compare a VARIANT x of CASE x WHEN y as the type of the literals y."""
    compared = [branch.this for branch in node.args["ifs"]] if node.this else []
    if any(translation.may_be_variant(each) for each in compared):
        raise unsupported("a VARIANT after WHEN: cast it")
    if node.this and translation.may_be_variant(node.this):
        beside_literals(node, {translation.kind(each) for each in compared} - {NULL}, "CASE", translation)


def null_if(node: exp.Expr, translation: Translation) -> None:
    node.set("this", ordered(node.this, "NULLIF", translation))
    node.set("expression", ordered(node.expression, "NULLIF", translation))


def decode(node: exp.Expr, translation: Translation) -> None:
    node.set("expressions", [ordered(each, "DECODE", translation) for each in node.expressions])


def ordered(node: exp.Expr, what: str, translation: Translation) -> exp.Expr:
    kind = translation.kind(node)
    if kind == VARIANT:
        raise unsupported(f"{what} over a VARIANT: cast it to a type")
    return call("ordered", node.copy(), text(what)) if kind == MAYBE else node


def in_order(node: exp.Expr, translation: Translation) -> None:
    what = ORDERS[type(node)]
    if isinstance(node, exp.Ordered) and isinstance(node.this, exp.Literal) and not node.this.is_string:
        by_position(node, translation)
        return
    key = "expression" if isinstance(node, exp.ArgMax | exp.ArgMin) else "this"
    if isinstance(node, exp.Ordered) and is_of_window(node) and translation.kind(node.this) == MAYBE:
        # DuckDB accepts no macro there that can raise an error.
        raise unsupported(f"a window's ORDER BY over {node.this.sql()}, which may be a VARIANT: cast it")
    if isinstance(node.args.get(key), exp.Expr):
        node.set(key, ordered(node.args[key], what, translation))
    if isinstance(node, exp.Greatest | exp.Least):
        node.set("expressions", [ordered(each, what, translation) for each in node.expressions])


def by_position(node: exp.Ordered, translation: Translation) -> None:
    """Check ORDER BY a position. If the column may be a VARIANT, the session checks the types of the result."""
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
            raise unsupported("ORDER BY the position of a VARIANT: name the column, and cast it to a type")


def is_of_window(node: exp.Expr) -> bool:
    return isinstance(node.parent, exp.Order) and isinstance(node.parent.parent, exp.Window)


# ---- numbers


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


# ---- semi-structured data


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


REWRITES: dict[type[exp.Expr], Callable[[exp.Expr, Translation], exp.Expr | None]] = {
    **dict.fromkeys(WANTS_TEXT, wants_text),
    **dict.fromkeys((exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.EqualNull),
                    compare),
    **dict.fromkeys(ORDERS, in_order),
    exp.Case: simple_case,
    exp.Nullif: null_if,
    exp.DecodeCase: decode,
    exp.In: contained,
    exp.Between: contained,
    exp.Cast: cast,
    exp.TryCast: cast,
    exp.ToChar: to_char,
    exp.ToNumber: to_number,
    exp.ToDouble: converting("float"),
    exp.ToBoolean: converting("boolean"),
    exp.TsOrDsToDate: converting("date"),
    exp.TsOrDsToTime: converting("time"),
    exp.Anonymous: anonymous,
    exp.GroupConcat: group_concat,
    exp.Array: array,
    exp.TimeToStr: time_to_str,
    **dict.fromkeys((exp.DateAdd, exp.DateTrunc, exp.TimestampTrunc, exp.AddMonths), dated),
    exp.Mul: multiply,
    exp.Sign: sign,
    exp.Div: divide,
    exp.Mod: remainder,
    exp.Avg: average,
    exp.Median: median,
    exp.ArrayAgg: array_agg,
    exp.WithinGroup: array_agg,
    exp.ParseJSON: parse_json,
    exp.ObjectAgg: object_agg,
    exp.JSONObject: json_object,
}  # fmt: skip


def translate(statement: exp.Expr, variant_columns: frozenset[str]) -> exp.Expr:
    """Rewrite a statement in place. Raises if it contains something that is refused."""
    nodes = [node for node in statement.walk(bfs=False) if type(node) in REWRITES]
    if not nodes:
        return statement
    translation = Translation(aliases_of_variants(statement, variant_columns))
    for node in reversed(nodes):  # children first
        made = REWRITES[type(node)](node, translation)
        if made is not None and made is not node:
            node.replace(made)
    return statement
