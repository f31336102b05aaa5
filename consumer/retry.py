"""Calls that answer "done, but for these": sent again until all is done."""

import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import batched

PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8)


class Refused(Exception):  # noqa: N818 - a fate, not a fault of the caller's
    """AWS will never take this: a bug of ours, or content that slipped through the contract."""


def insist[K: Hashable, T](
    send: Callable[[Sequence[T]], Sequence[K]], parts: Mapping[K, T]
) -> dict[K, Exception]:
    """Send all parts. `send` returns the keys of those left undone; they are sent again, after pauses.

    What fails comes back as a value. A refused call is sent in halves until the culprit stands alone.
    """
    failures: dict[K, Exception] = {}
    left = dict(parts)
    for pause in (*PAUSES_SECONDS, 0.0):
        try:
            undone = send(list(left.values()))
        except Refused as refused:
            if len(left) == 1:
                return failures | dict.fromkeys(left, refused)
            for half in batched(left.items(), (len(left) + 1) // 2, strict=False):
                failures |= insist(send, dict(half))
            return failures
        except Exception as error:  # whatever it is, these parts were not done: "again"
            return failures | dict.fromkeys(left, error)
        left = {key: left[key] for key in undone}
        if not left:
            return failures
        time.sleep(random.uniform(0, pause))  # noqa: S311 - jitter
    return failures | {key: TimeoutError("left undone again and again") for key in left}
