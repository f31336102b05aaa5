"""Infer an expression's type without knowing the column types, and build calls to macros that have one overload
per type.
"""

from collections.abc import Iterable

from sqlglot import exp

from local_snowflake.duckdb_macros import HOME

TEXT, NUMBER, BOOLEAN, NULL = "text", "number", "boolean", "null"
VARIANT, MAYBE, SCALAR = "variant", "maybe a variant", "scalar"
KIND = "local_kind"

TEXT_TYPES = {exp.DType.VARCHAR, exp.DType.TEXT, exp.DType.NVARCHAR, exp.DType.CHAR}
SEMI_STRUCTURED = {exp.DType.VARIANT, exp.DType.OBJECT, exp.DType.ARRAY}

# Functions that read their arguments as text.
WANTS_TEXT = (
    exp.Ascii, exp.Base64Encode, exp.Concat, exp.ConcatWs, exp.Contains, exp.DPipe, exp.EndsWith, exp.ILike,
    exp.Initcap, exp.Left, exp.Length, exp.Like, exp.Lower, exp.MD5, exp.Pad, exp.RegexpExtract, exp.RegexpLike,
    exp.RegexpReplace, exp.Repeat, exp.Replace, exp.Reverse, exp.Right, exp.SHA, exp.SHA2, exp.Split, exp.SplitPart,
    exp.StartsWith, exp.StrPosition, exp.Substring, exp.Translate, exp.Trim, exp.Upper,
)  # fmt: skip
GIVES_TEXT = (*WANTS_TEXT, exp.GroupConcat, exp.ToChar, exp.JSONExtractScalar, exp.Chr, exp.Typeof)
NOT_TEXT = (exp.Ascii, exp.Contains, exp.EndsWith, exp.ILike, exp.Length, exp.Like, exp.RegexpLike, exp.Split,
            exp.StartsWith, exp.StrPosition)  # fmt: skip
GIVES_VARIANT = (
    exp.JSONExtract, exp.ParseJSON, exp.Struct, exp.JSONObject, exp.Array, exp.ToVariant, exp.Split, exp.ArrayAgg,
    exp.ObjectAgg, exp.GetExtract, exp.Bracket, exp.StarMap, exp.ArrayConcat, exp.ArraySlice, exp.JSONKeys,
)  # fmt: skip
# Functions whose result has the type of their argument.
PASSES_ON = (
    exp.AnyValue, exp.ArgMax, exp.ArgMin, exp.Case, exp.Coalesce, exp.DecodeCase, exp.FirstValue, exp.Greatest,
    exp.If, exp.IgnoreNulls, exp.Lag, exp.LastValue, exp.Lead, exp.Least, exp.Max, exp.Min, exp.NthValue, exp.Nullif,
    exp.Nvl2, exp.Paren, exp.RespectNulls, exp.Subquery, exp.Window,
)  # fmt: skip
VARIANT_NAMES = frozenset({"VALUE", "THIS"})


def call(name: str, *arguments: exp.Expr, kind: str = SCALAR) -> exp.Expr:
    made = exp.Anonymous(this=f"{HOME}_ls_{name}", expressions=list(arguments))
    made.meta[KIND] = kind
    return made


def type_of(node: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this="typeof", expressions=[node.copy()])


def typed(name: str, node: exp.Expr, *more: exp.Expr, kind: str = SCALAR) -> exp.Expr:
    """Return a call to a macro that has one overload per type, or the argument itself if it already has the type that
    the macro returns. If the argument contains an aggregate or a window function, return a call to a macro without
    overloads (`any_macros` in `duckdb_macros.py`).

    The call passes the argument and its type. If the type is known here, it is passed as a literal and not as
    `typeof(argument)`, so that the argument occurs only once, which makes binding a statement with many casts
    several times faster.
    """
    family = name.removeprefix("try_")
    if is_aggregated(node):
        return call(f"any_{ANY.get(family, 'cast')}", node, *more, kind=kind)
    known = duck_type(node)
    if known is not None and known == GIVES.get(family):
        return node
    if known == VARCHAR and family in TAKES_TEXT:
        made = call(f"{name}_of_text", node, kind=kind)
    else:
        made = call(name, node, text(known) if known else type_of(node), *more, kind=kind)
    made.meta[TYPE] = GIVES.get(family)
    return made


ANY = {"text": "text", "whole": "whole", "format": "format", "dated": "dated"}
TYPE = "local_type"
VARCHAR, TIMESTAMP, TIMESTAMP_TZ = "VARCHAR", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"
TAKES_TEXT = {"number", "whole", "float", "boolean", "date", "timestamp", "timestamp_tz", "time"}
# The type that the macros of a family return; a value that already has this type is returned unchanged.
GIVES = {"text": VARCHAR, "float": "DOUBLE", "boolean": "BOOLEAN", "date": "DATE", "timestamp": TIMESTAMP,
         "timestamp_tz": TIMESTAMP_TZ, "time": "TIME"}  # fmt: skip


def duck_type(node: exp.Expr | None) -> str | None:
    """Return the type that DuckDB will infer for the expression, or None if the type cannot be inferred here."""
    node = node.unnest() if node else exp.Null()
    if TYPE in node.meta:
        found = node.meta[TYPE]
        return str(found) if found else None
    if node.meta.get(KIND) == TEXT or (isinstance(node, exp.Literal) and node.is_string):
        return VARCHAR
    if isinstance(node, GIVES_TEXT) and not isinstance(node, NOT_TEXT):
        return VARCHAR
    if isinstance(node, exp.ConvertTimezone) and not node.args.get("source_tz"):
        return TIMESTAMP if duck_type(node.args["timestamp"]) == TIMESTAMP_TZ else None
    if isinstance(node, exp.Case) or type(node) is exp.Coalesce:
        return type_of_all(node)
    return None


def type_of_all(node: exp.Expr) -> str | None:
    """Return the type of a CASE or COALESCE if all branches, apart from NULL, have the same type; otherwise None."""
    given: Iterable[exp.Expr | None]
    if isinstance(node, exp.Case):
        given = [*(each.args.get("true") for each in node.args["ifs"]), node.args.get("default")]
    else:
        given = node.iter_expressions()
    types = {duck_type(each) for each in given if each and not isinstance(each.unnest(), exp.Null)}
    return types.pop() if len(types) == 1 else None


def is_aggregated(node: exp.Expr) -> bool:
    """Return whether an expression contains an aggregate or a window function. DuckDB does not know the type
    of such an expression when it chooses an overload.
    """
    return any(
        isinstance(each, exp.AggFunc | exp.Window | exp.Filter | exp.WithinGroup) or is_listed(each)
        for each in node.walk(prune=lambda inner: isinstance(inner, exp.Subquery))
    )


def is_listed(node: exp.Expr) -> bool:
    return isinstance(node, exp.Anonymous) and node.name == "LIST"


def text(value: str) -> exp.Expr:
    return exp.Literal.string(value)
