"""The redrive queue (SQS): claim checks for records that the stream did not accept."""

from collections.abc import Sequence

import msgspec

from aws.json_client import JsonClient


class RedriveQueue:
    """Raises RetryableError."""

    def __init__(self, sqs: JsonClient, queue_url: str, bucket: str) -> None:
        self._sqs = sqs
        self._queue_url = queue_url
        self._bucket = bucket

    def enqueue(self, key: str, lines: Sequence[int]) -> None:
        """Enqueue a claim check for lines (from 1) of the object `key`."""
        check = {"bucket": self._bucket, "key": key, "lines": list(lines)}
        self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=msgspec.json.encode(check).decode())

    def postpone(self, receipt_handle: str, seconds: int) -> None:
        """Hide a received message for `seconds`."""
        self._sqs.change_message_visibility(
            QueueUrl=self._queue_url, ReceiptHandle=receipt_handle, VisibilityTimeout=seconds
        )
