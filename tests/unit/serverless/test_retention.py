"""Test that docs/reference/retention.md gives the same retention periods as the template and `milkrun forget`."""

import re

import pytest

from ops import forget_remaining
from tests.unit.serverless.templates import STAGES, of_type, properties
from tools.check import ROOT

TABLE = dict(
    re.findall(
        r"^\| ([^|]+?) +\| ([^|]+?) +\|", (ROOT / "docs/reference/retention.md").read_text(), re.MULTILINE
    )
)
every_stage = pytest.mark.parametrize("stage", STAGES)


def kept(store: str, stage: str) -> int:
    """Return the retention period of a store in a stage, as docs/reference/retention.md states it, in the unit
    used there (days or hours).
    """
    usual, _, prod = TABLE[store].partition(", prod ")
    return int((prod if prod and stage == "prod" else usual).split()[0])


@every_stage
def test_retention_page_lists_every_archive_prefix_with_its_retention_period(stage: str) -> None:
    rules = properties(stage, "ArchiveBucket")["LifecycleConfiguration"]["Rules"]
    days = {
        f"S3 `{rule['Prefix']}`": f"{rule['ExpirationInDays']} days" for rule in rules if "Prefix" in rule
    }
    assert days == {store: kept for store, kept in TABLE.items() if store.startswith("S3 `")}
    [replaced] = [r["NoncurrentVersionExpiration"] for r in rules if "NoncurrentVersionExpiration" in r]
    assert replaced["NoncurrentDays"] == kept("S3 versions that were replaced or deleted", stage)


@every_stage
def test_retention_page_matches_the_template_for_the_stream_queues_and_logs(stage: str) -> None:
    assert properties(stage, "GeofenceStream")["RetentionPeriodHours"] == kept("Kinesis stream", stage)
    for queue in ("RedriveQueue", "DeadLetterQueue"):
        seconds = properties(stage, queue)["MessageRetentionPeriod"]
        assert seconds == kept("redrive queue and dead-letter queue", stage) * 86400
    for group in of_type(stage, "AWS::Logs::LogGroup").values():
        assert group["RetentionInDays"] == kept("CloudWatch logs", stage)


def test_retention_periods_that_forget_reports_match_the_retention_page() -> None:
    assert kept("Kinesis stream", "prod") == forget_remaining.STREAM_HOURS
    assert kept("redrive queue and dead-letter queue", "prod") == forget_remaining.QUEUE_DAYS
    assert kept("DynamoDB point-in-time recovery", "prod") == forget_remaining.RECOVERY_DAYS
    assert kept("S3 `streamed/`", "prod") == forget_remaining.RESULT_DAYS
    assert kept("S3 `forget/`", "prod") == forget_remaining.PLAN_DAYS
    assert kept("Snowflake query history", "prod") == forget_remaining.QUERY_HISTORY_DAYS
    travel, fail_safe = re.findall(r"\d+", TABLE["Snowflake Time Travel and Fail-safe"])
    assert (int(travel), int(fail_safe)) == (
        forget_remaining.TIME_TRAVEL_DAYS,
        forget_remaining.FAIL_SAFE_DAYS,
    )
