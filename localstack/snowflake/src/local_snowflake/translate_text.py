"""Rewrite string functions, and date and time formats."""

import re

from sqlglot import exp

from local_snowflake.duckdb_macros import HOME
from local_snowflake.errors import unsupported
from local_snowflake.expression_types import (
    KIND,
    NULL,
    TEXT,
    call,
    text,
    typed,
)
from local_snowflake.infer_kinds import Translation

TEXT_ARGUMENTS = ("this", "expression", "substr", "replacement", "delimiter", "fill_pattern", "from_", "to")
NUMBERS_OF = {exp.Pad: {"expression"}, exp.Left: {"expression"}, exp.Right: {"expression"}}

QUOTIENT = f"{HOME}_ls_any_divide"
QUOTIENTS = (QUOTIENT, f"{HOME}_ls_divide")
KEEPS_SCALE = exp.Paren | exp.Add | exp.Sub | exp.Neg | exp.Coalesce | exp.Case | exp.If | exp.Round | exp.Abs
"""The scale of these expressions depends on the scale of their arguments, which DuckDB does not know for a quotient."""


def as_text(node: exp.Expr, translation: Translation) -> exp.Expr:
    kind = translation.kind(node)
    if kind in (TEXT, NULL):
        return node
    inner = node.unnest()
    if inner.name in QUOTIENTS:
        dividend, divisor = inner.expressions[:2]
        return call("quotient_text", node.copy(), dividend.copy(), divisor.copy(), kind=TEXT)
    if any(each.name == QUOTIENT for each in node.walk(prune=lambda each: not isinstance(each, KEEPS_SCALE))):
        raise unsupported(
            "converting to text an expression that contains AVG or a division of an aggregate."
            " Cast the expression to a NUMBER first."
        )
    if isinstance(inner, exp.JSONExtract) and not isinstance(inner, exp.JSONExtractScalar):
        return scalar_of(inner)
    return typed("text", node, kind=TEXT)


def scalar_of(extract: exp.JSONExtract) -> exp.Expr:
    return exp.JSONExtractScalar(this=extract.this, expression=extract.expression)


def wants_text(node: exp.Expr, translation: Translation) -> exp.Expr | None:
    refuse_perl_pattern(node)
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
    if isinstance(node, exp.Substring) and not is_positive(node.args["start"]):
        return call("substr", node.copy(), node.this.copy(), node.args["start"].copy(), kind=TEXT)
    # sqlglot would write the argument several times, in case it is binary.
    return exp.Anonymous(this="length", expressions=[node.this]) if isinstance(node, exp.Length) else None


def is_positive(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and node.is_int


PERL = re.compile(r"(?<!\\)(?:[*+?}]\?|\(\?)")


def refuse_perl_pattern(node: exp.Expr) -> None:
    """Refuse regular expressions with features that DuckDB supports but Snowflake does not, such as
    non-greedy quantifiers (Snowflake: "String functions (regular expressions)").
    """
    pattern = node.args.get("expression")
    if (
        isinstance(node, exp.RegexpExtract | exp.RegexpLike | exp.RegexpReplace)
        and isinstance(pattern, exp.Literal)
        and PERL.search(pattern.name)
    ):
        raise unsupported(f"the regular expression {pattern.sql(dialect='snowflake')}")


def to_char(node: exp.Expr, translation: Translation) -> exp.Expr:
    form = node.args.get("format")
    if form is None:
        return as_text(node.this, translation)
    return typed("format", node.this, text(strftime_of(form)), kind=TEXT)


MAPPED = re.compile(r"%(?:Y|y|m|d|-d|b|B|a|H|I|p|M|S|f_three|f(?!_))|[^A-Za-z%\"]|[TZ]")


def time_to_str(node: exp.Expr, _: Translation) -> exp.Expr:
    """Rewrite a TO_CHAR call whose format sqlglot has already translated."""
    form = node.args["format"]
    if not form.is_string:
        return typed("format", node.this, text(strftime_of(form)), kind=TEXT)
    if "".join(MAPPED.findall(form.name)) != form.name:
        raise unsupported(f"the format of {node.sql(dialect='snowflake')}")
    mapped = form.name.replace("%-d", "%d").replace("%f_three", "%g")
    return typed("format", node.this, text(mapped), kind=TEXT)


ELEMENTS = {
    "YYYY": "%Y", "YY": "%y", "MMMM": "%B", "MON": "%b", "MM": "%m", "DD": "%d", "DY": "%a", "HH24": "%H",
    "HH12": "%I", "AM": "%p", "PM": "%p", "MI": "%M", "SS": "%S", "FF3": "%g", "FF6": "%f", "UTC": "UTC",
}  # fmt: skip
ELEMENT = re.compile(
    "|".join(sorted(ELEMENTS, key=len, reverse=True)) + r'|"([^"]*)"|([^A-Za-z0-9"%])', re.IGNORECASE
)


def strftime_of(form: exp.Expr) -> str:
    """Translate Snowflake's date and time format into DuckDB's (Snowflake: "Date and time input and output
    formats").
    """
    parts = list(form.flatten()) if isinstance(form, exp.DPipe) else [form]
    if not all(part.is_string for part in parts):
        raise unsupported("a date or time format that is not a literal")
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
    """Rewrite LISTAGG so that it returns an empty string if there are no rows (Snowflake: "LISTAGG")."""
    inner = node.this
    order = inner if isinstance(inner, exp.Order) else None
    value = order.this if order else inner
    if not node.args.get("separator"):
        node.set("separator", text(""))
    if isinstance(value, exp.Distinct) and not order:
        value.set("expressions", [as_text(each, translation) for each in value.expressions])
    elif isinstance(value, exp.Distinct):
        # DuckDB can order DISTINCT values only by themselves, so they must already be text.
        if any(translation.may_be_variant(each) for each in value.expressions):
            raise unsupported("LISTAGG(DISTINCT …) WITHIN GROUP of a VARIANT. Cast it to a VARCHAR.")
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
