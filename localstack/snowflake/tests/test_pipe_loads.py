"""Test that a pipe automatically loads new S3 objects, including empty, large and partly invalid ones."""

import gzip
import json

from local_snowflake.testing import Warehouse, eventually


def test_each_row_has_its_file_name_and_row_number(loading: Warehouse) -> None:
    key = loading.put("events/dt=2026-11-22/hh=08/abc.2.ndjson.gz", {"_id": "a"}, {"_id": "b"})
    loading.has_rows(2)
    rows = loading.run(
        "SELECT payload:_id::string AS ID, file_name, file_row_number, file_modified_at, scanned_at "
        "FROM RAW.EVENTS ORDER BY file_row_number"
    )
    modified = loading.aws.s3.head_object(Bucket=loading.bucket, Key=key)["LastModified"]
    assert [(row["ID"], row["FILE_NAME"], row["FILE_ROW_NUMBER"]) for row in rows] == [
        ("a", key, 1),
        ("b", key, 2),
    ]
    assert {row["FILE_MODIFIED_AT"] for row in rows} == {modified.replace(tzinfo=None)}
    assert rows[0]["SCANNED_AT"].replace(tzinfo=None) >= rows[0]["FILE_MODIFIED_AT"]


def test_object_key_may_contain_spaces_plus_signs_equals_signs_and_accents(loading: Warehouse) -> None:
    key = loading.put("events/ein Schlüssel + mit=allem é&?.gz", {"_id": "a"})
    loading.has_rows(1)
    assert loading.run("SELECT file_name FROM RAW.EVENTS") == [{"FILE_NAME": key}]


def test_pipe_evaluates_json_paths_and_concatenates_text(warehouse: Warehouse) -> None:
    warehouse.run("CREATE TABLE RAW.READ (second INT, said VARCHAR)")
    warehouse.stage()
    select = "SELECT $1['list'][1]['n'], CONCAT($1:type, '!') FROM @RAW.EVENTS_STAGE"
    create = (
        "CREATE PIPE RAW.READ_PIPE AUTO_INGEST = TRUE AWS_SNS_TOPIC = '{}' AS COPY INTO RAW.READ FROM ({})"
    )
    warehouse.run(create.format(warehouse.topic, select))
    warehouse.put("events/a", {"type": "in", "list": [{"n": 1}, {"n": 2}]})
    warehouse.has_rows(1, "READ")
    assert warehouse.run("SELECT second, said FROM RAW.READ") == [{"SECOND": 2, "SAID": "in!"}]


def test_invalid_line_fails_the_whole_file_and_the_load_history_has_its_line_number(
    loading: Warehouse,
) -> None:
    loading.put("events/bad", '{"_id": 1}', '{"_id": ', '{"_id": 3}')
    fate = loading.fate("bad")
    assert (fate["STATUS"], fate["ROW_COUNT"], fate["ROW_PARSED"]) == ("Load failed", 0, 3)
    assert (fate["FIRST_ERROR_LINE_NUMBER"], fate["ERROR_COUNT"]) == (2, 1)
    assert "Error parsing JSON" in fate["FIRST_ERROR_MESSAGE"]
    assert loading.count() == 0


def test_file_with_invalid_json_fails_as_in_snowflake(loading: Warehouse) -> None:
    for number, line in enumerate(['{"a": 1, "a": 2}', '{"a": NaN}', '{"a": "\\ud800"}', "[1,]", "{'a': 1}"]):
        loading.put(f"events/odd-{number}", line)
        assert loading.fate(f"odd-{number}")["STATUS"] == "Load failed", line
    assert loading.count() == 0


def test_unreadable_files_fail_without_affecting_other_files(loading: Warehouse) -> None:
    whole = gzip.compress(b'{"_id": 1}\n' * 1000)
    loading.put("events/cut", body=whole[: len(whole) // 2])
    loading.put("events/notes.txt", body=b"\x1f\x8b but no gzip")
    loading.put("events/fine", {"_id": 1})
    loading.has_rows(1)
    assert loading.fate("cut")["STATUS"] == "Load failed"
    assert "gzip" in loading.fate("cut")["FIRST_ERROR_MESSAGE"]
    assert loading.fate("notes.txt")["STATUS"] == "Load failed"


def test_empty_object_is_loaded_with_no_rows(loading: Warehouse) -> None:
    loading.put("events/empty", body=b"")
    fate = loading.fate("empty")
    assert (fate["STATUS"], fate["ROW_COUNT"], fate["FILE_SIZE"]) == ("Loaded", 0, 0)


def test_object_of_20_megabytes_is_loaded(loading: Warehouse) -> None:
    line = json.dumps({"_id": "x", "text": "y" * 2000}).encode() + b"\n"
    loading.put("events/large", body=line * (20 * 1024 * 1024 // len(line)))
    loading.has_rows(20 * 1024 * 1024 // len(line))


def test_uncompressed_and_multiline_json_is_loaded(loading: Warehouse) -> None:
    loading.put("events/plain", body=b'{"_id": 1}\n\n{"_id": 2}')
    loading.put("events/stretched", body=json.dumps({"_id": 3}, indent=2).encode() + b' {"_id": 4}')
    loading.has_rows(4)


def test_object_deleted_before_loading_is_recorded_as_failed(loading: Warehouse) -> None:
    loading.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE")
    key = loading.put("events/gone", {"_id": 1})
    eventually(lambda: loading.status()["pendingFileCount"])
    loading.aws.s3.delete_object(Bucket=loading.bucket, Key=key)
    loading.run("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = FALSE")
    fate = loading.fate("gone")
    assert (fate["STATUS"], fate["ROW_COUNT"]) == ("Load failed", 0)
    assert "was not found" in fate["FIRST_ERROR_MESSAGE"]


def test_invalid_messages_and_messages_for_no_pipe_are_dropped_and_logged(loading: Warehouse) -> None:
    queue = loading.queue_url()
    other = {
        "eventName": "ObjectCreated:Put",
        "eventTime": "2026-11-22T08:00:00.000Z",
        "s3": {"bucket": {"name": "not-ours"}, "object": {"key": "events/x", "size": 1}},
    }
    for body in (
        "hello",
        '{"Event": "s3:TestEvent"}',
        '{"Records": 3}',
        '{"Type": "Notification", "Message": "no"}',
        json.dumps({"Records": [{**other, "eventName": "ObjectRemoved:Delete"}]}),
        json.dumps({"Records": [other]}),
        "[" * 50_000,
        json.dumps({"Records": [{**other, "s3": {**other["s3"], "object": {"key": "x", "size": 1e999}}}]}),
    ):
        loading.aws.announce(queue, body)
    loading.put("events/after", {"_id": 1})
    loading.has_rows(1)
    eventually(lambda: len(loading.local.logged("message_skipped")) >= 7)
    eventually(lambda: [e for e in loading.local.logged("object_skipped") if e["bucket"] == "not-ours"])
    eventually(lambda: loading.status()["numOutstandingMessagesOnChannel"], lambda count: count == 0)
