"""Test COPY INTO … FROM @stage when a user executes it, without a pipe: the options FILES, PATTERN, FORCE,
LOAD_UNCERTAIN_FILES and ON_ERROR, transactions, and the table's own load history.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from local_snowflake.testing import Warehouse


@pytest.fixture
def staged(warehouse: Warehouse) -> Warehouse:
    """Return the test's own database with a table, a stage and three staged files, but no pipe."""
    warehouse.table()
    warehouse.stage()
    for name in ("dt=1/a", "dt=1/b", "dt=2/c"):
        warehouse.put(f"events/{name}", {"_id": name})
    return warehouse


def test_copy_loads_all_files_of_the_stage_and_returns_a_row_for_each(staged: Warehouse) -> None:
    done = staged.run(staged.copy())
    assert [(row["file"], row["status"], row["rows_loaded"]) for row in done] == [
        (f"s3://{staged.bucket}/events/{name}", "LOADED", 1) for name in ("dt=1/a", "dt=1/b", "dt=2/c")
    ]
    assert staged.count() == 3
    assert {row["PIPE_NAME"] for row in staged.history().values()} == {None}


def test_file_is_copied_once_unless_it_changes_or_force_is_set(staged: Warehouse) -> None:
    staged.run(staged.copy())
    assert staged.run(staged.copy()) == [{"status": "Copy executed with 0 files processed."}]
    staged.put("events/dt=1/a", {"_id": "changed"})
    assert len(staged.run(staged.copy())) == 1
    assert len(staged.run(staged.copy(options="FORCE = TRUE"))) == 3
    assert staged.count() == 7


def test_concurrent_copies_load_each_file_once(staged: Warehouse) -> None:
    together = Barrier(4)

    def copy(_: int) -> int:
        with staged.local.connect(database=staged.database) as connection:
            together.wait(timeout=60)
            return len(connection.cursor().execute(staged.copy()).fetchall()[0])

    with ThreadPoolExecutor(4) as at_once:
        answers = list(at_once.map(copy, range(4)))
    # A COPY that loads no file returns one column, the others return ten columns per file.
    assert sorted(answers) == [1, 1, 1, 10]
    assert staged.count() == 3


def test_truncate_clears_the_load_history_of_the_table(staged: Warehouse) -> None:
    staged.run(staged.copy())
    staged.run("TRUNCATE TABLE RAW.EVENTS")
    staged.run(staged.copy())
    assert staged.count() == 3


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE RAW.EVENTS; CREATE TABLE RAW.EVENTS AS SELECT * FROM RAW.EMPTY",
        "CREATE OR REPLACE TABLE RAW.EVENTS AS SELECT * FROM RAW.EMPTY",
        "CREATE TABLE RAW.OLD AS SELECT 1 AS N; DROP TABLE RAW.OLD; ALTER TABLE RAW.EVENTS RENAME TO RAW.OLD;"
        " ALTER TABLE RAW.EMPTY RENAME TO RAW.EVENTS",
    ],
)
def test_table_that_takes_the_name_of_another_has_an_empty_load_history(staged: Warehouse, sql: str) -> None:
    staged.run(staged.copy())
    staged.run("CREATE TABLE RAW.EMPTY AS SELECT * FROM RAW.EVENTS LIMIT 0")
    for statement in sql.split(";"):
        staged.run(statement)
    assert staged.history() == {}
    assert len(staged.run(staged.copy())) == 3
    assert staged.count() == 3


def test_table_in_a_recreated_schema_has_an_empty_load_history(staged: Warehouse) -> None:
    for _ in range(2):
        staged.run("CREATE SCHEMA OTHER")
        staged.run("CREATE TABLE OTHER.EVENTS (payload VARIANT)")
        copy = "COPY INTO OTHER.EVENTS FROM @RAW.EVENTS_STAGE"
        assert [len(staged.run(copy)[0]) for _ in range(2)] == [10, 1]
        staged.run("DROP SCHEMA OTHER")


def test_renamed_table_keeps_its_load_history(staged: Warehouse) -> None:
    staged.run(staged.copy())
    staged.run("ALTER TABLE RAW.EVENTS RENAME TO RAW.MOVED")
    assert len(staged.history("MOVED")) == 3
    assert staged.run(staged.copy(table="MOVED")) == [{"status": "Copy executed with 0 files processed."}]


@pytest.mark.parametrize("sql", ["CREATE OR REPLACE TABLE RAW.EVENTS AS SELECT nope", "DROP VIEW RAW.EVENTS"])
def test_table_keeps_its_load_history_if_replacing_or_dropping_it_fails(staged: Warehouse, sql: str) -> None:
    staged.run(staged.copy())
    staged.refused(sql)
    assert staged.run(staged.copy()) == [{"status": "Copy executed with 0 files processed."}]


def test_file_is_copied_again_if_its_etag_has_changed_since_the_latest_load(staged: Warehouse) -> None:
    staged.run(staged.copy())
    for content in ("changed", "changed again"):
        staged.put("events/dt=1/a", {"_id": content})
        assert len(staged.run(staged.copy())) == 1
        assert staged.run(staged.copy()) == [{"status": "Copy executed with 0 files processed."}]


def test_file_whose_load_status_has_expired_is_copied_only_with_load_uncertain_files(
    staged: Warehouse,
) -> None:
    staged.run(staged.copy())
    with staged.local.days_later(63):
        assert len(staged.run(staged.copy(options="LOAD_UNCERTAIN_FILES = TRUE"))[0]) == 1
    with staged.local.days_later(65):
        assert len(staged.run(staged.copy())[0]) == 1
        assert len(staged.run(staged.copy(options="LOAD_UNCERTAIN_FILES = TRUE"))) == 3


@pytest.mark.parametrize("options", ["", "FILES = ('old')"])
def test_old_file_is_copied_only_with_load_uncertain_files_if_a_pipe_loaded_the_table_64_days_ago(
    loading: Warehouse, options: str
) -> None:
    loading.put("events/first", {"_id": 1})
    loading.has_rows(1)
    loading.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    loading.put("events/old", {"_id": 2})
    with loading.local.days_later(65):
        assert len(loading.run(loading.copy(options=options))[0]) == 1  # one column: "0 files processed"
        done = loading.run(loading.copy(options=f"LOAD_UNCERTAIN_FILES = TRUE {options}"))
        assert "LOADED" in {row["status"] for row in done}


def test_old_files_are_copied_if_the_first_load_into_the_table_was_recent(staged: Warehouse) -> None:
    with staged.local.days_later(65):
        assert len(staged.run(staged.copy(options="FILES = ('dt=1/a')"))) == 1
        assert len(staged.run(staged.copy())) == 2


def test_files_option_stage_path_and_pattern_select_the_files_to_copy(staged: Warehouse) -> None:
    assert len(staged.run(staged.copy(options="FILES = ('dt=1/a')"))) == 1
    assert len(staged.run(staged.copy(stage="EVENTS_STAGE/dt=1/", options="FILES = ('b')"))) == 1
    assert len(staged.run(staged.copy(options="PATTERN = '.*/c'"))) == 1
    assert staged.count() == 3


def test_copy_into_a_name_that_differs_in_case_from_a_quoted_table_fails(staged: Warehouse) -> None:
    staged.run('CREATE TABLE RAW."low" (v VARIANT)')
    assert "does not exist" in staged.refused("COPY INTO RAW.low FROM @RAW.EVENTS_STAGE")
    assert len(staged.run('COPY INTO RAW."low" FROM @RAW.EVENTS_STAGE')) == 3


def test_pattern_is_matched_against_the_whole_path(staged: Warehouse) -> None:
    assert len(staged.run(staged.copy(options="PATTERN = 'dt=1/.*'"))[0]) == 1  # no file matches
    assert len(staged.run(staged.copy(options="PATTERN = 'events/dt=1/.*'"))) == 2


def test_copy_with_both_files_and_pattern_is_refused(staged: Warehouse) -> None:
    assert "FILES together with PATTERN" in staged.refused(
        staged.copy(options="FILES = ('dt=1/a') PATTERN = 'x'")
    )


def test_file_named_twice_in_the_files_option_is_copied_once(staged: Warehouse) -> None:
    assert len(staged.run(staged.copy(options="FILES = ('dt=1/a', 'dt=1/a')"))) == 1


def test_files_option_with_more_than_1000_names_is_refused(staged: Warehouse) -> None:
    names = ", ".join(f"'{n}'" for n in range(1001))
    assert "1000" in staged.refused(staged.copy(options=f"FILES = ({names})"))


def test_invalid_line_aborts_the_copy_by_default_and_no_row_is_loaded(staged: Warehouse) -> None:
    staged.put("events/z", {"_id": 1}, "broken")
    message = staged.refused(staged.copy())
    assert "File 'z', line 2" in message
    assert (staged.count(), staged.history()) == (0, {})


def test_on_error_skip_file_loads_valid_files_and_on_error_continue_loads_valid_rows(
    staged: Warehouse,
) -> None:
    staged.put("events/z", {"_id": 1}, "broken")
    done = {
        row["file"].rpartition("/")[2]: row for row in staged.run(staged.copy(options="ON_ERROR = SKIP_FILE"))
    }
    assert (done["z"]["status"], done["z"]["first_error_line"], done["a"]["status"]) == (
        "LOAD_FAILED",
        2,
        "LOADED",
    )
    assert staged.count() == 3
    (again,) = staged.run(staged.copy(options="ON_ERROR = CONTINUE"))
    assert (again["status"], again["rows_loaded"], again["errors_seen"]) == ("PARTIALLY_LOADED", 1, 1)


def test_copy_that_loads_no_rows_reports_the_line_of_the_error(staged: Warehouse) -> None:
    staged.put("events/z", {"_id": 1}, "broken")
    (done,) = staged.run(staged.copy(options="ON_ERROR = SKIP_FILE FILES = ('z')"))
    assert (done["status"], done["rows_loaded"], done["first_error_line"]) == ("LOAD_FAILED", 0, 2)
    assert staged.history()["z"]["STATUS"] == "Load failed"
    assert staged.count() == 0


def test_failed_cast_is_reported_with_its_line_number(staged: Warehouse) -> None:
    staged.run("CREATE TABLE RAW.N (n NUMBER)")
    staged.put("numbers/a", {"n": 1}, {"n": "x"}, {"n": 3})
    staged.stage("NUMBERS", "numbers/")
    sql = "COPY INTO RAW.N FROM (SELECT $1:n::number FROM @RAW.NUMBERS) ON_ERROR = {}"
    assert "line 2" in staged.refused(sql.format("ABORT_STATEMENT"))
    (done,) = staged.run(sql.format("CONTINUE"))
    assert (done["rows_loaded"], done["errors_seen"], done["first_error_line"]) == (2, 1, 2)


def test_copy_is_part_of_the_sessions_transaction(staged: Warehouse) -> None:
    staged.run("BEGIN")
    staged.run(staged.copy())
    staged.run("ROLLBACK")
    assert (staged.count(), staged.history()) == (0, {})


@pytest.mark.parametrize("changes", [False, True])
def test_failed_copy_in_a_transaction_loads_no_file(staged: Warehouse, changes: bool) -> None:
    staged.put("events/2", body=b"x" * 500_000)  # so large that COPY reads it in a second batch
    staged.run("BEGIN")
    if changes:
        staged.run(
            "INSERT INTO RAW.EVENTS (payload, file_name, file_row_number) SELECT PARSE_JSON('1'), '', 1"
        )
    assert "Error parsing JSON" in staged.refused(staged.copy())
    if changes:
        assert "rolled back" in staged.refused("COMMIT")
    else:
        staged.run("COMMIT")
    assert staged.count() == 0


def test_copy_of_a_session_without_autocommit_can_be_rolled_back(staged: Warehouse) -> None:
    connection = staged.local.connect(database=staged.database, autocommit=False)
    with connection, connection.cursor() as cursor:
        cursor.execute(staged.copy())
        connection.rollback()
        assert (staged.count(), staged.history()) == (0, {})
        cursor.execute(staged.copy())
        connection.commit()
        assert staged.count() == 3


def test_transaction_sees_the_effects_of_its_own_copy_and_truncate(staged: Warehouse) -> None:
    staged.run("BEGIN")
    staged.run(staged.copy())
    assert staged.run(staged.copy()) == [{"status": "Copy executed with 0 files processed."}]
    staged.run("TRUNCATE TABLE RAW.EVENTS")
    assert len(staged.run(staged.copy())) == 3
    staged.run("COMMIT")
    assert staged.count() == 3


def test_copy_fails_if_a_named_file_does_not_exist(staged: Warehouse) -> None:
    assert "was not found" in staged.refused(staged.copy(options="FILES = ('nope')"))


def test_copy_loads_files_that_a_pipe_has_already_loaded(staged: Warehouse) -> None:
    """A pipe's load history is separate from its table's load history, as in Snowflake."""
    staged.pipe()
    staged.put("events/d", {"_id": "d"})
    staged.has_rows(1)
    staged.run(staged.copy(options="FILES = ('d')"))
    assert staged.count() == 2


def test_outer_array_is_stripped_if_the_stages_file_format_requests_it(warehouse: Warehouse) -> None:
    warehouse.table()
    warehouse.run(
        f"""CREATE STAGE RAW.EVENTS_STAGE URL = 's3://{warehouse.bucket}/events/'
            FILE_FORMAT = (TYPE = JSON STRIP_OUTER_ARRAY = TRUE)"""
    )
    warehouse.put("events/a", '[{"n": 1.10}, {"n": 123456789012345678901}]')
    warehouse.run(warehouse.copy())
    rows = warehouse.run("SELECT payload::string AS P, file_row_number AS R FROM RAW.EVENTS ORDER BY R")
    assert [(row["P"], row["R"]) for row in rows] == [('{"n":1.1}', 1), ('{"n":123456789012345678901}', 2)]
