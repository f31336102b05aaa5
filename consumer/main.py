"""Lambda's entry point for batches of Kinesis records. It only translates and logs; `consumer.consume` decides."""

import os
from functools import cache

from aws.access import Access
from consumer.aws_clients import ports_of
from consumer.batch_log import report
from consumer.consume import Ports
from consumer.consume import consume as consume_records
from consumer.records import records_of
from consumer.settings import Settings
from contract import logs
from contract.invocation import Context, LambdaEvent
from contract.metrics import with_metrics

# Reserved at the end of the function's timeout for one group of pairs, if DynamoDB is slow, and for the response.
LAST_PORTION_SECONDS = 15


def consume(batch: LambdaEvent, context: Context) -> dict[str, list[dict[str, str]]]:
    """Process one batch; report the sequence number of the first unfinished record, if any.

    Lambda takes the lowest reported sequence number as the checkpoint and delivers everything from there
    again, so only that one is reported. (AWS Lambda Developer Guide: "Partial batch response".)
    """
    settings, ports = app_of()
    records = list(records_of(batch, settings.stream_name))
    logs.bind(request_id=context.aws_request_id)
    outcome = consume_records(
        records,
        ports,
        has_time=lambda: context.get_remaining_time_in_millis() > LAST_PORTION_SECONDS * 1000,
        kinds=settings.geofence_kinds,
    )
    report(records, outcome)
    stopped_at = outcome.stopped_at
    return {"batchItemFailures": [{"itemIdentifier": stopped_at.sequence_number}] if stopped_at else []}


@cache
def app_of() -> tuple[Settings, Ports]:
    """Create the settings and clients on the first batch, so that this module can be imported without AWS access."""
    settings = Settings.of(os.environ)
    logs.configure(settings.log_level, with_metrics(settings.stage, settings.metrics))
    return settings, ports_of(settings, Access.of_function(os.environ))
