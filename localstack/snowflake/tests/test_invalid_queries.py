"""Test that queries that Snowflake refuses fail even if DuckDB would run them, and that similar queries succeed."""

from collections.abc import Iterator

import pytest
from snowflake import connector

from local_snowflake.testing import LocalProcess

ROW_ORDER = "requires ORDER BY in window specification"
INVALID = (
    ("CREATE TABLE N AS SELECT 1 AS a, 2 AS a", 2025, "duplicate column name 'A'"),
    ("CREATE VIEW N AS SELECT * FROM T JOIN U ON T.a = U.a", 2025, "duplicate column name 'A'"),
    (
        "CREATE TABLE N AS WITH x AS (SELECT *, 1 AS e FROM T) SELECT *, 2 AS e FROM x",
        2025,
        "column name 'E'",
    ),
    ("SELECT a FROM (SELECT *, 5 AS a FROM T)", 2, "two columns A"),
    ("WITH x AS (SELECT *, 5 AS a FROM T) SELECT a FROM x", 2, "two columns A"),
    ("INSERT INTO U SELECT a, c FROM (SELECT a, 1 AS c, 2 AS c FROM T)", 2, "two columns C"),
    ("CREATE TABLE N AS SELECT COUNT(*) FROM T", 2022, "Missing column specification"),
    ("CREATE VIEW N AS SELECT a + 1 FROM T", 2022, "Missing column specification"),
    ("SELECT ROW_NUMBER() OVER () FROM T", 1003, f"[ROW_NUMBER] {ROW_ORDER}"),
    ("SELECT LAG(a) IGNORE NULLS OVER (PARTITION BY b) FROM T", 1003, f"[LAG] {ROW_ORDER}"),
    ("SELECT SUM(DISTINCT a) OVER (PARTITION BY b ORDER BY a) FROM T", 1003, "distinct cannot be used"),
    ("SELECT DISTINCT a FROM T ORDER BY b", 1003, "[B] is not a valid order by expression"),
    ("SELECT (SELECT c FROM U WHERE U.a = T.a) AS c FROM T", 2031, "Unsupported subquery type"),
    ("SELECT (SELECT MAX(c) FROM U WHERE U.a < T.a) AS c FROM T", 2031, "Unsupported subquery type"),
    ("INSERT INTO W (v) VALUES (OBJECT_CONSTRUCT('a', 1))", 2014, "in VALUES clause"),
    ("INSERT INTO W (v) VALUES ([1, 2])", 2014, "in VALUES clause"),
    ("INSERT INTO W (v) VALUES (PARSE_JSON('1'))", 2014, "in VALUES clause"),
)
VALID = (
    "SELECT T.*, 1 AS a FROM T",
    "SELECT * FROM T JOIN U ON T.a = U.a",
    "CREATE OR REPLACE TABLE N AS SELECT T.* EXCLUDE (a), 1 AS a FROM T",
    "CREATE OR REPLACE TABLE N AS SELECT T.a, U.c FROM T JOIN U ON T.a = U.a",
    "CREATE OR REPLACE VIEW V (x, y) AS SELECT 1, 2",
    "WITH x AS (SELECT *, ROW_NUMBER() OVER (PARTITION BY b ORDER BY a) AS n FROM T) SELECT * FROM x WHERE n = 1",
    "SELECT COUNT(DISTINCT a) OVER (PARTITION BY b ORDER BY a) FROM T",
    "SELECT SUM(a) OVER (PARTITION BY b) FROM T",
    "SELECT DISTINCT a, b AS z FROM T ORDER BY z, a, 1",
    "SELECT (SELECT MAX(c) FROM U WHERE U.a = T.a) AS c FROM T",
    "INSERT INTO W (v) SELECT OBJECT_CONSTRUCT('a', column1) FROM VALUES (1), (2)",
    "SELECT a FROM T WHERE EXISTS (SELECT 1 FROM U WHERE U.a > T.a)",
    "SELECT a FROM T WHERE a IN (SELECT U.a FROM U WHERE U.c > T.a)",
)


@pytest.fixture(scope="module")
def session(local: LocalProcess) -> Iterator[connector.SnowflakeConnection]:
    with local.connect() as connection:
        for statement in (
            "CREATE DATABASE INVALID_QUERIES",
            "CREATE SCHEMA INVALID_QUERIES.S",
            "USE SCHEMA INVALID_QUERIES.S",
            "CREATE TABLE T (a INTEGER, b VARCHAR)",
            "CREATE TABLE U (a INTEGER, c INTEGER)",
            "CREATE TABLE W (v VARIANT)",
        ):
            connection.cursor().execute(statement)
        yield connection
        connection.cursor().execute("DROP DATABASE INVALID_QUERIES")


@pytest.mark.parametrize(("statement", "code", "text"), INVALID)
def test_query_that_snowflake_refuses_fails_although_duckdb_would_run_it(
    session: connector.SnowflakeConnection, statement: str, code: int, text: str
) -> None:
    with pytest.raises(connector.errors.ProgrammingError) as error:
        session.cursor().execute(statement)
    assert (error.value.errno, text in str(error.value)) == (code, True), str(error.value)


@pytest.mark.parametrize("statement", VALID)
def test_similar_query_that_snowflake_accepts_succeeds(
    session: connector.SnowflakeConnection, statement: str
) -> None:
    session.cursor().execute(statement)
