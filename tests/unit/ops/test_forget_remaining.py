"""Test that `milkrun forget` lists the DynamoDB backups among the copies that it cannot delete."""

from datetime import UTC, datetime
from types import SimpleNamespace
from unittest.mock import Mock

import boto3
import pytest
from botocore.stub import Stubber

from cli.refusal import Refusal
from ops.forget_remaining import Remaining, remaining

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def backups(monkeypatch: pytest.MonkeyPatch, *pages: list[str]) -> list[Remaining]:
    """Return the entries for backups. ListBackups returns these pages, or denies access if no page is given."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    dynamodb = boto3.client("dynamodb", region_name="us-east-1")
    stub = Stubber(dynamodb)
    stub.add_client_error("describe_continuous_backups", "AccessDeniedException")
    for number, names in enumerate(pages):
        answer: dict[str, object] = {"BackupSummaries": [{"BackupName": name} for name in names]}
        if number < len(pages) - 1:
            answer["LastEvaluatedBackupArn"] = f"arn:aws:dynamodb:us-east-1:1:table/visits/backup/{number}"
        stub.add_response("list_backups", answer)
    if not pages:
        stub.add_client_error("list_backups", "AccessDeniedException")
    kinesis = Mock()
    kinesis.describe_stream_summary.return_value = {"StreamDescriptionSummary": {"RetentionPeriodHours": 24}}
    outputs = SimpleNamespace(
        aws={"dynamodb": dynamodb, "kinesis": kinesis}.__getitem__,
        stream="stream",
        visits_table="visits",
        database="DB",
    )
    warehouse = Mock()
    warehouse.query.side_effect = Refusal("no answer")
    with stub:
        found = list(remaining(outputs, warehouse, [], NOW))
    return [each for each in found if each.store.startswith("DynamoDB backup")]


def test_backups_on_every_page_of_the_listing_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    found = backups(monkeypatch, ["day-1", "day-2"], ["day-3"])
    assert [each.store for each in found] == [f"DynamoDB backup day-{n}" for n in (1, 2, 3)]


def test_failure_to_list_the_backups_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = backups(monkeypatch)
    assert "could not be listed" in found.holds
