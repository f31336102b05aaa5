"""Compute the events and visits of each (device, fence) pair from the consumer's items in the visits table."""

from collections.abc import Iterable, Iterator

from aws.table import Item
from consumer import item_layout, keys
from consumer.item_layout import Chunk, PairLog
from consumer.visits import Pair, Rule, Visit, walk
from contract.events import GeofenceEvent


def events_in(items: Iterable[Item]) -> Iterator[tuple[Pair, list[GeofenceEvent]]]:
    """Yield each (device, fence) pair with its events, without duplicates. `items` are all items of one or
    more pairs.
    """
    for pair, _, parts in _pairs(items):
        yield pair, [event for part in parts for event in part.events]


def visits_in(items: Iterable[Item]) -> Iterator[tuple[Pair, Visit]]:
    """Yield the visits of each (device, fence) pair in time order. `items` are all items of one or more pairs."""
    for pair, rule, parts in _pairs(items):
        visit: Visit | None = None
        for part in parts:
            # Each chunk starts from its own base, because a chunk between two others may have expired.
            ended, visit, _ = walk(part.base, part.events, rule)
            yield from ((pair, each) for each in ended)
        if visit:
            yield pair, visit


def missing_chunks(items: Iterable[Item]) -> Iterator[Chunk]:
    """Yield the chunks that the log of a (device, fence) pair refers to but that have not been written yet."""
    by_key = {(item["pk"], item["sk"]): item for item in items}
    for (pk, sk), item in by_key.items():
        if "chunks" in item:
            for chunk in item_layout.log_of(keys.pair_of_key(str(pk), str(sk)), item).chunks:
                written = by_key.get((pk, chunk.sk))
                if written is None or int(written["version"]) < int(item["version"]):
                    yield chunk


def _pairs(items: Iterable[Item]) -> Iterator[tuple[Pair, Rule, list[Chunk | PairLog]]]:
    by_pair: dict[Pair, list[Item]] = {}
    for item in items:
        if "#" not in str(item["pk"]):  # items of the previous layout have a `#` in pk
            by_pair.setdefault(keys.pair_of_key(str(item["pk"]), str(item["sk"])), []).append(item)
    for pair, some in by_pair.items():
        found = {str(item["sk"]): item for item in some}
        if head := found.pop(keys.log_key(pair)[1], None):
            log = item_layout.log_of(pair, head)
            chunks = {sk: item_layout.chunk_of(pair, item) for sk, item in found.items()}
            chunks |= {chunk.sk: chunk for chunk in log.chunks}
            yield pair, item_layout.rule_of(head), [*item_layout.in_order(chunks.values()), log]
