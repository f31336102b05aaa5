"""`milkrun visits`: where a device was, and who is at a fence now. One query each."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import typer

from aws.table import loaded
from consumer import change, items
from contract.events import Fence
from ops import terminal

FIELDS = (
    "device_id",
    "geofence_tag",
    "geofence_external_id",
    "entered_at",
    "exited_at",
    "dwell_seconds",
    "entered_event_id",
    "exited_event_id",
    "exit_missed",
)


def visits_of_device(
    dynamodb: Any, table: str, device: str, since: datetime | None = None
) -> list[change.Row]:
    """The visits that began at or after `since`, in order of their beginning."""
    names = {":device": {"S": device}, ":since": {"S": items.timestamp(since) if since else "0"}}
    return list(_query(dynamodb, table, "by_device", "device_id = :device AND entered_at >= :since", names))


def visits_at_fence(dynamodb: Any, table: str, fence: Fence) -> list[change.Row]:
    """The open visits at a fence, the longest first."""
    names = {":fence": {"S": items.fence_key(fence)}}
    return list(_query(dynamodb, table, "there_now", "fence_now = :fence", names))


def there_now(dynamodb: Any, table: str) -> Iterator[change.Row]:
    """All open visits at all fences. Reads the whole index, which holds nothing else."""
    return _rows(dynamodb.get_paginator("scan").paginate(TableName=table, IndexName="there_now"))


def _query(
    dynamodb: Any, table: str, index: str, condition: str, names: dict[str, Any]
) -> Iterator[change.Row]:
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table, IndexName=index, KeyConditionExpression=condition, ExpressionAttributeValues=names
    )
    return _rows(pages)


def _rows(pages: Iterable[dict[str, Any]]) -> Iterator[change.Row]:
    for page in pages:
        for item in map(loaded, page["Items"]):
            visit = items.visit_of(item)
            assert visit is not None  # both indexes hold only items with a visit
            row = change.row(items.pair_of_visit(item), visit)
            yield {name: row[name] for name in FIELDS}


def _fence(text: str) -> Fence:
    tag, slash, external_id = text.partition("/")
    if not (tag and slash and external_id):
        raise typer.BadParameter(f"{text!r}: a fence is written tag/externalId")
    return Fence(tag, external_id)


def command(
    context: typer.Context,
    *,
    device: Annotated[
        str | None, typer.Option(parser=terminal.not_empty, metavar="DEVICE", help="Where was it?")
    ] = None,
    fence: Annotated[
        Fence | None,
        typer.Option(parser=_fence, metavar="FENCE", help="Who is there now? As tag/externalId."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=terminal.time, help="With --device: those that began no earlier.", metavar="TIME"
        ),
    ] = None,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """List the visits of a device, or the devices that are at a fence now."""
    if (device is None) == (fence is None):
        raise typer.BadParameter("give one of --device and --fence")
    if since and fence is not None:
        raise typer.BadParameter("--since goes with --device")
    outputs = terminal.outputs_of(context, stage)
    dynamodb = outputs.aws("dynamodb")
    if device is not None:
        rows = visits_of_device(dynamodb, outputs.visits_table, device, since)
    else:
        assert fence is not None
        rows = visits_at_fence(dynamodb, outputs.visits_table, fence)
    if rows or as_json:
        terminal.show_rows(rows, as_json)
    else:
        terminal.out.print("no visits")
