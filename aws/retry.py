"""Calling again: after a transient error, and for the parts that a batch call left undone."""

import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import batched

from aws.errors import NoResponseError, PermanentError, ServiceError

PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8)

# Environments restored from one snapshot would all draw the same numbers from `random` itself.
# (AWS Lambda Developer Guide: "Handling uniqueness with Lambda SnapStart".)
_RANDOM = random.SystemRandom()


def jitter(most: float) -> float:
    """Return a random number of seconds from 0 to `most` (full jitter)."""
    return _RANDOM.uniform(0, most)


def retrying[T](
    call: Callable[[], T], *, tries: int, base_seconds: float, pause: Callable[[float], None] = time.sleep
) -> T:
    """Return what `call` returns, or raise its error if it is not transient or the last try failed too.

    The pause before try n + 1 is at most base_seconds · 2ⁿ⁻¹, with full jitter.
    """
    for attempt in range(1, tries):
        try:
            return call()
        except NoResponseError:
            pass
        except ServiceError as error:
            if not error.is_transient:
                raise
        pause(jitter(base_seconds * 2 ** (attempt - 1)))
    return call()


def send_until_done[K: Hashable, T](
    send: Callable[[Sequence[T]], Sequence[K]], parts: Mapping[K, T]
) -> dict[K, Exception]:
    """Send all parts and return the failures by key. `send` returns the keys of those that the service left undone.

    These are sent again, after pauses. A call that the service never accepts is sent in halves until the culprit
    stands alone.
    """
    failures: dict[K, Exception] = {}
    left = dict(parts)
    for pause in (*PAUSES_SECONDS, 0.0):
        try:
            undone = send(list(left.values()))
        except PermanentError as refused:
            if len(left) == 1:
                return failures | dict.fromkeys(left, refused)
            for half in batched(left.items(), (len(left) + 1) // 2, strict=False):
                failures |= send_until_done(send, dict(half))
            return failures
        except Exception as error:  # whatever it was, these parts were not done and are tried again later
            return failures | dict.fromkeys(left, error)
        left = {key: left[key] for key in undone}
        if not left:
            return failures
        time.sleep(jitter(pause))
    return failures | {key: TimeoutError("the service left it undone at every try") for key in left}
