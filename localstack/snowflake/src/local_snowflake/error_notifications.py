"""Messages about files that a pipe could not load, sent to the topic of the pipe's notification integration.
Source: Snowflake's page "Enabling Snowpipe error notifications for Amazon SNS".

Only files that ON_ERROR = SKIP_FILE skipped are reported. Sending a message is retried until it succeeds or
the process ends, so a message may arrive more than once. If more than 1,000 messages are unsent, the oldest is
dropped.
"""

import json
import uuid
from collections import deque
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Notice:
    topic: str
    body: str


class Notices:
    def __init__(self, catalog: Catalog, aws: Aws) -> None:
        self.catalog = catalog
        self.aws = aws
        self._unsent: deque[Notice] = deque(maxlen=MAX_UNSENT)

    def about(self, plan: Plan, files: Sequence[LoadedFile]) -> None:
        """Queue one message that lists a batch's skipped files, if any, for a pipe with an ERROR_INTEGRATION."""
        failed = [file for file in files if file.status == "Load failed"]
        if not failed or plan.on_error.kind != "SKIP_FILE" or not plan.pipe:
            return
        integration = self.catalog.find_integration(plan.pipe.error_integration or "")
        if integration is None or not flag_of(integration.options, "ENABLED"):
            return
        body = {
            "version": "1.0",
            "messageId": str(uuid.uuid4()),
            "messageType": MESSAGE_TYPE,
            "timestamp": self.catalog.clock().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "accountName": self.catalog.account,
            "pipeName": str(plan.pipe.name),
            "tableName": str(plan.target),
            "stageLocation": plan.stage.url,
            "messages": [
                {"fileName": file.file.file_name, "firstError": file.first_error} for file in failed
            ],
        }
        self._unsent.append(
            Notice(integration.options["AWS_SNS_TOPIC_ARN"], json.dumps(body, allow_nan=False))
        )

    def send(self) -> None:
        while self._unsent:
            notice = self._unsent[0]
            try:
                region = notice.topic.split(":")[3]
                self.aws.client("sns", region).publish(TopicArn=notice.topic, Message=notice.body)
            except (
                botocore.exceptions.ClientError,
                botocore.exceptions.BotoCoreError,
                IndexError,
            ) as error:
                log.warning("notice_not_sent", topic=notice.topic, reason=str(error))
                return
            self._unsent.popleft()
            log.info("notice_sent", topic=notice.topic)
