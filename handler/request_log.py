"""The log line of a request, from which CloudWatch also extracts the metrics."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import structlog

from aws.errors import RetryableError
from contract import logs
from handler.http import Refused, Request
from handler.identity import Speaker
from handler.ingest import Effects
from handler.validate import Batch

MAX_DEVICES = 10_000  # per execution environment; beyond this, counting begins again

log = structlog.get_logger()


@dataclass(slots=True)
class DeviceCounts:
    """The number of accepted events per device in the current hour and this execution environment."""

    hour: datetime | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def most(self, devices: Mapping[str, int], now: datetime) -> int:
        """Add `devices` (events per device); return the highest total of these devices in the current hour."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        if hour != self.hour or len(self.counts) > MAX_DEVICES:
            self.hour, self.counts = hour, Counter()
        self.counts.update(devices)
        return max((self.counts[device] for device in devices if device), default=0)


def request_facts(request: Request, speaker: Speaker) -> dict[str, object]:
    return {"credential": speaker.kind, "body_bytes": len(request.body)}


def batch_facts(batch: Batch, received_at: datetime) -> dict[str, object]:
    facts: dict[str, object] = {
        "received": batch.received,
        "accepted": len(batch.lines),
        "duplicates": batch.duplicates,
        "rejected": len(batch.rejected),
        "conflicts": len(batch.conflicts),
        "other_user": batch.other_user,
        "rejected_by_code": Counter(rejected.reasons[0].code for rejected in batch.rejected),
    }
    if batch.oldest_at:
        facts["lateness_seconds"] = round(max(0.0, (received_at - batch.oldest_at).total_seconds()), 3)
    return facts


def report(facts: Mapping[str, object], effects: Effects) -> None:
    """Log a request's canonical line, and a second line with the quarantine object's key if there is one."""
    log.info(logs.EVENTS_INGESTED, **facts, **msgspec.to_builtins(effects))
    if effects.set_aside:
        log.error(logs.RECORDS_SET_ASIDE, set_aside_key=effects.set_aside_key, set_aside=effects.set_aside)


def report_refusal(refused: Refused) -> None:
    log.info(logs.REQUEST_REFUSED, status=refused.status, code=refused.code, refused=1)


def report_failure(error: Exception) -> None:
    """Log the traceback of an error that is not retryable. For a retryable one, the canonical line suffices."""
    if not isinstance(error, RetryableError):
        log.error("ingest_failed", exc_info=error)
