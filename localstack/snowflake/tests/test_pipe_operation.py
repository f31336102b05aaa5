"""Test the documented behaviour of paused pipes, ownership transfer and error notifications, and the option --latency.
Sources: "Manage Snowpipe", "ALTER PIPE", "SYSTEM$PIPE_FORCE_RESUME", "GRANT OWNERSHIP", "Enabling Snowpipe error
notifications for Amazon SNS", "CREATE NOTIFICATION INTEGRATION".
"""

import json
from collections.abc import Iterator

import pytest

from local_snowflake.channel import Message
from local_snowflake.delivery import Delivery, InOrder
from local_snowflake.seconds_range import Latency
from local_snowflake.testing import Aws, LocalProcess, Warehouse, eventually

PAUSE = "ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE"
RESUME = "ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = FALSE"


# --- pausing


def test_paused_pipe_loads_only_files_that_were_queued_before_the_pause(loading: Warehouse) -> None:
    loading.run("ALTER TABLE RAW.EVENTS RENAME TO RAW.AWAY")  # the pipe cannot load, so its files are queued
    loading.put("events/before", {"_id": 1})
    loading.has_waiting(1)
    loading.run(PAUSE)
    loading.put("events/after", {"_id": 2})
    loading.has_waiting(2)
    assert loading.status()["pendingFileCount"] == 2
    loading.run("ALTER TABLE RAW.AWAY RENAME TO RAW.EVENTS")
    eventually(lambda: loading.status()["pendingFileCount"], lambda pending: pending == 1)
    assert loading.status()["executionState"] == "PAUSED"
    assert [row["FILE_NAME"] for row in loading.run("SELECT file_name FROM RAW.EVENTS")] == ["events/before"]
    loading.run(RESUME)
    loading.has_rows(2)


# --- ownership transfer


@pytest.fixture
def heir(loading: Warehouse) -> str:
    role = f"{loading.database}_HEIR"
    for sql in (
        "CREATE ROLE {role}",
        "GRANT ROLE {role} TO ROLE ACCOUNTADMIN",
        "GRANT USAGE ON DATABASE {database} TO ROLE {role}",
        "GRANT USAGE ON SCHEMA RAW TO ROLE {role}",
        "GRANT INSERT, SELECT ON TABLE RAW.EVENTS TO ROLE {role}",
        "GRANT USAGE ON STAGE RAW.EVENTS_STAGE TO ROLE {role}",
    ):
        loading.run(sql.format(role=role, database=loading.database))
    return role


def test_pipe_must_be_paused_before_its_ownership_is_transferred(loading: Warehouse, heir: str) -> None:
    said = loading.refused(f"GRANT OWNERSHIP ON PIPE RAW.EVENTS_PIPE TO ROLE {heir}")
    assert "must be paused" in said


def test_pipe_with_a_new_owner_can_only_be_resumed_by_force(loading: Warehouse, heir: str) -> None:
    loading.run(PAUSE)
    loading.run(f"GRANT OWNERSHIP ON PIPE RAW.EVENTS_PIPE TO ROLE {heir}")
    loading.put("events/a", {"_id": 1})
    loading.has_waiting(1)
    with loading.as_role(heir, schema="RAW") as other:
        assert "ownership_transfer_check_override" in other.refused(RESUME)
        assert other.status()["executionState"] == "PAUSED"
        other.run("SELECT SYSTEM$PIPE_FORCE_RESUME('RAW.EVENTS_PIPE')")
        other.has_rows(1)
        other.run(PAUSE)
        other.run(RESUME)


def test_stale_pipe_can_be_resumed_only_with_the_staleness_override(loading: Warehouse) -> None:
    loading.run(PAUSE)
    with loading.local.days_later(14.1):
        assert "STALENESS_CHECK_OVERRIDE" in loading.refused(
            "SELECT SYSTEM$PIPE_FORCE_RESUME('RAW.EVENTS_PIPE')"
        )
        loading.run(
            "SELECT SYSTEM$PIPE_FORCE_RESUME('RAW.EVENTS_PIPE', "
            "'staleness_check_override, ownership_transfer_check_override')"
        )
        assert loading.status()["executionState"] == "RUNNING"


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE, COMMENT = 5", "invalid value"),
        ("ALTER PIPE RAW.EVENTS_PIPE SET", "unexpected end"),
        ("SELECT SYSTEM$PIPE_FORCE_RESUME('RAW.EVENTS_PIPE', 'staleness_override')", "has no option"),
        ("SELECT SYSTEM$PIPE_STATUS('RAW.EVENTS_PIPE x')", "unexpected 'x'"),
    ],
)
def test_invalid_statement_about_a_pipe_is_refused_and_changes_nothing(
    loading: Warehouse, sql: str, error: str
) -> None:
    assert error in loading.refused(sql)
    assert loading.status()["executionState"] == "RUNNING"


# --- error notifications


@pytest.fixture
def receive_notices(loading: Warehouse) -> Iterator[object]:
    """Set a notification integration as the pipe's ERROR_INTEGRATION; yield a function that returns the messages
    sent to the integration's topic.
    """
    name = f"{loading.database}_ERRORS"
    topic = loading.aws.sns.create_topic(Name=f"errors-{loading.database}")["TopicArn"]
    queue = loading.aws.sqs.create_queue(QueueName=f"errors-{loading.database}")["QueueUrl"]
    arn = loading.aws.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    loading.aws.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn["QueueArn"])
    loading.run(
        f"""CREATE NOTIFICATION INTEGRATION {name} ENABLED = TRUE TYPE = QUEUE DIRECTION = OUTBOUND
            NOTIFICATION_PROVIDER = AWS_SNS AWS_SNS_TOPIC_ARN = '{topic}'
            AWS_SNS_ROLE_ARN = 'arn:aws:iam::1:role/errors'"""
    )
    loading.run(f"ALTER PIPE RAW.EVENTS_PIPE SET ERROR_INTEGRATION = {name}")

    def look() -> list[dict[str, object]]:
        answer = loading.aws.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return [json.loads(json.loads(message["Body"])["Message"]) for message in answer.get("Messages", ())]

    yield look
    loading.run(f"DROP INTEGRATION {name}")


def test_skipped_file_is_reported_to_the_error_integrations_topic(
    loading: Warehouse, receive_notices
) -> None:
    loading.put("events/good", {"_id": 1})
    loading.put("events/bad", "{")
    (message,) = eventually(receive_notices)
    assert message["messageType"] == "INGEST_FAILED_FILE"
    assert message["pipeName"] == f"{loading.database}.RAW.EVENTS_PIPE"
    assert message["tableName"] == f"{loading.database}.RAW.EVENTS"
    assert message["stageLocation"] == f"s3://{loading.bucket}/events/"
    assert [failed["fileName"] for failed in message["messages"]] == ["bad"]
    assert message["messages"][0]["firstError"] == loading.fate("bad")["FIRST_ERROR_MESSAGE"]
    assert [row["error_integration"] for row in loading.run("SHOW PIPES IN SCHEMA RAW")] == [
        f"{loading.database}_ERRORS"
    ]


def test_skipped_file_is_reported_only_while_the_error_integration_is_set(
    loading: Warehouse, receive_notices
) -> None:
    loading.run("ALTER PIPE RAW.EVENTS_PIPE UNSET ERROR_INTEGRATION")
    loading.put("events/unseen", "{")
    assert loading.fate("unseen")["STATUS"] == "Load failed"
    loading.run(f"ALTER PIPE RAW.EVENTS_PIPE SET ERROR_INTEGRATION = {loading.database}_ERRORS")
    loading.put("events/seen", "{")
    (message,) = eventually(receive_notices)
    assert [failed["fileName"] for failed in message["messages"]] == ["seen"]


def test_notification_integration_is_shown_and_invalid_or_unsupported_uses_are_refused(
    loading: Warehouse, receive_notices
) -> None:
    described = {
        r["property"]: r["property_value"] for r in loading.run(f"DESC INTEGRATION {loading.database}_ERRORS")
    }
    assert described["DIRECTION"] == "OUTBOUND"
    assert described["SF_AWS_IAM_USER_ARN"].startswith("arn:aws:iam::")
    assert [r["name"] for r in loading.run("SHOW NOTIFICATION INTEGRATIONS")] == [
        f"{loading.database}_ERRORS"
    ]
    assert "does not exist" in loading.refused("ALTER PIPE RAW.EVENTS_PIPE SET ERROR_INTEGRATION = NOT_THERE")
    assert "TYPE = EMAIL" in loading.refused(
        "CREATE NOTIFICATION INTEGRATION E ENABLED = TRUE TYPE = EMAIL DIRECTION = OUTBOUND "
        "NOTIFICATION_PROVIDER = AWS_SNS AWS_SNS_TOPIC_ARN = 'a' AWS_SNS_ROLE_ARN = 'r'"
    )
    assert "storage integration" in loading.refused(
        f"CREATE STAGE RAW.S URL = 's3://{loading.bucket}/' STORAGE_INTEGRATION = {loading.database}_ERRORS"
    )


# --- latency


def test_latency_delays_and_reorders_messages() -> None:
    now = [0.0]
    delivery = Delivery(1, 0, 0, Latency(5, 60), lambda: now[0])
    sent = [Message("r", str(number), ()) for number in range(50)]
    arrived: dict[str, float] = {}
    assert delivery(sent) == []
    order = []
    while delivery.waiting:
        now[0] += 1
        for message in delivery([]):
            arrived[message.receipt] = now[0]
            order.append(int(message.receipt))
    assert sorted(order) == list(range(50))
    assert order != sorted(order)
    assert 5 <= min(arrived.values()) < 15
    assert 50 < max(arrived.values()) <= 61


def test_in_order_mode_delivers_messages_immediately_and_in_order() -> None:
    sent = [Message("r", str(number), ()) for number in range(5)]
    assert InOrder()(sent) == sent


def test_latency_delays_the_load_of_a_file(own_local: LocalProcess, aws: Aws) -> None:
    loading = Warehouse(own_local.start("--latency", "2-3", "--in-order"), aws).with_pipe()
    loading.put("events/a", {"_id": 1})
    [row] = [eventually(lambda: loading.history().get("a"))]
    waited = row["LAST_LOAD_TIME"] - row["PIPE_RECEIVED_TIME"]
    assert waited.total_seconds() > 1.5
    loading.has_rows(1)


def test_invalid_latency_is_refused(own_local: LocalProcess) -> None:
    process = own_local.spawn("--latency", "60-5")
    assert process.wait(20) == 2
    assert "--latency" in process.stderr.read()
