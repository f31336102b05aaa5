"""Kinesis' batches in, the first record to come again out. Decides nothing; translates and reports."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol

import structlog

from consumer.aws import EventBus, S3SetAside, client
from consumer.consume import Outcome, Ports
from consumer.consume import consume as consume_records
from consumer.records import Record, records_of
from consumer.settings import Settings
from consumer.store import Store
from consumer.table import DynamoTable
from contract import logs
from contract.metrics import with_metrics

REQUESTS_AT_ONCE = 16
# Kept back from the function's timeout: a portion of pairs that meets a slow DynamoDB, and the answer.
LAST_PORTION_SECONDS = 15

log = structlog.get_logger()


class Context(Protocol):
    """Lambda's context, as far as it is read."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


@dataclass(frozen=True, slots=True)
class App:
    settings: Settings
    ports: Ports


def consume(batch: Mapping[str, Any], context: Context) -> dict[str, list[dict[str, str]]]:
    """Lambda's entry point.

    Kinesis takes the lowest sequence number reported as its checkpoint and sends everything from there again,
    so that one is all that is reported. (AWS Lambda Developer Guide: "Partial batch response".)
    """
    app = app_of()
    records = list(records_of(batch, app.settings.stream_name))
    logs.bind(request_id=context.aws_request_id)
    outcome = consume_records(
        records,
        app.ports,
        has_time=lambda: context.get_remaining_time_in_millis() > LAST_PORTION_SECONDS * 1000,
        kinds=app.settings.geofence_kinds,
    )
    report(records, outcome)
    stopped_at = outcome.stopped_at
    return {"batchItemFailures": [{"itemIdentifier": stopped_at.sequence_number}] if stopped_at else []}


def report(records: list[Record], outcome: Outcome) -> None:
    """One line for each object set aside, and the canonical line of the batch."""
    for key, poison in outcome.set_aside.items():
        codes = sorted({reason.code for p in poison for reason in p.reasons})
        log.warning(
            logs.RECORDS_SET_ASIDE, set_aside_key=key, codes=codes, lines=len(poison), set_aside=len(poison)
        )
    facts: dict[str, object] = {}
    if records:
        facts = {
            "stream": records[0].stream,
            "shard_id": records[0].shard_id,
            "first_sequence_number": records[0].sequence_number,
            "last_sequence_number": records[-1].sequence_number,
            "behind_seconds": round((datetime.now(UTC) - records[-1].arrived_at).total_seconds(), 3),
        }
    if outcome.stopped_at:
        facts |= {
            "stopped_at": outcome.stopped_at.sequence_number,
            "failure": f"{type(outcome.failure).__name__}: {outcome.failure}"[:300],
        }
    log.info(
        logs.RECORDS_CONSUMED,
        **facts,
        records=outcome.records,
        consumed=outcome.consumed,
        set_aside_records=sum(map(len, outcome.set_aside.values())),
        set_aside_share=round(outcome.set_aside_share, 1),
        too_old=outcome.too_old,
        added=outcome.added,
        repeated=outcome.repeated,
        outdone=outcome.outdone,
        visits_changed=outcome.visits_changed,
        orphan_exits=outcome.orphan_exits,
        told=outcome.told,
    )


@cache
def app_of() -> App:
    """Settings and clients, built by the first batch: importing this module needs no AWS."""
    settings = Settings.model_validate(os.environ)
    logs.configure(settings.log_level, with_metrics(settings.stage))
    return App(settings, ports_of(settings))


def ports_of(settings: Settings) -> Ports:
    side_by_side = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    table = DynamoTable(client("dynamodb", REQUESTS_AT_ONCE), settings.visits_table, side_by_side)
    bus = EventBus(client("events", REQUESTS_AT_ONCE), settings.event_bus_name, side_by_side)
    return Ports(
        Store(table, bus, settings.rule, side_by_side), S3SetAside(client("s3"), settings.archive_bucket)
    )
