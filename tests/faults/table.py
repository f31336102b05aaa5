"""Read some devices' visits from the table, through each of its two indexes."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aws.table import loaded
from consumer import keys
from contract.events import GeofenceEvent
from tests.faults.checker import OfPair
from tests.faults.phones import Exchange


def crossings_of(exchanges: Iterable[Exchange]) -> Iterator[GeofenceEvent]:
    return (e.crossing for x in exchanges for e in x.post.events if e.crossing)


def read_indexes(
    dynamodb: Any, table: str, exchanges: Sequence[Exchange]
) -> tuple[list[OfPair], list[OfPair]]:
    """Return all visits of the devices in these exchanges, and those that are open at the fences in them."""
    devices = sorted({c.device_id for c in crossings_of(exchanges)})
    fences = sorted({keys.fence_key(c.fence) for c in crossings_of(exchanges)})
    queries = [("by_device", "device_id", device) for device in devices]
    queries += [("there_now", "fence_now", fence) for fence in fences]
    with ThreadPoolExecutor(4) as readers:
        answers = list(readers.map(lambda q: list(_query(dynamodb, table, *q)), queries))
    visits = [one for some in answers[: len(devices)] for one in some]
    there = [one for some in answers[len(devices) :] for one in some if one[0].device_id in set(devices)]
    return visits, there


def _query(dynamodb: Any, table: str, index: str, name: str, value: str) -> Iterator[OfPair]:
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table,
        IndexName=index,
        KeyConditionExpression=f"{name} = :value",
        ExpressionAttributeValues={":value": {"S": value}},
    )
    for page in pages:
        for item in map(loaded, page["Items"]):
            if visit := keys.visit_of(item):
                yield keys.pair_of_visit(item), visit
