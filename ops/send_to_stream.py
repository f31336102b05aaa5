"""Send archived events to the stream again, labelled with the name of the replay and at a limited rate."""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import batched

from aws.stream import KinesisStream
from cli.counts import count
from cli.refusal import Refusal
from contract.stream_record import StreamRecord
from handler.publish_with_retries import publish

LABEL = "milkrun_replay"
RECORDS_AT_ONCE = 100  # PutRecords accepts 10 MiB; a record may have 1 MiB, but ours are far smaller
# If the stream throttles or fails for this long, the replay stops. The same command can continue it later.
STREAM_TIMEOUT_S = 30.0


def labelled(line: bytes, event: Mapping[str, object], label: str) -> bytes:
    """Add the field `milkrun_replay` to the JSON text of an event, unless the event already has this field."""
    return line if LABEL in event else b'%b,"%b":"%b"}' % (line[:-1], LABEL.encode(), label.encode())


class Pace:
    """A rate limiter, shared by all calls of a replay. After a pause, it catches up on at most one second's records."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._due = time.monotonic()

    def wait_for(self, number: int) -> None:
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = max(self._due, time.monotonic() - 1) + number / self._per_second


def put_all(records: Iterable[StreamRecord], stream: KinesisStream, pace: Pace) -> int:
    """Send records at the rate of `pace`; return their number.

    Raises Refusal if the stream keeps throttling or failing, or rejects a record as malformed.
    """
    sent = 0
    for some in batched(records, RECORDS_AT_ONCE, strict=False):
        pace.wait_for(len(some))
        give_up_at = time.monotonic() + STREAM_TIMEOUT_S
        published = publish(some, stream, partial(_seconds_until, give_up_at))
        if published.malformed:
            raise Refusal(f"the stream rejected {count(len(published.malformed), 'record')}", 1)
        if published.refused:
            why = published.failure or "it throttles, or has an internal error"
            raise Refusal(f"the stream did not accept {count(len(published.refused), 'record')}: {why}", 1)
        sent += published.taken
    return sent


def _seconds_until(at: float) -> float:
    return at - time.monotonic()
