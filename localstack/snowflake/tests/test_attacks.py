"""Test that statements cannot access files outside the data folder or the catalogs of DuckDB and fakesnow, that web
pages cannot log in, and that the clock cannot be changed without the password.

In fakesnow 0.12.1 or an earlier version of this package, each statement in this module accessed such a file
or was executed by DuckDB instead of being refused.
"""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from snowflake import connector

from local_snowflake.testing import LocalProcess

SECRET = "the-secret-of-another-program"
READS = (
    "read_text('{file}')",
    "read_blob('{file}')",
    "read_csv('{file}')",
    "read_csv_auto('{file}')",
    "read_json('{file}')",
    "read_ndjson_objects('{file}')",
    "read_parquet('{file}')",
    "glob('{file}')",
    '"{file}"',
    "TABLE(read_text('{file}'))",
)
POSITIONS = (
    "SELECT * FROM {read}",
    "SELECT 1 WHERE EXISTS (SELECT * FROM {read})",
    "WITH x AS (SELECT * FROM {read}) SELECT * FROM x",
    "SELECT 1 UNION ALL SELECT COUNT(*) FROM {read}",
    "CREATE TABLE RAW.STOLEN AS SELECT * FROM {read}",
    "CREATE VIEW RAW.STOLEN AS SELECT * FROM {read}",
    "INSERT INTO RAW.T SELECT COUNT(*) FROM {read}",
    "UPDATE RAW.T SET n = (SELECT COUNT(*) FROM {read})",
    "DELETE FROM RAW.T WHERE n < (SELECT COUNT(*) FROM {read})",
    "MERGE INTO RAW.T USING (SELECT COUNT(*) AS c FROM {read}) s ON t.n = s.c WHEN MATCHED THEN DELETE",
    "DESCRIBE SELECT * FROM {read}",
    "EXPLAIN SELECT * FROM {read}",
    "EXPLAIN ANALYZE SELECT * FROM {read}",
)
OTHERS = (
    "SELECT getenv('HOME')",
    "CREATE TABLE RAW.STOLEN (a VARCHAR DEFAULT getenv('HOME'))",
    "ALTER TABLE RAW.T ADD COLUMN a VARCHAR DEFAULT getenv('HOME')",
    "COPY (SELECT 1) TO '{made}'",
    "COPY RAW.T TO '{made}'",
    "COPY RAW.T FROM '{file}'",
    "COPY INTO RAW.T FROM 'file://{file}'",
    "COPY INTO 'file://{made}' FROM RAW.T",
    "EXPORT DATABASE '{made}'",
    "IMPORT DATABASE '{made}'",
    "ATTACH '{made}' AS stolen",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{file}'",
    "SET allowed_directories = ['/']",
    "SET GLOBAL temp_directory = '{made}'",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CREATE SECRET s (TYPE s3)",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "CREATE MACRO m(x) AS x",
    'CREATE DATABASE "../MADE"',
    "CREATE STAGE RAW.S URL = 'file://{file}'",
    "PUT file://{file} @~",
    "GET @~ file://{made}",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "USE memory.main; SELECT 1",
)
STATEMENTS = (
    *(position.format(read=read) for position in POSITIONS for read in READS[:1]),
    *(f"SELECT * FROM {read}" for read in READS[1:]),
    *OTHERS,
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Return the path of a file that belongs to another program, and a path where no file may be created."""
    file = tmp_path / "SECRET.CSV"
    file.write_text(f"{SECRET}\n")
    return file, tmp_path / "MADE"


@pytest.fixture(scope="module")
def database(local: LocalProcess) -> Iterator[connector.SnowflakeConnection]:
    with local.connect() as connection:
        for statement in (
            "CREATE DATABASE ATTACKED",
            "CREATE SCHEMA ATTACKED.RAW",
            "CREATE TABLE RAW.T (n INTEGER)",
        ):
            connection.cursor().execute(statement)
        connection.cursor().execute("INSERT INTO RAW.T VALUES (0)")
        yield connection
        connection.cursor().execute("DROP DATABASE ATTACKED")


@pytest.mark.parametrize("statement", STATEMENTS)
def test_duckdb_statement_or_access_to_files_outside_the_data_folder_is_refused(
    database: connector.SnowflakeConnection, files: tuple[Path, Path], statement: str
) -> None:
    file, made = files
    with pytest.raises(connector.errors.DatabaseError) as refusal:
        database.cursor().execute(statement.replace("{file}", str(file)).replace("{made}", str(made)))
    assert SECRET not in str(refusal.value)
    assert sorted(file.parent.iterdir()) == [file]


CATALOGS = (
    "sqlite_master",
    "sqlite_schema",
    "pragma_database_list",
    "pg_catalog.pg_tables",
    "_fs_global._fs_information_schema._fs_stages",
    "duckdb_tables",
    "duckdb_columns()",
)


@pytest.mark.parametrize("catalog", CATALOGS)
def test_query_of_the_catalogs_of_duckdb_and_fakesnow_is_refused(
    database: connector.SnowflakeConnection, catalog: str
) -> None:
    with pytest.raises(connector.errors.DatabaseError, match=r"does not exist|Not supported"):
        database.cursor().execute(f"SELECT * FROM {catalog}")
    assert database.cursor().execute("SELECT 'pg_catalog'").fetchall() == [("pg_catalog",)]


def login(local: LocalProcess, parameters: dict[str, object], **headers: str) -> tuple[int, str]:
    call = http.client.HTTPConnection("127.0.0.1", local.port, timeout=10)
    body = {"data": {"LOGIN_NAME": "milkrun", "PASSWORD": "milkrun", "SESSION_PARAMETERS": parameters}}
    call.request("POST", "/session/v1/login-request", json.dumps(body), headers)
    answer = call.getresponse()
    read = answer.status, answer.read().decode()
    call.close()
    return read


def test_session_parameter_cannot_create_a_database_outside_the_data_folder(
    local: LocalProcess, tmp_path: Path
) -> None:
    status, answer = login(local, {"FAKESNOW_DB_PATH": str(tmp_path), "nop_regexes": [".*"]})
    assert status == 200
    token = json.loads(answer)["data"]["token"]
    call = http.client.HTTPConnection("127.0.0.1", local.port, timeout=10)
    for statement in ("CREATE DATABASE ELSEWHERE", "DROP DATABASE ELSEWHERE"):
        call.request(
            "POST",
            "/queries/v1/query-request",
            json.dumps({"sqlText": statement}),
            {"Authorization": f'Snowflake Token="{token}"'},
        )
        assert json.loads(call.getresponse().read())["success"], statement
    call.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "headers",
    [{"Host": "rebound.example"}, {"Origin": "https://page.example"}, {"Origin": "http://127.0.0.1:4567"}],
    ids=["host", "origin", "origin of this machine"],
)
def test_a_web_page_cannot_log_in(local: LocalProcess, headers: dict[str, str]) -> None:
    status, answer = login(local, {}, **headers)
    assert (status, "token" in answer) == (403, False)


def test_fakesnows_upload_route_writes_no_file(local: LocalProcess) -> None:
    call = http.client.HTTPConnection("127.0.0.1", local.port, timeout=10)
    call.request("PUT", "/fs_bucket/made.csv", b"1")
    assert call.getresponse().status == 404
    call.close()
    assert not list(local.folder.rglob("made.csv"))


def test_changing_the_clock_requires_the_password(own_local: LocalProcess) -> None:
    own_local.start("--login", "milkrun/secret")
    call = http.client.HTTPConnection("127.0.0.1", own_local.port, timeout=10)
    call.request("PUT", "/clock", json.dumps({"days_ahead": 20}))
    assert call.getresponse().status == 401
    call.close()


@pytest.mark.parametrize("body", ['{"days_ahead": NaN}', '{"days_ahead": 1e300}', "{}", "x"])
def test_invalid_request_to_change_the_clock_is_refused(local: LocalProcess, body: str) -> None:
    call = http.client.HTTPConnection("127.0.0.1", local.port, timeout=10)
    call.request("PUT", "/clock", body)
    assert call.getresponse().status == 400
    call.close()
