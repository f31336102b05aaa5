"""Geofence events to the stream, in as few calls as the limits of PutRecords allow."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aws.errors import PermanentError, RetryableError
from aws.retry import jitter
from contract.stream import StreamRecord

MAX_RECORDS = 500
MAX_CALL_BYTES = 5 * 1024 * 1024
MAX_ROUNDS = 10
# How long Kinesis is tried. A claim check is as safe as a record on the stream, so a phone need not wait long while
# Kinesis throttles. MAX_ROUNDS with its pauses often ends sooner (3.25 s on average, 6.5 s at most).
REQUEST_BUDGET_SECONDS = 4.0
CLAIM_CHECK_BUDGET_SECONDS = 5.0  # more claim checks wait behind it
BACKOFF_BASE_SECONDS = 0.05
BACKOFF_CAP_SECONDS = 1.0
OPEN_SECONDS = 5.0


class Stream(Protocol):
    def put(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
        """One call; returns the records that were refused. Raises RetryableError, or PermanentError."""


class Clock(Protocol):
    """Seconds until this invocation is ended from outside."""

    def __call__(self) -> float: ...


@dataclass(slots=True)
class Published:
    """What became of each record: taken, refused until the time was up, or never to be taken."""

    taken: int = 0
    calls: int = 0
    refused: list[StreamRecord] = field(default_factory=list)
    malformed: list[StreamRecord] = field(default_factory=list)


class CircuitBreaker:
    """A stream that took nothing of a request is not asked by the next ones for some seconds, then once.

    Else each request of an outage would hold its place for as long as it has patience, and the doors would close.
    One environment's own: it has one request at a time. By the wall clock: a frozen environment's other one stands.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._opened_at: float | None = None

    def rounds(self) -> int:
        """How often the stream may be asked for the records of this request."""
        if self._opened_at is None:
            return MAX_ROUNDS
        return 0 if 0 <= self._now() - self._opened_at < OPEN_SECONDS else 1

    def record(self, outcome: Published) -> None:
        if outcome.calls:
            self._opened_at = self._now() if outcome.refused and not outcome.taken else None


def publish(
    records: Sequence[StreamRecord],
    stream: Stream,
    seconds_left: Clock,
    pause: Callable[[float], None] = time.sleep,
    rounds: int = MAX_ROUNDS,
) -> Published:
    """Send all, then only what was refused, with full jitter, while there are rounds and seconds left."""
    outcome = Published()
    outcome.refused = list(records)
    for attempt in range(rounds):
        if not outcome.refused or seconds_left() <= 0:
            break
        if attempt:
            most = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2**attempt)
            pause(jitter(most))
        outcome.refused = _round(outcome.refused, stream, seconds_left, outcome)
    return outcome


def _round(
    records: Sequence[StreamRecord], stream: Stream, seconds_left: Clock, outcome: Published
) -> list[StreamRecord]:
    refused: list[StreamRecord] = []
    calls = list(_calls(records))
    while calls:
        call = calls.pop(0)
        if seconds_left() <= 0:
            refused += call
            continue
        outcome.calls += 1
        try:
            again = stream.put(call)
        except RetryableError:
            again = list(call)
        except PermanentError:
            # One record fails its whole call: halve until the culprit stands alone.
            if len(call) == 1:
                outcome.malformed += call
            else:
                calls[:0] = [call[: len(call) // 2], call[len(call) // 2 :]]
            continue
        outcome.taken += len(call) - len(again)
        refused += again
    return refused


def _calls(records: Sequence[StreamRecord]) -> Iterator[list[StreamRecord]]:
    call: list[StreamRecord] = []
    size = 0
    for record in records:
        weight = len(record.data) + len(record.partition_key.encode())
        if call and (len(call) == MAX_RECORDS or size + weight > MAX_CALL_BYTES):
            yield call
            call, size = [], 0
        call.append(record)
        size += weight
    if call:
        yield call
