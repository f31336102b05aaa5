"""`milkrun forget` for the visits table: delete all items of a device, or remove one person's events from its items."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import batched
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from aws.table import Item, Table, loaded
from cli.deadline import started
from consumer import item_layout, keys, previous_layout
from consumer.item_layout import Chunk, PairLog
from consumer.notifications import Notification
from consumer.store import MAX_LOG_BYTES
from consumer.visits import Pair, Rule, Visit, pair_of, walk
from contract.events import GeofenceEvent
from glue.person import id_text
from ops import polling
from ops.visits_items import events_in, missing_chunks

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ITEMS_PER_DELETE = 25
SCAN_SEGMENTS = 8
TRIES = 5
CHANGE_SECONDS = 60.0  # the consumer's timeout; a change that takes longer was interrupted


type ItemKey = Mapping[str, Any]
"""The attributes pk and sk of an item, in DynamoDB's JSON."""


@dataclass
class Forgotten:
    """The numbers of deleted items and rewritten (device, fence) pairs, and the pairs that a replay must rebuild
    for the other users of the device.
    """

    items: int = 0
    pairs: int = 0
    replay: list[Pair] = field(default_factory=list)


class _NoBus:
    """A bus that publishes nothing, so that subscribers receive no further data about the forgotten person."""

    def publish(self, notifications: Sequence[Notification]) -> dict[str, Exception]:
        del notifications
        return {}


def forget_devices(dynamodb: "DynamoDBClient", table: str, devices: Collection[str]) -> int:
    """Delete all items of these devices, in the current and the previous layout; return the number of deleted items.

    The function scans the whole table, because items in the previous layout cannot be queried by device, and the
    pairs cannot be taken from the archive, which may no longer contain events of every pair.
    """
    if not devices:
        return 0
    # Scan in daemon threads, so that neither Ctrl-C nor an error waits for the other segments of a large table.
    found = [started(partial(_keys_of, dynamodb, table, devices, n)) for n in range(SCAN_SEGMENTS)]
    return delete_items(dynamodb, table, [key for some in found for key in some.result()])


def _keys_of(dynamodb: "DynamoDBClient", table: str, devices: Collection[str], segment: int) -> list[ItemKey]:
    pages = dynamodb.get_paginator("scan").paginate(
        TableName=table,
        ProjectionExpression="pk, sk",
        ConsistentRead=True,
        Segment=segment,
        TotalSegments=SCAN_SEGMENTS,
    )
    return [
        item
        for page in pages
        for item in page["Items"]
        if id_text(keys.unquoted(item["pk"]["S"].partition("#")[0])) in devices
    ]


def delete_items(dynamodb: "DynamoDBClient", table: str, found: Sequence[ItemKey]) -> int:
    for some in batched(found, ITEMS_PER_DELETE, strict=False):
        left: list[Any] = [{"DeleteRequest": {"Key": {"pk": key["pk"], "sk": key["sk"]}}} for key in some]
        while left:
            answer = dynamodb.batch_write_item(RequestItems={table: left})
            left = answer.get("UnprocessedItems", {}).get(table, [])
    return len(found)


def forget_pairs(dynamodb: "DynamoDBClient", table: str, pairs: Iterable[Pair]) -> int:
    """Delete all items of these (device, fence) pairs; return the number of deleted items."""
    return sum(delete_items(dynamodb, table, _named(_settled_items(dynamodb, table, pair))) for pair in pairs)


def by_pair(events: Iterable[GeofenceEvent]) -> dict[Pair, set[str]]:
    found: defaultdict[Pair, set[str]] = defaultdict(set)
    for event in events:
        found[pair_of(event)].add(event.event_id)
    return dict(found)


def not_consumed(
    dynamodb: "DynamoDBClient", table: str, recent: Mapping[Pair, Collection[str]], timeout_s: float
) -> int:
    """Wait until the visits table contains these events, or the number of missing ones has not changed for `timeout_s`
    seconds; return this number.

    An event that is still on the stream would be processed after the deletion, and would create items again.
    """

    def missing() -> int:
        total = 0
        for pair, event_ids in recent.items():
            items = items_of(dynamodb, table, pair)
            known = {event.event_id for _, some in events_in(items) for event in some}
            # In the previous layout, the sort key of an event is `e#<time>#<kind>#<event id>#…`.
            known |= {
                keys.unquoted(sk.split("#")[3]) for each in items if (sk := str(each["sk"])).startswith("e#")
            }
            total += len({*event_ids} - known)
        return total

    return polling.until(missing, lambda count: count == 0, timeout_s=timeout_s) if recent else 0


def forget_events(
    dynamodb: "DynamoDBClient",
    table: Table,
    name: str,
    theirs: Mapping[Pair, Collection[str]],
    rule: Callable[[], Rule],
) -> Forgotten:
    """Remove these events from the logs and chunks of their pairs, and compute the visits of the remaining events.

    Pairs in the previous layout are first migrated to the current one, using the stage's visit rule. A pair of which
    nothing remains is deleted. A pair is deleted and reported as needing a replay if it has no log, if its new log
    would be too large, or if other processes keep changing it.
    """
    done = Forgotten()
    for pair, event_ids in theirs.items():
        if old := [item for item in items_of(dynamodb, name, pair) if "#" in str(item["pk"])]:
            previous_layout.move(table, _NoBus(), pair, rule())
            done.items += delete_items(dynamodb, name, _named(old))
        for _ in range(TRIES):
            found = _settled_items(dynamodb, name, pair)
            if not found:
                break
            rest = _without(pair, found, event_ids)
            if rest is None or not (rest.events or rest.log.base or rest.others):
                done.items += delete_items(dynamodb, name, _named(found))
                done.replay += [pair] if rest is None else []
                break
            if not rest.is_changed:
                break
            if table.put_version(rest.item, rest.log.version - 1):
                for chunk in rest.log.chunks:
                    table.put_newer(item_layout.chunk_item(pair, chunk, rest.log))
                done.pairs += 1
                break
        else:
            done.items += delete_items(dynamodb, name, _named(_settled_items(dynamodb, name, pair)))
            done.replay.append(pair)
    return done


def items_of(dynamodb: "DynamoDBClient", table: str, pair: Pair) -> list[Item]:
    """Return all items of a (device, fence) pair, in the current and the previous layout."""
    found: list[Item] = []
    for pk, first, last in (keys.pair_range(pair), (keys.pair_key(pair), "a", keys.LAST)):
        pages = dynamodb.get_paginator("query").paginate(
            TableName=table,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={":pk": {"S": pk}, ":first": {"S": first}, ":last": {"S": last}},
            ConsistentRead=True,
        )
        found += (loaded(item) for page in pages for item in page["Items"])
    return found


def _settled_items(dynamodb: "DynamoDBClient", table: str, pair: Pair) -> list[Item]:
    """Wait until the last change of a (device, fence) pair is complete or was interrupted; return the pair's items.

    Without the wait, a chunk that is written later would not be deleted.
    """
    return polling.until(
        lambda: items_of(dynamodb, table, pair),
        lambda found: not any(missing_chunks(found)),
        timeout_s=CHANGE_SECONDS,
    )


def _named(items: Iterable[Item]) -> list[ItemKey]:
    return [{"pk": {"S": item["pk"]}, "sk": {"S": item["sk"]}} for item in items]


@dataclass(frozen=True)
class _Rest:
    """A (device, fence) pair after events were removed: its log, its item, the number of remaining events, and
    the number of unchanged chunks (`others`).
    """

    log: PairLog
    item: Item
    events: int
    others: int
    is_changed: bool


def _without(pair: Pair, items: Sequence[Item], event_ids: Collection[str]) -> _Rest | None:
    """Compute the log of a (device, fence) pair as if the consumer had never received these events.

    Return None if the pair has no log, or if its new log would be too large.
    """
    found = {str(item["sk"]): item for item in items}
    head = found.pop(keys.log_key(pair)[1], None)
    if head is None:
        return None
    log, rule = item_layout.log_of(pair, head), item_layout.rule_of(head)
    chunks = {sk: item_layout.chunk_of(pair, item) for sk, item in found.items()}
    unwritten = list(missing_chunks(items))
    chunks |= {chunk.sk: chunk for chunk in unwritten}
    parts: list[Chunk | PairLog] = [*item_layout.in_order(chunks.values()), log]
    # `base` is the last visit before the oldest stored event. Its own events have expired, so if it
    # began or ended with a removed event, it cannot be recomputed and is dropped.
    base = None if _is_of(parts[0].base, event_ids) else parts[0].base
    changed, count, new = list[Chunk](), 0, log
    for part in parts:
        events = tuple(event for event in part.events if event.event_id not in event_ids)
        count += len(events)
        if isinstance(part, PairLog):
            new = replace(log, base=base, events=events)
        elif (base, events) != (part.base, part.events) or part in unwritten:
            changed.append(Chunk(part.sk, base, events))
        _, base, _ = walk(base, events, rule)
    news = tuple(each for each in log.news if not (_is_of(each[1], event_ids) or _is_of(each[2], event_ids)))
    is_changed = bool(changed) or (new.base, new.events, news) != (log.base, log.events, log.news)
    new = replace(new, version=log.version + 1, chunks=tuple(changed), news=news, position="")
    item = item_layout.log_item(pair, new, rule)
    if item_layout.size_of(item) > MAX_LOG_BYTES:
        return None
    return _Rest(new, item, count, len(parts) - 1 - len(changed), is_changed)


def _is_of(visit: Visit | None, event_ids: Collection[str]) -> bool:
    return visit is not None and bool({visit.entered_event_id, visit.exited_event_id} & {*event_ids})
