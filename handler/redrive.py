"""Publish the records named by the claim checks in the redrive queue. The events are read from the archive."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Protocol

import msgspec
import structlog

from aws.access import Access
from aws.errors import RetryableError
from aws.queue import ClaimCheck, RedriveQueue
from aws.stream import KinesisStream
from contract import logs
from contract.archive_object import lines_of
from contract.invocation import Context, LambdaEvent
from contract.metrics import with_metrics
from contract.stream_record import archived_record
from handler.ingest import STORE_SECONDS, STREAM_SECONDS, Archive, quarantine
from handler.publish_with_retries import CLAIM_CHECK_BUDGET_SECONDS, Clock, Stream, publish
from handler.settings import Settings

BACKOFF_BASE_SECONDS = 2
BACKOFF_CAP_SECONDS = 300

log = structlog.get_logger()


class ReadableArchive(Archive, Protocol):
    bucket: str

    def read(self, key: str) -> bytes:
        """Return an object's bytes. Raises RetryableError or PermanentError."""


@dataclass(frozen=True, slots=True)
class App:
    """The function's ports.

    `postpone(receipt_handle, seconds)` sets a message's visibility timeout, so that it is received again only after
    that time.
    """

    archive: ReadableArchive
    stream: Stream
    postpone: Callable[[str, int], None]


def redrive(event: LambdaEvent, context: Context) -> dict[str, list[dict[str, str]]]:
    """Publish the records of one claim check after another. Returns the ids of the messages that stay in the queue.

    After a RetryableError, the remaining claim checks are not tried. If one record was throttled, its whole claim check
    stays; publishing the other records again is harmless, because visits are a function of the set of events.
    """
    logs.bind(request_id=context.aws_request_id)
    app, messages = _app(), event["Records"]

    def seconds_left() -> float:
        return context.get_remaining_time_in_millis() / 1000 - STREAM_SECONDS

    failed: list[str] = []
    published, outage = 0, False
    for message in messages:
        try:
            if outage:
                raise RetryableError("not tried, because an earlier claim check must be retried")
            published += _redrive(message["body"], app, seconds_left)
        except Exception as error:  # any error; a message that never succeeds ends in the dead-letter queue
            outage = outage or isinstance(error, RetryableError)
            log.warning("claim_check_returned", message_id=message["messageId"], error=logs.message_of(error))
            failed.append(message["messageId"])
            _postpone(message, app.postpone)
    log.info(logs.RECORDS_REDRIVEN, messages=len(messages), redriven=published, returned=len(failed))
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _redrive(body: str, app: App, seconds_left: Clock) -> int:
    claim = msgspec.json.decode(body, type=ClaimCheck)
    if seconds_left() < 2 * STORE_SECONDS:  # for three tries of a read, and perhaps of a put
        raise RetryableError("no time left to process the claim check")
    if claim.bucket != app.archive.bucket:
        raise ValueError("the claim check names another bucket")
    lines = lines_of(app.archive.read(claim.key))
    records = [archived_record(lines[number - 1], number) for number in claim.lines]
    ends = max(seconds_left() - CLAIM_CHECK_BUDGET_SECONDS, STORE_SECONDS)
    outcome = publish(records, app.stream, lambda: seconds_left() - ends)
    if outcome.malformed:
        key = quarantine(app.archive, outcome.malformed, claim.key, datetime.now(UTC))
        log.error(logs.RECORDS_SET_ASIDE, set_aside_key=key, set_aside=len(outcome.malformed))
    if outcome.refused:
        left = f"{len(outcome.refused)} of {len(records)} records"
        raise RetryableError(f"{left} were not published: {outcome.failure or 'Kinesis throttled or failed'}")
    return outcome.taken


def _postpone(message: LambdaEvent, postpone: Callable[[str, int], None]) -> None:
    tries = int(message["attributes"]["ApproximateReceiveCount"])
    most = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** min(tries, 16))
    try:
        postpone(message["receiptHandle"], random.randint(most // 2, most))
    except Exception as error:  # then the message reappears after the visibility timeout of the queue
        log.warning(
            "claim_check_not_postponed", message_id=message["messageId"], error=logs.message_of(error)
        )


@cache
def _app() -> App:
    settings = Settings.of(os.environ)
    logs.configure(settings.log_level, with_metrics(settings.stage, settings.metrics))
    access = Access.of_function(os.environ)
    queue = RedriveQueue(access.client("sqs"), settings.redrive_queue_url, settings.archive_bucket)
    stream = KinesisStream(access.client("kinesis"), settings.stream_name)
    return App(access.archive(settings.archive_bucket), stream, queue.postpone)
