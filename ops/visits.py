"""`milkrun visits`: list the visits of a device, or the devices that are at a fence now (`ops/presence_rule.py`)."""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from aws.table import Table, loaded
from cli.deadline import within
from consumer import keys, notifications
from consumer.item_lifetime import KEPT_FOR
from consumer.visits import Pair, Rule, Visit, counts
from contract.events import Fence, GeofenceEvent
from ops import reachable_stores, read_stores, terminal
from ops.presence_rule import contradictions
from ops.stage_outputs import Client

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import QueryOutputTypeDef, ScanOutputTypeDef

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
    dynamodb: "DynamoDBClient", table: str, device: str, since: datetime | None = None
) -> list[notifications.VisitFields]:
    """Return the visits of a device that began at `since` or later, in time order."""
    return [
        _row(pair, visit)
        for pair, visit in read_stores.device_visits(dynamodb, table, device)
        if since is None or visit.entered_at >= since
    ]


def visits_at_fence(dynamodb: "DynamoDBClient", table: str, fence: Fence) -> list[notifications.VisitFields]:
    """Return the open visits at a fence, in the order of entry."""
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table,
        IndexName="there_now",
        KeyConditionExpression="fence_now = :fence",
        ExpressionAttributeValues={":fence": {"S": keys.fence_key(fence)}},
    )
    return list(_open_visits(pages))


def there_now(dynamodb: "DynamoDBClient", table: str) -> Iterator[notifications.VisitFields]:
    """Yield the open visits at all fences from an index that contains only open visits."""
    return _open_visits(dynamodb.get_paginator("scan").paginate(TableName=table, IndexName="there_now"))


def contradictions_of_device(
    dynamodb: Client,
    table: str,
    device: str,
    exclusive_tags: Collection[str],
    rule: Callable[[], Rule],
) -> Mapping[Pair, GeofenceEvent]:
    """Return, for each (device, fence) pair, the device's enter event at another fence that would contradict an open
    visit of this pair (`ops/presence_rule.py`).
    """
    return contradictions(competing_enters(dynamodb, table, device, exclusive_tags, rule), exclusive_tags)


def competing_enters(
    dynamodb: Client,
    table: str,
    device: str,
    exclusive_tags: Collection[str],
    rule: Callable[[], Rule],
) -> list[GeofenceEvent]:
    """Return a device's enter events at exclusive places, from the start of its earliest open visit at such a place.

    Events below the rule's minimum confidence are omitted. If the device has been at only one exclusive place
    since then, return [] without reading the events or the visit rule.
    """
    visits = [
        row for row in visits_of_device(dynamodb, table, device) if row["geofence_tag"] in exclusive_tags
    ]
    open_visits = [row for row in visits if _is_open(row)]
    if not open_visits:
        return []
    since = min(str(row["entered_at"]) for row in open_visits)
    # Enter events after `since` belong to visits that had not ended at `since`.
    pairs = {_pair_of(row) for row in visits if str(row["exited_at"] or since) >= since}
    if len(pairs) == 1:
        return []
    # The first enter of an open visit is known even after the event has expired.
    enters = [_enter_of(row) for row in open_visits]
    min_confidence = rule().min_confidence
    with ThreadPoolExecutor(1) as executor:
        reader = Table(dynamodb, table, executor)
        for pair in pairs:
            enters += (
                event
                for event in read_stores.table_events(reader, pair, keys.instant(since))
                if event.kind == "enter" and counts(event, min_confidence)
            )
    return enters


def with_presence(
    rows: Iterable[notifications.VisitFields], contradicting: Mapping[Pair, GeofenceEvent]
) -> list[notifications.VisitFields]:
    """Add to each visit the id and the time of the enter event that contradicts it, or None, and move contradicted
    visits to the end.
    """
    found: list[notifications.VisitFields] = []
    for row in rows:
        by = contradicting.get(_pair_of(row)) if _is_open(row) else None
        contradicted: notifications.VisitFields = {
            "contradicted_by_event_id": by.event_id if by else None,
            "exit_inferred_at": keys.timestamp(by.occurred_at) if by else None,
        }
        found.append(row | contradicted)
    return sorted(found, key=lambda row: _is_open(row) and row["contradicted_by_event_id"] is not None)


def in_brief(rows: Iterable[notifications.VisitFields], now: datetime) -> list[dict[str, str]]:
    """Return the visits as compact table rows: place, device, times in UTC, duration and state."""
    return [
        {
            "place": f"{row['geofence_tag']}/{row['geofence_external_id']}",
            "device": str(row["device_id"]),
            "when": f"{_clock(row['entered_at'], now)}–{_clock(row['exited_at'], now)}",
            "stay": _stay(row, now),
            "state": _state(row, now),
        }
        for row in rows
    ]


def _clock(at: object, now: datetime) -> str:
    if at is None:
        return ""
    time = keys.instant(str(at))
    return f"{time:%H:%M}" if time.date() == now.date() else f"{time:%Y-%m-%d %H:%M}"


def _stay(row: notifications.VisitFields, now: datetime) -> str:
    if _is_open(row) and not row["contradicted_by_event_id"]:
        # The device's clock may be ahead of ours.
        seconds = max(0.0, (now - keys.instant(str(row["entered_at"]))).total_seconds())
    elif row["dwell_seconds"] is None:
        return "unknown"
    else:
        seconds = float(str(row["dwell_seconds"]))
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _state(row: notifications.VisitFields, now: datetime) -> str:
    if not _is_open(row):
        return "exit missing" if row["exit_missed"] else "left"
    if row["contradicted_by_event_id"]:
        return f"exit missing, elsewhere at {_clock(row['exit_inferred_at'], now)}"
    return "there now"


def _is_open(row: notifications.VisitFields) -> bool:
    return row["exited_at"] is None and not row["exit_missed"]


def _pair_of(row: notifications.VisitFields) -> Pair:
    return Pair(str(row["device_id"]), Fence(str(row["geofence_tag"]), str(row["geofence_external_id"])))


def _enter_of(row: notifications.VisitFields) -> GeofenceEvent:
    device, fence = _pair_of(row)
    at = keys.instant(str(row["entered_at"]))
    return GeofenceEvent(str(row["entered_event_id"]), "", "enter", device, fence, at, None, None)


def _open_visits(
    pages: Iterable["QueryOutputTypeDef | ScanOutputTypeDef"],
) -> Iterator[notifications.VisitFields]:
    for item in (loaded(item) for page in pages for item in page["Items"]):
        visit = Visit(keys.instant(str(item["entered_at"])), str(item["entered_event_id"]))
        yield _row(keys.pair_of_key(str(item["pk"]), str(item["sk"])), visit)


def _row(pair: Pair, visit: Visit) -> notifications.VisitFields:
    row = notifications.fields_of(pair, visit)
    return {name: row[name] for name in FIELDS}


def _fence(text: str) -> Fence:
    tag, slash, external_id = text.partition("/")
    if not (tag and slash and external_id):
        raise typer.BadParameter(f"{text!r} is not a fence: write tag/externalId")
    return Fence(tag, external_id)


def command(
    context: typer.Context,
    *,
    device: Annotated[
        str | None,
        terminal.text_option(
            "DEVICE", "List this device's visits of the last 90 days, and an older visit if it is still open."
        ),
    ] = None,
    fence: Annotated[
        Fence | None,
        typer.Option(
            parser=_fence,
            metavar="FENCE",
            help="List the open visits at this fence (format: tag/externalId).",
        ),
    ] = None,
    since: Annotated[
        datetime | None,
        terminal.time_option("With --device: list only visits that began at this time or later."),
    ] = None,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
    wide: terminal.Wide = False,
) -> None:
    """List the visits of a device, or the devices that are at a fence now.

    If the device of an open visit at an exclusive place (stage setting exclusiveTags) has since entered another
    exclusive place, the exit event of the visit is missing. Such visits are marked and listed last.
    """
    if (device is None) == (fence is None):
        raise typer.BadParameter("use either --device or --fence")
    if since and fence is not None:
        raise typer.BadParameter("--since requires --device")
    outputs = terminal.outputs_of(context, stage)
    reachable_stores.require(outputs, "DynamoDB")
    dynamodb, table = outputs.aws("dynamodb"), outputs.visits_table
    if device is not None:
        rows = visits_of_device(dynamodb, table, device, since)
        if since and since < datetime.now(UTC) - KEPT_FOR:
            days = KEPT_FOR.days
            terminal.note(f"DynamoDB keeps visits for {days} days; earlier ones are in MARTS.GEOFENCE_VISITS")
    else:
        assert fence is not None
        rows = visits_at_fence(dynamodb, table, fence)
    exclusive_tags = outputs.exclusive_tags
    doubtful = {
        str(row["device_id"]) for row in rows if _is_open(row) and row["geofence_tag"] in exclusive_tags
    }
    read_rule = functools.partial(read_stores.rule, outputs, stage)
    rule = functools.cache(lambda: within(reachable_stores.BUDGET_SECONDS, read_rule, "Lambda"))
    contradicting: dict[Pair, GeofenceEvent] = {}
    for each in sorted(doubtful):
        contradicting |= contradictions_of_device(dynamodb, table, each, exclusive_tags, rule)
    rows = with_presence(rows, contradicting)
    terminal.show_rows(
        rows if as_json or wide else in_brief(rows, datetime.now(UTC)), as_json, empty="no visits"
    )
