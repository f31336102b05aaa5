"""Test that the partition key of an archived event is its device id, and that an event without one is refused."""

import pytest

from contract.stream_record import StreamRecord, archived_record


@pytest.mark.parametrize(
    "line",
    [
        b'{"user":{"deviceId":"van-1"}}',
        b'{"user":{"deviceId":"van-1"},"deviceId":"van-2"}',
        b'{"user":{"userId":"driver-1"},"deviceId":"van-1"}',
        b'{"user":null,"deviceId":"van-1"}',
        b'{"deviceId":"van-1"}',
    ],
)
def test_partition_key_is_the_device_id_in_user_otherwise_the_top_level_device_id(line: bytes) -> None:
    assert archived_record(line, 7) == StreamRecord("van-1", line, 7)


def test_archived_event_without_a_device_raises_value_error() -> None:
    with pytest.raises(ValueError, match="without a device"):
        archived_record(b'{"user":{"userId":"driver-1"}}', 1)
