"""Test the console's SQS queue: its subscriptions, its reuse after the console was killed, and its deletion when
the console exits.
"""

import json
import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from tools.check import ROOT
from tools.console.change_queue import ChangeQueue, Notice, Stored, news_in

BUCKET = "archive"


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        aws = boto3.client
        aws("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": os.environ["AWS_DEFAULT_REGION"]}
        )
        topic = aws("sns").create_topic(Name="milkrun-test-archive")["TopicArn"]
        aws("s3").put_bucket_notification_configuration(
            Bucket=BUCKET,
            NotificationConfiguration={
                "TopicConfigurations": [{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}]
            },
        )
        aws("events").create_event_bus(Name="milkrun-test-visits")
        yield aws


def count_resources(aws: object) -> tuple[int, int, int]:
    """Return the number of queues and of subscriptions in the account, and of rules on the visits bus."""
    return (
        len(aws("sqs").list_queues().get("QueueUrls", [])),
        len(aws("sns").list_subscriptions()["Subscriptions"]),
        len(aws("events").list_rules(EventBusName="milkrun-test-visits")["Rules"]),
    )


def test_messages_from_the_archive_topic_and_the_visits_bus_are_received_and_deleted(account):
    live = ChangeQueue(account, "test", BUCKET)
    live.open()
    url = account("sqs").get_queue_url(QueueName=live.name)["QueueUrl"]
    [topic] = [t["TopicArn"] for t in account("sns").list_topics()["Topics"]]
    record = {"eventTime": "2026-11-23T08:00:00.123Z", "s3": {"object": {"key": "events/dt%3D1/a+b"}}}
    account("sns").publish(TopicArn=topic, Message=json.dumps({"Records": [record]}))
    account("events").put_events(
        Entries=[
            {
                "EventBusName": "milkrun-test-visits",
                "Source": source,
                "DetailType": "arrived",
                "Detail": '{"id": "1"}',
            }
            for source in ("milkrun.visits", "somebody.else")
        ]
    )
    news = {type(each): each for each in live.receive()}
    assert news[Stored].key == "events/dt=1/a b"
    assert news[Notice] == Notice("arrived", {"id": "1"})
    attributes = account("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_only_the_archive_topic_and_the_visits_bus_may_send_to_the_queue(account):
    live = ChangeQueue(account, "test", BUCKET)
    live.open()
    url = account("sqs").get_queue_url(QueueName=live.name)["QueueUrl"]
    policy = json.loads(
        account("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"]
    )
    senders = {s["Principal"]["Service"]: s["Condition"]["ArnEquals"] for s in policy["Statement"]}
    assert set(senders) == {"sns.amazonaws.com", "events.amazonaws.com"}
    assert senders["sns.amazonaws.com"]["aws:SourceArn"].endswith(":milkrun-test-archive")
    assert senders["events.amazonaws.com"]["aws:SourceArn"].endswith(f":rule/milkrun-test-visits/{live.name}")
    assert all(s["Action"] == "sqs:SendMessage" for s in policy["Statement"])


def test_queue_is_reused_after_the_console_was_killed_and_deleted_when_it_exits(account):
    before = count_resources(account)
    killed = ChangeQueue(account, "test", BUCKET)
    killed.open()
    after_kill = count_resources(account)
    again = ChangeQueue(account, "test", BUCKET)
    again.open()
    assert count_resources(account) == after_kill
    again.close()
    assert count_resources(account) == before


def test_queue_whose_subscription_cannot_be_deleted_is_kept(account):
    """If the queue were deleted, SNS could not deliver to it, and the alarm archive-undelivered would fire."""

    def denying(service: str) -> Any:
        client = account(service)
        if service == "sns":
            denied = ClientError({"Error": {"Code": "AuthorizationError"}}, "Unsubscribe")
            client.unsubscribe = Mock(side_effect=denied)
        return client

    live = ChangeQueue(denying, "test", BUCKET)
    live.open()
    live.close()
    assert count_resources(account) == (1, 1, 0)


def test_documented_policy_allows_unsubscribing_on_every_resource():
    # SNS has no resource type for a subscription. (Service Authorization Reference: "Amazon SNS".)
    policy = json.loads((ROOT / "docs" / "reference" / "console-policy.json").read_text())
    [statement] = [s for s in policy["Statement"] if "sns:Unsubscribe" in s["Action"]]
    assert statement["Resource"] == "*"


def test_two_consoles_on_one_machine_use_different_queues(account):
    assert (
        ChangeQueue(account, "test", BUCKET, "4568").name != ChangeQueue(account, "test", BUCKET, "4668").name
    )


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "1",
        '{"Event": "s3:TestEvent"}',
        '{"Records": [{}]}',
        '{"Records": [{"s3": 1}]}',
        '{"detail": {"id": "1"}, "source": "somebody"}',
    ],
)
def test_queue_message_that_is_not_a_known_notification_is_ignored(body):
    assert list(news_in(body)) == []
