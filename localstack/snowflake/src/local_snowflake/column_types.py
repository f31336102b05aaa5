"""Determine the possible types of an expression.

A column's possible types are those of all known columns and aliases with its name, because its table is not resolved.
The types are needed where DuckDB silently converts values differently from Snowflake.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp

from local_snowflake.expression_types import (
    GIVES_TEXT,
    GIVES_VARIANT,
    KIND,
    NOT_TEXT,
    PASSES_ON,
    SEMI_STRUCTURED,
    TEXT,
    TEXT_TYPES,
    TYPE,
    VARIANT,
)

TEXTS, INTEGER, DECIMAL, DOUBLE, TIMESTAMP = "text", "integer", "decimal", "double", "timestamp"
TEXT_LITERAL, NUMBER_LITERAL = "text literal", "number literal"
OF_DUCK = {
    "VARCHAR": TEXTS, "JSON": VARIANT, "DOUBLE": DOUBLE, "FLOAT": DOUBLE, "BOOLEAN": "boolean", "DATE": "date",
    "TIME": "time", "BLOB": "binary",
}  # fmt: skip
OF_CAST = {
    **dict.fromkeys(TEXT_TYPES, TEXTS),
    **dict.fromkeys(SEMI_STRUCTURED, VARIANT),
    **dict.fromkeys((exp.DType.BIGINT, exp.DType.INT, exp.DType.SMALLINT, exp.DType.TINYINT), INTEGER),
    **dict.fromkeys((exp.DType.FLOAT, exp.DType.DOUBLE), DOUBLE),
    exp.DType.DECIMAL: DECIMAL,
    exp.DType.BOOLEAN: "boolean",
    exp.DType.DATE: "date",
    exp.DType.TIME: "time",
    exp.DType.BINARY: "binary",
    **dict.fromkeys(
        (exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ, exp.DType.TIMESTAMPTZ, exp.DType.TIMESTAMPLTZ),
        TIMESTAMP,
    ),
}
WHOLE = (exp.Count, exp.CountIf, exp.RowNumber, exp.Rank, exp.DenseRank, exp.Length, exp.Extract, exp.Year,
         exp.Month, exp.Day, exp.DateDiff, exp.Sign, exp.Ascii, exp.StrPosition)  # fmt: skip
NUMBER = "number"
NUMBERS = (exp.Mul, exp.Div, exp.Mod, exp.Sum, exp.Avg, exp.Abs, exp.Round)
GROUPS = {
    TEXTS: TEXTS, TEXT_LITERAL: TEXTS, INTEGER: NUMBER, DECIMAL: NUMBER, DOUBLE: NUMBER,
    NUMBER_LITERAL: NUMBER, "date": TIMESTAMP,
}  # fmt: skip

type Possible = frozenset[str] | None
"""The types that an expression may have: None if they are unknown, and an empty set if the expression is NULL."""


def type_of_column(duck_type: str) -> str:
    if duck_type.startswith("DECIMAL"):
        return DECIMAL
    if duck_type.startswith("TIMESTAMP"):
        return TIMESTAMP
    return OF_DUCK.get(
        duck_type, INTEGER if duck_type.endswith("INT") or duck_type == "INTEGER" else duck_type
    )


def groups(types: Iterable[str]) -> frozenset[str]:
    """Return the groups to which the types belong; within a group, DuckDB and Snowflake convert values alike."""
    return frozenset(GROUPS.get(each, each) for each in types)


def differ(one: Possible, other: Possible) -> bool:
    """Return whether the types of two expressions certainly belong to different groups."""
    return bool(one and other and groups(one).isdisjoint(groups(other)))


@dataclass(frozen=True)
class Types:
    """The types that each column or alias in a statement may have."""

    known: Mapping[str, frozenset[str]]
    aliases: Mapping[str, tuple[exp.Expr, ...]]
    listed: frozenset[str]
    """Names in column lists of aliases, such as a in `AS t (a)`; their types are unknown."""

    @classmethod
    def of_statement(cls, statement: exp.Expr, known: Mapping[str, frozenset[str]]) -> "Types":
        aliases: dict[str, tuple[exp.Expr, ...]] = {}
        for alias in statement.find_all(exp.Alias):
            name = alias.alias.upper()
            aliases[name] = (*aliases.get(name, ()), alias.this)
        listed = frozenset(
            column.name.upper()
            for alias in statement.find_all(exp.TableAlias)
            for column in alias.args.get("columns") or ()
        )
        return cls(known, aliases, listed)

    def of(self, node: exp.Expr | None, seen: frozenset[str] = frozenset()) -> Possible:
        node = node.unnest() if node else exp.Null()
        if isinstance(node, exp.Null):
            return frozenset()
        if isinstance(node, exp.Literal):
            return frozenset({TEXT_LITERAL if node.is_string else NUMBER_LITERAL})
        if isinstance(node, exp.Alias | exp.Neg):
            return self.of(node.this, seen)
        if isinstance(node, exp.Column):
            return self._of_column(node.name.upper(), seen)
        if isinstance(node, PASSES_ON):
            return self._of_all(branches(node), seen)
        found = type_of_node(node)
        return frozenset({found}) if found else None

    def _of_column(self, name: str, seen: frozenset[str]) -> Possible:
        if name in self.listed:
            return None
        known = self.known.get(name)
        if name in seen:
            return known
        given = self._of_all(self.aliases.get(name, ()), seen | {name})
        if given is None or not (known or given):
            return None
        as_column = {TEXT_LITERAL: TEXTS, NUMBER_LITERAL: DECIMAL}
        return (known or frozenset()) | {as_column.get(each, each) for each in given}

    def _of_all(self, nodes: Iterable[exp.Expr | None], seen: frozenset[str]) -> Possible:
        found: frozenset[str] = frozenset()
        for node in nodes:
            given = self.of(node, seen)
            if given is None:
                return None
            found |= given
        return found


def branches(node: exp.Expr) -> Iterator[exp.Expr | None]:
    if isinstance(node, exp.Subquery):
        yield from node.this.selects[:1] if isinstance(node.this, exp.Query) else ()
    elif isinstance(node, exp.Case | exp.If):
        yield from (each.args.get("true") for each in node.args.get("ifs") or [node])
        yield node.args.get("default") or node.args.get("false")
    elif isinstance(node, exp.Nvl2):
        yield from (node.args.get("true"), node.args.get("false"))
    elif isinstance(node, exp.DecodeCase):
        values = node.expressions[1:]
        yield from (values[at] for at in range(len(values)) if at % 2 or at == len(values) - 1)
    elif isinstance(node, exp.Coalesce | exp.Greatest | exp.Least):
        yield from node.iter_expressions()
    else:
        yield node.this


def type_of_node(node: exp.Expr) -> str | None:
    kind = node.meta.get(KIND)
    if kind == TEXT or (isinstance(node, GIVES_TEXT) and not isinstance(node, NOT_TEXT)):
        return TEXTS
    if kind == VARIANT or isinstance(node, GIVES_VARIANT):
        return VARIANT
    if node.meta.get(TYPE):
        return type_of_column(str(node.meta[TYPE]))
    if isinstance(node, exp.Cast):
        return OF_CAST.get(node.to.this)
    return next((found for kinds, found in OF_NODES if isinstance(node, kinds)), None)


OF_NODES: tuple[tuple[tuple[type[exp.Expr], ...], str | None], ...] = (
    ((exp.All, exp.Any), None),  # their type is that of a subquery's column
    ((exp.Boolean, exp.Predicate, exp.Not, exp.And, exp.Or), "boolean"),
    (WHOLE, INTEGER),
    (NUMBERS, NUMBER),
    ((exp.CurrentTimestamp,), TIMESTAMP),
    ((exp.CurrentDate,), "date"),
)
