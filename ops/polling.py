"""Waiting for what happens by itself, with a bound: never by sleeping for a time that should do."""

import time
from collections.abc import Callable


def until[T](
    probe: Callable[[], T], enough: Callable[[T], bool], *, patience_s: float, every_s: float = 0.2
) -> T:
    """Probe until it is enough, or until nothing has changed for `patience_s`; the last value either way."""
    value = probe()
    last_change = time.monotonic()
    while not enough(value) and time.monotonic() - last_change < patience_s:
        time.sleep(every_s)
        before, value = value, probe()
        if value != before:
            last_change = time.monotonic()
    return value
