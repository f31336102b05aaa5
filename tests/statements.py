"""Parse every statement that we send to Snowflake with independent parsers.

The authors of the local Snowflake also wrote the statements. Therefore each statement that the connector
sends in the tests is parsed by sqlglot (without falling back to Command) or by sqlfluff's Snowflake grammar.
Statements that neither supports are listed here by their first words, with the documentation page.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

UNPARSED = {
    "CREATE STORAGE INTEGRATION": "sqlfluff does not know STORAGE_AWS_EXTERNAL_ID",
    "ALTER PIPE": "sqlfluff does not know UNSET, and of SET not every property",
    "ALTER NOTIFICATION INTEGRATION": "sqlfluff does not know it; Snowflake has a page of this name",
    # Snowflake: "SHOW GRANTS", whose <object_type> is any that privileges are granted on.
    "SHOW GRANTS ON INTEGRATION": "sqlfluff does not know this kind of object here",
    "SHOW GRANTS ON FILE FORMAT": "sqlfluff does not know this kind of object here",
    "SHOW GRANTS ON PIPE": "sqlfluff does not know this kind of object here",
    "SHOW GRANTS ON STAGE": "sqlfluff does not know this kind of object here",
    "SHOW GRANTS ON RESOURCE MONITOR": "sqlfluff does not know this kind of object here",
}


@contextmanager
def parsed_by_others() -> Iterator[None]:
    """Record every statement that the connector sends, and require at the end that a parser accepts it or
    that it is listed.
    """
    from snowflake.connector.cursor import SnowflakeCursor

    sent: dict[str, str] = {}
    execute = SnowflakeCursor.execute

    def noting(self: SnowflakeCursor, command: str, *arguments: object, **named: object) -> object:
        sent.setdefault(shape_of(command), command)
        return execute(self, command, *arguments, **named)  # type: ignore[call-overload]

    SnowflakeCursor.execute = noting  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        SnowflakeCursor.execute = execute  # type: ignore[method-assign]
    unknown = sorted(each for each in sent.values() if not known(each))
    assert unknown == [], f"no parser accepts these statements (tests/statements.py): {unknown}"


def shape_of(sql: str) -> str:
    """Return the statement with equal literals and generated names, so that one statement of each kind is
    parsed.
    """
    return re.sub(r"[0-9a-f]{8,}|[0-9]+", "0", re.sub(r"'(?:[^']|'')*'", "''", sql), flags=re.IGNORECASE)


def known(sql: str) -> bool:
    words = " ".join(re.sub(r"--[^\n]*", "", sql).split()).upper()
    filled = sql.replace("%s", "'x'")
    return parsed_by_sqlglot(filled) or words.startswith(tuple(UNPARSED)) or parsed_by_sqlfluff(filled)


def parsed_by_sqlglot(sql: str) -> bool:
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns about each command
    try:
        tree = sqlglot.parse_one(sql, read="snowflake")
    except SqlglotError:
        return False
    return tree is not None and not list(tree.find_all(exp.Command))


def parsed_by_sqlfluff(sql: str) -> bool:
    from sqlfluff.core import Linter

    parsed = Linter(dialect="snowflake").parse_string(sql)
    return parsed.tree is not None and "unparsable" not in parsed.tree.type_set()
