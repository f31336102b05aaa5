"""The log lines of a batch, from which CloudWatch extracts the metrics."""

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from consumer.consume import Outcome
from consumer.records import Record
from contract import logs

log = structlog.get_logger()


def report(records: Sequence[Record], outcome: Outcome) -> None:
    """Log one line per object of quarantined records, and the batch's canonical line."""
    for key, poison in outcome.set_aside.items():
        codes = sorted({reason.code for p in poison for reason in p.reasons})
        log.warning(
            logs.RECORDS_SET_ASIDE, set_aside_key=key, codes=codes, lines=len(poison), set_aside=len(poison)
        )
    facts: dict[str, object] = {}
    if records:
        first, last = records[0], records[-1]
        facts = {
            "stream": first.stream,
            "shard_id": first.shard_id,
            "first_sequence_number": first.sequence_number,
            "last_sequence_number": last.sequence_number,
            "behind_seconds": round((datetime.now(UTC) - last.arrived_at).total_seconds(), 3),
        }
    if outcome.stopped_at:
        facts["stopped_at"] = outcome.stopped_at.sequence_number
        said = f": {outcome.failure}" if isinstance(outcome.failure, logs.LoggableError) else ""
        facts["failure"] = f"{type(outcome.failure).__name__}{said}"[:300]
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
        outdone=outcome.superseded,
        visits_changed=outcome.visits_changed,
        orphan_exits=outcome.orphan_exits,
        told=outcome.notified,
    )
