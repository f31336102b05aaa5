"""Archive a batch, publish its geofence events, and return a receipt. The order of these effects is a promise."""

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from isal import isal_zlib

from aws.errors import RetryableError
from contract.archive_object import LinesObject, Prefix, lines_object, metadata
from contract.events import Reason
from contract.rejected_lines import quarantine_line, reject_line
from contract.stream_record import StreamRecord, stream_record
from handler.circuit_breaker import CircuitBreaker
from handler.publish_with_retries import MAX_ROUNDS, REQUEST_BUDGET_SECONDS, Clock, Stream, publish
from handler.receipt import Receipt, errors_of
from handler.validate import Batch

# A step begins only if there is time for its worst case: three tries of a put with their pauses, one call to the
# stream, or two tries to enqueue. Otherwise, publishing and quarantining are left to redrive; other steps end in a 503.
STORE_SECONDS = 12.5
STREAM_SECONDS = 3.5
ENQUEUE_SECONDS = 7.5


class Archive(Protocol):
    def store(self, lines: LinesObject, facts: Mapping[str, str]) -> bool:
        """Store an object; return False if it already exists. Raises RetryableError."""


class RedriveQueue(Protocol):
    def enqueue(self, key: str, lines: Sequence[int]) -> None:
        """Enqueue a claim check for lines of an archived object. Raises RetryableError or PermanentError."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The facts about a request that are stored with its events, and the time left to handle it."""

    request_id: str
    app_version: str | None
    content_type: str | None
    received_at: datetime
    seconds_left: Clock


@dataclass(slots=True)
class Effects:
    """The objects and records stored and published for a request so far, with durations. Logged even after an error."""

    object_key: str | None = None
    rejected_key: str | None = None
    set_aside_key: str | None = None
    published: int = 0
    queued: int = 0
    set_aside: int = 0
    store_ms: float | None = None
    publish_ms: float | None = None
    publish_error: str | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    archive: Archive
    stream: Stream
    redrive_queue: RedriveQueue
    circuit_breaker: CircuitBreaker = field(default_factory=CircuitBreaker)


def ingest(batch: Batch, ports: Ports, delivery: Delivery, effects: Effects) -> Receipt:
    """Archive the whole batch, then publish its geofence events.

    The order is a promise: replays read the archive, so no event is published or reported as accepted before the
    archive contains it. If the object already exists, its events are published again, because an earlier request may
    have failed between the two steps. Raises RetryableError or PermanentError if storing or enqueuing failed.
    """
    began = time.perf_counter()
    try:
        if batch.lines:
            effects.object_key = _store("events", batch.lines, ports.archive, delivery)
        if batch.rejected:
            kept = {"content_type": delivery.content_type, "app_version": delivery.app_version}
            lines = [reject_line(rejected, **kept) for rejected in batch.rejected]
            effects.rejected_key = _store("rejected", lines, ports.archive, delivery)
    finally:  # even after an error, so that an outage is visible as slow calls
        effects.store_ms = _ms_since(began)
    records = geofence_records(batch)
    began = time.perf_counter()
    try:
        if records:
            _publish(records, ports, delivery, effects)
    finally:
        effects.publish_ms = _ms_since(began)
    errors, omitted = errors_of(batch)
    return Receipt(
        request_id=delivery.request_id,
        received=batch.received,
        accepted=len(batch.lines),
        duplicates=batch.duplicates,
        rejected=len(batch.rejected),
        object_key=effects.object_key,
        rejected_key=effects.rejected_key,
        errors=errors,
        errors_omitted=omitted,
    )


def geofence_records(batch: Batch) -> list[StreamRecord]:
    """Return a stream record for each accepted geofence event; other events are not published."""
    return [
        stream_record(event, line, number)
        for number, (event, line) in enumerate(zip(batch.accepted, batch.lines, strict=True), 1)
        if event.fence
    ]


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)


def _gzipped(text: bytes) -> bytes:
    """Compress with ISA-L, which takes a sixth of zlib's time (docs/adr/0100-isal.md)."""
    return isal_zlib.compress(text, 1, zlib.MAX_WBITS | 16)


def _store(prefix: Prefix, lines: Sequence[bytes], archive: Archive, delivery: Delivery) -> str:
    if delivery.seconds_left() < STORE_SECONDS:
        raise RetryableError("no time left to store the events")
    stored = lines_object(prefix, lines, delivery.received_at, _gzipped)
    at = delivery.received_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    facts = {"received-at": at, "request-id": delivery.request_id, "app-version": delivery.app_version}
    archive.store(stored, metadata(facts))
    return stored.key


def _publish(records: Sequence[StreamRecord], ports: Ports, delivery: Delivery, effects: Effects) -> None:
    rounds = ports.circuit_breaker.rounds()
    try:
        _try_to_publish(records, ports, delivery, effects, rounds)
    except RetryableError:
        if rounds:
            raise
        # The circuit breaker is open, but the queue failed too, so try the stream after all.
        _try_to_publish(records, ports, delivery, effects, MAX_ROUNDS)


def _try_to_publish(
    records: Sequence[StreamRecord], ports: Ports, delivery: Delivery, effects: Effects, rounds: int
) -> None:
    seconds_left, key = delivery.seconds_left, str(effects.object_key)
    keep_back = max(STREAM_SECONDS + ENQUEUE_SECONDS, seconds_left() - REQUEST_BUDGET_SECONDS)
    outcome = publish(records, ports.stream, lambda: seconds_left() - keep_back, rounds=rounds)
    ports.circuit_breaker.record(outcome)
    effects.published, effects.publish_error = outcome.taken, outcome.failure or None
    left = outcome.refused
    if outcome.malformed:
        try:
            if seconds_left() < STORE_SECONDS + ENQUEUE_SECONDS:
                raise RetryableError("no time left to quarantine records")
            effects.set_aside_key = quarantine(ports.archive, outcome.malformed, key, delivery.received_at)
            effects.set_aside = len(outcome.malformed)
        except RetryableError:
            left = left + outcome.malformed
    if left:
        if seconds_left() < ENQUEUE_SECONDS:
            raise RetryableError("no time left to enqueue a claim check")
        ports.redrive_queue.enqueue(key, sorted(record.line for record in left))
        effects.queued = len(left)


def quarantine(archive: Archive, records: Sequence[StreamRecord], object_key: str, at: datetime) -> str:
    """Store the records that the stream will never accept, with their origin. Returns the object's key."""
    reason = Reason("refused_by_stream", "", "Kinesis rejects this record permanently.")
    lines = [
        quarantine_line([reason], record.data, {"object_key": object_key, "line": str(record.line)})
        for record in records
    ]
    stored = lines_object("set-aside", lines, at)
    archive.store(stored, {})
    return stored.key
