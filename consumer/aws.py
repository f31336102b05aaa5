"""The ports on AWS, built from settings: EventBridge and S3 here, DynamoDB in consumer.table."""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache, partial
from itertools import batched
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.exceptions import ClientError

from consumer.change import Notice
from consumer.client import JsonClient
from consumer.consume import Poison, Ports
from consumer.retry import insist
from consumer.settings import Settings
from consumer.store import Store
from consumer.table import DynamoTable
from contract.objects import lines_object, set_aside_line
from contract.signed import Credentials, endpoint_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
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


def sdk_ports(settings: Settings) -> Ports:
    """By the SDK's clients, which find credentials and endpoints wherever a host may keep them."""
    return _ports(settings, client("dynamodb", REQUESTS_AT_ONCE), client("events", REQUESTS_AT_ONCE))


def function_ports(settings: Settings, credentials: Credentials) -> Ports:
    """By signed HTTP, with what Lambda gives a function."""

    def json_client(service: str, target: str, url: str) -> Any:
        url = url or endpoint_of(service, settings.region)
        return JsonClient(service, target, url=url, region=settings.region, credentials=credentials)

    return _ports(
        settings,
        json_client("dynamodb", "DynamoDB_20120810", settings.dynamodb_endpoint_url or settings.endpoint_url),
        json_client("events", "AWSEvents", settings.events_endpoint_url or settings.endpoint_url),
    )


def _ports(settings: Settings, dynamodb: "DynamoDBClient", events: "EventBridgeClient") -> Ports:
    side_by_side = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    table = DynamoTable(dynamodb, settings.visits_table, side_by_side)
    bus = EventBus(events, settings.event_bus_name, side_by_side)
    set_aside = S3SetAside(partial(client, "s3"), settings.archive_bucket)
    return Ports(Store(table, bus, settings.rule, side_by_side), set_aside)


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

    def __init__(self, connect: "Callable[[], S3Client]", bucket: str) -> None:
        """`connect` is called for the first poison only: nearly all batches have none."""
        self._connect = cache(connect)
        self._bucket = bucket

    def keep(self, poison: Sequence[Poison]) -> str:
        lines = [set_aside_line(p.reasons, p.record.data, origin(p)) for p in poison]
        aside = lines_object("set-aside", lines, poison[0].record.arrived_at)
        for attempt in range(CONFLICT_TRIES):
            try:
                self._connect().put_object(
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
