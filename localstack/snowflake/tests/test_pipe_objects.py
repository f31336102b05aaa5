"""Test CREATE, ALTER, SHOW, DESC and DROP PIPE, the restrictions on a pipe's COPY statement, SYSTEM$PIPE_STATUS and
COPY_HISTORY.
"""

import json

import pytest
from snowflake.connector.errors import DatabaseError

from local_snowflake.testing import Warehouse, eventually

PLAIN = "COPY INTO RAW.EVENTS (payload) FROM (SELECT $1 FROM @RAW.EVENTS_STAGE)"


@pytest.fixture
def ready(warehouse: Warehouse) -> Warehouse:
    """Return the test's own database with a table and a stage, but no pipe."""
    warehouse.table()
    warehouse.stage()
    return warehouse


def test_create_pipe_creates_snowflakes_queue_and_subscribes_it_to_the_topic(ready: Warehouse) -> None:
    ready.pipe()
    channel = ready.status()["notificationChannelName"]
    assert ":sf-snowpipe-" in channel
    subscriptions = ready.aws.sns.list_subscriptions_by_topic(TopicArn=ready.topic)["Subscriptions"]
    assert [(s["Protocol"], s["Endpoint"]) for s in subscriptions] == [("sqs", channel)]


def test_pipes_of_one_account_and_region_share_one_queue(ready: Warehouse) -> None:
    ready.pipe("ONE")
    ready.pipe("TWO")
    assert ready.status("ONE")["notificationChannelName"] == ready.status("TWO")["notificationChannelName"]


def test_pipe_without_a_topic_is_notified_directly_by_the_bucket(ready: Warehouse) -> None:
    ready.run(f"CREATE PIPE RAW.P AUTO_INGEST = TRUE AS {ready.copy()}")
    channel = ready.run("DESC PIPE RAW.P")[0]["notification_channel"]
    notify = {"QueueConfigurations": [{"QueueArn": channel, "Events": ["s3:ObjectCreated:*"]}]}
    ready.aws.s3.put_bucket_notification_configuration(Bucket=ready.bucket, NotificationConfiguration=notify)
    ready.put("events/a", {"_id": 1})
    ready.has_rows(1)


def test_show_and_desc_pipe_return_the_definition_as_written(ready: Warehouse) -> None:
    ready.pipe()
    ready.run("ALTER PIPE RAW.EVENTS_PIPE SET COMMENT = 'S3 to RAW'")
    for sql in (
        "SHOW PIPES LIKE 'events%' IN SCHEMA RAW",
        "SHOW PIPES",
        f"SHOW PIPES IN DATABASE {ready.database}",
        "DESC PIPE RAW.EVENTS_PIPE",
        "DESCRIBE PIPE raw.events_pipe",
    ):
        (row,) = ready.run(sql)
        assert (row["name"], row["schema_name"], row["comment"]) == ("EVENTS_PIPE", "RAW", "S3 to RAW")
        assert row["definition"] == ready.copy().strip()
    assert ready.run("SHOW PIPES LIKE 'nothing'") == []


def test_show_pipes_shows_the_pattern_of_the_copy_statement(ready: Warehouse) -> None:
    ready.pipe(options="PATTERN = '.*[.]json'")
    assert [row["pattern"] for row in ready.run("SHOW PIPES")] == [".*[.]json"]


def test_create_pipe_with_an_empty_topic_is_refused(ready: Warehouse) -> None:
    ready.topic = ""
    with pytest.raises(DatabaseError, match="not the ARN of an SNS topic"):
        ready.pipe()


def test_create_pipe_if_not_exists_keeps_an_existing_pipe_but_plain_create_fails(ready: Warehouse) -> None:
    ready.pipe()
    before = ready.run("SHOW PIPES")
    ready.run(f"CREATE PIPE IF NOT EXISTS RAW.EVENTS_PIPE AS {ready.copy(options='ON_ERROR = CONTINUE')}")
    assert ready.run("SHOW PIPES") == before
    assert "already exists" in ready.refused(f"CREATE PIPE RAW.EVENTS_PIPE AS {ready.copy()}")


def test_pipe_cannot_be_created_in_a_schema_that_does_not_exist(ready: Warehouse) -> None:
    copy = ready.copy().replace("RAW.", f"{ready.database}.RAW.")
    assert "Schema" in ready.refused(f"CREATE PIPE NOWHERE.P AS {copy}")


def test_pipe_can_be_dropped_only_once(ready: Warehouse) -> None:
    ready.pipe()
    ready.run("DROP PIPE RAW.EVENTS_PIPE")
    assert ready.run("SHOW PIPES") == []
    ready.run("DROP PIPE IF EXISTS RAW.EVENTS_PIPE")
    assert "does not exist" in ready.refused("DROP PIPE RAW.EVENTS_PIPE")
    assert "does not exist" in ready.refused("SELECT SYSTEM$PIPE_STATUS('RAW.EVENTS_PIPE')")


@pytest.mark.parametrize(
    "option",
    [
        "FILES = ('a')",
        "SIZE_LIMIT = 10",
        "PURGE = TRUE",
        "FORCE = TRUE",
        "RETURN_FAILED_ONLY = TRUE",
        "VALIDATION_MODE = RETURN_ERRORS",
        "ON_ERROR = ABORT_STATEMENT",
    ],
)
def test_copy_options_that_a_pipe_does_not_support_are_refused(ready: Warehouse, option: str) -> None:
    message = ready.refused(f"CREATE PIPE RAW.P AS {ready.copy(options=option)}")
    assert option.split(" = ")[1 if "ON_ERROR" in option else 0] in message
    assert ready.run("SHOW PIPES") == []


@pytest.mark.parametrize(
    "select",
    [
        "SELECT $1 FROM @RAW.EVENTS_STAGE WHERE $1:a = 1",
        "SELECT f.value FROM @RAW.EVENTS_STAGE s, LATERAL FLATTEN(s.$1) f",
        "SELECT s.$1 FROM @RAW.EVENTS_STAGE s JOIN RAW.EVENTS e ON TRUE",
        "SELECT $1 FROM @RAW.EVENTS_STAGE GROUP BY 1",
        "SELECT DISTINCT $1 FROM @RAW.EVENTS_STAGE",
        "SELECT max($1) FROM @RAW.EVENTS_STAGE",
        "SELECT $1 FROM @RAW.EVENTS_STAGE ORDER BY 1 LIMIT 3",
        "SELECT $1 FROM (SELECT $1 FROM @RAW.EVENTS_STAGE)",
        "SELECT * FROM @RAW.EVENTS_STAGE",
    ],
)
def test_pipe_may_contain_only_a_simple_select_from_its_stage(ready: Warehouse, select: str) -> None:
    ready.run("CREATE TABLE RAW.ONE (v VARIANT)")
    assert "simple SELECT" in ready.refused(f"CREATE PIPE RAW.P AS COPY INTO RAW.ONE FROM ({select})")


@pytest.mark.parametrize(
    ("copy", "message"),
    [
        ("COPY INTO RAW.NOPE FROM @RAW.EVENTS_STAGE", "NOPE"),
        ("COPY INTO RAW.EVENTS (payload) FROM (SELECT $1 FROM @RAW.NOPE)", "NOPE"),
        ("COPY INTO RAW.EVENTS (nope) FROM (SELECT $1 FROM @RAW.EVENTS_STAGE)", "NOPE"),
        ("COPY INTO RAW.EVENTS (payload) FROM (SELECT $2 FROM @RAW.EVENTS_STAGE)", "$2"),
        ("COPY INTO RAW.EVENTS (payload) FROM (SELECT nope FROM @RAW.EVENTS_STAGE)", "nope"),
        ("COPY INTO RAW.EVENTS (payload) FROM (SELECT $1, $1 FROM @RAW.EVENTS_STAGE)", "does not match"),
        ("COPY INTO RAW.EVENTS FROM @RAW.EVENTS_STAGE", "one and only one column"),
        ("COPY INTO RAW.EVENTS (payload) FROM (SELECT TYPEOF($1) FROM @RAW.EVENTS_STAGE)", "TYPEOF"),
        (f"{PLAIN} FILE_FORMAT = (FORMAT_NAME = X)", "X"),
        (f"{PLAIN} FILE_FORMAT = (TYPE = CSV)", "CSV"),
        (f"{PLAIN} FILE_FORMAT = (TYPE = JSON STRIP_NULL_VALUES = TRUE)", "STRIP_NULL_VALUES"),
        (f"{PLAIN} FILE_FORMAT = (TYPE = JSON MULTI_LINE = FALSE)", "MULTI_LINE"),
        (f"{PLAIN} ON_ERROR = MAYBE", "MAYBE"),
        (f"{PLAIN} PATTERN = '['", "regular"),
    ],
)
def test_create_pipe_fails_if_its_copy_statement_is_invalid(
    ready: Warehouse, copy: str, message: str
) -> None:
    assert message in ready.refused(f"CREATE PIPE RAW.P AS {copy}")


def test_create_pipe_fails_immediately_if_the_topic_does_not_exist(ready: Warehouse) -> None:
    nowhere = ready.topic + "-nope"
    message = ready.refused(
        f"CREATE PIPE RAW.P AUTO_INGEST = TRUE AWS_SNS_TOPIC = '{nowhere}' AS {ready.copy()}"
    )
    assert "bind failure" in message
    assert ready.run("SHOW PIPES") == []


def test_pipe_status_shows_when_messages_were_received_and_forwarded_and_files_ingested(
    ready: Warehouse,
) -> None:
    ready.pipe()
    assert ready.status()["executionState"] == "RUNNING"
    assert "lastIngestedTimestamp" not in ready.status()
    ready.put("elsewhere/a", {"_id": 1})
    seen = eventually(ready.status, lambda status: "lastReceivedMessageTimestamp" in status)
    assert "lastForwardedMessageTimestamp" not in seen, (
        "a message about another prefix is received but not forwarded"
    )
    ready.put("events/a", {"_id": 1})
    ready.has_rows(1)
    seen = ready.status()
    assert seen["lastForwardedMessageTimestamp"] <= seen["lastIngestedTimestamp"]
    assert (seen["lastIngestedFilePath"], seen["pendingFileCount"]) == ("a", 0)
    path = "SELECT PARSE_JSON(SYSTEM$PIPE_STATUS('RAW.EVENTS_PIPE')):executionState::string AS S"
    assert ready.run(path) == [{"S": "RUNNING"}]


def test_pipe_status_in_a_view_is_refused_because_it_would_never_change(ready: Warehouse) -> None:
    ready.pipe()
    assert "view" in ready.refused("CREATE VIEW RAW.V AS SELECT SYSTEM$PIPE_STATUS('RAW.EVENTS_PIPE') AS S")


def test_view_may_query_the_copy_history(ready: Warehouse) -> None:
    ready.run(
        """CREATE VIEW RAW.LOADS AS SELECT FILE_NAME, STATUS FROM TABLE(INFORMATION_SCHEMA.COPY_HISTORY(
           TABLE_NAME => 'RAW.EVENTS', START_TIME => DATEADD(days, -13, CURRENT_TIMESTAMP())))"""
    )
    ready.pipe()
    ready.put("events/a", {"_id": 1})
    eventually(
        lambda: ready.run("SELECT * FROM RAW.LOADS"), lambda r: r == [{"FILE_NAME": "a", "STATUS": "Loaded"}]
    )


def test_copy_history_of_a_pipe_excludes_loads_by_other_pipes_and_copy_statements(ready: Warehouse) -> None:
    """Source: Snowflake's page "COPY_HISTORY" (argument PIPE_NAME)."""
    history = """SELECT FILE_NAME FROM TABLE(INFORMATION_SCHEMA.COPY_HISTORY(TABLE_NAME => 'RAW.EVENTS',
        START_TIME => DATEADD(hour, -1, CURRENT_TIMESTAMP()), PIPE_NAME => 'RAW.{}'))"""
    ready.put("events/by-hand", {"_id": 1})
    ready.run(ready.copy())
    ready.stage("OTHER_STAGE", "other/")
    ready.pipe()
    ready.pipe("OTHER", stage="OTHER_STAGE")
    ready.put("events/a", {"_id": 2})
    ready.put("other/b", {"_id": 3})
    ready.has_rows(3)
    assert ready.run(history.format("EVENTS_PIPE")) == [{"FILE_NAME": "a"}]
    assert ready.run(history.format("OTHER")) == [{"FILE_NAME": "b"}]
    assert "does not exist or not authorized" in ready.refused(history.format("NOT_THERE"))


def test_validate_pipe_load_refuses_a_pipe_whose_copy_transforms_data(ready: Warehouse) -> None:
    ready.pipe()
    message = ready.refused(
        """SELECT * FROM TABLE(INFORMATION_SCHEMA.VALIDATE_PIPE_LOAD(
           PIPE_NAME => 'RAW.EVENTS_PIPE', START_TIME => DATEADD(hour, -1, CURRENT_TIMESTAMP())))"""
    )
    assert "transform" in message


def test_sns_topic_policy_allows_snowflakes_iam_user_to_subscribe(ready: Warehouse) -> None:
    sql = "SELECT SYSTEM$GET_AWS_SNS_IAM_POLICY('arn:aws:sns:us-east-1:1:t')"
    ((name, text),) = ready.run(sql)[0].items()
    (statement,) = json.loads(text)["Statement"]
    assert name == "SYSTEM$GET_AWS_SNS_IAM_POLICY('arn:aws:sns:us-east-1:1:t')"
    assert statement["Action"] == ["sns:Subscribe"]
    assert statement["Resource"] == ["arn:aws:sns:us-east-1:1:t"]
    assert statement["Principal"]["AWS"].startswith("arn:aws:iam::")


def test_copy_history_from_more_than_14_days_ago_is_refused(warehouse: Warehouse) -> None:
    """Source: Snowflake's page "COPY_HISTORY" (argument START_TIME)."""
    warehouse.table()
    query = (
        "SELECT * FROM TABLE(INFORMATION_SCHEMA.COPY_HISTORY(TABLE_NAME => 'RAW.EVENTS', START_TIME => {}))"
    )
    for start in ("DATEADD('day', -14, CURRENT_TIMESTAMP())", "'2020-01-01'::TIMESTAMP_LTZ"):
        assert "more than 14 days ago" in warehouse.refused(query.format(start))
        assert "more than 14 days ago" in warehouse.refused(f"CREATE VIEW RAW.V AS {query.format(start)}")
    assert warehouse.run(query.format("DATEADD('minute', -20159, CURRENT_TIMESTAMP())")) == []
