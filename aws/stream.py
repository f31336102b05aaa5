"""The Kinesis stream of geofence events."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from aws.errors import RetryableError
from aws.json_client import JsonClient
from contract.stream_record import StreamRecord


@dataclass(frozen=True, slots=True)
class KinesisStream:
    """The Kinesis stream `name`. `kinesis` should make one attempt per call, because callers of `put` retry."""

    kinesis: JsonClient
    name: str

    def put(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
        """Make one PutRecords call; return the records that failed, because of throttling or an internal error.

        Raises RetryableError or PermanentError if the call fails.
        """
        entries = [{"Data": record.data, "PartitionKey": record.partition_key} for record in records]
        answer = self.kinesis.send("PutRecords", {"StreamName": self.name, "Records": entries})
        # PutRecords returns 200 even if single records were throttled, and lists the results in request order.
        try:
            outcome = msgspec.json.decode(answer, type=_Outcome)
            if not outcome.failed:
                return []
            return [record for record, result in zip(records, outcome.results, strict=True) if result.code]
        except ValueError as error:
            raise RetryableError("Kinesis: unreadable response") from error


class _Result(msgspec.Struct):
    code: str | None = msgspec.field(default=None, name="ErrorCode")


class _Outcome(msgspec.Struct):
    failed: int = msgspec.field(default=0, name="FailedRecordCount")
    results: list[_Result] = msgspec.field(default=[], name="Records")
