"""Poll until a condition holds, or the value has not changed for some time."""

import time
from collections.abc import Callable


def until[T](
    probe: Callable[[], T], enough: Callable[[T], bool], *, timeout_s: float, every_s: float = 0.2
) -> T:
    """Call `probe` until `enough` accepts the result, or the result has not changed for `timeout_s` seconds.

    Returns the last result.
    """
    value = probe()
    last_change = time.monotonic()
    while not enough(value) and time.monotonic() - last_change < timeout_s:
        time.sleep(every_s)
        before, value = value, probe()
        if value != before:
            last_change = time.monotonic()
    return value
