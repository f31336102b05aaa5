"""A batch of records in, visits and notices out: the same under Lambda and the Kinesis Client Library."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched
from typing import Protocol

from aws.errors import PermanentError
from consumer.records import Record, event_of
from consumer.store import Added, Arrival
from consumer.visits import Pair, pair_of
from contract.events import GEOFENCE_KINDS, MAX_AGE, GeofenceEvent, InvalidEvent, Kind, Reason

# One read of logs takes 100 items.
PAIRS_AT_ONCE = 100


class VisitStore(Protocol):
    def add(
        self, events: Mapping[Pair, Sequence[GeofenceEvent]], arrivals: Mapping[Pair, Arrival]
    ) -> dict[Pair, Added | Exception]: ...


@dataclass(frozen=True, slots=True)
class Poison:
    """A record that can never succeed, and why."""

    record: Record
    reasons: tuple[Reason, ...]


class SetAside(Protocol):
    def keep(self, poison: Sequence[Poison]) -> str:
        """Put all where they can be sent again from. Returns the key; keeping the same again adds nothing."""


@dataclass(frozen=True, slots=True)
class Ports:
    store: VisitStore
    set_aside: SetAside


@dataclass(slots=True)
class Outcome:
    """What became of a batch. `stopped_at`: the first record not durably done; all from it on come again."""

    records: int = 0
    consumed: int = 0
    too_old: int = 0
    added: int = 0
    repeated: int = 0
    superseded: int = 0
    visits_changed: int = 0
    orphan_exits: int = 0
    notified: int = 0
    set_aside: dict[str, list[Poison]] = field(default_factory=dict)
    stopped_at: Record | None = None
    failure: Exception | None = None

    @property
    def set_aside_share(self) -> float:
        """Percent of the records."""
        return 100 * sum(map(len, self.set_aside.values())) / self.records if self.records else 0.0

    def stop_at(self, record: Record, failure: Exception) -> None:
        if self.stopped_at is None or record.position < self.stopped_at.position:
            self.stopped_at, self.failure = record, failure


class TimeNearlyUp(Exception):
    """The invocation would be ended from outside; the rest comes again."""


@dataclass(slots=True)
class _Sifted:
    pairs: dict[Pair, list[tuple[Record, GeofenceEvent]]] = field(default_factory=dict)
    poison: list[Poison] = field(default_factory=list)
    too_old: int = 0


def consume(
    records: Iterable[Record],
    ports: Ports,
    has_time: Callable[[], bool] = lambda: True,
    kinds: Mapping[str, Kind] = GEOFENCE_KINDS,
) -> Outcome:
    """Every record is in the visits, or set aside, or stands at or after `stopped_at` and so comes again.

    Events are taken device and fence at a time, those first whose first record is first. `has_time` is asked
    before each portion. Never raises for what one record or one call did.
    """
    all_records = list(records)
    outcome = Outcome(records=len(all_records))
    sifted = _sift(all_records, kinds)
    outcome.too_old = sifted.too_old
    _keep(sifted.poison, ports.set_aside, outcome)
    for some in batched(sifted.pairs.items(), PAIRS_AT_ONCE, strict=False):
        first = some[0][1][0][0]
        if outcome.stopped_at and outcome.stopped_at.position < first.position:
            break
        if not has_time():
            outcome.stop_at(first, TimeNearlyUp())
            break
        _add(dict(some), all_records[0].position[0], ports, outcome)
    return outcome


def _sift(records: Iterable[Record], kinds: Mapping[str, Kind]) -> _Sifted:
    sifted = _Sifted()
    for record in records:
        try:
            event = event_of(record, kinds)
        except InvalidEvent as invalid:
            sifted.poison.append(Poison(record, invalid.reasons))
            continue
        if record.arrived_at - event.occurred_at > MAX_AGE:
            sifted.too_old += 1
        else:
            sifted.pairs.setdefault(pair_of(event), []).append((record, event))
    return sifted


def _add(
    pairs: Mapping[Pair, Sequence[tuple[Record, GeofenceEvent]]],
    batch_begins: int,
    ports: Ports,
    outcome: Outcome,
) -> None:
    refused: list[Poison] = []
    events = {pair: [event for _, event in some] for pair, some in pairs.items()}
    arrivals = {
        pair: Arrival(record.shard_id, batch_begins, record.position[0])
        for pair, (*_, (record, _)) in pairs.items()
    }
    for pair, result in ports.store.add(events, arrivals).items():
        some = pairs[pair]
        if isinstance(result, PermanentError):
            refused += (Poison(record, (_refused(result),)) for record, _ in some)
        elif isinstance(result, Exception):
            outcome.stop_at(some[0][0], result)
        else:
            never = [(record, result.refused.get(event.event_id)) for record, event in some]
            refused += (Poison(record, (_refused(why),)) for record, why in never if why)
            outcome.consumed += sum(why is None for _, why in never)
            outcome.added += result.added
            outcome.repeated += result.repeated
            outcome.superseded += result.superseded
            outcome.visits_changed += result.visits_changed
            outcome.orphan_exits += result.orphan_exits
            outcome.notified += result.notified
    _keep(refused, ports.set_aside, outcome)


def _refused(why: PermanentError) -> Reason:
    return Reason("refused_by_store", "", why.detail or str(why))


def _keep(poison: Sequence[Poison], set_aside: SetAside, outcome: Outcome) -> None:
    if not poison:
        return
    try:
        outcome.set_aside[set_aside.keep(poison)] = list(poison)
    except Exception as error:  # whatever it is, these were not kept: "again"
        outcome.stop_at(poison[0].record, error)
