"""Send archived records to the stream again, at a rate and with the name of the replay."""

import time
from collections.abc import Iterable
from functools import partial
from itertools import batched
from typing import Any

from aws.stream import KinesisStream
from contract.stream_record import StreamRecord
from handler.publish import publish
from snowpipe.refusal import Refusal

LABEL = "milkrun_replay"
RECORDS_AT_ONCE = 100
# How long the stream may throttle before the replay stops. The same command continues later.
STREAM_TIMEOUT_S = 30.0


def labelled(line: bytes, event: dict[str, Any], label: str) -> bytes:
    """Return the line with the replay's name added; unchanged if the phone has already sent a field of that name."""
    return line if LABEL in event else b'%b,"%b":"%b"}' % (line[:-1], LABEL.encode(), label.encode())


class Pace:
    """Limits the records per second over a whole replay."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._due = time.monotonic()

    def wait_for(self, number: int) -> None:
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = max(self._due, time.monotonic() - 1) + number / self._per_second


def put_all(records: Iterable[StreamRecord], stream: KinesisStream, pace: Pace) -> int:
    """Send all records at that rate. Raises Refusal if the stream keeps throttling some."""
    count = 0
    for some in batched(records, RECORDS_AT_ONCE, strict=False):
        pace.wait_for(len(some))
        give_up_at = time.monotonic() + STREAM_TIMEOUT_S
        published = publish(some, stream, partial(_seconds_until, give_up_at))
        if published.refused or published.malformed:
            raise Refusal(
                f"the stream did not accept {len(published.refused) + len(published.malformed)} records", 1
            )
        count += published.taken
    return count


def _seconds_until(at: float) -> float:
    return at - time.monotonic()
