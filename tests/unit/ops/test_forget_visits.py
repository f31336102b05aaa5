"""Test that `milkrun forget` does not wait for the scan of a large visits table after an error."""

import threading
from time import monotonic
from unittest.mock import Mock

import pytest

from ops.forget_visits import forget_devices


def test_error_in_one_segment_is_raised_before_the_other_segments_are_scanned() -> None:
    scanned = threading.Event()

    def paginate(*, Segment: int, **_: object) -> list[object]:
        if Segment == 0:
            raise RuntimeError("throttled")
        scanned.wait(3)
        return []

    dynamodb, began = Mock(), monotonic()
    dynamodb.get_paginator.return_value.paginate = paginate
    with pytest.raises(RuntimeError, match="throttled"):
        forget_devices(dynamodb, "visits", ["d"])
    assert monotonic() - began < 2
    scanned.set()
