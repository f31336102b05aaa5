"""Test Snowpipe's documented behaviour: load histories, ON_ERROR, REFRESH, and paused, recreated, stopped and
stalled pipes.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from local_snowflake.testing import LocalProcess, Warehouse, eventually


def test_overwritten_file_is_not_loaded_again(loading: Warehouse) -> None:
    loading.put("events/a", {"_id": 1})
    loading.has_rows(1)
    loading.put("events/a", {"_id": 2}, {"_id": 3})
    loading.put("events/b", {"_id": 4})
    loading.has_rows(2)
    assert eventually(lambda: loading.local.logged("files_already_in_history"))
    assert loading.run("SELECT payload:_id::int AS ID FROM RAW.EVENTS ORDER BY 1") == [{"ID": 1}, {"ID": 4}]


def test_failed_file_is_not_retried_but_loads_under_a_new_key(loading: Warehouse) -> None:
    loading.put("events/a", "broken")
    assert loading.fate("a")["STATUS"] == "Load failed"
    loading.put("events/a", {"_id": 1})
    loading.put("events/a-repaired", {"_id": 1})
    loading.has_rows(1)
    assert loading.run("ALTER PIPE RAW.EVENTS_PIPE REFRESH") == []
    assert loading.history()["a"]["STATUS"] == "Load failed"


def test_each_pipe_has_its_own_load_history(loading: Warehouse) -> None:
    loading.table("COPIES")
    loading.pipe("SECOND_PIPE", table="COPIES")
    loading.put("events/a", {"_id": 1})
    loading.has_rows(1)
    loading.has_rows(1, "COPIES")


@pytest.mark.parametrize(
    ("on_error", "bad", "rows", "status"),
    [
        ("SKIP_FILE", 1, 0, "Load failed"),
        ("SKIP_FILE_2", 1, 9, "Partially loaded"),
        ("SKIP_FILE_2", 2, 0, "Load failed"),
        ("'SKIP_FILE_10%'", 1, 9, "Partially loaded"),
        ("SKIP_FILE_10%", 2, 0, "Load failed"),
        ("CONTINUE", 9, 1, "Partially loaded"),
        ("CONTINUE", 10, 0, "Load failed"),
    ],
)
def test_on_error_decides_whether_invalid_lines_fail_the_file(
    warehouse: Warehouse, on_error: str, bad: int, rows: int, status: str
) -> None:
    warehouse.table()
    warehouse.stage()
    warehouse.pipe(options=f"ON_ERROR = {on_error}")
    warehouse.put("events/a", *["{oops"] * bad, *({"_id": n} for n in range(10 - bad)))
    fate = warehouse.fate("a")
    assert (fate["STATUS"], fate["ROW_COUNT"], fate["ROW_PARSED"], fate["ERROR_COUNT"]) == (
        status,
        rows,
        10,
        bad,
    )
    assert warehouse.count() == rows


def test_failed_cast_in_a_pipe_fails_only_the_file_with_the_invalid_value(warehouse: Warehouse) -> None:
    warehouse.run("CREATE TABLE RAW.EVENTS (n NUMBER)")
    warehouse.stage()
    warehouse.run(
        f"""CREATE PIPE RAW.EVENTS_PIPE AUTO_INGEST = TRUE AWS_SNS_TOPIC = '{warehouse.topic}' AS
            COPY INTO RAW.EVENTS FROM (SELECT $1:n::number FROM @RAW.EVENTS_STAGE)"""
    )
    warehouse.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    for number in range(5):
        warehouse.put(f"events/{number}", {"n": number}, {"n": "x" if number == 3 else 7})
    eventually(lambda: warehouse.status()["pendingFileCount"], lambda count: count == 5)
    warehouse.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = FALSE")
    warehouse.has_rows(8)
    fate = warehouse.fate("3")
    assert (fate["STATUS"], fate["FIRST_ERROR_LINE_NUMBER"]) == ("Load failed", 2)


def test_stage_url_without_a_trailing_slash_also_matches_longer_prefixes(warehouse: Warehouse) -> None:
    warehouse.table()
    warehouse.stage(path="orders")
    warehouse.pipe()
    warehouse.put("orders/a", {"_id": 1})
    warehouse.put("orders_old/b", {"_id": 2})
    warehouse.put("other/c", {"_id": 3})
    warehouse.has_rows(2)
    assert set(warehouse.history()) == {"/a", "_old/b"}


def test_pipe_loads_only_files_that_match_its_path_and_pattern(warehouse: Warehouse) -> None:
    warehouse.table()
    warehouse.stage()
    warehouse.pipe(stage="EVENTS_STAGE/dt=2026-11-22/", options="PATTERN = '.*[.]ndjson'")
    for key in ("dt=2026-11-21/a.ndjson", "dt=2026-11-22/b.txt", "dt=2026-11-22/c.ndjson"):
        warehouse.put(f"events/{key}", {"_id": 1})
    warehouse.has_rows(1)
    assert set(warehouse.history()) == {"dt=2026-11-22/c.ndjson"}


def test_paused_pipe_queues_files_and_loads_them_when_resumed(loading: Warehouse) -> None:
    loading.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    for number in range(3):
        loading.put(f"events/{number}", {"_id": number})
    status = eventually(loading.status, lambda status: status["pendingFileCount"] == 3)
    assert status["executionState"] == "PAUSED"
    assert status["oldestFileTimestamp"]
    assert (loading.count(), loading.history()) == (0, {})
    loading.run("ALTER PIPE IF EXISTS RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = FALSE")
    loading.has_rows(3)
    assert eventually(loading.status, lambda status: status["pendingFileCount"] == 0)


def test_refresh_loads_each_existing_file_once(warehouse: Warehouse) -> None:
    warehouse.table()
    warehouse.stage()
    for key in ("events/a/1", "events/a/2", "events/b/1", "rejected/1"):
        warehouse.put(key, {"_id": 1})
    warehouse.pipe()
    sent = warehouse.run("ALTER PIPE RAW.EVENTS_PIPE REFRESH PREFIX = 'a/'")
    assert sent == [{"File": "a/1", "Status": "SENT"}, {"File": "a/2", "Status": "SENT"}]
    warehouse.has_rows(2)
    assert [row["File"] for row in warehouse.run("ALTER PIPE RAW.EVENTS_PIPE REFRESH")] == ["b/1"]
    warehouse.has_rows(3)
    assert warehouse.run("ALTER PIPE RAW.EVENTS_PIPE REFRESH") == []


def test_refresh_ignores_files_older_than_modified_after(loading: Warehouse) -> None:
    loading.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    loading.put("events/a", {"_id": 1})
    late = "ALTER PIPE RAW.EVENTS_PIPE REFRESH MODIFIED_AFTER = '2099-01-01T00:00:00Z'"
    assert loading.run(late) == []
    assert "not recognized" in loading.refused("ALTER PIPE RAW.EVENTS_PIPE REFRESH MODIFIED_AFTER = 'soon'")
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert len(loading.run(f"ALTER PIPE RAW.EVENTS_PIPE REFRESH MODIFIED_AFTER = '{an_hour_ago}'")) == 1


def test_refresh_with_modified_after_more_than_seven_days_ago_is_refused(loading: Warehouse) -> None:
    """Source: Snowflake's page "ALTER PIPE": the maximum of MODIFIED_AFTER is seven days."""
    eight_days_ago = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    refresh = f"ALTER PIPE RAW.EVENTS_PIPE REFRESH MODIFIED_AFTER = '{eight_days_ago}'"
    assert "MODIFIED_AFTER" in loading.refused(refresh)


def test_refresh_ignores_files_that_a_copy_statement_has_loaded(loading: Warehouse) -> None:
    loading.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    loading.stage("OTHER_STAGE", "other/")
    loading.table("OTHERS")
    loading.put("other/a", {"_id": 1})
    loading.run(loading.copy(stage="OTHER_STAGE", table="OTHERS"))
    loading.run(f"CREATE PIPE RAW.P AS {loading.copy(stage='OTHER_STAGE', table='OTHERS')}")
    assert loading.run("ALTER PIPE RAW.P REFRESH") == []


def test_refresh_of_a_stopped_pipe_fails_with_the_reason(loading: Warehouse) -> None:
    loading.run("DROP STAGE RAW.EVENTS_STAGE")
    assert "STOPPED_STAGE_DROPPED" in loading.refused("ALTER PIPE RAW.EVENTS_PIPE REFRESH")


def test_statements_that_read_a_stage_fail_if_its_bucket_does_not_exist(loading: Warehouse) -> None:
    loading.aws.s3.delete_bucket(Bucket=loading.bucket)
    for sql in ("ALTER PIPE RAW.EVENTS_PIPE REFRESH", "LIST @RAW.EVENTS_STAGE", loading.copy()):
        assert "Failure using stage area" in loading.refused(sql)


def test_copy_history_of_a_table_in_a_missing_database_is_refused(loading: Warehouse) -> None:
    history = (
        "SELECT * FROM TABLE(INFORMATION_SCHEMA.COPY_HISTORY(TABLE_NAME => 'NOPE.RAW.T', START_TIME => '{}'))"
    )
    assert "NOPE" in loading.refused(history.format("2026-11-23"))


def test_refresh_loads_files_again_after_the_pipe_is_recreated(loading: Warehouse) -> None:
    loading.put("events/a", {"_id": 1})
    loading.has_rows(1)
    loading.pipe(replace=True)
    assert loading.history() == {}
    assert len(loading.run("ALTER PIPE RAW.EVENTS_PIPE REFRESH")) == 1
    loading.has_rows(2)


def test_changed_stage_url_stops_the_pipe_until_the_pipe_is_recreated(loading: Warehouse) -> None:
    loading.run(f"ALTER STAGE RAW.EVENTS_STAGE SET URL = 's3://{loading.bucket}/other/'")
    assert loading.status()["executionState"] == "STOPPED_STAGE_ALTERED"
    loading.pipe(replace=True)
    assert loading.status()["executionState"] == "RUNNING"
    loading.run("ALTER STAGE RAW.EVENTS_STAGE SET COMMENT = 'x'")
    assert loading.status()["executionState"] == "RUNNING"


def test_dropped_or_recreated_stage_stops_the_pipe_until_the_pipe_is_recreated(loading: Warehouse) -> None:
    loading.run("DROP STAGE RAW.EVENTS_STAGE")
    assert loading.status()["executionState"] == "STOPPED_STAGE_DROPPED"
    loading.stage()
    assert loading.status()["executionState"] == "STOPPED_STAGE_DROPPED"
    loading.put("events/a", {"_id": 1})
    eventually(lambda: loading.status()["pendingFileCount"])
    loading.pipe(replace=True)
    loading.run("ALTER PIPE RAW.EVENTS_PIPE REFRESH")
    loading.has_rows(1)


def test_pipe_stops_and_its_files_wait_while_its_table_does_not_exist(loading: Warehouse) -> None:
    loading.run("DROP TABLE RAW.EVENTS")
    assert loading.status()["executionState"] == "STOPPED_MISSING_TABLE"
    loading.put("events/a", {"_id": 1})
    eventually(lambda: loading.status()["pendingFileCount"])
    loading.table()
    loading.has_rows(1)
    assert loading.status()["executionState"] == "RUNNING"


def test_dropped_file_format_stops_the_pipe(warehouse: Warehouse) -> None:
    warehouse.table()
    warehouse.run("CREATE FILE FORMAT RAW.NDJSON TYPE = JSON")
    warehouse.stage()
    warehouse.pipe(options="FILE_FORMAT = (FORMAT_NAME = 'RAW.NDJSON')")
    warehouse.run("DROP FILE FORMAT RAW.NDJSON")
    assert warehouse.status()["executionState"] == "STOPPED_FILE_FORMAT_DROPPED"


def test_dropped_column_stalls_the_pipe_until_the_column_is_added_again(loading: Warehouse) -> None:
    loading.run("ALTER TABLE RAW.EVENTS DROP COLUMN scanned_at")
    status = loading.status()
    assert status["executionState"] == "STALLED_COMPILATION_ERROR"
    assert "SCANNED_AT" in status["error"]
    loading.put("events/a", {"_id": 1})
    eventually(lambda: loading.status()["pendingFileCount"])
    loading.run("ALTER TABLE RAW.EVENTS ADD COLUMN scanned_at TIMESTAMP_LTZ")
    loading.has_rows(1)


def test_replacing_a_pipe_resubscribes_its_unsubscribed_queue(loading: Warehouse) -> None:
    sns = loading.aws.sns
    [found] = sns.list_subscriptions_by_topic(TopicArn=loading.topic)["Subscriptions"]
    sns.unsubscribe(SubscriptionArn=found["SubscriptionArn"])
    loading.pipe(replace=True)
    loading.put("events/a", {"_id": 1})
    loading.has_rows(1)


def test_missing_bucket_stalls_only_the_pipe_that_reads_from_it(loading: Warehouse) -> None:
    loading.table("OTHERS")
    loading.run(
        f"CREATE STAGE RAW.GONE_STAGE URL = 's3://{loading.bucket}-gone/' FILE_FORMAT = (TYPE = JSON)"
    )
    loading.pipe("GONE_PIPE", stage="GONE_STAGE", table="OTHERS")
    created = {
        "eventName": "ObjectCreated:Put",
        "eventTime": "2026-11-22T08:00:00.000Z",
        "s3": {"bucket": {"name": f"{loading.bucket}-gone"}, "object": {"key": "x", "size": 1}},
    }
    loading.aws.announce(loading.queue_url(), json.dumps({"Records": [created]}))
    loading.put("events/a", {"_id": 1})
    loading.has_rows(1)
    eventually(
        lambda: loading.status("GONE_PIPE")["executionState"],
        lambda state: state == "STALLED_STAGE_PERMISSION_ERROR",
    )
    assert loading.status("GONE_PIPE")["pendingFileCount"] == 1


def test_overwritten_file_is_loaded_again_after_14_days(loading: Warehouse) -> None:
    loading.put("events/a", {"_id": 1})
    loading.has_rows(1)
    with loading.local.days_later(13.9):
        loading.put("events/a", {"_id": 2})
        loading.put("events/b", {"_id": 3})
        loading.has_rows(2)
    with loading.local.days_later(14.1):
        loading.put("events/a", {"_id": 2})
        loading.has_rows(3)


def test_refresh_includes_only_files_of_the_last_seven_days(loading: Warehouse) -> None:
    loading.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    loading.put("events/a", {"_id": 1})
    loading.has_waiting(1)
    with loading.local.days_later(6.9):
        assert len(loading.run("ALTER PIPE RAW.EVENTS_PIPE REFRESH")) == 1
    with loading.local.days_later(7.1):
        assert loading.run("ALTER PIPE RAW.EVENTS_PIPE REFRESH") == []


def test_pipe_paused_for_over_14_days_is_stale_and_loses_its_queued_files(
    own_local: LocalProcess, warehouse_of: Callable[[LocalProcess], Warehouse]
) -> None:
    # With --in-order, no message is delivered twice. Otherwise, a late duplicate could load the file after all.
    loading = warehouse_of(own_local.start("--in-order"))
    loading.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    loading.put("events/a", {"_id": 1})
    loading.has_waiting(1)
    with loading.local.days_later(15):
        resume = "ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = FALSE"
        assert "SYSTEM$PIPE_FORCE_RESUME" in loading.refused(resume)
        loading.run("SELECT SYSTEM$PIPE_FORCE_RESUME('RAW.EVENTS_PIPE', 'staleness_check_override')")
        status = loading.status()
        assert (status["executionState"], status["pendingFileCount"]) == ("RUNNING", 0)
        loading.put("events/b", {"_id": 2})
        loading.has_rows(1)
        assert loading.run("SELECT file_name FROM RAW.EVENTS") == [{"FILE_NAME": "events/b"}]
