"""`milkrun forget`: list the copies that the command cannot delete, each with its expiry date, if it has one."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import ClientError

from cli.refusal import Refusal
from glue.archive import Stored
from ops.stage_outputs import Outputs
from snowpipe.warehouse import Warehouse

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# docs/reference/retention.md has the same numbers; a test compares them.
STREAM_HOURS = 168
QUEUE_DAYS = 14
RECOVERY_DAYS = 35
RESULT_DAYS = 90
PLAN_DAYS = 90
TIME_TRAVEL_DAYS, FAIL_SAFE_DAYS = 1, 7
QUERY_HISTORY_DAYS = 365


class Remaining(NamedTuple):
    """A copy that `milkrun forget` cannot delete. `until` is None if nothing deletes the copy automatically."""

    store: str
    until: datetime | None
    holds: str


def remaining(
    outputs: Outputs, warehouse: Warehouse, checkpoints: Iterable[Stored], now: datetime
) -> Iterator[Remaining]:
    kinesis, dynamodb = outputs.aws("kinesis"), outputs.aws("dynamodb")
    hours = _asked(
        lambda: kinesis.describe_stream_summary(StreamName=outputs.stream)["StreamDescriptionSummary"][
            "RetentionPeriodHours"
        ],
        STREAM_HOURS,
    )
    yield Remaining(
        "Kinesis stream",
        now + timedelta(hours=hours),
        "geofence events, because Kinesis cannot delete records",
    )
    # (Amazon DynamoDB Developer Guide: "Point-in-time recovery".)
    days = _asked(lambda: _recovery_days(dynamodb, outputs.visits_table), RECOVERY_DAYS)
    if days:
        yield Remaining("DynamoDB point-in-time recovery", now + timedelta(days=days), "events and visits")
    backups = _asked(lambda: _backups(dynamodb, outputs.visits_table), None)
    if backups is None:
        yield Remaining(
            "DynamoDB backups", None, "events and visits, if there are backups, which could not be listed"
        )
    for name in backups or ():
        yield Remaining(f"DynamoDB backup {name}", None, "events and visits; delete the backup")
    # (Snowflake documentation: "Understanding & using Time Travel", "Understanding and viewing Fail-safe".)
    days = _time_travel_days(warehouse, outputs.database)
    yield Remaining("Snowflake Time Travel", now + timedelta(days=days), "deleted rows and replaced tables")
    yield Remaining(
        "Snowflake Fail-safe",
        now + timedelta(days=days + FAIL_SAFE_DAYS),
        "deleted rows and replaced tables, which only Snowflake Support can recover",
    )
    # (Snowflake documentation: "QUERY_HISTORY view".)
    yield Remaining(
        "Snowflake query history",
        now + timedelta(days=QUERY_HISTORY_DAYS),
        "statements of operators and of this command that contain ids",
    )
    for each in checkpoints:
        until = each.modified_at + timedelta(days=RESULT_DAYS)
        holds = "ids of devices inside a fence, each until the device leaves or, if the job stopped, until this date"
        yield Remaining(f"S3 {each.key.partition('/checkpoint/')[0]}/checkpoint/", until, holds)
    yield Remaining(
        "redrive queue and dead-letter queue", now + timedelta(days=QUEUE_DAYS), "keys and line numbers"
    )
    yield Remaining("S3 forget/", now + timedelta(days=PLAN_DAYS), "keys and line numbers of deleted lines")
    yield Remaining("notifications", None, "copies that subscribers of the event bus have stored")
    yield Remaining("exports", None, "files created by people: CSV, SQLite (--sqlite FILE), query results")


def _asked[T](ask: Callable[[], T], otherwise: T) -> T:
    """Return the value that `ask` reads from AWS, or `otherwise` if AWS returns an error, such as AccessDenied."""
    try:
        return ask()
    except ClientError:
        return otherwise


def _recovery_days(dynamodb: "DynamoDBClient", table: str) -> int:
    found = dynamodb.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    recovery = found.get("PointInTimeRecoveryDescription", {})
    if recovery.get("PointInTimeRecoveryStatus") != "ENABLED":
        return 0
    return int(recovery.get("RecoveryPeriodInDays", RECOVERY_DAYS))


def _backups(dynamodb: "DynamoDBClient", table: str) -> list[str]:
    # Without ALL, the backups of AWS Backup are not listed (Amazon DynamoDB API Reference: "ListBackups").
    pages = dynamodb.get_paginator("list_backups").paginate(TableName=table, BackupType="ALL")
    return [each["BackupName"] for page in pages for each in page["BackupSummaries"]]


def _time_travel_days(warehouse: Warehouse, database: str) -> int:
    try:
        sql = f"SELECT MAX(retention_time) AS days FROM {database}.INFORMATION_SCHEMA.TABLES"
        return int(warehouse.query(sql)[0]["days"] or TIME_TRAVEL_DAYS)
    except (Refusal, LookupError):
        return TIME_TRAVEL_DAYS
