"""What the consumer's items in the visits table say: events and visits by pair."""

from collections.abc import Iterable, Iterator

from aws.table import Item
from consumer import keys, pair_log
from consumer.pair_log import Chunk, PairLog
from consumer.visit_diff import Rule
from consumer.visits import Pair, Visit, walk
from contract.events import GeofenceEvent


def events_in(items: Iterable[Item]) -> Iterator[tuple[Pair, list[GeofenceEvent]]]:
    """The known events of each pair among the items of some devices, one content per id."""
    for pair, _, parts in _pairs(items):
        yield pair, [event for part in parts for event in part.events]


def visits_in(items: Iterable[Item]) -> Iterator[tuple[Pair, Visit]]:
    """The visits of each pair among the items of some devices, in order per pair."""
    for pair, rule, parts in _pairs(items):
        visit: Visit | None = None
        for part in parts:
            # Each from its own base: a chunk between two others may have expired.
            ended, visit, _ = walk(part.base, part.events, rule.merge_gap, rule.min_confidence)
            yield from ((pair, each) for each in ended)
        if visit:
            yield pair, visit


def missing_chunks(items: Iterable[Item]) -> Iterator[Chunk]:
    """The chunks that a change asks for and that have not been written yet."""
    by_key = {(item["pk"], item["sk"]): item for item in items}
    for (pk, sk), item in by_key.items():
        if "chunks" in item:
            for chunk in pair_log.log_of(keys.pair_of_key(str(pk), str(sk)), item).chunks:
                written = by_key.get((pk, chunk.sk))
                if written is None or int(written["version"]) < int(item["version"]):
                    yield chunk


def _pairs(items: Iterable[Item]) -> Iterator[tuple[Pair, Rule, list[Chunk | PairLog]]]:
    by_pair: dict[Pair, list[Item]] = {}
    for item in items:
        if "#" not in str(item["pk"]):  # else in the previous layout
            by_pair.setdefault(keys.pair_of_key(str(item["pk"]), str(item["sk"])), []).append(item)
    for pair, some in by_pair.items():
        found = {str(item["sk"]): item for item in some}
        if head := found.pop(keys.log_key(pair)[1], None):
            log = pair_log.log_of(pair, head)
            chunks = {sk: pair_log.chunk_of(pair, item) for sk, item in found.items()}
            chunks |= {chunk.sk: chunk for chunk in log.chunks}
            yield pair, pair_log.rule_of(head), [*pair_log.in_order(chunks.values()), log]
