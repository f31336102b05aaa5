"""Immediate notifications through the console's own queue, which is subscribed to the archive's topic and to
the visits event bus.

The queue and its EventBridge rule have the same name, derived from the stage, the host, the home folder and the
console's port, so that a restarted console reuses what a killed console left behind. Apart from these two and
the queue's subscription to the topic, the console creates nothing in an account.
"""

import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from botocore.exceptions import BotoCoreError, ClientError

from consumer.event_bus import SOURCE
from snowpipe.archive import topic_of

# SQS deletes messages after this time. They are useless by then, and the archive contains their events.
KEPT_S = 300
WAIT_S = 10


@dataclass(frozen=True, slots=True)
class Stored:
    """A notification of a new object in the archive."""

    key: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification that a visit has changed (`docs/consumer.md`)."""

    kind: str
    detail: dict[str, object]


class ChangeQueue:
    """The console's queue and its subscriptions to the archive's topic and the visits event bus.

    `aws(service)` returns a boto3 client. Call `open` before `receive`; `close` deletes the queue and its
    subscriptions.
    """

    def __init__(self, aws: Callable[[str], Any], stage: str, bucket: str, place: str = "") -> None:
        self._aws = aws
        self._bucket = bucket
        self._bus = f"milkrun-{stage}-visits"
        here = f"{socket.gethostname()} {Path.home()} {place or Path(__file__).resolve()}"
        self.name = f"milkrun-{stage}-console-{hashlib.sha256(here.encode()).hexdigest()[:12]}"
        self._url = ""
        self._subscription = ""

    def open(self) -> None:
        sqs, topic = self._aws("sqs"), topic_of(self._bucket, self._aws("s3"))
        self._url = sqs.create_queue(QueueName=self.name, tags={"service": "milkrun", "part": "console"})[
            "QueueUrl"
        ]
        attributes = sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        queue = attributes["Attributes"]["QueueArn"]
        events = self._aws("events")
        rule = events.put_rule(
            Name=self.name,
            EventBusName=self._bus,
            EventPattern=json.dumps({"source": [SOURCE]}, allow_nan=False),
            Description="Notifies a Milkrun console of visits; the console creates and deletes this rule",
        )["RuleArn"]
        sqs.set_queue_attributes(
            QueueUrl=self._url,
            Attributes={
                "MessageRetentionPeriod": str(KEPT_S),
                "Policy": _policy(queue, {"sns.amazonaws.com": topic, "events.amazonaws.com": rule}),
            },
        )
        events.put_targets(Rule=self.name, EventBusName=self._bus, Targets=[{"Id": "console", "Arn": queue}])
        self._subscription = self._aws("sns").subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=queue,
            Attributes={"RawMessageDelivery": "true"},
            ReturnSubscriptionArn=True,
        )["SubscriptionArn"]

    def receive(self) -> Iterator[Stored | Notice]:
        """Yield the notifications in the next messages; wait up to WAIT_S seconds for a message. The messages
        are deleted after the last notification has been processed.
        """
        sqs = self._aws("sqs")
        answer = sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=WAIT_S)
        messages = answer.get("Messages", [])
        for message in messages:
            yield from news_in(message["Body"])
        if messages:
            entries = [
                {"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]}
                for n, message in enumerate(messages)
            ]
            sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)

    def close(self) -> None:
        """Delete the rule, the subscription and the queue. Errors are ignored, because the next console on this
        machine and port reuses whatever was not deleted.
        """
        if not self._url:
            return
        with suppress(BotoCoreError, ClientError):
            events = self._aws("events")
            events.remove_targets(Rule=self.name, EventBusName=self._bus, Ids=["console"])
            events.delete_rule(Name=self.name, EventBusName=self._bus)
        with suppress(BotoCoreError, ClientError):
            self._aws("sns").unsubscribe(SubscriptionArn=self._subscription)
            # This is skipped if unsubscribing failed. Without the queue, the topic's deliveries would fail, and the
            # alarm archive-undelivered would fire.
            self._aws("sqs").delete_queue(QueueUrl=self._url)
        self._url = ""


def news_in(body: str) -> Iterator[Stored | Notice]:
    """Parse a notification from EventBridge, or from S3 through SNS with raw message delivery. Yields nothing
    for any other message.
    """
    try:
        message = json.loads(body)
    except ValueError:
        return
    if not isinstance(message, dict):
        return
    if isinstance(message.get("detail"), dict) and message.get("source") == SOURCE:
        yield Notice(str(message.get("detail-type")), message["detail"])
    for record in message.get("Records") or ():
        with suppress(LookupError, TypeError, ValueError):
            key = unquote_plus(record["s3"]["object"]["key"])
            yield Stored(key, datetime.fromisoformat(record["eventTime"]).astimezone(UTC))


def _policy(queue: str, senders: dict[str, str]) -> str:
    statements = [
        {
            "Sid": re.sub(r"\W", "", service),
            "Effect": "Allow",
            "Principal": {"Service": service},
            "Action": "sqs:SendMessage",
            "Resource": queue,
            "Condition": {"ArnEquals": {"aws:SourceArn": source}},
        }
        for service, source in senders.items()
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, allow_nan=False)
