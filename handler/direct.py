"""The two calls that every request makes, over signed HTTP: no SDK client stands between (contract/signed.py)."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

import msgspec

from contract.objects import LinesObject
from contract.signed import (
    PASSING_CODES,
    PASSING_STATUSES,
    Answer,
    Credentials,
    Endpoint,
    NoAnswer,
    Signer,
    endpoint_of,
    json_code,
)
from handler.publish import Malformed, Unavailable, jitter
from handler.sift import Record

CONFLICT_TRIES = 4
STORE_TRIES = 3

_XML_CODE = re.compile(rb"<Code>([^<]{1,128})</Code>")


class S3Objects:
    """The archive. Objects are put only where none stands: their keys are hashes of what is inside."""

    def __init__(self, s3: Endpoint, path: str = "", pause: Callable[[float], None] = time.sleep) -> None:
        self._s3 = s3
        self._path = path
        self._pause = pause

    def store(self, lines: LinesObject, facts: Mapping[str, str]) -> bool:
        headers = {"content-type": "application/gzip", "if-none-match": "*"}
        headers |= {f"x-amz-meta-{name}": value for name, value in facts.items()}
        path = f"{self._path}/{quote(lines.key)}"
        failures = conflicts = 0
        while True:
            fault, passes = "", True
            try:
                answer = self._s3.send("PUT", path, headers, lines.body)
            except NoAnswer as error:
                fault = str(error)
            else:
                if answer.status == 200:
                    return True
                if answer.status == 412:  # it stands there, perhaps from a try of ours that timed out
                    return False
                fault = _s3_code(answer)
                passes = answer.status in PASSING_STATUSES or fault in PASSING_CODES
                if answer.status == 409:  # while another write of the same key is under way
                    conflicts += 1
                    if conflicts < CONFLICT_TRIES:
                        self._pause(jitter(0.05 * 2**conflicts))
                        continue
            failures += 1
            if not passes or failures == STORE_TRIES:
                raise Unavailable(f"S3: {fault}")
            self._pause(jitter(2 ** (failures - 1)))


class KinesisRecords:
    """The stream, one PutRecords call at a time."""

    def __init__(self, kinesis: Endpoint, name: str) -> None:
        self._kinesis = kinesis
        self._name = name

    def put(self, records: Sequence[Record]) -> list[Record]:
        call = {
            "StreamName": self._name,
            "Records": [{"Data": record.data, "PartitionKey": record.partition_key} for record in records],
        }
        try:
            answer = self._kinesis.send("POST", "/", _PUT_RECORDS, msgspec.json.encode(call))
        except NoAnswer as error:
            raise Unavailable(f"Kinesis: {error}") from error
        if answer.status != 200:
            code = json_code(answer)
            if code in ("ValidationException", "InvalidArgumentException"):
                raise Malformed(code)
            raise Unavailable(f"Kinesis: {code}")
        # PutRecords answers 200 even when single records were throttled, and lists results in request order.
        try:
            said = _TAKEN.decode(answer.body)
            if not said.failed:
                return []
            return [record for record, result in zip(records, said.results, strict=True) if result.code]
        except ValueError as error:
            raise Unavailable("Kinesis: unreadable answer") from error


class _Result(msgspec.Struct):
    code: str | None = msgspec.field(default=None, name="ErrorCode")


class _Taken(msgspec.Struct):
    failed: int = msgspec.field(default=0, name="FailedRecordCount")
    results: list[_Result] = msgspec.field(default=[], name="Records")


_TAKEN = msgspec.json.Decoder(_Taken)
_PUT_RECORDS = {
    "content-type": "application/x-amz-json-1.1",
    "x-amz-target": "Kinesis_20131202.PutRecords",
}


def _s3_code(answer: Answer) -> str:
    found = _XML_CODE.search(answer.body)
    return found[1].decode() if found else str(answer.status)


def s3_objects(bucket: str, region: str, credentials: Credentials, url: str = "") -> S3Objects:
    """A bucket by its own host at AWS; by path anywhere else, and where a dot would break TLS."""
    if url or "." in bucket:
        host, path = url or endpoint_of("s3", region), f"/{bucket}"
    else:
        host, path = endpoint_of(f"{bucket}.s3", region), ""
    return S3Objects(Endpoint(host, Signer(credentials, region, "s3")), path)


def kinesis_records(stream: str, region: str, credentials: Credentials, url: str = "") -> KinesisRecords:
    host = url or endpoint_of("kinesis", region)
    return KinesisRecords(Endpoint(host, Signer(credentials, region, "kinesis")), stream)
