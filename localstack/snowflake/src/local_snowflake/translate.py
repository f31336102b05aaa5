"""Rewrite a statement so that DuckDB returns the same result as Snowflake.

Column types are not known for certain here. A column's table is not resolved, so its possible types are those of all
known columns and aliases with its name (`column_types.py`). An expression that depends on them becomes a macro call
(`duckdb_macros.py`), which DuckDB resolves when it binds the statement. `supported_sql.py` has already checked that
every part of the statement is supported.
"""

from collections.abc import Callable

from sqlglot import exp

from local_snowflake.column_types import Types
from local_snowflake.expression_types import (
    WANTS_TEXT,
)
from local_snowflake.infer_kinds import Translation, aliases_of_variants
from local_snowflake.translate_casts import (
    anonymous,
    cast,
    convert_timezone,
    converting,
    current_date,
    dated,
    to_number,
)
from local_snowflake.translate_comparisons import (
    ORDERS,
    compare,
    contained,
    decode,
    in_order,
    null_if,
    set_operation,
    simple_case,
)
from local_snowflake.translate_numbers import (
    average,
    count,
    divide,
    epoch_second,
    finite,
    median,
    multiply,
    remainder,
    sign,
    total,
)
from local_snowflake.translate_text import group_concat, time_to_str, to_char, wants_text
from local_snowflake.translate_variants import (
    array,
    array_agg,
    json_object,
    object_agg,
    parse_json,
    to_variant,
    unified,
)

REWRITES: dict[type[exp.Expr], Callable[[exp.Expr, Translation], exp.Expr | None]] = {
    **dict.fromkeys(WANTS_TEXT, wants_text),
    **dict.fromkeys((exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.EqualNull),
                    compare),
    **dict.fromkeys(ORDERS, in_order),
    exp.Case: simple_case,
    exp.Nullif: null_if,
    **dict.fromkeys((exp.Union, exp.Intersect, exp.Except), set_operation),
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
    **dict.fromkeys((exp.JSONObject, exp.Struct), json_object),
    **dict.fromkeys((exp.ToVariant, exp.JSONFormat), to_variant),
    **dict.fromkeys((exp.Coalesce, exp.If, exp.Nvl2), unified),
    **dict.fromkeys((exp.Sqrt, exp.Ln, exp.Log, exp.Pow, exp.Asin, exp.Acos), finite),
    exp.Extract: epoch_second,
    exp.Count: count,
    exp.Sum: total,
    exp.ConvertTimezone: convert_timezone,
    exp.CurrentDate: current_date,
}  # fmt: skip


def translate(statement: exp.Expr, variant_columns: frozenset[str], types: Types) -> exp.Expr:
    """Rewrite a statement in place, and return it. Raises an error if the statement contains something that is not
    supported.
    """
    nodes = [node for node in statement.walk(bfs=False) if type(node) in REWRITES]
    if not nodes:
        return statement
    translation = Translation(aliases_of_variants(statement, variant_columns), types)
    for node in reversed(nodes):  # Rewrite each node before its parent.
        made = REWRITES[type(node)](node, translation)
        if made is not None and made is not node:
            node.replace(made)
    return statement
