"""The Kinesis stream of geofence events."""

from collections.abc import Sequence

import msgspec

from aws.errors import RetryableError
from aws.json_client import JsonClient
from contract.stream_record import StreamRecord


class KinesisStream:
    """Create `kinesis` with `tries=1`, because the caller decides how long to retry when the stream is throttled."""

    def __init__(self, kinesis: JsonClient, name: str) -> None:
        self._kinesis = kinesis
        self._name = name

    def put(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
        """Send one PutRecords call; return the throttled records. Raises RetryableError or PermanentError."""
        answer = self._kinesis.send(
            "PutRecords",
            {
                "StreamName": self._name,
                "Records": [
                    {"Data": record.data, "PartitionKey": record.partition_key} for record in records
                ],
            },
        )
        # PutRecords returns 200 even if single records were throttled, and lists the results in request order.
        try:
            outcome = _OUTCOME.decode(answer)
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


_OUTCOME = msgspec.json.Decoder(_Outcome)
