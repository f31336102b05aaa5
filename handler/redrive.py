"""Claim checks from the redrive queue: their events from S3 onto Kinesis, once it takes them again."""

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Protocol

import msgspec
import structlog

from aws.access import Access
from aws.errors import RetryableError
from aws.queue import RedriveQueue
from aws.stream import KinesisStream
from contract import logs
from contract.invocation import Context
from contract.metrics import with_metrics
from contract.objects import lines_of
from handler.ingest import STORE_SECONDS, STREAM_SECONDS, Archive, quarantine
from handler.publish import CLAIM_CHECK_BUDGET_SECONDS, Clock, Stream, publish
from handler.settings import Settings
from handler.validate import Record

BACKOFF_BASE_SECONDS = 2
BACKOFF_CAP_SECONDS = 300

log = structlog.get_logger()


class ClaimCheck(msgspec.Struct, frozen=True):
    """Lines (from 1) of an object of the archive that still have to be published."""

    bucket: str
    key: str
    lines: list[Annotated[int, msgspec.Meta(ge=1)]]


class Archived(Protocol):
    bucket: str

    def read(self, key: str) -> bytes:
        """Return an object's bytes. Raises RetryableError or PermanentError."""


class Postpone(Protocol):
    def __call__(self, receipt_handle: str, seconds: int) -> None:
        """Hide a message for so long."""


@dataclass(frozen=True, slots=True)
class App:
    archived: Archived
    archive: Archive
    stream: Stream
    postpone: Postpone


def redrive(event: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Lambda's entry point: publishes what it can and gives the rest of the batch back to the queue."""
    logs.bind(request_id=context.aws_request_id)
    return redrive_messages(
        event["Records"], _app(), lambda: context.get_remaining_time_in_millis() / 1000 - STREAM_SECONDS
    )


def redrive_messages(messages: list[Mapping[str, Any]], app: App, seconds_left: Clock) -> dict[str, Any]:
    """Publish claim check by claim check. Once the stream refuses, the others need not be tried now.

    A claim check goes back whole if any of its records was refused: its events are published again then,
    which is harmless (visits are a function of the set of events), while a lost one would not be.
    """
    failed: list[str] = []
    published = 0
    outage = False
    for message in messages:
        try:
            if outage:
                raise RetryableError("not tried: the one before was refused")
            published += _redrive(message["body"], app, seconds_left)
        except Exception as error:  # one that can never be served ends in the dead-letter queue, not here
            outage = outage or isinstance(error, RetryableError)
            log.warning("claim_check_returned", message_id=message["messageId"], error=_said(error))
            failed.append(message["messageId"])
            _postpone(message, app.postpone)
    log.info(logs.RECORDS_REDRIVEN, messages=len(messages), redriven=published, returned=len(failed))
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _redrive(body: str, app: App, seconds_left: Clock) -> int:
    claim = msgspec.json.decode(body, type=ClaimCheck)
    if seconds_left() < 2 * STORE_SECONDS:  # three tries of a read, and perhaps of a put
        raise RetryableError("no time left")
    if claim.bucket != app.archived.bucket:
        raise ValueError("a claim check names another bucket")
    lines = lines_of(app.archived.read(claim.key))
    records = [_record(lines[number - 1], number) for number in claim.lines]
    ends = max(seconds_left() - CLAIM_CHECK_BUDGET_SECONDS, STORE_SECONDS)
    outcome = publish(records, app.stream, lambda: seconds_left() - ends)
    if outcome.malformed:
        key = quarantine(app.archive, outcome.malformed, claim.key, datetime.now(UTC))
        log.error(logs.RECORDS_SET_ASIDE, set_aside_key=key, set_aside=len(outcome.malformed))
    if outcome.refused:
        raise RetryableError(f"{len(outcome.refused)} of {len(records)} records refused")
    return outcome.taken


class _User(msgspec.Struct):
    device_id: str | None = msgspec.field(name="deviceId", default=None)


class _Keyed(msgspec.Struct):
    """Accepted once, so judged no more: the rules may have changed since, the event has not."""

    user: _User | None = None
    device_id: str | None = msgspec.field(name="deviceId", default=None)


def _record(line: bytes, number: int) -> Record:
    event = msgspec.json.decode(line, type=_Keyed)
    device_id = (event.user and event.user.device_id) or event.device_id
    if device_id is None:
        raise ValueError("a claim check names an event without a device")
    return Record(device_id, line, number)


def _postpone(message: Mapping[str, Any], postpone: Postpone) -> None:
    tries = int(message["attributes"]["ApproximateReceiveCount"])
    most = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** min(tries, 16))
    try:
        postpone(message["receiptHandle"], random.randint(most // 2, most))
    except Exception as error:  # then it comes back after the queue's own visibility timeout
        log.warning("claim_check_not_postponed", message_id=message["messageId"], error=_said(error))


def _said(error: Exception) -> str:
    # Other messages may quote an event.
    return str(error) if isinstance(error, RetryableError) else type(error).__name__


@cache
def _app() -> App:
    settings = Settings.of(os.environ)
    logs.configure(settings.log_level, with_metrics(settings.stage))
    access = Access.of_function(os.environ)
    archive = access.archive(settings.archive_bucket)
    queue = RedriveQueue(access.client("sqs", tries=2), settings.redrive_queue_url, settings.archive_bucket)
    return App(
        archived=archive,
        archive=archive,
        stream=KinesisStream(access.client("kinesis", tries=1), settings.stream_name),
        postpone=queue.postpone,
    )
