"""Turn a batch of stream records into visits and notifications, for Lambda and the Kinesis Client Library."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched
from typing import Protocol

from aws.errors import PermanentError
from consumer.records import Record, event_of
from consumer.store import Added, Arrival, Counts, Store
from consumer.visits import Pair, pair_of
from contract.event_limits import MAX_AGE
from contract.events import GeofenceEvent, InvalidEvent, Reason
from contract.geofence_event_types import GEOFENCE_KINDS, Kind

# One batch read returns at most 100 logs.
PAIRS_AT_ONCE = 100

type Entry = tuple[Record, GeofenceEvent]


@dataclass(frozen=True, slots=True)
class Poison:
    """A record that can never be processed, and the reasons why."""

    record: Record
    reasons: tuple[Reason, ...]


class SetAside(Protocol):
    def keep(self, poison: Sequence[Poison]) -> str:
        """Quarantine the records in one S3 object, and return its key. Repeating the call creates no second object."""


@dataclass(frozen=True, slots=True)
class Ports:
    store: Store
    set_aside: SetAside


@dataclass(slots=True)
class Outcome(Counts):
    """The outcome of a batch. Kinesis delivers `stopped_at`, the first unfinished record, and all later ones again."""

    records: int = 0
    consumed: int = 0
    too_old: int = 0
    set_aside: dict[str, list[Poison]] = field(default_factory=dict)
    stopped_at: Record | None = None
    failure: Exception | None = None

    @property
    def set_aside_share(self) -> float:
        """Return the percentage of records that were quarantined."""
        return 100 * sum(map(len, self.set_aside.values())) / self.records if self.records else 0.0

    def stop_at(self, record: Record, failure: Exception) -> None:
        if self.stopped_at is None or record.position < self.stopped_at.position:
            self.stopped_at, self.failure = record, failure


class TimeNearlyUp(Exception):
    """The outcome's `failure` if the invocation is about to time out. The remaining records are delivered again."""


def consume(
    records: Iterable[Record],
    ports: Ports,
    has_time: Callable[[], bool] = lambda: True,
    kinds: Mapping[str, Kind] = GEOFENCE_KINDS,
) -> Outcome:
    """Add each record's event to the visits, or quarantine the record; finish all records before `stopped_at`.

    Events older than MAX_AGE on arrival are only counted. Events are added per pair (device and fence), in the order of
    each pair's first record, PAIRS_AT_ONCE pairs at a time. Once `has_time` returns False, no further pairs start.
    Neither an invalid record nor a failed call raises an exception; the outcome reports both.
    """
    all_records = list(records)
    outcome = Outcome(records=len(all_records))
    pairs: dict[Pair, list[Entry]] = {}
    poison: list[Poison] = []
    for record in all_records:
        try:
            event = event_of(record, kinds)
        except InvalidEvent as invalid:
            poison.append(Poison(record, invalid.reasons))
            continue
        if record.arrived_at - event.occurred_at > MAX_AGE:
            outcome.too_old += 1
        else:
            pairs.setdefault(pair_of(event), []).append((record, event))
    _keep(poison, ports.set_aside, outcome)
    for some in batched(pairs.items(), PAIRS_AT_ONCE, strict=False):
        first = some[0][1][0][0]
        if outcome.stopped_at and outcome.stopped_at.position < first.position:
            break
        if not has_time():
            outcome.stop_at(first, TimeNearlyUp())
            break
        _add(dict(some), all_records[0].position[0], ports, outcome)
    return outcome


def _add(pairs: Mapping[Pair, Sequence[Entry]], batch_begins: int, ports: Ports, outcome: Outcome) -> None:
    refused: list[Poison] = []
    events = {pair: [event for _, event in some] for pair, some in pairs.items()}
    arrivals = {
        pair: Arrival(record.shard_id, batch_begins, record.position[0])
        for pair, (*_, (record, _)) in pairs.items()
    }
    for pair, result in ports.store.add(events, arrivals).items():
        some = pairs[pair]
        if isinstance(result, Exception) and not isinstance(result, PermanentError):
            outcome.stop_at(some[0][0], result)
            continue
        for record, event in some:
            why = result if isinstance(result, PermanentError) else result.refused.get(event.event_id)
            if why:
                refused.append(Poison(record, (Reason("refused_by_store", "", why.detail or str(why)),)))
            else:
                outcome.consumed += 1
        if isinstance(result, Added):
            outcome.include(result)
    _keep(refused, ports.set_aside, outcome)


def _keep(poison: Sequence[Poison], set_aside: SetAside, outcome: Outcome) -> None:
    if not poison:
        return
    try:
        outcome.set_aside[set_aside.keep(poison)] = list(poison)
    except Exception as error:  # whatever the error, nothing was stored, so deliver the records again
        outcome.stop_at(poison[0].record, error)
