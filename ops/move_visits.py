"""`milkrun move-visits`: migrate the visits table to the current item layout (docs/upgrade.md)."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import typer

from aws.table import Table
from consumer import keys, previous_layout
from consumer.event_bus import EventBus
from consumer.notifications import Bus
from consumer.visits import Pair, Rule
from ops import read_stores, terminal
from ops.forget_visits import delete_items
from ops.reachable_stores import require

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CONCURRENCY = 8


def move_all(dynamodb: "DynamoDBClient", name: str, table: Table, bus: Bus, rule: Rule) -> Iterator[int]:
    """Migrate the (device, fence) pairs one by one; for each pair, yield the number of old items that were deleted."""
    for pair in _old_pairs(dynamodb, name):
        previous_layout.move(table, bus, pair, rule)
        pk, head = previous_layout.head_key(pair)
        old = [str(item["sk"]) for item in table.query(pk, "a", keys.LAST)]
        # Delete the head last, so that the next run finds this pair again if this one is interrupted.
        for some in ([sk for sk in old if sk != head], [head]):
            delete_items(dynamodb, name, [{"pk": {"S": pk}, "sk": {"S": sk}} for sk in some])
        yield len(old)


def _old_pairs(dynamodb: "DynamoDBClient", name: str) -> Iterator[Pair]:
    pages = dynamodb.get_paginator("scan").paginate(
        TableName=name,
        FilterExpression="sk = :head",
        ExpressionAttributeValues={":head": {"S": "head"}},
        ProjectionExpression="pk, sk",
        ConsistentRead=True,
    )
    for item in (item for page in pages for item in page["Items"]):
        yield keys.pair_of_key(item["pk"]["S"], item["sk"]["S"])


def command(
    context: typer.Context, *, stage: terminal.Stage = "local", as_json: terminal.AsJson = False
) -> None:
    """Migrate the visits table to the current item layout after an upgrade (docs/upgrade.md).

    Run the command after the last consumer of the previous version has stopped. It can be interrupted and
    repeated.
    """
    outputs = terminal.outputs_of(context, stage)
    require(outputs, "DynamoDB", "Lambda")
    settings = read_stores.consumer_settings(outputs, stage)
    pairs, deleted = 0, 0
    with terminal.progress() as bars, ThreadPoolExecutor(CONCURRENCY) as executor:
        moved = bars.add_task("pairs moved", total=None)
        access = outputs.access()
        table = Table(access.client("dynamodb"), outputs.visits_table, executor)
        bus = EventBus(access.client("events"), settings.event_bus_name, executor)
        dynamodb = outputs.aws("dynamodb")
        for items in move_all(dynamodb, outputs.visits_table, table, bus, settings.rule):
            pairs, deleted = pairs + 1, deleted + items
            bars.advance(moved)
    terminal.show({"pairs_moved": pairs, "items_deleted": deleted}, as_json)
