"""Add events to the visits table. Each (device, fence) pair changes serially; a change is one conditional write.

1. Read the log (version v), and all its chunks, if any. Compute the change.
2. Put the log as version v + 1 if the stored version is still v. It includes the chunks to write and the notifications
   to publish. This write is the change; a process that finds another version starts again.
3. Write the chunks and publish the notifications.

Nothing records that step 3 is complete, because that would be another write per event. Kinesis implies it: a batch that
begins after the events of a change is delivered only after that change's batch succeeded, including step 3. In all
other cases (a repeated batch, another shard) step 3 is repeated. So a process may die at any point, two processes may
work on one device, and a slow one may resume late. Repeating step 3 does no harm, because a chunk replaces only an
older version, and a notification that is published again has the same id.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import NamedTuple

from msgspec.structs import replace

from aws.errors import NoResponseError, PermanentError
from aws.retry import jitter
from aws.table import Item, Key, Table
from consumer import item_layout, keys, previous_layout
from consumer.item_layout import Chunk, PairLog
from consumer.notifications import ALL_KINDS, Bus, NotificationKind, news_of, notification
from consumer.visit_diff import VisitDiff, visit_diff
from consumer.visits import Order, Pair, Rule, content_of, first_contents, order_of, walk
from contract.events import GeofenceEvent
from contract.logs import LoggableError

# DynamoDB allows 400 KB per item. Control characters in ids grow sixfold in JSON, so the bytes are measured too.
EVENTS_PER_CHANGE = 100
MAX_LOG_BYTES = 300_000
MAX_RACES = 20


class RaceLost(LoggableError):
    """Raised when other processes keep changing a pair. A later attempt will succeed."""


class Arrival(NamedTuple):
    """The stream positions of a batch's first record and of the pair's last event in that batch.

    A change is complete once a batch begins after its last event. Comparing only the starts of batches would not
    suffice, as two consumers of a shard (after a worker has lost its lease) may divide its records differently.
    """

    shard_id: str
    batch_begins: int
    last: int

    @property
    def position(self) -> str:
        return f"{self.shard_id}#{self.last:x}"

    def is_behind(self, position: str) -> bool:
        """Return whether the change at this position belongs to a batch that has been processed completely."""
        shard_id, _, last = position.partition("#")
        return shard_id == self.shard_id and int(last, 16) < self.batch_begins


@dataclass(slots=True)
class Counts:
    """Counts of the effects of events. Another event with the same id takes precedence over a `superseded` one."""

    added: int = 0
    repeated: int = 0
    superseded: int = 0
    visits_changed: int = 0
    orphan_exits: int = 0
    notified: int = 0

    def include(self, other: "Counts") -> None:
        for name in Counts.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Added(Counts):
    """The result for a pair. `refused` maps the id of each event that DynamoDB will never store to the error."""

    refused: dict[str, PermanentError] = field(default_factory=dict)


class _New(NamedTuple):
    """The events of one change, by effect. `replaced` holds the stored events that `added` supersedes."""

    added: list[GeofenceEvent]
    replaced: list[GeofenceEvent]
    repeated: list[GeofenceEvent]
    superseded: list[GeofenceEvent]


@dataclass(slots=True)
class _Job:
    """One pair's log, and the events that are still to be added to it. One change adds at most `at_once` events."""

    pair: Pair
    waiting: list[GeofenceEvent]
    result: Added
    arrival: Arrival | None
    at_once: int = EVENTS_PER_CHANGE
    races: int = 0
    log: PairLog = field(default_factory=PairLog)
    failure: Exception | None = None

    @property
    def taken(self) -> list[GeofenceEvent]:
        return self.waiting[: self.at_once]

    @property
    def is_pending(self) -> bool:
        is_done = self.arrival and self.log.position and self.arrival.is_behind(self.log.position)
        return self.log.is_pending and not is_done

    def took(self, new: _New) -> None:
        self.result.repeated += len(new.repeated)
        self.result.superseded += len(new.superseded)
        del self.waiting[: self.at_once]
        self.at_once, self.races = EVENTS_PER_CHANGE, 0


@dataclass(frozen=True, slots=True)
class Store:
    """The visit store. `executor` runs the pairs' requests in parallel; only notifications of `kinds` are published."""

    table: Table
    bus: Bus
    rule: Rule
    executor: Executor
    kinds: frozenset[NotificationKind] = ALL_KINDS

    def add(
        self, events: Mapping[Pair, Sequence[GeofenceEvent]], arrivals: Mapping[Pair, Arrival] | None = None
    ) -> dict[Pair, Added | Exception]:
        """Add events to each pair, and return the result for each pair.

        An `Added` means that the events, except its `refused` ones, are stored and their notifications published. After
        a PermanentError they can never be stored; after any other exception, the same events must be added again.
        """
        jobs = [_job(pair, some, (arrivals or {}).get(pair)) for pair, some in events.items()]
        while left := [job for job in jobs if job.waiting and not job.failure]:
            self._read_logs(left)
            self._complete(left)
            self._each(_sound(left), self._commit)
            self._complete(left)
        return {job.pair: job.failure or job.result for job in jobs}

    def _read_logs(self, jobs: Sequence[_Job]) -> None:
        """Read the logs: eventually consistent (half the cost), or with strong consistency if a race was lost before.

        If a log was outdated when read, its conditional write fails. But nothing would reveal that a stale read missed
        a head of the previous layout, so heads are read with strong consistency.
        """
        for consistent in (False, True):
            some = [job for job in jobs if not job.log.version and (job.races > 0) is consistent]
            self._get(some, keys.log_key, _read_log, consistent)
        unknown = [job for job in _sound(jobs) if not job.log.version]
        self._get(unknown, previous_layout.head_key, self._adopt)

    def _get(
        self,
        jobs: Sequence[_Job],
        key_of: Callable[[Pair], Key],
        do: Callable[[Item, _Job], None],
        consistent: bool = True,
    ) -> None:
        """Read one item per pair, and call `do` with each item that exists."""
        found, failures = self.table.get([key_of(job.pair) for job in jobs], consistent=consistent)
        for job in jobs:
            key = key_of(job.pair)
            job.failure = failures.get(key)
            if item := found.get(key):
                _attempt(partial(do, item), [], job)

    def _adopt(self, _: Item, job: _Job) -> None:
        previous_layout.move(self.table, self.bus, job.pair, self.rule)
        self._get([job], keys.log_key, _read_log)

    def _complete(self, jobs: Sequence[_Job]) -> None:
        """Write the chunks and publish the notifications (step 3) of each change that is not known to be complete."""
        pending = [job for job in _sound(jobs) if job.is_pending]
        self._each(pending, self._put_chunks)
        notifications = {
            job.pair: [notification(job.pair, job.log.version, news) for news in job.log.news]
            for job in _sound(pending)
        }
        failures = self.bus.publish(list(chain.from_iterable(notifications.values())))
        for job in _sound(pending):
            job.failure = next((failures[n.id] for n in notifications[job.pair] if n.id in failures), None)
        self._each([job for job in pending if job.failure], self._forget_position)
        for job in _sound(pending):
            job.log = replace(job.log, chunks=(), news=(), position="")

    def _put_chunks(self, job: _Job) -> None:
        for chunk in job.log.chunks:
            self.table.put_newer(item_layout.chunk_item(job.pair, chunk, job.log))

    def _forget_position(self, job: _Job) -> None:
        """Remove the position from the stored log, so that the next batch repeats step 3 of the failed change.

        Lambda may discard this batch. The position would then imply to later batches that the change is complete, and
        the chunks or notifications that could not be written or published would be lost.
        """
        if job.log.position:
            item = item_layout.log_item(job.pair, replace(job.log, position=""), self.rule)
            self.table.put_version(item, job.log.version)

    def _commit(self, job: _Job) -> None:
        """Write the change that the events cause, if any; start again if another process changed the log first."""
        pk, first, last = keys.pair_range(job.pair, "#e")
        # An id is new only if neither the log nor a chunk contains it, so all chunks are read.
        earlier = list(self.table.query(pk, first, last)) if job.log.has_chunks else []
        if any(int(item["version"]) > job.log.version for item in earlier):
            # The log has changed since it was read. Notifications about a newer chunk may not have been published.
            self._start_again(job)
            return
        new = _new(job, earlier)
        if not new.added:
            job.took(new)
            return
        diff, log = self._changed(job, new, earlier)
        news = tuple(news for news in news_of(diff) if news[0] in self.kinds)
        log = replace(log, news=news, position=job.arrival.position if job.arrival else "")
        log, item = item_layout.fitted(job.pair, log, self.rule)
        several = len(job.taken) > 1
        try:
            if several and item_layout.size_of(item) > MAX_LOG_BYTES:
                raise PermanentError("The item may be too large.")
            won = self.table.put_version(item, job.log.version or None)
        except PermanentError as refused:
            if several:
                job.at_once = len(job.taken) // 2
            else:  # this event is the cause
                job.result.refused[job.waiting.pop(0).event_id] = refused
            return
        if not won:
            self._start_again(job)
            return
        job.log = log
        job.result.added += len(new.added)
        job.result.visits_changed += diff.visits
        job.result.orphan_exits += diff.orphan_exits
        job.result.notified += len(log.news)
        job.took(new)

    def _start_again(self, job: _Job) -> None:
        """Discard our copy of a log that another process has changed. Raises RaceLost after MAX_RACES attempts."""
        job.races += 1
        if job.races == MAX_RACES:
            # The message omits the pair, because its key contains a device id.
            raise RaceLost(f"other processes changed the pair first in all {MAX_RACES} attempts")
        job.log = PairLog()
        time.sleep(jitter(0.01 * job.races))

    def _changed(self, job: _Job, new: _New, earlier: Sequence[Item]) -> tuple[VisitDiff, PairLog]:
        """Return the visit changes and the new log. Visits are recomputed from the first affected chunk on."""
        log, rule = job.log, self.rule
        touched = sorted(map(order_of, (*new.added, *new.replaced)))
        version = log.version + 1 if log.version else keys.first_version(touched[-1][0])
        read = earlier if log.is_late(touched[0]) else ()
        chunks = item_layout.in_order(item_layout.chunk_of(job.pair, item) for item in read)
        parts: list[Chunk | PairLog] = [*chunks, log]
        first, last = _part_of(touched[0], chunks), _part_of(touched[-1], chunks)
        base = parts[first].base
        stored = chain.from_iterable(part.events for part in parts[first:])
        diff = visit_diff(base, stored, new.added, new.replaced, rule)
        changed: list[Chunk] = []
        for number, part in enumerate(parts[first:], first):
            if number > last and part.base == base:
                break
            added = [event for event in new.added if _part_of(order_of(event), chunks) == number]
            events = tuple(sorted({*part.events, *added} - {*new.replaced}, key=order_of))
            if isinstance(part, PairLog):
                log = replace(part, base=base, events=events)
            else:
                chunk = Chunk(part.sk, base, events)
                changed += item_layout.pieces(job.pair, version, chunk, rule, len(changed))
                _, base, _ = walk(base, events, rule)
        return diff, replace(log, version=version, chunks=tuple(changed))

    def _each(self, jobs: Sequence[_Job], do: Callable[[_Job], None]) -> None:
        list(self.executor.map(partial(_attempt, do, []), jobs))


def _attempt(do: Callable[[_Job], None], unanswered: list[Exception], job: _Job) -> None:
    """Call `do`, and record an error in the job.

    `unanswered` collects the errors of calls without a response. Once it contains one, jobs fail without a call,
    because waiting for the calls of all jobs could exceed the function's timeout.
    """
    try:
        if unanswered:
            raise unanswered[0]
        do(job)
    except Exception as error:  # only NoResponseError affects other pairs
        job.failure = error
        if isinstance(error, NoResponseError):
            unanswered.append(error)


def _job(pair: Pair, events: Sequence[GeofenceEvent], arrival: Arrival | None) -> _Job:
    """Return a pair's job. If events share an id, it contains the one that counts under the visit rule's point 2."""
    waiting = sorted(first_contents(events), key=order_of)
    superseded = len({(e.event_id, content_of(e)) for e in events}) - len(waiting)
    repeated = len(events) - len(waiting) - superseded
    return _Job(pair, waiting, Added(repeated=repeated, superseded=superseded), arrival)


def _read_log(item: Item, job: _Job) -> None:
    job.log = item_layout.log_of(job.pair, item)


def _new(job: _Job, earlier: Sequence[Item]) -> _New:
    known = {event.event_id: event for event in job.log.events}
    new = _New([], [], [], [])
    for event in job.taken:
        other = known.get(event.event_id) or _among(job.pair, event.event_id, earlier)
        if other is None:
            new.added.append(event)
        elif other == event:
            new.repeated.append(event)
        elif content_of(event) < content_of(other):
            new.added.append(event)
            new.replaced.append(other)
        else:
            new.superseded.append(event)
    return new


def _among(pair: Pair, event_id: str, chunks: Sequence[Item]) -> GeofenceEvent | None:
    text = item_layout.json_text(event_id)
    likely = (item_layout.chunk_of(pair, item) for item in chunks if text in str(item["events"]))
    return next((event for chunk in likely for event in chunk.events if event.event_id == event_id), None)


def _part_of(order: Order, chunks: Sequence[Chunk]) -> int:
    """Return the index of the first chunk whose last event sorts at or after `order`, otherwise that of the log."""
    return bisect_left(chunks, order, key=lambda chunk: order_of(chunk.events[-1]))


def _sound(jobs: Sequence[_Job]) -> list[_Job]:
    return [job for job in jobs if not job.failure]
