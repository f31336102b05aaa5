"""The redrive queue (SQS): claim checks for records that the stream did not accept."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from aws.json_client import JsonClient


@dataclass(frozen=True, slots=True)
class RedriveQueue:
    """The redrive queue. All methods raise RetryableError."""

    sqs: JsonClient
    url: str
    bucket: str

    def enqueue(self, key: str, lines: Sequence[int]) -> None:
        """Enqueue a claim check for lines (from 1) of the object `key`."""
        check = {"bucket": self.bucket, "key": key, "lines": list(lines)}
        self.sqs.send_message(QueueUrl=self.url, MessageBody=msgspec.json.encode(check).decode())

    def postpone(self, receipt_handle: str, seconds: int) -> None:
        """Hide a received message for `seconds`."""
        self.sqs.change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=receipt_handle, VisibilityTimeout=seconds
        )
