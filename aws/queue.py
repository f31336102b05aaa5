"""The redrive queue (SQS), which holds claim checks for records that the stream did not accept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from aws.json_client import JsonClient


class ClaimCheck(msgspec.Struct, frozen=True):
    """Names the lines of an archived object that must still be published. Line numbers start at 1."""

    bucket: str
    key: str
    lines: Sequence[Annotated[int, msgspec.Meta(ge=1)]]


@dataclass(frozen=True, slots=True)
class RedriveQueue:
    """The redrive queue. All methods may raise RetryableError or PermanentError."""

    sqs: JsonClient
    url: str
    bucket: str

    def enqueue(self, key: str, lines: Sequence[int]) -> None:
        """Enqueue a claim check for some lines of an archived object."""
        check = msgspec.json.encode(ClaimCheck(self.bucket, key, lines))
        self.sqs.send_message(QueueUrl=self.url, MessageBody=check.decode())

    def postpone(self, receipt_handle: str, seconds: int) -> None:
        """Set a received message's visibility timeout, so that it is received again only after `seconds`."""
        self.sqs.change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=receipt_handle, VisibilityTimeout=seconds
        )
