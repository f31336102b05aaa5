"""Test that unsupported SQL is refused with the local Snowflake's own error message, never with DuckDB's, and that
unknown or existing names and invalid values are reported with Snowflake's error codes.
"""

from collections.abc import Iterator

import pytest
from snowflake import connector

from local_snowflake.testing import LocalProcess

NOT_SUPPORTED = (
    "SELECT ST_MAKEPOINT(1, 2)",
    "SELECT ST_DISTANCE(ST_MAKEPOINT(1, 2), ST_MAKEPOINT(1, 3))",
    "SELECT TO_GEOGRAPHY('POINT(1 2)')",
    "SELECT H3_LATLNG_TO_CELL(1, 2, 3)",
    "SELECT H3_POINT_TO_CELL(ST_MAKEPOINT(1, 2), 3)",
    "SELECT * FROM T a ASOF JOIN T b MATCH_CONDITION (a.ts >= b.ts) ON a.id = b.id",
    "SELECT * FROM T MATCH_RECOGNIZE (ORDER BY ts MEASURES FIRST(ts) AS a PATTERN (x+) DEFINE x AS id > 0)",
    "SELECT * FROM TABLE(RESULT_SCAN(LAST_QUERY_ID()))",
    "SELECT * FROM TABLE(RESULT_SCAN('01b1a2c3'))",
    "SELECT LAST_QUERY_ID()",
    "SELECT $1 FROM @S.STG",
    "SELECT $1 FROM @~",
    "SELECT * FROM DIRECTORY(@S.STG)",
    "SELECT * FROM T AT (OFFSET => -60)",
    "SELECT * FROM T AT (TIMESTAMP => '2024-01-01'::TIMESTAMP_LTZ)",
    "SELECT * FROM T BEFORE (STATEMENT => '01b1a2c3')",
    "CREATE TABLE C CLONE T AT (OFFSET => -60)",
    "CREATE TABLE D (x DECFLOAT)",
    "CREATE TABLE D (x GEOGRAPHY)",
    "CREATE TABLE D (x ARRAY(INT))",
    "ALTER TABLE T ADD COLUMN y MAP(VARCHAR, INT)",
    'USE SCHEMA "a.b"',
    "COPY INTO 's3://bucket/folder/' FROM T",
    "COPY INTO @S/folder/ FROM T",
    "CREATE TABLE G (id INTEGER) CLUSTER BY (id, id > 5)",
    "WITH p AS PROCEDURE () RETURNS VARCHAR LANGUAGE PYTHON AS 'x' CALL p()",
    "UNDROP TABLE T",
    "SELECT * FROM T PIVOT (MAX(id) FOR name IN ('abc'))",
    "SELECT * FROM T UNPIVOT (x FOR y IN (id))",
    "SELECT * FROM T SAMPLE (10)",
    "SELECT * FROM T START WITH id = 1 CONNECT BY PRIOR id = id",
    "INSERT ALL INTO T (id) VALUES (1) SELECT 1",
    "PUT file:///tmp/a.csv @~",
    "CALL p()",
    "EXECUTE IMMEDIATE 'SELECT 1'",
    "BEGIN LET x := 1; RETURN x; END",
    "CREATE STREAM ST ON TABLE T",
    "CREATE TASK TK SCHEDULE = '1 MINUTE' AS SELECT 1",
    "CREATE DYNAMIC TABLE DT TARGET_LAG = '1 minute' WAREHOUSE = W AS SELECT 1 AS a",
    "CREATE FUNCTION f() RETURNS INTEGER AS '1'",
    "CREATE PROCEDURE p() RETURNS INTEGER LANGUAGE SQL AS 'BEGIN RETURN 1; END'",
    "CREATE EXTERNAL TABLE ET (a INTEGER) LOCATION = @S.STG FILE_FORMAT = (TYPE = JSON)",
    "CREATE MATERIALIZED VIEW MV AS SELECT 1 AS a",
    "CREATE HYBRID TABLE HT (a INTEGER PRIMARY KEY)",
    "CREATE MASKING POLICY mp AS (v VARCHAR) RETURNS VARCHAR -> v",
    "SELECT TO_CHAR(1234.5, '9,999.99')",
    "SELECT MAX(v) FROM T",
    "SELECT id FROM T ORDER BY v",
    "SELECT ROW_NUMBER() OVER (ORDER BY v) FROM T",
    "SELECT COUNT(*) FROM INFORMATION_SCHEMA.LOAD_HISTORY",
    "ALTER SESSION SET TIMEZONE = 'America/New_York'",
    "SELECT SYSTEM$TYPEOF(1)",
    "CREATE TABLE G (place GEOGRAPHY)",
    "LIST @~",
    "LS @~/a",
    "LIST @%T",
    "REMOVE @~/a.csv",
    "SELECT id FROM T WHERE ts < '2024-01-01 00:00:00-0'",
    "UPDATE T SET ts = '01/02/2024'",
    "SHOW PARAMETERS LIKE 'query_tag' IN SESSION",
    "SELECT SNOWFLAKE.CORTEX.COMPLETE('m', 'p')",
)


@pytest.fixture(scope="module")
def session(local: LocalProcess) -> Iterator[connector.SnowflakeConnection]:
    with local.connect() as connection:
        connection.cursor().execute("CREATE DATABASE REFUSING")
        connection.cursor().execute("CREATE SCHEMA REFUSING.S")
        connection.cursor().execute(
            "CREATE TABLE T (id INTEGER, v VARIANT, ts TIMESTAMP_NTZ, name VARCHAR(5))"
        )
        connection.cursor().execute("INSERT INTO T SELECT 1, PARSE_JSON('{}'), '2024-01-02 03:04:05', 'abc'")
        yield connection
        connection.cursor().execute("DROP DATABASE REFUSING")


@pytest.mark.parametrize("statement", NOT_SUPPORTED)
def test_unsupported_statement_is_refused_without_duckdbs_own_message(
    session: connector.SnowflakeConnection, statement: str
) -> None:
    with pytest.raises(
        connector.errors.ProgrammingError, match="Not supported by the local Snowflake: "
    ) as refusal:
        session.cursor().execute(statement)
    assert refusal.value.errno == 2
    assert not any(word in str(refusal.value) for word in ("Binder Error", "Parser Error", "fakesnow"))


WRONG = (
    ("SELECT nothing FROM T", 904, "invalid identifier 'NOTHING'"),
    ("SELECT a.nothing FROM T a", 904, "invalid identifier 'A.NOTHING'"),
    ("SELECT b.id FROM T a", 904, "invalid identifier 'B"),
    ("UPDATE T SET nothing = 1", 904, "invalid identifier 'NOTHING'"),
    ("INSERT INTO T (nothing) VALUES (1)", 904, "invalid identifier"),
    ("SELECT id FROM S.NOWHERE", 2003, "Object '"),
    ("SELECT id FROM NOWHERE.S.T", 2003, "does not exist or not authorized"),
    ("CREATE SCHEMA NOWHERE.S", 2003, "Database 'NOWHERE' does not exist or not authorized"),
    ("USE DATABASE NOWHERE", 2043, "Object does not exist, or operation cannot be performed"),
    ("USE SCHEMA NOWHERE", 2043, "Object does not exist, or operation cannot be performed"),
    ("CREATE TABLE T (id INTEGER)", 2002, "Object 'T' already exists"),
    ("INSERT INTO T (ts) VALUES ('soon')", 100035, "Timestamp 'soon' is not recognized"),
    ("INSERT INTO T (id) VALUES ('one')", 100038, "Numeric value 'one' is not recognized"),
    ("SELECT 12345::NUMBER(3, 0)", 100046, "Number out of representable range"),
    ("SELECT id FROM T WHERE ts::DATE = 'soon'", 100040, "Date 'soon' is not recognized"),
)


@pytest.mark.parametrize(("statement", "code", "text"), WRONG)
def test_unknown_or_existing_name_or_invalid_value_is_reported_as_in_snowflake(
    session: connector.SnowflakeConnection, statement: str, code: int, text: str
) -> None:
    with pytest.raises(connector.errors.ProgrammingError) as error:
        session.cursor().execute(statement)
    assert (error.value.errno, text in str(error.value)) == (code, True), str(error.value)


OTHER_CASE = (
    "DROP TABLE LOWER",
    "TRUNCATE TABLE LOWER",
    "ALTER TABLE LOWER ADD COLUMN b INTEGER",
    "COMMENT ON TABLE LOWER IS 'x'",
    "DESC TABLE LOWER",
    "CREATE OR REPLACE TABLE LOWER (a INTEGER)",
    "CREATE TABLE COPIED CLONE LOWER",
    'CREATE TABLE "t" (a INTEGER)',
    'DROP SCHEMA "s"',
    'USE SCHEMA "s"',
    'CREATE VIEW "refusing".S.V AS SELECT 1 AS a',
)


@pytest.mark.parametrize("statement", OTHER_CASE)
def test_statement_with_a_name_that_differs_only_in_case_from_an_existing_object_is_refused(
    session: connector.SnowflakeConnection, statement: str
) -> None:
    session.cursor().execute('CREATE TABLE IF NOT EXISTS "lower" (a INTEGER)')
    with pytest.raises(connector.errors.ProgrammingError, match="differs only in case"):
        session.cursor().execute(statement)
    # LOWER does not exist, so this statement must drop nothing.
    session.cursor().execute("DROP TABLE IF EXISTS LOWER")
    session.cursor().execute('SELECT a FROM "lower"')


def test_common_table_expression_may_have_a_tables_name_in_another_case(
    session: connector.SnowflakeConnection,
) -> None:
    session.cursor().execute('CREATE OR REPLACE TABLE X AS WITH "t" AS (SELECT 1 AS a) SELECT a FROM "t"')
    session.cursor().execute("DROP TABLE X")
