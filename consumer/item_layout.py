"""The layout of the visits table: for each (device, fence) pair, a log of its latest events and chunks of earlier ones.

The log (sort key `…#head`) holds everything that a new event changes. It is normally at most 1 KB, because DynamoDB
bills a write by the kilobyte. Events that no longer fit move to a chunk. The log and each chunk also hold the last
visit before their first event, so that visits can still be computed after earlier chunks have expired.

A change is one conditional write of the log. It includes the work that follows: chunks to write and notifications to
publish.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import astuple, replace

from aws.table import Item
from consumer import keys
from consumer.item_lifetime import KEPT_FOR, OPEN_KEPT_FOR, expires_at
from consumer.notifications import News
from consumer.visits import DEFAULT_RULE, KINDS, Order, Pair, Rule, Visit, order_of, walk
from contract.events import GeofenceEvent

# 160 bytes are left for the event that overflows the log, and for the resulting chunk's key and base, which the item
# also contains until the chunk is written.
LOG_BYTES = 1024 - 160
KEPT_EVENTS = 3
CHUNK_BYTES = 16_000

_TYPE = {
    "enter": "user.entered_geofence",
    "dwell": "user.dwelled_in_geofence",
    "exit": "user.exited_geofence",
}


class Chunk(msgspec.Struct, frozen=True):
    """Consecutive events of a pair, and the last visit before them (`base`)."""

    sk: str
    base: Visit | None
    events: tuple[GeofenceEvent, ...]


class PairLog(msgspec.Struct, frozen=True):
    """The latest events of a pair in order, and the work left by its last change: `chunks` to write, `news` to publish.

    `base` is the last visit before `events`. `has_chunks` is True if the pair had events before them. `position` is the
    stream position of the last event in the last change, or "" if unknown.
    """

    version: int = 0
    events: tuple[GeofenceEvent, ...] = ()
    base: Visit | None = None
    has_chunks: bool = False
    chunks: tuple[Chunk, ...] = ()
    news: tuple[News, ...] = ()
    position: str = ""

    @property
    def is_pending(self) -> bool:
        return bool(self.chunks or self.news)

    def is_late(self, order: Order) -> bool:
        """Return whether an event with this `order_of` key belongs in a chunk, because it precedes the log's events."""
        return self.has_chunks and (not self.events or order < order_of(self.events[0]))


def log_item(pair: Pair, log: PairLog, rule: Rule) -> Item:
    pk, sk = keys.log_key(pair)
    item: Item = {"pk": pk, "sk": sk, "version": log.version, "events": packed(log.events)}
    _, visit, _ = walk(log.base, log.events, rule)
    if log.has_chunks:
        item["base"] = json_text(_of_visit(log.base))
    if visit and visit.is_open:
        item["fence_now"] = keys.fence_key(pair.fence)
        item["entered_at"] = keys.timestamp(visit.entered_at)
        item["entered_event_id"] = visit.entered_event_id
    if log.news:
        item["news"] = json_text([(kind, _of_visit(now), _of_visit(was)) for kind, now, was in log.news])
    if log.chunks:
        item["chunks"] = json_text([(c.sk, _of_visit(c.base), packed(c.events)) for c in log.chunks])
    if log.position and log.is_pending:
        item["position"] = log.position
    if rule != DEFAULT_RULE:
        item["rule"] = json_text([rule.merge_gap.total_seconds(), rule.min_confidence])
    kept_for = OPEN_KEPT_FOR if visit and visit.is_open else KEPT_FOR
    last = _last_at((log.events, *(chunk.events for chunk in log.chunks)))
    # An open visit may outlast every event that is kept.
    times = (last, visit.entered_at, visit.last_seen_at, visit.exited_at) if visit else (last,)
    latest = max((at for at in times if at), default=keys.instant_of(log.version))
    return {**item, "expires_at": expires_at(latest, kept_for)}


def _last_at(parts: Iterable[Sequence[GeofenceEvent]]) -> datetime | None:
    return max((events[-1].occurred_at for events in parts if events), default=None)


def log_of(pair: Pair, item: Item) -> PairLog:
    chunks = msgspec.json.decode(str(item.get("chunks", "[]")))
    news = msgspec.json.decode(str(item.get("news", "[]")))
    return PairLog(
        int(item["version"]),
        unpacked(pair, str(item["events"])),
        _visit_of(msgspec.json.decode(str(item.get("base", "null")))),
        "base" in item,
        tuple(Chunk(sk, _visit_of(base), unpacked(pair, text)) for sk, base, text in chunks),
        tuple((kind, _visit_of(now), _visit_of(was)) for kind, now, was in news),
        str(item.get("position", "")),
    )


def chunk_item(pair: Pair, chunk: Chunk, log: PairLog) -> Item:
    """Return a chunk's DynamoDB item. A chunk without events is stored too, to overwrite its older version."""
    last = _last_at((chunk.events,)) or _last_at((log.events, *(each.events for each in log.chunks)))
    return {
        "pk": keys.quoted(pair.device_id),
        "sk": chunk.sk,
        "version": log.version,
        "base": json_text(_of_visit(chunk.base)),
        "events": packed(chunk.events),
        "expires_at": expires_at(last or keys.instant_of(log.version)),
    }


def chunk_of(pair: Pair, item: Item) -> Chunk:
    base = _visit_of(msgspec.json.decode(str(item["base"])))
    return Chunk(str(item["sk"]), base, unpacked(pair, str(item["events"])))


def in_order(chunks: Iterable[Chunk]) -> list[Chunk]:
    return sorted((chunk for chunk in chunks if chunk.events), key=lambda chunk: order_of(chunk.events[0]))


def fitted(pair: Pair, log: PairLog, rule: Rule) -> tuple[PairLog, Item]:
    """Return the log and its item. If its events no longer fit, all but the last KEPT_EVENTS are moved to a chunk."""
    item = log_item(pair, log, rule)
    if len(log.events) <= KEPT_EVENTS or size_of(item) <= LOG_BYTES:
        return log, item
    moved, left = log.events[:-KEPT_EVENTS], log.events[-KEPT_EVENTS:]
    chunks = (*log.chunks, *pieces(pair, log.version, Chunk("", log.base, moved), rule, len(log.chunks)))
    _, base, _ = walk(log.base, moved, rule)
    log = replace(log, events=left, base=base, has_chunks=True, chunks=chunks)
    return log, log_item(pair, log, rule)


def pieces(pair: Pair, version: int, chunk: Chunk, rule: Rule, number: int = 0) -> Iterator[Chunk]:
    """Yield the chunk, split into several if its events exceed CHUNK_BYTES. New chunks are numbered from `number`."""
    while len(packed(chunk.events)) > CHUNK_BYTES and len(chunk.events) > 1:
        half = len(chunk.events) // 2
        while len(packed(chunk.events[:half])) > CHUNK_BYTES and half > 1:
            half //= 2
        first, rest = chunk.events[:half], chunk.events[half:]
        yield Chunk(chunk.sk or keys.chunk_key(pair, version, number), chunk.base, first)
        _, base, _ = walk(chunk.base, first, rule)
        chunk, number = Chunk("", base, rest), number + 1
    yield replace(chunk, sk=chunk.sk or keys.chunk_key(pair, version, number))


def size_of(item: Item) -> int:
    """Return the size of an item in bytes: the size that DynamoDB counts, or a few bytes more."""
    return sum(len(name) + len(str(value).encode()) for name, value in item.items())


def rule_of(item: Item) -> Rule:
    """Return the visit rule with which the log was written. Readers must apply the same rule."""
    if "rule" not in item:
        return DEFAULT_RULE
    gap_seconds, min_confidence = msgspec.json.decode(str(item["rule"]))
    return Rule(timedelta(seconds=gap_seconds), min_confidence)


def packed(events: Sequence[GeofenceEvent]) -> str:
    """Encode sorted events as JSON arrays: microseconds since the previous event, kind, id, and optional values."""
    rows: list[list[object]] = []
    before = 0
    for event in events:
        at, rank, event_id = order_of(event)
        number = keys.microseconds(at)
        type_ = None if event.type == _TYPE[event.kind] else event.type
        row = [number - before, rank, event_id, event.confidence, event.duration_minutes, type_]
        rows.append(_trimmed(row))
        before = number
    return json_text(rows)


def unpacked(pair: Pair, text: str) -> tuple[GeofenceEvent, ...]:
    found, number = [], 0
    for row in msgspec.json.decode(text):
        passed, rank, event_id, confidence, minutes, type_ = row + [None] * (6 - len(row))
        number += passed
        kind, at = KINDS[rank], keys.of_microseconds(number)
        type_ = type_ or _TYPE[kind]
        event = GeofenceEvent(event_id, type_, kind, pair.device_id, pair.fence, at, minutes, confidence)
        found.append(event)
    return tuple(found)


def _of_visit(visit: Visit | None) -> list[object] | None:
    """Encode a visit as a list of its fields, with times in microseconds since 1970."""
    if visit is None:
        return None
    values = (None if value is False else value for value in astuple(visit))
    return _trimmed([keys.microseconds(v) if isinstance(v, datetime) else v for v in values])


def _visit_of(row: list[Any] | None) -> Visit | None:
    if row is None:
        return None
    entered, entered_id, exited, exited_id, missed, seen, dwell = row + [None] * (7 - len(row))
    exited, seen = (None if at is None else keys.of_microseconds(at) for at in (exited, seen))
    return Visit(keys.of_microseconds(entered), entered_id, exited, exited_id, bool(missed), seen, dwell)


def _trimmed(row: list[object]) -> list[object]:
    """Remove trailing None values from a row, to save bytes."""
    while row[-1] is None:
        row.pop()
    return row


def json_text(value: object) -> str:
    return msgspec.json.encode(value).decode()
