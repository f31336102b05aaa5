"""Infer whether an expression is text, a number, a boolean, NULL, a VARIANT or another scalar, as far as this is
possible without the column types.
"""

from dataclasses import dataclass

from sqlglot import exp

from local_snowflake.column_types import Types
from local_snowflake.expression_types import (
    BOOLEAN,
    GIVES_TEXT,
    GIVES_VARIANT,
    KIND,
    MAYBE,
    NOT_TEXT,
    NULL,
    NUMBER,
    PASSES_ON,
    SCALAR,
    SEMI_STRUCTURED,
    TEXT,
    TEXT_TYPES,
    VARIANT,
    VARIANT_NAMES,
)


@dataclass
class Translation:
    """Infers the kinds of one statement's expressions: `text`, `number`, `boolean`, `null`, `variant`, `maybe a
    variant` or, for any other value, `scalar`. `variants` are the names of the columns that may be VARIANTs, and
    `types` are the possible types of all columns and aliases.
    """

    variants: frozenset[str]
    types: Types | None = None

    def kind(self, node: exp.Expr | None) -> str:  # noqa: PLR0911 (one line per kind of node)
        node = node.unnest() if node else exp.Null()
        if made := node.meta.get(KIND):
            return str(made)
        if isinstance(node, exp.Literal):
            return TEXT if node.is_string else NUMBER
        if isinstance(node, exp.Neg):
            return NUMBER if self.kind(node.this) == NUMBER else SCALAR
        if isinstance(node, exp.Boolean):
            return BOOLEAN
        if isinstance(node, exp.Null):
            return NULL
        if isinstance(node, exp.Alias):
            return self.kind(node.this)
        if isinstance(node, exp.Column):
            return MAYBE if node.name.upper() in self.variants else SCALAR
        if isinstance(node, exp.Cast):
            return (
                VARIANT if node.to.this in SEMI_STRUCTURED else TEXT if node.to.this in TEXT_TYPES else SCALAR
            )
        if isinstance(node, GIVES_VARIANT):
            return VARIANT
        if isinstance(node, GIVES_TEXT) and not isinstance(node, NOT_TEXT):
            return TEXT
        if isinstance(node, PASSES_ON):
            return self._passed_on(node)
        return SCALAR

    def _passed_on(self, node: exp.Expr) -> str:
        if isinstance(node, exp.Window):
            return self.kind(node.this)
        if isinstance(node, exp.Subquery):
            inner = node.this
            given = inner.selects if isinstance(inner, exp.Query) else []
        elif isinstance(node, exp.Case | exp.If):
            ifs = node.args.get("ifs") or [node]
            given = [each.args.get("true") for each in ifs]
            given.append(node.args.get("default") or node.args.get("false") or exp.Null())
        else:
            given = list(node.iter_expressions())
        kinds = {self.kind(each) for each in given} - {NULL}
        if kinds & {VARIANT, MAYBE}:
            return VARIANT if kinds == {VARIANT} else MAYBE
        return TEXT if kinds == {TEXT} else SCALAR

    def may_be_variant(self, node: exp.Expr | None) -> bool:
        return self.kind(node) in (VARIANT, MAYBE)


def aliases_of_variants(statement: exp.Expr, known: frozenset[str]) -> frozenset[str]:
    """Return `known` plus the names in the statement that may denote VARIANTs: aliases of expressions that may be
    VARIANTs, names in column lists, and FLATTEN's columns VALUE and THIS.
    """
    aliases = [
        node for node in statement.find_all(exp.Alias) if isinstance(node.args.get("alias"), exp.Identifier)
    ]
    listed = {
        column.name.upper()
        for alias in statement.find_all(exp.TableAlias)
        for column in alias.args.get("columns") or ()
    }
    names = known | VARIANT_NAMES | listed
    while True:
        translation = Translation(frozenset(names))
        more = {a.alias.upper() for a in aliases if translation.may_be_variant(a.this)} - names
        if not more:
            return frozenset(names)
        names |= more
