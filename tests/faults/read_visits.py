"""Read the visits of some devices from the visits table and from its index of open visits."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aws.table import loaded
from consumer import keys
from consumer.visits import Pair, Visit
from contract.events import Fence, GeofenceEvent
from ops import read_stores
from tests.faults.checker import OfPair
from tests.faults.phones import Exchange

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def crossings_of(exchanges: Iterable[Exchange]) -> Iterator[GeofenceEvent]:
    return (e.crossing for x in exchanges for e in x.post.events if e.crossing)


def read_indexes(
    dynamodb: "DynamoDBClient", table: str, exchanges: Sequence[Exchange]
) -> tuple[list[OfPair], list[OfPair]]:
    """Return all visits of the devices in these exchanges, and their open visits according to the index."""
    devices = sorted({c.device_id for c in crossings_of(exchanges)})
    fences = sorted({c.fence for c in crossings_of(exchanges)})
    with ThreadPoolExecutor(4) as readers:
        by_device = list(
            readers.map(lambda device: read_stores.device_visits(dynamodb, table, device), devices)
        )
        by_fence = list(readers.map(lambda fence: list(_at(dynamodb, table, fence)), fences))
    visits = [one for some in by_device for one in some]
    # The index only identifies the visit; its other fields are stored with the visits.
    known = {(pair, visit.entered_at, visit.entered_event_id): visit for pair, visit in visits}
    there = [
        (pair, known.get((pair, visit.entered_at, visit.entered_event_id), visit))
        for some in by_fence
        for pair, visit in some
        if pair.device_id in set(devices)
    ]
    return visits, there


def _at(dynamodb: "DynamoDBClient", table: str, fence: Fence) -> Iterator[tuple[Pair, Visit]]:
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table,
        IndexName="there_now",
        KeyConditionExpression="fence_now = :fence",
        ExpressionAttributeValues={":fence": {"S": keys.fence_key(fence)}},
    )
    for item in (loaded(item) for page in pages for item in page["Items"]):
        visit = Visit(keys.instant(str(item["entered_at"])), str(item["entered_event_id"]))
        yield keys.pair_of_key(str(item["pk"]), str(item["sk"])), visit
