"""Parse every statement that we send to Snowflake with independent parsers.

The authors of the local Snowflake also wrote the statements. Therefore, each statement that the connector sends in
the tests, in this process or in dbt's (`tests/model_runs.py`), must be parsed by sqlglot or by sqlfluff's Snowflake
grammar. sqlglot's fallback for unsupported statements, a `Command`, does not count. Statements that neither parser
supports are listed here in full, so that an incorrect statement of the same kind is still detected.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

NAME = r"[\w.$]+"
UNPARSED = (
    # Snowflake: "ALTER PIPE", UNSET <property_name>.
    rf"ALTER PIPE {NAME} UNSET ERROR_INTEGRATION",
    # Snowflake: "ALTER NOTIFICATION INTEGRATION (outbound to AWS SNS)".
    rf"ALTER NOTIFICATION INTEGRATION {NAME} SET (ENABLED|AWS_SNS_ROLE_ARN|AWS_SNS_TOPIC_ARN) = ('[^']*'|TRUE|FALSE)",
    # Snowflake: "SHOW GRANTS". Its <object_type> may be any type of object on which privileges can be granted.
    rf"SHOW GRANTS ON (INTEGRATION|FILE FORMAT|PIPE|STAGE|RESOURCE MONITOR) {NAME}",
)
"""Patterns of complete statements that neither parser supports, each with its documentation page."""
LEFT_OUT = re.compile(r"\bSTORAGE_AWS_EXTERNAL_ID = '[^']*'")
"""A property that neither parser supports (Snowflake: "CREATE STORAGE INTEGRATION"); the rest is parsed."""

_sent: dict[str, str] = {}


def note(sql: str) -> None:
    """Record a statement that was sent to Snowflake. When `parsed_by_others` ends, it parses one recorded
    statement of each shape.
    """
    _sent.setdefault(shape_of(sql), sql)


@contextmanager
def parsed_by_others() -> Iterator[None]:
    """Record every statement that the connector sends.

    At the end, raise AssertionError unless a parser accepts each statement or UNPARSED lists it.
    """
    from snowflake.connector.cursor import SnowflakeCursor

    execute: Callable[..., object] = SnowflakeCursor.execute

    def noting(self: SnowflakeCursor, command: str, *arguments: object, **named: object) -> object:
        note(command)
        return execute(self, command, *arguments, **named)

    with patch.object(SnowflakeCursor, "execute", noting):
        yield
    unknown = sorted(each for each in _sent.values() if not known(each))
    assert unknown == [], f"no parser accepts these statements (tests/statements.py): {unknown}"


def shape_of(sql: str) -> str:
    """Return the statement with fixed values in place of its literals and generated names.

    Statements that differ only in literals and generated names have the same shape, and only one of them is parsed.
    """
    return re.sub(r"[0-9a-f]{8,}|[0-9]+", "0", re.sub(r"'(?:[^']|'')*'", "''", sql), flags=re.IGNORECASE)


def known(sql: str) -> bool:
    """Return whether a parser supports the whole statement, or UNPARSED lists it."""
    words = " ".join(re.sub(r"--[^\n]*", "", sql).split()).rstrip(";")
    if any(re.fullmatch(pattern, words, re.IGNORECASE) for pattern in UNPARSED):
        return True
    filled = LEFT_OUT.sub("", sql.replace("%s", "'x'"))
    return parsed_by_sqlglot(filled) or parsed_by_sqlfluff(filled)


def parsed_by_sqlglot(sql: str) -> bool:
    # Suppress sqlglot's warning about each statement that it parses as a Command.
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    try:
        tree = sqlglot.parse_one(sql, read="snowflake")
    except SqlglotError:
        return False
    return tree is not None and not list(tree.find_all(exp.Command))


def parsed_by_sqlfluff(sql: str) -> bool:
    from sqlfluff.core import Linter

    parsed = Linter(dialect="snowflake").parse_string(sql)
    return parsed.tree is not None and "unparsable" not in parsed.tree.type_set()
