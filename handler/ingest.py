"""The core: a batch in, a receipt out, and between them the order of effects that the promises rest on."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import msgspec

from aws.errors import RetryableError
from contract.events import Reason
from contract.objects import (
    LinesObject,
    lines_object,
    metadata,
    quarantine_line,
    reject_line,
    unreadable_line,
)
from handler.publish import MAX_ROUNDS, REQUEST_BUDGET_SECONDS, CircuitBreaker, Clock, Stream, publish
from handler.validate import Batch, Record, Rejected

# A step begins only if its worst case still fits: three tries of a put with their pauses, one call to the
# stream, two tries of a message. Else the answer is 503 while there is time to give it.
STORE_SECONDS = 12.5
STREAM_SECONDS = 3.5
ENQUEUE_SECONDS = 7.5
MAX_ERROR_BYTES = 60 * 1024  # of an answer, which has at most 64 KiB
_CONFLICT = Reason(
    "event_id_conflict", "_id", "Accepted; the same device sent another content of this `_id` before it."
)


class Archive(Protocol):
    def store(self, lines: LinesObject, facts: Mapping[str, str]) -> bool:
        """Whether the object is new: False says that the same one stands there. Raises RetryableError."""


class RedriveQueue(Protocol):
    def enqueue(self, key: str, lines: Sequence[int]) -> None:
        """Leave a claim check for lines of an object of the archive. Raises RetryableError."""


@dataclass(frozen=True, slots=True)
class Sender:
    """What of a request is kept beside its events."""

    request_id: str
    app_version: str | None
    content_type: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the client is told."""

    request_id: str
    received: int
    accepted: int
    duplicates: int
    rejected: int
    object_key: str | None
    rejected_key: str | None
    errors: list[dict[str, object]]
    errors_omitted: int = 0


@dataclass(slots=True)
class Effects:
    """What was done so far, for the log line: after a failure too, when there is no receipt."""

    object_key: str | None = None
    rejected_key: str | None = None
    set_aside_key: str | None = None
    published: int = 0
    queued: int = 0
    set_aside: int = 0
    store_ms: float = 0.0
    publish_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Ports:
    archive: Archive
    stream: Stream
    redrive_queue: RedriveQueue
    circuit_breaker: CircuitBreaker = field(default_factory=CircuitBreaker)


def ingest(
    batch: Batch,
    ports: Ports,
    *,
    sender: Sender,
    received_at: datetime,
    seconds_left: Clock,
    effects: Effects,
) -> Receipt:
    """Archive the whole batch, then publish its geofence events.

    The order is a promise: the archive is what we replay from, so nothing is published, and no client is told
    "accepted", before it is written. Raises RetryableError if anything could not be kept.

    An object that stood there already is published again: the first try may have died between the two.
    """
    facts = metadata(
        {
            "received-at": received_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "request-id": sender.request_id,
            "app-version": sender.app_version,
        }
    )
    began = time.perf_counter()
    if batch.lines:
        effects.object_key = _store(
            lines_object("events", batch.lines, received_at), facts, ports.archive, seconds_left
        )
    if batch.rejected:
        lines = [_line_of(rejected, sender) for rejected in batch.rejected]
        effects.rejected_key = _store(
            lines_object("rejected", lines, received_at), facts, ports.archive, seconds_left
        )
    effects.store_ms = _ms_since(began)
    began = time.perf_counter()
    if batch.records and effects.object_key:
        _publish(
            batch.records,
            effects.object_key,
            ports=ports,
            received_at=received_at,
            seconds_left=seconds_left,
            effects=effects,
        )
    effects.publish_ms = _ms_since(began)
    errors, omitted = errors_of(batch)
    return Receipt(
        request_id=sender.request_id,
        received=batch.received,
        accepted=len(batch.lines),
        duplicates=batch.duplicates,
        rejected=len(batch.rejected),
        object_key=effects.object_key,
        rejected_key=effects.rejected_key,
        errors=errors,
        errors_omitted=omitted,
    )


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)


def _store(lines: LinesObject, facts: Mapping[str, str], archive: Archive, seconds_left: Clock) -> str:
    if seconds_left() < STORE_SECONDS:
        raise RetryableError("no time left to store")
    archive.store(lines, facts)
    return lines.key


def _publish(
    records: Sequence[Record],
    object_key: str,
    *,
    ports: Ports,
    received_at: datetime,
    seconds_left: Clock,
    effects: Effects,
) -> None:
    def attempt(rounds: int) -> None:
        keep_back = max(STREAM_SECONDS + ENQUEUE_SECONDS, seconds_left() - REQUEST_BUDGET_SECONDS)
        outcome = publish(records, ports.stream, lambda: seconds_left() - keep_back, rounds=rounds)
        ports.circuit_breaker.record(outcome)
        effects.published = outcome.taken
        refused = outcome.refused
        if outcome.malformed:
            try:
                if seconds_left() < STORE_SECONDS + ENQUEUE_SECONDS:
                    raise RetryableError("no time left to set aside")
                effects.set_aside_key = quarantine(ports.archive, outcome.malformed, object_key, received_at)
                effects.set_aside = len(outcome.malformed)
            except RetryableError:
                refused = refused + outcome.malformed
        if refused:
            if seconds_left() < ENQUEUE_SECONDS:
                raise RetryableError("no time left to enqueue a claim check")
            ports.redrive_queue.enqueue(object_key, sorted(record.line for record in refused))
            effects.queued = len(refused)

    rounds = ports.circuit_breaker.rounds()
    try:
        attempt(rounds)
    except RetryableError:
        if rounds:
            raise
        # The stream was not asked because it refused a moment ago: without the queue it must be.
        attempt(MAX_ROUNDS)


def quarantine(archive: Archive, records: Sequence[Record], object_key: str, received_at: datetime) -> str:
    """Keep what the stream will never take, with where it came from; returns the key."""
    reason = Reason("refused_by_stream", "", "Kinesis answers that this record can never be taken.")
    lines = [
        quarantine_line([reason], record.data, {"object_key": object_key, "line": str(record.line)})
        for record in records
    ]
    stored = lines_object("set-aside", lines, received_at)
    archive.store(stored, {})
    return stored.key


def errors_of(batch: Batch) -> tuple[list[dict[str, object]], int]:
    """Return every reason of every rejected event, every conflict, and how many were left out.

    Few bytes can hold 500 rejected events, so the answer has as many errors as fit into MAX_ERROR_BYTES.
    """
    found = [
        (rejected.index, rejected.event_id, reason)
        for rejected in batch.rejected
        for reason in rejected.reasons
    ]
    found += [(conflict.index, conflict.event_id, _CONFLICT) for conflict in batch.conflicts]
    errors: list[dict[str, object]] = []
    left = MAX_ERROR_BYTES
    for index, event_id, reason in found:
        error = {"index": index, "event_id": event_id, **msgspec.structs.asdict(reason)}
        left -= len(msgspec.json.encode(error)) + 1
        if left < 0:
            break
        errors.append(error)
    return errors, len(found) - len(errors)


def _line_of(rejected: Rejected, sender: Sender) -> bytes:
    if rejected.is_json:
        return reject_line(
            rejected.reasons,
            rejected.text,
            index=rejected.index,
            event_id=rejected.event_id,
            app_version=sender.app_version,
        )
    return unreadable_line(
        rejected.reasons,
        rejected.text,
        content_type=sender.content_type,
        content_encoding=rejected.content_encoding,
        index=rejected.index,
        app_version=sender.app_version,
    )
