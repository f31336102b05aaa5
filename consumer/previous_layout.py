"""The layout of the visits table until 2026-11-28, and the migration of a pair to the current one (docs/upgrade.md).

All items of a pair had the partition key `device#tag#externalId`. Their sort keys were `head` (the last visit and the
pending change), `done`, `e#…` (an event, with a second item `e#…#-` if superseded), `i#…` and `x#…` (ids), and `v#…` (a
visit before the last). A migration begins by removing the attribute `through` from the head. The previous version of
the consumer fails on a head without it, and Kinesis delivers its batch again.
"""

import time
from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from aws.table import Item, Key, Table
from consumer import item_layout, keys
from consumer.item_layout import PairLog
from consumer.notifications import Bus, Notification
from consumer.visits import KINDS, Pair, Rule, Visit, counts, order_of
from contract.events import GeofenceEvent


class Entry(msgspec.Struct, frozen=True):
    """The writes and notifications that a pair's last change left pending. `first` and `lesser`, treated alike, are the
    keys (`e#…`) of events still to be added, and `superseded` those of events still to be marked as superseded.
    """

    first: list[str] = []
    lesser: list[str] = []
    superseded: list[str] = []
    visits: list[Item] = []
    notifications: list[Notification] = msgspec.field(default_factory=list, name="told")


class Moving(Exception):
    """Raised when another process changes or migrates the pair at the same time. A later attempt will succeed."""


def head_key(pair: Pair) -> Key:
    return keys.pair_key(pair), "head"


def move(table: Table, bus: Bus, pair: Pair, rule: Rule, now: float | None = None) -> bool:
    """Migrate a pair: write its items in the current layout. Returns False if it has no items in the previous layout.

    The migration can be interrupted and repeated, because it writes the same items each time and deletes none.
    """
    pk, sk = head_key(pair)
    head = next(table.query(pk, sk, sk), None)
    if head is None:
        return False
    version = int(head["version"]) + ("through" in head)
    if "through" in head:
        moving = {name: value for name, value in head.items() if name not in ("through", "fence_now")}
        if not table.put_version({**moving, "version": version}, version - 1):
            raise Moving("another process is changing or migrating this pair")
    items = {str(item["sk"]): item for item in table.query(pk, "a", keys.LAST)}
    entry = msgspec.json.decode(str(head["entry"]), type=Entry)
    done = items.get("done")
    if entry.notifications and (done is None or int(done["version"]) < version - 1):
        for failure in bus.publish(entry.notifications).values():
            raise failure
    items |= {str(item["sk"]): item for item in entry.visits}
    # DynamoDB deletes expired items within days and in no order, so ignore those that it has not deleted yet.
    now = now or time.time()
    kept = (sk for sk, item in items.items() if int(item.get("expires_at", now + 1)) > now)
    events = _events(pair, kept, entry)
    log, _ = item_layout.fitted(pair, replace(_log(items, events, rule), version=version), rule)
    for chunk in log.chunks:  # write them before the log, because they may not fit into it
        table.put_newer(item_layout.chunk_item(pair, chunk, log))
    table.put_version(item_layout.log_item(pair, replace(log, chunks=()), rule), None)
    return True


def _log(items: Mapping[str, Item], events: tuple[GeofenceEvent, ...], rule: Rule) -> PairLog:
    stored = (item for sk, item in items.items() if sk == "head" or sk.startswith("v#"))
    # A head may have no visit, and a deleted visit has no `entered_at`.
    visits = (msgspec.convert(item, Visit, strict=False) for item in stored if "entered_at" in item)
    first = next((event for event in events if counts(event, rule.min_confidence)), None)
    earlier = (v for v in visits if first is None or (v.entered_at, 0, v.entered_event_id) < order_of(first))
    base = max(earlier, key=lambda v: (v.entered_at, v.entered_event_id), default=None)
    if base and first and (base.exited_at is None or base.exited_at >= first.occurred_at):
        seen_at = base.last_seen_at if base.last_seen_at and base.last_seen_at < first.occurred_at else None
        begun = Visit(base.entered_at, base.entered_event_id, last_seen_at=seen_at)
        if first.kind == "enter" and not base.exit_missed:  # the enter followed an exit that has expired
            begun = replace(begun, exited_at=first.occurred_at, exited_event_id=first.event_id)
        base = begun
    return PairLog(0, events, base, has_chunks=base is not None)


def _events(pair: Pair, items: Iterable[str], entry: Entry) -> tuple[GeofenceEvent, ...]:
    found = {sk for sk in items if sk.startswith("e#")} | {*entry.first, *entry.lesser}
    found |= {f"{key}#-" for key in entry.superseded}
    counting = (key for key in found if not key.endswith("#-") and f"{key}#-" not in found)
    return tuple(sorted((event_of(pair, key) for key in counting), key=order_of))


def event_of(pair: Pair, key: str) -> GeofenceEvent:
    _, at, rank, event_id, type_, minutes, confidence = key.split("#")
    return GeofenceEvent(
        event_id=keys.unquoted(event_id),
        type=keys.unquoted(type_),
        kind=KINDS[int(rank)],
        device_id=pair.device_id,
        fence=pair.fence,
        occurred_at=keys.instant(at),
        duration_minutes=float(minutes) if minutes else None,
        confidence=int(confidence) if confidence else None,
    )
