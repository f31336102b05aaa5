"""The SQS queue that receives S3's notifications. As in Snowflake, there is one queue per account and region,
and it is subscribed to the pipes' SNS topics.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import boto3
import botocore.exceptions
import structlog
from botocore.config import Config

from local_snowflake.errors import SnowflakeError

log = structlog.get_logger()

RECEIVE = 10  # SQS's maximum per call
MAX_KEY_BYTES = 1024
MAX_OBJECT_BYTES = 2**50  # well above S3's maximum object size of 50 TB
GONE = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}


class Aws:
    """boto3 clients for the given endpoint, created once per service and region."""

    def __init__(self, endpoint_url: str | None, region: str) -> None:
        self.region = region
        self._endpoint_url = endpoint_url
        self._session = boto3.session.Session(region_name=region)
        self._config = Config(
            connect_timeout=2,
            read_timeout=30,
            max_pool_connections=32,
            retries={"max_attempts": 2, "mode": "standard"},
            s3={"addressing_style": "path"},
        )
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def client(self, service: str, region: str | None = None) -> Any:
        key = (service, region or self.region)
        with self._lock:
            if key not in self._clients:
                # An emulator accepts any key, but boto3 sends no request without one.
                keys = {} if self._session.get_credentials() else DUMMY_KEYS
                make: Callable[..., Any] = self._session.client
                self._clients[key] = make(
                    service, region_name=key[1], endpoint_url=self._endpoint_url, config=self._config, **keys
                )
            return self._clients[key]


DUMMY_KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


class Created(NamedTuple):
    """One `ObjectCreated` record of a notification."""

    bucket: str
    key: str
    size: int
    event_time: datetime | None


@dataclass(frozen=True)
class Message:
    region: str
    receipt: str
    created: tuple[Created, ...]
    problem: str | None = None
    """Why the message is not a notification of a new object; such a message is logged and dropped."""


def notification(body: str) -> tuple[tuple[Created, ...], str | None]:
    """Parse an S3 notification, with or without an SNS envelope. Return the created objects and None; for any
    other message, return no objects and a description of the problem.
    """
    try:
        event = json.loads(body)
        if isinstance(event, dict) and event.get("Type") == "Notification":
            event = json.loads(event["Message"])
        if isinstance(event, dict) and event.get("Event") == "s3:TestEvent":
            return (), "s3:TestEvent"
        created = []
        for record in event["Records"]:
            if not record["eventName"].removeprefix("s3:").startswith("ObjectCreated:"):
                continue
            thing = record["s3"]["object"]
            created.append(
                Created(
                    record["s3"]["bucket"]["name"],
                    object_key(thing["key"]),
                    object_size(thing.get("size", 0)),
                    datetime.fromisoformat(record["eventTime"]) if record.get("eventTime") else None,
                )
            )
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        return (), f"not an S3 event: {type(error).__name__}: {error}"
    return tuple(created), None if created else "the message contains no ObjectCreated event"


def object_key(text: str) -> str:
    key = unquote_plus(text)
    # Encoding a lone surrogate raises ValueError, too.
    if "\0" in key or not 0 < len(key.encode()) <= MAX_KEY_BYTES:
        raise ValueError("invalid object key")
    return key


def object_size(number: str) -> int:
    size = int(number)
    if not 0 <= size <= MAX_OBJECT_BYTES:
        raise ValueError("invalid object size")
    return size


class Channel:
    """The notification queue of one region."""

    def __init__(self, aws: Aws, account: str, region: str, visibility_seconds: int) -> None:
        self.region = region
        self.visibility_seconds = visibility_seconds
        self.queue_name = f"sf-snowpipe-{account}"
        self.arn: str | None = None
        self._aws = aws
        self._url: str | None = None
        self._topics: set[str] = set()

    @property
    def sqs(self) -> Any:
        return self._aws.client("sqs", self.region)

    def url(self) -> str:
        if self._url is None:
            url = self.sqs.create_queue(QueueName=self.queue_name)["QueueUrl"]
            got = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
            self.arn = got["Attributes"]["QueueArn"]
            policy = {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": ["s3.amazonaws.com", "sns.amazonaws.com"]},
                        "Action": "sqs:SendMessage",
                        "Resource": self.arn,
                    }
                ],
            }
            self.sqs.set_queue_attributes(
                QueueUrl=url, Attributes={"Policy": json.dumps(policy, allow_nan=False)}
            )
            self._url = url
        return self._url

    def subscribe(self, topic: str) -> None:
        if topic in self._topics:
            return
        self.url()
        self._aws.client("sns", self.region).subscribe(TopicArn=topic, Protocol="sqs", Endpoint=self.arn)
        self._topics.add(topic)

    def unsubscribed(self, topic: str) -> None:
        self._topics.discard(topic)

    def forget(self) -> None:
        """Forget the queue's URL and subscriptions because the queue no longer exists, for example after a
        restart of the AWS emulator. The next use creates the queue and its subscriptions again.
        """
        self._url = None
        self._topics.clear()

    def receive(self, wait_seconds: int) -> list[Message]:
        answer = self.sqs.receive_message(
            QueueUrl=self.url(),
            MaxNumberOfMessages=RECEIVE,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=self.visibility_seconds,
        )
        return [
            Message(self.region, message["ReceiptHandle"], *notification(message["Body"]))
            for message in answer.get("Messages", [])
        ]

    def delete(self, messages: Sequence[Message]) -> None:
        for at in range(0, len(messages), RECEIVE):
            entries = [
                {"Id": str(number), "ReceiptHandle": message.receipt}
                for number, message in enumerate(messages[at : at + RECEIVE])
            ]
            self.sqs.delete_message_batch(QueueUrl=self.url(), Entries=entries)

    def outstanding(self) -> int:
        attributes = self.sqs.get_queue_attributes(
            QueueUrl=self.url(), AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(attributes["Attributes"]["ApproximateNumberOfMessages"])


class Channels:
    """The notification queues of all regions; all pipes of a region share one queue."""

    def __init__(self, aws: Aws, account: str, visibility_seconds: int) -> None:
        self.aws = aws
        self._account = account
        self._visibility_seconds = visibility_seconds
        self._channels: dict[str, Channel] = {}

    def __iter__(self) -> Iterator["Channel"]:
        return iter(list(self._channels.values()))

    def of_region(self, region: str) -> Channel:
        if region not in self._channels:
            self._channels[region] = Channel(self.aws, self._account, region, self._visibility_seconds)
        return self._channels[region]

    def open(self, topic: str | None) -> Channel:
        """Return the channel for a pipe, subscribed to the pipe's topic. Raises the errors that Snowflake's
        CREATE PIPE raises.
        """
        try:
            channel = self.of_region(self.aws.region if topic is None else topic.split(":")[3])
            channel.url()
            if topic:
                # CREATE PIPE subscribes again, so it restores a subscription that was deleted.
                channel.unsubscribed(topic)
                channel.subscribe(topic)
        except IndexError:
            raise bind_failure(f"'{topic}' is not the ARN of an SNS topic") from None
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in GONE:
                channel.forget()
            raise bind_failure(str(error)) from None
        except botocore.exceptions.BotoCoreError as error:
            raise bind_failure(str(error)) from None
        return channel


def bind_failure(reason: str) -> SnowflakeError:
    return SnowflakeError(
        "003167", "42601", f'SQL execution error: Pipe Notifications bind failure "{reason}"'
    )
