"""The ports on S3, Kinesis and SQS: foreign errors become ours here, and nowhere else."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from contract.objects import LinesObject
from handler.publish import Malformed, Unavailable, jitter
from handler.sift import Record

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

CONFLICT_TRIES = 4


def client(service: str, tries: int) -> Any:
    """A client whose calls end long before a function does (botocore's own defaults wait a minute, twice)."""
    import botocore.session  # noqa: PLC0415 - half of a cold start, and nearly all requests need no client
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": tries}
    )
    return botocore.session.get_session().create_client(service, config=config)


class S3Archive:
    """Objects are put only where none stands: their keys are hashes of what is inside."""

    def __init__(self, s3: "S3Client", bucket: str, pause: Callable[[float], None] = time.sleep) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._pause = pause

    def store(self, lines: LinesObject, facts: Mapping[str, str]) -> bool:
        for attempt in range(CONFLICT_TRIES):
            try:
                self._s3.put_object(
                    Bucket=self._bucket,
                    Key=lines.key,
                    Body=lines.body,
                    ContentType="application/gzip",
                    Metadata=dict(facts),
                    IfNoneMatch="*",
                )
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 412:  # the same object stands there, perhaps from a try of ours that timed out
                    return False
                if status != 409:
                    raise Unavailable(f"S3: {_code(error)}") from error
                # S3 answers 409 while another write of the same key is under way.
                self._pause(jitter(0.1 * 2**attempt))
            except BotoCoreError as error:
                raise Unavailable(f"S3: {type(error).__name__}") from error
            else:
                return True
        raise Unavailable("S3: ConditionalRequestConflict")


class S3Lines:
    """The archive, read: for claim checks."""

    def __init__(self, s3: "S3Client") -> None:
        self._s3 = s3

    def body(self, bucket: str, key: str) -> bytes:
        try:
            return self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            # To a role that may not list the bucket S3 says AccessDenied of a key that is gone.
            if _code(error) in ("NoSuchKey", "NoSuchBucket", "AccessDenied"):
                raise
            raise Unavailable(f"S3: {_code(error)}") from error
        except BotoCoreError as error:
            raise Unavailable(f"S3: {type(error).__name__}") from error


class KinesisStream:
    def __init__(self, kinesis: "KinesisClient", name: str) -> None:
        self._kinesis = kinesis
        self._name = name

    def put(self, records: Sequence[Record]) -> list[Record]:
        try:
            answer = self._kinesis.put_records(
                StreamName=self._name,
                Records=[{"Data": record.data, "PartitionKey": record.partition_key} for record in records],
            )
        except ParamValidationError as error:
            raise Malformed(type(error).__name__) from error
        except ClientError as error:
            if _code(error) in ("ValidationException", "InvalidArgumentException"):
                raise Malformed(_code(error)) from error
            raise Unavailable(f"Kinesis: {_code(error)}") from error
        except BotoCoreError as error:
            raise Unavailable(f"Kinesis: {type(error).__name__}") from error
        # PutRecords answers 200 even when single records were throttled, and lists results in request order.
        if not answer.get("FailedRecordCount"):
            return []
        return [
            record
            for record, result in zip(records, answer["Records"], strict=True)
            if result.get("ErrorCode")
        ]


class SqsRedriveQueue:
    """Claim checks. `connect` is called for the first one only: nearly all requests need none."""

    def __init__(self, connect: "Callable[[], SQSClient]", queue_url: str, bucket: str) -> None:
        self._connect = connect
        self._queue_url = queue_url
        self._bucket = bucket
        self._sqs: SQSClient | None = None

    def leave(self, key: str, lines: Sequence[int]) -> None:
        check = {"bucket": self._bucket, "key": key, "lines": list(lines)}
        try:
            self._sqs = self._sqs or self._connect()
            self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=msgspec.json.encode(check).decode())
        except ClientError as error:
            raise Unavailable(f"SQS: {_code(error)}") from error
        except BotoCoreError as error:
            raise Unavailable(f"SQS: {type(error).__name__}") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code"))
