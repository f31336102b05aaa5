"""Test SQL that dbt sends, and statements for which fakesnow returns wrong results. The local Snowflake must return
the correct result or refuse the statement.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from snowflake.connector.errors import DatabaseError

from local_snowflake.testing import Warehouse

MERGE = """MERGE INTO {target} AS d USING (SELECT 2 AS id, 20 AS x UNION ALL SELECT 3, 30) AS s ON d.id = s.id
           WHEN MATCHED THEN UPDATE SET d.x = s.x WHEN NOT MATCHED THEN INSERT (id, x) VALUES (s.id, s.x)"""


@pytest.fixture
def numbers(warehouse: Warehouse) -> Warehouse:
    warehouse.run("CREATE TABLE RAW.T (id INT, x INT)")
    warehouse.run("INSERT INTO RAW.T VALUES (1, 1), (2, 2)")
    return warehouse


def rows(warehouse: Warehouse) -> list[tuple[int, int]]:
    return [(row["ID"], row["X"]) for row in warehouse.run("SELECT id, x FROM RAW.T ORDER BY id")]


@pytest.mark.parametrize("target", ["RAW.T", "T"])
def test_merge_reports_row_counts_for_qualified_and_unqualified_targets(
    numbers: Warehouse, target: str
) -> None:
    done = numbers.run(MERGE.format(target=target))
    assert done == [{"number of rows inserted": 1, "number of rows updated": 1}]
    assert rows(numbers) == [(1, 1), (2, 20), (3, 30)]


def test_merge_in_a_transaction_can_be_rolled_back(numbers: Warehouse) -> None:
    numbers.run("BEGIN")
    numbers.run(MERGE.format(target="RAW.T"))
    numbers.run("ROLLBACK")
    assert rows(numbers) == [(1, 1), (2, 2)]


def test_transaction_without_changes_stays_open_after_a_failed_statement(numbers: Warehouse) -> None:
    """dbt sends BEGIN, MERGE and COMMIT, and continues with the next model after a MERGE has failed."""
    numbers.run("BEGIN")
    assert "is not recognized" in numbers.refused("INSERT INTO RAW.T SELECT CAST('x' AS INT), 1")
    numbers.run("INSERT INTO RAW.T VALUES (3, 3)")
    numbers.run("COMMIT")
    assert rows(numbers) == [(1, 1), (2, 2), (3, 3)]


def test_transaction_with_changes_accepts_only_rollback_after_a_failure(
    numbers: Warehouse,
) -> None:
    """Snowflake would keep the transaction open. The local Snowflake aborts it, because half of a transaction must
    not be committed unnoticed.
    """
    numbers.run("BEGIN")
    numbers.run("INSERT INTO RAW.T VALUES (3, 3)")
    numbers.refused("INSERT INTO RAW.T SELECT CAST('x' AS INT), 1")
    assert "aborted" in numbers.refused("INSERT INTO RAW.T VALUES (4, 4)")
    numbers.run("ROLLBACK")
    numbers.run("INSERT INTO RAW.T VALUES (5, 5)")
    assert rows(numbers) == [(1, 1), (2, 2), (5, 5)]


@pytest.mark.parametrize("statement", ["COMMIT", "CREATE TABLE RAW.OTHER (id INT)"])
def test_commit_or_ddl_in_an_aborted_transaction_fails_and_rolls_it_back(
    numbers: Warehouse, statement: str
) -> None:
    numbers.run("BEGIN")
    numbers.run("INSERT INTO RAW.T VALUES (3, 3)")
    numbers.refused("INSERT INTO RAW.T SELECT CAST('x' AS INT), 1")
    assert "rolled back" in numbers.refused(statement)
    numbers.run(statement)
    numbers.run("INSERT INTO RAW.T VALUES (5, 5)")
    assert rows(numbers) == [(1, 1), (2, 2), (5, 5)]


def test_syntax_error_does_not_affect_the_transaction(numbers: Warehouse) -> None:
    numbers.run("BEGIN")
    numbers.run("INSERT INTO RAW.T VALUES (3, 3)")
    numbers.refused("INSERT INTO INTO RAW.T VALUES ((4, 4)")
    numbers.run("COMMIT")
    assert rows(numbers) == [(1, 1), (2, 2), (3, 3)]


def test_second_begin_is_ignored(numbers: Warehouse) -> None:
    numbers.run("BEGIN")
    numbers.run("INSERT INTO RAW.T VALUES (3, 3)")
    numbers.run("BEGIN")
    numbers.run("ROLLBACK")
    assert rows(numbers) == [(1, 1), (2, 2)]


def test_ddl_commits_the_open_transaction(numbers: Warehouse) -> None:
    numbers.run("BEGIN")
    numbers.run("INSERT INTO RAW.T VALUES (3, 3)")
    numbers.run("CREATE TABLE RAW.OTHER (id INT)")
    numbers.run("ROLLBACK")
    assert rows(numbers) == [(1, 1), (2, 2), (3, 3)]
    assert numbers.run("SELECT count(*) AS N FROM RAW.OTHER") == [{"N": 0}]


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE STAGE RAW.S URL = 's3://x/'",
        "DROP STAGE IF EXISTS RAW.S",
        "GRANT SELECT ON TABLE RAW.T TO ROLE PUBLIC",
    ],
)
def test_stage_ddl_and_grant_commit_the_open_transaction(numbers: Warehouse, ddl: str) -> None:
    numbers.run("BEGIN")
    numbers.run("INSERT INTO RAW.T VALUES (3, 3)")
    numbers.run(ddl)
    numbers.run("ROLLBACK")
    assert rows(numbers) == [(1, 1), (2, 2), (3, 3)]


def test_merge_with_two_source_rows_for_one_target_row_is_refused(numbers: Warehouse) -> None:
    message = numbers.refused(
        """MERGE INTO RAW.T d USING (SELECT 2 AS id, 7 AS x UNION ALL SELECT 2, 8) s ON d.id = s.id
           WHEN MATCHED THEN UPDATE SET x = s.x"""
    )
    assert "Duplicate row detected" in message
    assert rows(numbers) == [(1, 1), (2, 2)]


def test_merge_with_two_source_rows_for_one_deleted_row_is_refused(numbers: Warehouse) -> None:
    message = numbers.refused(
        """MERGE INTO RAW.T USING (SELECT 1 AS id UNION ALL SELECT 1) AS s ON RAW.T.id = s.id
           WHEN MATCHED THEN DELETE"""
    )
    assert "Not supported" in message
    assert rows(numbers) == [(1, 1), (2, 2)]


def test_insert_overwrite_may_read_the_table_that_it_overwrites(numbers: Warehouse) -> None:
    assert numbers.run("INSERT OVERWRITE INTO RAW.T SELECT id, x + 1 FROM RAW.T WHERE id > 1") == [
        {"number of rows inserted": 1}
    ]
    assert rows(numbers) == [(2, 3)]


def test_insert_overwrite_in_a_transaction_can_be_rolled_back(numbers: Warehouse) -> None:
    numbers.run("BEGIN")
    numbers.run("INSERT OVERWRITE INTO RAW.T SELECT 9, 9")
    numbers.run("ROLLBACK")
    assert rows(numbers) == [(1, 1), (2, 2)]


def test_failed_insert_overwrite_leaves_the_table_unchanged(numbers: Warehouse) -> None:
    numbers.run("ALTER TABLE RAW.T ALTER COLUMN x SET NOT NULL")
    numbers.refused("INSERT OVERWRITE INTO RAW.T SELECT id, NULL FROM RAW.T")
    assert rows(numbers) == [(1, 1), (2, 2)]


@pytest.mark.parametrize(
    "change",
    [
        "y SET DATA TYPE NUMBER(10,1)",
        "y SET DATA TYPE FLOAT",
        "y TYPE VARCHAR",
        "s SET DATA TYPE NUMBER(5,0)",
        "s SET DATA TYPE VARCHAR(2)",
        "d TYPE TIMESTAMP_NTZ",
        "y SET DEFAULT 5",
    ],
)
def test_alter_column_with_another_type_or_a_default_is_refused(warehouse: Warehouse, change: str) -> None:
    warehouse.run("CREATE TABLE RAW.M AS SELECT 1.25::NUMBER(10,2) AS y, '12' AS s, '2024-01-01'::DATE AS d")
    assert "Not supported" in warehouse.refused(f"ALTER TABLE RAW.M ALTER COLUMN {change}")
    assert warehouse.run("SELECT y::VARCHAR || ' ' || s || ' ' || d AS N FROM RAW.M") == [
        {"N": "1.25 12 2024-01-01"}
    ]


def test_alter_column_changes_the_precision_of_a_number(warehouse: Warehouse) -> None:
    warehouse.run("CREATE TABLE RAW.M AS SELECT 1.25::NUMBER(10,2) AS y")
    warehouse.run("ALTER TABLE RAW.M ALTER COLUMN y SET DATA TYPE NUMBER(12,2)")
    assert warehouse.run("DESC TABLE RAW.M")[0]["type"] == "NUMBER(12,2)"


def test_view_with_a_star_shows_a_column_that_was_added_to_its_table_later(numbers: Warehouse) -> None:
    numbers.run("CREATE VIEW RAW.W AS SELECT * FROM RAW.T")
    numbers.run("ALTER TABLE RAW.T ADD COLUMN y INTEGER")
    assert list(numbers.run("SELECT * FROM RAW.W")[0]) == ["ID", "X", "Y"]


def test_temporary_relation_with_a_full_name_is_dropped_when_its_session_ends(numbers: Warehouse) -> None:
    other = numbers.local.connect(database=numbers.database, schema="RAW").cursor()
    name = f"{numbers.database}.RAW.T__DBT_TMP"
    other.execute(f"CREATE OR REPLACE TEMPORARY TABLE {name} AS (SELECT * FROM RAW.T)")
    assert other.execute(f"SELECT count(*) FROM {name}").fetchall() == [(2,)]
    other.execute(f"CREATE OR REPLACE TEMPORARY VIEW {name} AS SELECT 7 AS N")
    assert other.execute(f"SELECT * FROM {name}").fetchall() == [(7,)]
    other.connection.close()
    assert "T__DBT_TMP" in numbers.refused(f"SELECT * FROM {name}")


def test_qualified_temporary_relation_that_would_hide_a_permanent_one_is_refused(numbers: Warehouse) -> None:
    assert "hide" in numbers.refused("CREATE TEMPORARY TABLE RAW.T AS SELECT 1 AS A")


def test_create_database_if_not_exists_does_not_change_the_results_of_flatten(warehouse: Warehouse) -> None:
    warehouse.run(f"CREATE DATABASE IF NOT EXISTS {warehouse.database}")
    warehouse.run("CREATE TABLE RAW.LISTS AS SELECT PARSE_JSON('{\"l\": [1, 2]}') AS v")
    rows = warehouse.run("SELECT f.this, f.key FROM RAW.LISTS, LATERAL FLATTEN(INPUT => v:l) AS f")
    assert [(json.loads(row["THIS"]), row["KEY"]) for row in rows] == [([1, 2], None)] * 2


def test_flatten_outer_keeps_rows_without_elements(numbers: Warehouse) -> None:
    sql = """SELECT n, f.value::int AS v FROM (SELECT 1 AS n, PARSE_JSON('[5]') AS a
             UNION ALL SELECT 2, PARSE_JSON('[]') UNION ALL SELECT 3, NULL) t,
             LATERAL FLATTEN(INPUT => t.a{outer}) f ORDER BY n"""
    outer = numbers.run(sql.format(outer=", OUTER => TRUE"))
    assert [(row["N"], row["V"]) for row in outer] == [(1, 5), (2, None), (3, None)]
    assert [row["N"] for row in numbers.run(sql.format(outer=""))] == [1]


EVENT = """{"type": "in", "n": 1, "f": 2.5, "gone": null, "a.b": 5, "o": {"list": [10, 20, {"k": "v"}, [30, 40]]}}"""


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("v['o']['list'][2]['k']::VARCHAR", "v"),
        ("v['o']['list'][1]::INT", 20),
        ("v['o']['list'][3][1]::INT", 40),
        ("v:o['list'][2]:k::VARCHAR", "v"),
        ("v['a.b']::INT", 5),
        ("v:type = 'in'", True),
        ("v['type'] <> 'out'", True),
        ("(v:type) IN ('in', 'out')", True),
        ("v:type NOT IN ('in')", False),
        ("v:type BETWEEN 'im' AND 'io'", True),
        ("v:type LIKE 'i%'", True),
        ("v:type LIKE ANY ('x', 'in')", True),
        ("v:type ILIKE 'I_'", True),
        ("STARTSWITH(v:type, 'i')", True),
        ("CASE v:type WHEN 'in' THEN 7 END", 7),
        ("v:type || '!'", "in!"),
        ("CONCAT(v:type, '-', v:n)", "in-1"),
        ("v:gone || 'x'", None),
        ("LENGTH(v:type)", 2),
        ("MD5(v:type) = MD5('in')", True),
        ("SUBSTR(v:type, 1, 1)", "i"),
        ("TO_VARCHAR(v:type)", "in"),
        ("v:n = 1", True),
        ("v:n IN (1, 2)", True),
        ("v:gone = 'x'", None),
        ("v:f > 2", True),
        ("v:f = 2", False),
        ("v:f BETWEEN -1 AND 2", False),
        ("v:gone > 2", None),
        ("CASE v:f WHEN 2 THEN 7 END", None),
        ("GET(v, 'type')::VARCHAR", "in"),
        ("GET(GET(v, 'o'), 'list')[1]::INT", 20),
        ("GET(v, 'type') || '!'", "in!"),
        ("LISTAGG(DISTINCT v:type, ',')", "in"),
    ],
)
def test_variant_is_cast_to_text_or_a_number_as_the_expression_requires(
    numbers: Warehouse, expression: str, value: object
) -> None:
    """Snowflake casts the VARIANT; DuckDB would compare and concatenate the JSON text, including its quotes."""
    ((row,)) = numbers.run(f"SELECT {expression} AS X FROM (SELECT PARSE_JSON('{EVENT}') AS v)")
    assert row["X"] == value


@pytest.mark.parametrize("expression", ["v['list'][-1]", "v:list[v:n]", "v[v:n]", "v:n IN (SELECT 1)"])
def test_variant_expressions_that_would_give_wrong_results_are_refused(
    numbers: Warehouse, expression: str
) -> None:
    sql = f"SELECT {expression} FROM (SELECT PARSE_JSON('{EVENT}') AS v)"
    assert "Not supported" in numbers.refused(sql)


def test_typeof_is_refused_because_duckdb_gives_every_variant_the_type_json(numbers: Warehouse) -> None:
    assert "TYPEOF" in numbers.refused("SELECT TYPEOF(PARSE_JSON('1'))")


@pytest.mark.parametrize("option", ["RECURSIVE => TRUE", "PATH => 'a'", "MODE => 'ARRAY'"])
def test_flatten_options_that_fakesnow_ignores_are_refused(numbers: Warehouse, option: str) -> None:
    sql = f"SELECT value FROM TABLE(FLATTEN(INPUT => PARSE_JSON('[1]'), {option}))"
    assert option.split(maxsplit=1)[0] in numbers.refused(sql)


@pytest.mark.parametrize(
    "expression",
    [
        "'2026-11-22T23:30:00-05:00'::TIMESTAMP_TZ::DATE",
        "TO_DATE(TRY_CAST('2026-11-22T23:30:00-05:00' AS TIMESTAMP_TZ))",
        "TRY_CAST('2026-11-22T23:30:00-05:00' AS TIMESTAMP_TZ)::TIMESTAMP_NTZ",
        "TO_CHAR('2026-11-22T23:30:00-05:00'::TIMESTAMP_TZ, 'TZH')",
        "HOUR('2026-11-22T23:30:00-05:00'::TIMESTAMP_TZ)",
        "DATE_TRUNC('day', '2026-11-22T23:30:00-05:00'::TIMESTAMP_TZ)",
    ],
)
def test_reading_the_local_time_of_a_timestamp_tz_is_refused(numbers: Warehouse, expression: str) -> None:
    assert "CONVERT_TIMEZONE" in numbers.refused(f"SELECT {expression}")


def test_timestamp_tz_keeps_its_instant(numbers: Warehouse) -> None:
    instant = "TRY_CAST('2026-11-22T23:30:00-05:00' AS TIMESTAMP_TZ)"
    sql = f"SELECT CONVERT_TIMEZONE('UTC', {instant})::DATE::STRING AS D"
    assert numbers.run(sql) == [{"D": "2026-11-23"}]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE OR REPLACE DATABASE X",
        'CREATE DATABASE "../x"',
        "CREATE TASK RAW.X SCHEDULE = '1 minute' AS SELECT 1",
        "CREATE STREAM RAW.S ON TABLE RAW.T",
        "CREATE OR REPLACE DYNAMIC TABLE RAW.D TARGET_LAG = '1 minute' WAREHOUSE = W AS SELECT 1",
        "CREATE MATERIALIZED VIEW RAW.M AS SELECT 1",
        "CREATE PROCEDURE RAW.P() RETURNS INT AS 'x'",
        "CREATE FUNCTION RAW.F() RETURNS INT AS '1'",
        "EXECUTE IMMEDIATE 'SELECT 1'",
        "CALL RAW.P()",
        "UNDROP TABLE RAW.T",
        "COPY INTO @RAW.S FROM RAW.T",
        "SHOW TASKS",
        "REMOVE @RAW.S",
        "SELECT SYSTEM$STREAM_HAS_DATA('S')",
        "SELECT * FROM TABLE(INFORMATION_SCHEMA.PIPE_USAGE_HISTORY())",
    ],
)
def test_unsupported_statement_fails_immediately_and_is_named_in_the_error(
    numbers: Warehouse, sql: str
) -> None:
    message = numbers.refused(sql)
    assert "local Snowflake" in message
    named = "PIPE_USAGE_HISTORY" if "PIPE_USAGE" in sql else sql.split()[1].strip("@();").split("(")[0]
    assert named in message


def test_several_statements_in_one_request_are_refused(numbers: Warehouse) -> None:
    assert "Actual statement count 2 " in numbers.refused("SELECT 1; SELECT 2")
    assert "Actual statement count 3 " in numbers.refused("SELECT 1; SELECT 2;; SELECT 3;")


@pytest.mark.parametrize("text", [";", "a;b", "SYSTEM$FOO", "LOAD_HISTORY"])
def test_semicolon_or_function_name_in_a_string_is_read_as_text(warehouse: Warehouse, text: str) -> None:
    assert warehouse.run(f"SELECT '{text}' AS T") == [{"T": text}]


@pytest.mark.parametrize("sql", ["USE ROLE PUBLIC", "BEGIN", "SELECT SYSTEM$PIPE_FORCE_RESUME('RAW.P')"])
def test_describing_a_statement_that_would_change_the_session_or_a_pipe_is_refused(
    numbers: Warehouse, sql: str
) -> None:
    with (
        numbers.connection.cursor() as cursor,
        pytest.raises(DatabaseError, match="without running the statement"),
    ):
        cursor.describe(sql)


def test_insert_with_array_bindings_inserts_all_rows_or_none(
    numbers: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snowflake.connector.paramstyle", "qmark")
    connection = numbers.local.connect(database=numbers.database)
    with connection, connection.cursor() as cursor:
        with pytest.raises(DatabaseError, match="Numeric value 'x'"):
            cursor.executemany("INSERT INTO RAW.T VALUES (?, 1)", [(5,), ("x",)])
        assert rows(numbers) == [(1, 1), (2, 2)]
        cursor.executemany("INSERT INTO RAW.T VALUES (?, 1)", [(5,), (6,)])
        assert rows(numbers) == [(1, 1), (2, 2), (5, 1), (6, 1)]
    connection = numbers.local.connect(database=numbers.database, autocommit=False)
    with connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO RAW.T VALUES (?, 1)", [(7,), (8,)])
        connection.rollback()
        assert rows(numbers) == [(1, 1), (2, 2), (5, 1), (6, 1)]


def test_statement_with_a_lone_surrogate_fails_immediately(numbers: Warehouse) -> None:
    assert "UTF-8" in numbers.refused("SELECT '\ud800'")


def test_statement_is_cancelled_after_the_timeout_of_the_connector(numbers: Warehouse) -> None:
    rows_of = ", ".join(f"TABLE(GENERATOR(ROWCOUNT => 3000)) {name}" for name in "abc")
    with numbers.connection.cursor() as cursor, pytest.raises(DatabaseError) as raised:
        cursor.execute(f"INSERT INTO RAW.T SELECT COUNT(*), 1 FROM {rows_of}", timeout=0.2)
    assert raised.value.errno == 604
    assert rows(numbers) == [(1, 1), (2, 2)]


def test_statement_with_a_syntax_error_fails_immediately(numbers: Warehouse) -> None:
    numbers.refused("SELEKT 1")
    numbers.refused("CREATE PIPE")
    numbers.refused("ALTER PIPE RAW.P FLY")
    numbers.refused("SELECT 'open")


def test_conflicting_writers_are_serialized(numbers: Warehouse) -> None:
    def add(_: int) -> None:
        with numbers.local.connect(database=numbers.database) as session:
            for _ in range(5):
                session.cursor().execute("UPDATE RAW.T SET x = x + 1 WHERE id = 1")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert rows(numbers)[0] == (1, 21)


def test_session_has_no_current_database_after_its_database_is_dropped(numbers: Warehouse) -> None:
    with numbers.local.connect() as session:
        cursor = session.cursor()
        cursor.execute("CREATE DATABASE GONE_DB")
        cursor.execute("CREATE SCHEMA GONE_DB.S")
        numbers.run("DROP DATABASE GONE_DB")
        cursor.execute("SELECT 1")
        with pytest.raises(Exception, match="current database"):
            cursor.execute("CREATE TABLE t (a int)")
    assert [r["name"] for r in numbers.run("SHOW DATABASES") if r["name"] == "GONE_DB"] == []
    assert not (numbers.local.folder / "GONE_DB.db").exists()


def test_new_session_has_no_current_database_or_schema_until_use_is_executed(warehouse: Warehouse) -> None:
    asked = "SELECT CURRENT_DATABASE(), CURRENT_SCHEMA()"
    with warehouse.local.connect() as connection, connection.cursor() as cursor:
        assert cursor.execute(asked).fetchall() == [(None, None)]
        cursor.execute(f"USE DATABASE {warehouse.database}")
        assert cursor.execute(asked).fetchall() == [(warehouse.database, None)]
        cursor.execute("USE SCHEMA RAW")
        assert cursor.execute(asked).fetchall() == [(warehouse.database, "RAW")]
