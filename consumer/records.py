"""Kinesis records, as Lambda or the Kinesis Client Library delivers them, and the geofence events in them."""

import base64
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import import_module
from typing import Any

from contract.event_rules import geofence_event
from contract.events import GeofenceEvent, InvalidEvent, Reason
from contract.geofence_event_types import Kind
from contract.invocation import LambdaEvent

MAX_AHEAD = timedelta(hours=24)

# The frame of the Kinesis Producer Library (KPL): magic number, protobuf message, MD5 of the message.
_MAGIC = b"\xf3\x89\x9a\xc2"
_DIGEST_BYTES = 16

type Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Record:
    """A record that arrived at Kinesis at `arrived_at`. With a `fault`, it is quarantined without being parsed."""

    data: bytes
    partition_key: str
    sequence_number: str
    shard_id: str
    stream: str
    arrived_at: datetime
    sub_sequence_number: int = 0
    fault: Reason | None = None

    @property
    def position(self) -> Position:
        """Return the position in the shard. Records of one aggregated record differ only in the second number."""
        return int(self.sequence_number), self.sub_sequence_number


def records_of(batch: LambdaEvent, stream: str = "") -> Iterator[Record]:
    """Yield the de-aggregated records of a Lambda batch. Undecodable ones and those of other streams get a `fault`."""
    for delivered in batch["Records"]:
        kinesis = delivered["kinesis"]
        source = str(delivered["eventSourceARN"]).rpartition("/")[2]
        fault = None
        try:
            data = base64.b64decode(kinesis["data"], validate=True)
        except ValueError:
            data = kinesis["data"].encode(errors="replace")
            fault = Reason("not_base64", "", "The record's data is not base64.")
        if stream and source != stream:
            fault = Reason("wrong_stream", "", f"This consumer reads {stream}.")
        record = Record(
            data=data,
            partition_key=kinesis["partitionKey"],
            sequence_number=kinesis["sequenceNumber"],
            shard_id=str(delivered["eventID"]).partition(":")[0],
            stream=source,
            arrived_at=datetime.fromtimestamp(kinesis["approximateArrivalTimestamp"], UTC),
            fault=fault,
        )
        yield from [record] if fault else deaggregated(record)


def deaggregated(record: Record) -> Iterable[Record]:
    """Return the records of a KPL aggregate, or the record itself, with a `fault` if it is an invalid aggregate."""
    data = record.data
    if not data.startswith(_MAGIC):
        return [record]
    message = data[len(_MAGIC) : -_DIGEST_BYTES]
    if hashlib.md5(message, usedforsecurity=False).digest() != data[-_DIGEST_BYTES:]:
        return [record]
    from google.protobuf.message import DecodeError  # few streams need protobuf

    try:
        aggregated = _aggregated_record().FromString(message)
        keys = aggregated.partition_key_table
        return [
            replace(record, data=r.data, partition_key=keys[r.partition_key_index], sub_sequence_number=n)
            for n, r in enumerate(aggregated.records)
        ]
    except (DecodeError, IndexError) as error:
        reason = Reason("bad_aggregate", "", f"The aggregated record is invalid: {error}.")
        return [replace(record, fault=reason)]


@cache
def _aggregated_record() -> Any:
    """Return aws_kinesis_agg's message type. Its decoder is unused, as it drops the rest of a record after an error."""
    # Its generated code imports `config_pb2` as a top-level module, for which the library would change sys.path.
    sys.modules.setdefault("config_pb2", import_module("aws_kinesis_agg.config_pb2"))
    return import_module("aws_kinesis_agg.messages_pb2").AggregatedRecord


def event_of(record: Record, kinds: Mapping[str, Kind]) -> GeofenceEvent:
    """Parse a record's geofence event. Raises InvalidEvent, also if `createdAt` is over MAX_AHEAD after the arrival."""
    if record.fault:
        raise InvalidEvent((record.fault,))
    event = geofence_event(record.data, kinds)
    if event.occurred_at - record.arrived_at > MAX_AHEAD:
        message = "`createdAt` is more than 24 hours after the record's arrival."
        raise InvalidEvent((Reason("created_at_in_future", "createdAt", message),))
    return event
