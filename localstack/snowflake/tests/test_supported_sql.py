"""Test that every case in supported_sql_cases.tsv gives the answer, error or refusal that the file states."""

import json
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path

import pytest
from snowflake import connector
from snowflake.connector.constants import FIELD_TYPES

from local_snowflake import supported_sql
from local_snowflake.supported_sql import Case, cases, statements_of
from local_snowflake.testing import LocalProcess

CASES = cases()
SEMI_STRUCTURED = {"VARIANT", "OBJECT", "ARRAY"}
ANSWERED = [case for case in CASES if not case.expected.startswith(("ERROR", "REFUSED"))]
FAILING = [case for case in CASES if case.expected.startswith("ERROR")]
REFUSED = [case for case in CASES if case.expected == "REFUSED"]


def shown(value: object, kind: str) -> str:
    if value is None:
        return "NULL"
    if kind in SEMI_STRUCTURED:
        return json.dumps(json.loads(str(value)), separators=(",", ":"), ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, int | float | Decimal):
        plain = format(Decimal(repr(value) if isinstance(value, float) else value), "f")
        return (plain.rstrip("0").rstrip(".") if "." in plain else plain).replace(
            "-0", "0" if plain == "-0" else "-0"
        )
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, date | time) else repr(value)


@pytest.fixture(scope="module")
def session(local: LocalProcess) -> Iterator[connector.SnowflakeConnection]:
    with local.connect() as connection:
        connection.cursor().execute("CREATE DATABASE VERIFIED")
        connection.cursor().execute("CREATE SCHEMA VERIFIED.S")  # also makes it the session's current schema
        yield connection
        connection.cursor().execute("DROP DATABASE VERIFIED")


def answer(session: connector.SnowflakeConnection, case: Case) -> str:
    statements = statements_of(case)
    cursor = session.cursor()
    if len(statements) > 1:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS VERIFIED.S")
        cursor.execute("USE SCHEMA VERIFIED.S")
        for kind, name in (("TABLE", "T"), ("TABLE", '"t"'), ("VIEW", "W")):
            cursor.execute(f"DROP {kind} IF EXISTS {name}")
    for statement in statements:
        cursor.execute(statement)
    kinds = [FIELD_TYPES[column.type_code].name for column in cursor.description]
    rows = [[shown(value, kind) for value, kind in zip(row, kinds, strict=True)] for row in cursor.fetchall()]
    return " / ".join(row[0] if len(row) == 1 else f"({', '.join(row)})" for row in rows) or "nothing"


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: case.statement)
def test_verified_statement_returns_the_documented_answer(
    session: connector.SnowflakeConnection, case: Case
) -> None:
    assert answer(session, case) == case.expected


@pytest.mark.parametrize("case", FAILING, ids=lambda case: case.statement)
def test_statement_that_fails_in_snowflake_fails_with_the_same_error_code(
    session: connector.SnowflakeConnection, case: Case
) -> None:
    with pytest.raises(connector.errors.Error) as raised:
        answer(session, case)
    code = case.expected.partition(" ")[2]
    assert not code or raised.value.errno == int(code)
    assert raised.value.errno != 2


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.statement)
def test_unsupported_statement_is_refused(session: connector.SnowflakeConnection, case: Case) -> None:
    with pytest.raises(connector.errors.ProgrammingError, match=r"[Nn]ot supported by the local Snowflake"):
        answer(session, case)


def test_at_least_400_cases_are_verified() -> None:
    assert len(CASES) >= 400
    assert {case.basis for case in CASES} == {"example", "rule"}


def test_allowlist_contains_exactly_the_shapes_of_the_verified_cases() -> None:
    assert supported_sql.SHAPES.read_text().splitlines() == supported_sql.shapes()


def test_supported_sql_page_is_up_to_date() -> None:
    assert (Path(__file__).parents[1] / supported_sql.PAGE).read_text() == supported_sql.page()
