"""A geofence event as a record of the Kinesis stream."""

import msgspec

from contract.event_rules import Checked


class StreamRecord(msgspec.Struct, frozen=True, gc=False):
    """A record for the Kinesis stream.

    `data` is the event's line in an archived object (replays add a field), and `line` its number there, starting at 1.
    The partition key is the device, so that one shard receives all events of a device in order.
    """

    partition_key: str
    data: bytes
    line: int


class _User(msgspec.Struct):
    device_id: str | None = msgspec.field(name="deviceId", default=None)


class _Event(msgspec.Struct):
    user: _User | None = None
    device_id: str | None = msgspec.field(name="deviceId", default=None)


def stream_record(event: Checked, line: bytes, number: int) -> StreamRecord:
    """Return the stream record of a geofence event. Raises ValueError if the event has no device."""
    return _record(event.device_id, line, number)


def archived_record(line: bytes, number: int) -> StreamRecord:
    """Return an archived event's stream record. The event is not validated again, as the rules may have changed."""
    event = msgspec.json.decode(line, type=_Event)
    return _record((event.user and event.user.device_id) or event.device_id, line, number)


def _record(device_id: str | None, line: bytes, number: int) -> StreamRecord:
    if device_id is None:
        raise ValueError("an event without a device has no partition key")
    return StreamRecord(device_id, line, number)
