"""Messages about files that a pipe could not load, sent to the topic of the pipe's notification integration.
Source: Snowflake's page "Enabling Snowpipe error notifications for Amazon SNS".

Files are reported only if the pipe's ON_ERROR is SKIP_FILE. Sending a message is retried until it succeeds or
the process ends, so a message may arrive more than once. If more than 1,000 messages are unsent, the oldest is
dropped.
"""

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import botocore.exceptions
import structlog

from local_snowflake.catalog import Catalog
from local_snowflake.channel import Aws
from local_snowflake.loader import LoadedFile
from local_snowflake.plans import Plan
from local_snowflake.sql import flag_of

log = structlog.get_logger()

MESSAGE_TYPE = "INGEST_FAILED_FILE"
MAX_UNSENT = 1000
RETRY_SECONDS = 5.0
MAX_ERRORS_BYTES = 250 * 1024  # SNS accepts messages of up to 256 KiB

type Error = dict[str, str | None]


@dataclass(frozen=True)
class Notice:
    topic: str
    body: str


class Notices:
    def __init__(self, catalog: Catalog, aws: Aws, now: Callable[[], float] = time.monotonic) -> None:
        self.catalog = catalog
        self.aws = aws
        self.now = now
        self._unsent: deque[Notice] = deque(maxlen=MAX_UNSENT)
        self._retry_at: dict[str, float] = {}

    def about(self, plan: Plan, files: Sequence[LoadedFile]) -> None:
        """Queue messages that list a batch's skipped files, if any, for a pipe with an ERROR_INTEGRATION."""
        failed = [file for file in files if file.status == "Load failed"]
        if not failed or plan.on_error.kind != "SKIP_FILE" or not plan.pipe:
            return
        integration = self.catalog.find_integration(plan.pipe.error_integration or "")
        if integration is None or not flag_of(integration.options, "ENABLED"):
            return
        for errors in in_messages(
            [{"fileName": file.file.file_name, "firstError": file.first_error} for file in failed]
        ):
            topic = integration.options["AWS_SNS_TOPIC_ARN"]
            self._unsent.append(Notice(topic, json.dumps(self._body(plan, errors), allow_nan=False)))

    def _body(self, plan: Plan, errors: list[Error]) -> dict[str, object]:
        assert plan.pipe
        return {
            "version": "1.0",
            "messageId": str(uuid.uuid4()),
            "messageType": MESSAGE_TYPE,
            "timestamp": self.catalog.clock().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "accountName": self.catalog.account,
            "pipeName": str(plan.pipe.name),
            "tableName": str(plan.target),
            "stageLocation": plan.stage.url,
            "messages": errors,
        }

    def send(self) -> None:
        """Send the messages. A topic to which a message could not be sent is tried again after RETRY_SECONDS; the
        messages to other topics do not wait for it.
        """
        for _ in range(len(self._unsent)):
            notice = self._unsent.popleft()
            if self.now() < self._retry_at.get(notice.topic, 0):
                self._unsent.append(notice)
                continue
            try:
                region = notice.topic.split(":")[3]
                self.aws.client("sns", region).publish(TopicArn=notice.topic, Message=notice.body)
                log.info("notice_sent", topic=notice.topic)
            except (
                botocore.exceptions.ClientError,
                botocore.exceptions.BotoCoreError,
                IndexError,
            ) as error:
                log.warning("notice_not_sent", topic=notice.topic, reason=str(error))
                self._retry_at[notice.topic] = self.now() + RETRY_SECONDS
                self._unsent.append(notice)


def in_messages(errors: Sequence[Error]) -> Iterator[list[Error]]:
    """Split the errors of a batch into lists that fit into one message each."""
    part: list[Error] = []
    size = 0
    for error in errors:
        more = len(json.dumps(error, allow_nan=False)) + len(", ")
        if part and size + more > MAX_ERRORS_BYTES:
            yield part
            part, size = [], 0
        part.append(error)
        size += more
    yield part
