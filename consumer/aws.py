"""The ports on AWS, built from settings: EventBridge and S3 here, DynamoDB in consumer.table."""

import random
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import batched
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.exceptions import ClientError

from consumer.change import Notice
from consumer.consume import Poison, Ports
from consumer.retry import insist
from consumer.settings import Settings
from consumer.store import Store
from consumer.table import DynamoTable
from contract.objects import lines_object, set_aside_line

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_s3 import S3Client

REQUESTS_AT_ONCE = 16
ENTRIES_A_REQUEST = 10
SOURCE = "milkrun.visits"
CONFLICT_TRIES = 4


def client(service: str, connections: int = 10) -> Any:
    """A client whose calls end long before a function does (botocore's own defaults wait a minute, twice)."""
    import botocore.session  # noqa: PLC0415 - half a second that importing this module does not need
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=1,
        read_timeout=2,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=connections,
    )
    return botocore.session.get_session().create_client(service, config=config)


def ports_of(settings: Settings) -> Ports:
    side_by_side = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    table = DynamoTable(client("dynamodb", REQUESTS_AT_ONCE), settings.visits_table, side_by_side)
    bus = EventBus(client("events", REQUESTS_AT_ONCE), settings.event_bus_name, side_by_side)
    return Ports(
        Store(table, bus, settings.rule, side_by_side), S3SetAside(client("s3"), settings.archive_bucket)
    )


class EventBus:
    """The bus `name`. Receivers de-duplicate by `detail.id` and order by `detail.version`."""

    def __init__(self, events: "EventBridgeClient", name: str, side_by_side: Executor) -> None:
        self._events = events
        self._name = name
        self._side_by_side = side_by_side

    def publish(self, told: Sequence[Notice]) -> dict[str, Exception]:
        failures: dict[str, Exception] = {}
        for failed in self._side_by_side.map(
            lambda some: insist(self._put, {notice.id: notice for notice in some}),
            batched(told, ENTRIES_A_REQUEST, strict=False),
        ):
            failures |= failed
        return failures

    def _put(self, told: Sequence[Notice]) -> list[str]:
        answer = self._events.put_events(
            Entries=[
                {
                    "EventBusName": self._name,
                    "Source": SOURCE,
                    "DetailType": notice.kind,
                    "Detail": msgspec.json.encode(notice.detail).decode(),
                }
                for notice in told
            ]
        )
        # PutEvents answers 200 even when single entries failed, and lists results in request order.
        return [n.id for n, result in zip(told, answer["Entries"], strict=True) if "ErrorCode" in result]


class S3SetAside:
    """`set-aside/` of the archive bucket: one object a batch, its key the hash of what is inside."""

    def __init__(self, s3: "S3Client", bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def keep(self, poison: Sequence[Poison]) -> str:
        lines = [set_aside_line(p.reasons, p.record.data, origin(p)) for p in poison]
        aside = lines_object("set-aside", lines, poison[0].record.arrived_at)
        for attempt in range(CONFLICT_TRIES):
            try:
                self._s3.put_object(
                    Bucket=self._bucket,
                    Key=aside.key,
                    Body=aside.body,
                    ContentType="application/gzip",
                    IfNoneMatch="*",
                )
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 412:  # kept already, perhaps by a try that timed out
                    return aside.key
                if status != 409 or attempt == CONFLICT_TRIES - 1:
                    raise
                # S3 answers 409 while another write of the same key is under way.
                time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - jitter
            else:
                return aside.key
        raise AssertionError("the last try returns or raises")


def origin(poison: Poison) -> dict[str, str]:
    record = poison.record
    return {
        "stream": record.stream,
        "shard_id": record.shard_id,
        "sequence_number": record.sequence_number,
        "sub_sequence_number": str(record.sub_sequence_number),
        "partition_key": record.partition_key,
        "arrived_at": record.arrived_at.isoformat(),
    }
