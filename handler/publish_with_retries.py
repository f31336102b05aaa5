"""Publish geofence events; retry failed records with backoff and within a time budget.

All records of a request fit into one PutRecords call: 500 records, 10 MiB. (Amazon Kinesis Data Streams API Reference:
"PutRecords".) If a call nevertheless exceeds a limit, Kinesis rejects the whole call, which is then split in half.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aws.errors import PermanentError, RetryableError
from aws.retry import jitter
from contract.stream_record import StreamRecord

MAX_ROUNDS = 10
# How long a request may try Kinesis. A claim check is as safe as a record on the stream, so a phone need not wait long
# while Kinesis throttles. The pauses of MAX_ROUNDS rounds take 3.25 s on average and 6.5 s at most.
REQUEST_BUDGET_SECONDS = 4.0
CLAIM_CHECK_BUDGET_SECONDS = 5.0  # per claim check, because other claim checks may be waiting
BACKOFF_BASE_SECONDS = 0.05
BACKOFF_CAP_SECONDS = 1.0


class Stream(Protocol):
    def put(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
        """Make one PutRecords call; return the records that failed, because of throttling or an internal error.

        Raises RetryableError or PermanentError if the call fails.
        """


type Clock = Callable[[], float]  # returns the seconds that are left for the work


@dataclass(slots=True)
class Published:
    """The outcome of publishing.

    Kinesis may accept the `refused` records later; it will never accept the `malformed` ones.
    """

    taken: int = 0  # published records
    calls: int = 0
    failure: str = ""  # the message of the last RetryableError
    refused: list[StreamRecord] = field(default_factory=list)
    malformed: list[StreamRecord] = field(default_factory=list)


def publish(
    records: Sequence[StreamRecord],
    stream: Stream,
    seconds_left: Clock,
    pause: Callable[[float], None] = time.sleep,
    rounds: int = MAX_ROUNDS,
) -> Published:
    """Send all records, then resend the failed ones after pauses, while rounds and time are left."""
    outcome = Published(refused=list(records))
    for attempt in range(rounds):
        if not outcome.refused or seconds_left() <= 0:
            break
        if attempt:
            pause(jitter(min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2**attempt)))
        outcome.refused = _round(outcome.refused, stream, seconds_left, outcome)
    return outcome


def _round(
    records: Sequence[StreamRecord], stream: Stream, seconds_left: Clock, outcome: Published
) -> list[StreamRecord]:
    """Send the records once, and return the records to send again."""
    if seconds_left() <= 0:
        return list(records)
    outcome.calls += 1
    try:
        refused = stream.put(records)
    except RetryableError as error:
        outcome.failure = str(error)
        return list(records)
    except PermanentError:
        # One malformed record makes the whole call fail, so halve the batch until the record is alone.
        if len(records) == 1:
            outcome.malformed += records
            return []
        halves = records[: len(records) // 2], records[len(records) // 2 :]
        return [record for half in halves for record in _round(half, stream, seconds_left, outcome)]
    outcome.taken += len(records) - len(refused)
    return refused
