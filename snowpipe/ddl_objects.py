"""The objects that the DDL defines, with the properties that can be compared with those of deployed objects."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlglot
from sqlglot import Token, TokenType, exp

from snowpipe.ddl_files import Definition, tokens

type Value = str | tuple[str, ...]

_CREATE = re.compile(
    r"^CREATE (?:OR ALTER |OR REPLACE )?(?P<kind>STORAGE INTEGRATION|FILE FORMAT|RESOURCE MONITOR|"
    r"NOTIFICATION INTEGRATION|[A-Z]+) (?:IF NOT EXISTS )?(?P<name>[\w.]+)",
    re.MULTILINE,
)
_SETS = re.compile(
    r"^ALTER (?:WAREHOUSE|PIPE) (?P<name>[\w.]+) SET (?P<property>\w+) = (?P<value>\w+)", re.MULTILINE
)


@dataclass(frozen=True)
class Object:
    kind: str
    name: str
    definition: str
    """The name of the DDL file."""
    properties: dict[str, Value] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    """For a table, each column's type and nullability (such as `NUMBER NOT NULL`), by column name."""
    body: str = ""
    """The query of a view, or the COPY statement of a pipe."""
    managed: bool = False

    def __str__(self) -> str:
        return f"{self.kind.lower()} {self.name}"

    @property
    def base(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def home(self) -> str:
        """Return the schema or database of the object; "" for an account-level object."""
        return self.name.rpartition(".")[0]

    @property
    def home_kind(self) -> str:
        return "SCHEMA" if "." in self.home else "DATABASE"


def objects(ddl: Sequence[Definition]) -> list[Object]:
    """Return the objects of the DDL, including the properties that later files set."""
    found = [
        _object(definition, statement)
        for definition in ddl
        for statement in definition.statements
        if _CREATE.search(statement)
    ]
    # Add the properties that are set in separate files, which run only if a setting is given.
    for definition in ddl:
        for sets in _SETS.finditer(definition.sql):
            for each in found:
                if each.name == sets["name"]:
                    each.properties[sets["property"]] = sets["value"]
    return found


def _object(definition: Definition, statement: str) -> Object:
    match = _CREATE.search(statement)
    assert match, f"{definition.path.name} creates nothing"
    kind, name = match["kind"], match["name"]
    columns: dict[str, str] = {}
    header, body = statement[match.end() :], ""
    if kind == "TABLE":
        columns = _columns(statement)
        header = ""
    elif kind in ("VIEW", "PIPE"):
        header, _, body = header.partition("\nAS\n")
    return Object(
        kind,
        name,
        definition.path.name,
        _properties(header),
        columns,
        body,
        managed="WITH MANAGED ACCESS" in header,
    )


def _properties(header: str) -> dict[str, Value]:
    """Parse the NAME = value pairs of a CREATE statement.

    A list in parentheses becomes a tuple, and (FORMAT_NAME = 'x') becomes 'x'.
    """
    found: dict[str, Value] = {}
    words = tokens(header)
    for at, token in enumerate(words[:-1]):
        if token.token_type is TokenType.EQ:
            found.setdefault(words[at - 1].text.upper(), _value(words[at + 1 :]))
    return {name: value for name, value in found.items() if name != "FORMAT_NAME"}


def _value(words: list[Token]) -> Value:
    if words[0].token_type is not TokenType.L_PAREN:
        return words[0].text
    inside = words[1 : next(i for i, word in enumerate(words) if word.token_type is TokenType.R_PAREN)]
    texts = tuple(word.text for word in inside if word.token_type is TokenType.STRING)
    named = any(word.token_type is TokenType.EQ for word in inside)
    return texts[0] if named else texts


def _columns(statement: str) -> dict[str, str]:
    create = sqlglot.parse_one(statement, read="snowflake")
    return {
        column.name.upper(): f"{_type(column)}{' NOT NULL' if column.find(exp.NotNullColumnConstraint) else ''}"
        for column in create.find_all(exp.ColumnDef)
    }


# Types that sqlglot writes differently from the DDL and Snowflake.
_TYPES = {"DECIMAL": "NUMBER", "TIMESTAMPNTZ": "TIMESTAMP_NTZ", "TIMESTAMPLTZ": "TIMESTAMP_LTZ"}


def _type(column: exp.ColumnDef) -> str:
    assert column.kind
    name = column.kind.sql("snowflake").partition("(")[0]
    return _TYPES.get(name, name)
