"""Events in, visits kept: one serial history of changes per pair, over single-item writes.

The pair's `head` item is a log of one entry. A change happens like this:

1. Read the head (version v) and what the new events touch. Compute the change.
2. Put the head as v + 1 if it still is v, with everything inside that is then to be written and told. This
   one conditional write is the change; whoever loses the race for it starts again.
3. Carry it out: put events, ids and visits, publish the notices, put `done` = v + 1.

Whoever finds a head ahead of its `done` first carries that change out. So a process may die anywhere, two may
work on one device, and slow ones may wake up late: events and ids are written once and for all, a visit is
put only over an older version, and a notice that is published again has the same id.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain, groupby
from typing import NamedTuple, Protocol

import msgspec

from aws.errors import PermanentError
from aws.table import Failures, Table
from consumer import keys
from consumer.pair_log import Entry, Head, done_item, entry_of, event_items, head_item, head_of, new_entry
from consumer.visit_diff import Notification, Rule, VisitDiff, visit_diff
from consumer.visits import Order, Pair, Visit, content_of, counts, order_of
from contract.events import GeofenceEvent

# DynamoDB takes 400 KB an item. Ids of control characters grow sixfold in JSON: the entry is measured too.
EVENTS_A_CHANGE = 50
MAX_ENTRY_BYTES = 300_000
# Events further apart are added one after the other, so that what lies between them need not be read.
MAX_SPAN = timedelta(days=1)
MAX_RACES = 20


class Bus(Protocol):
    def publish(self, told: Sequence[Notification]) -> dict[str, Exception]:
        """Publish all. What could not be comes back, by the notice's id."""


class RaceLost(Exception):
    """Others changed this pair again and again meanwhile. Later it will go."""


@dataclass(slots=True)
class Added:
    """What adding events to a pair came to.

    `outdone`: another content of that id counts, and did before. `refused`: by event id, what DynamoDB will
    never take; all others are added.
    """

    added: int = 0
    repeated: int = 0
    outdone: int = 0
    visits_changed: int = 0
    orphan_exits: int = 0
    told: int = 0
    refused: dict[str, PermanentError] = field(default_factory=dict)


class _News(NamedTuple):
    """What of the events taken is new under its id, displaces a greater content, and is displaced."""

    first: list[GeofenceEvent]
    lesser: list[GeofenceEvent]
    superseded: list[GeofenceEvent]
    repeated: list[GeofenceEvent]
    outdone: list[GeofenceEvent]


@dataclass(slots=True)
class _Job:
    """One pair on its way: events still waiting, those of the change at hand, what is known of the pair."""

    pair: Pair
    pk: str
    waiting: list[GeofenceEvent]
    result: Added
    at_once: int = EVENTS_A_CHANGE
    races: int = 0
    taken: list[GeofenceEvent] = field(default_factory=list)
    head: Head = field(default_factory=Head)
    first_contents: dict[str, str] = field(default_factory=dict)
    under_way: Entry | None = None
    failure: Exception | None = None

    def take(self) -> None:
        until = self.waiting[0].occurred_at + MAX_SPAN
        self.taken = [e for e in self.waiting[: self.at_once] if e.occurred_at <= until]

    def took(self, news: _News) -> None:
        self.result.repeated += len(news.repeated)
        self.result.outdone += len(news.outdone)
        del self.waiting[: len(self.taken)]
        self.at_once, self.races = EVENTS_A_CHANGE, 0


class Store:
    """`side_by_side` runs the requests of different pairs in parallel."""

    def __init__(self, table: Table, bus: Bus, rule: Rule, side_by_side: Executor) -> None:
        self._table = table
        self._bus = bus
        self._rule = rule
        self._gap = max(rule.merge_gap, timedelta())
        self._side_by_side = side_by_side

    def add(self, events: Mapping[Pair, Sequence[GeofenceEvent]]) -> dict[Pair, Added | Exception]:
        """Make each pair's visits what they are with these events; what is `Added` is durable and told.

        An exception, as a value: perhaps not all of that pair is done; add the same again.
        """
        jobs = [_job(pair, some) for pair, some in events.items()]
        while left := [job for job in jobs if job.waiting and not job.failure]:
            for job in left:
                job.take()
            self._read_heads(left)
            self._carry_out(left)
            self._read_ids(left)
            self._each(left, self._commit)
            self._carry_out(left)
        return {job.pair: job.failure or job.result for job in jobs}

    def _read_heads(self, jobs: Sequence[_Job]) -> None:
        found, failures = self._table.get([(j.pk, sk) for j in jobs for sk in (keys.HEAD, keys.DONE)])
        _fail(jobs, failures)
        for job in _sound(jobs):
            head, done = found.get((job.pk, keys.HEAD)), found.get((job.pk, keys.DONE))
            job.head = head_of(head) if head else Head()
            if job.head.version > (int(done["version"]) if done else 0):
                job.under_way = entry_of(job.head)

    def _read_ids(self, jobs: Sequence[_Job]) -> None:
        """Only after the heads: an id that is not there now can only come with another version of one."""
        wanted = [(job.pk, keys.id_key(e.event_id)) for job in _sound(jobs) for e in job.taken]
        found, failures = self._table.get(wanted)
        _fail(jobs, failures)
        for job in _sound(jobs):
            wanted_keys = ((e.event_id, (job.pk, keys.id_key(e.event_id))) for e in job.taken)
            job.first_contents = {id_: str(found[key]["content"]) for id_, key in wanted_keys if key in found}

    def _commit(self, job: _Job) -> None:
        """Make the change of the events taken, unless there is none or another one came first."""
        news = self._news(job)
        added = [*news.first, *news.lesser]
        if not added:
            job.took(news)
            return
        changed = self._change(job, added, news.superseded)
        through = max(order_of(event) for event in added)
        version = job.head.version + 1 if job.head.version else _first_version(through)
        entry = new_entry(
            job.pair,
            version,
            changed,
            first=news.first,
            lesser=news.lesser,
            superseded=news.superseded,
        )
        text = msgspec.json.encode(entry)
        if len(text) > MAX_ENTRY_BYTES and len(job.taken) > 1:
            job.at_once = len(job.taken) // 2
            return
        visit = job.head.visit if changed.last_before == changed.last_after else changed.last_after
        head = Head(version, max(through, job.head.through or through), visit, text)
        try:
            won = self._table.put_version(head_item(job.pair, head), job.head.version or None)
        except PermanentError as refused:
            if len(job.taken) > 1:
                job.at_once = len(job.taken) // 2
            else:  # the culprit stands alone
                job.result.refused[job.waiting.pop(0).event_id] = refused
            return
        if not won:
            job.races += 1
            if job.races == MAX_RACES:
                raise RaceLost(f"lost {MAX_RACES} races for one pair")  # its key names a device
            time.sleep(random.uniform(0, 0.01 * job.races))
            return
        job.head, job.under_way = head, entry
        job.result.added += len(added)
        job.result.visits_changed += changed.visits
        job.result.orphan_exits += changed.orphan_exits
        job.result.told += len(entry.told)
        job.took(news)

    def _news(self, job: _Job) -> _News:
        news = _News([], [], [], [], [])
        for event in job.taken:
            key = keys.event_key(event)
            first = job.first_contents.get(event.event_id)
            if first is None:
                news.first.append(event)
            elif first == key:
                news.repeated.append(event)
            else:
                prefix = keys.lesser_prefix(event.event_id)
                others = self._table.query(job.pk, prefix, prefix + keys.LAST)
                contents = [keys.event_of(job.pair, k) for k in (first, *(str(i["content"]) for i in others))]
                least = min(contents, key=content_of)
                if event in contents:
                    news.repeated.append(event)
                elif content_of(event) < content_of(least):
                    news.lesser.append(event)
                    news.superseded.append(least)
                else:
                    news.outdone.append(event)
        return news

    def _change(self, job: _Job, added: list[GeofenceEvent], superseded: list[GeofenceEvent]) -> VisitDiff:
        """Reads from the last visit that begins before the first event touched, no further than needed."""
        first = min(order_of(event) for event in (*added, *superseded))
        head = job.head
        if head.through is None or first > head.through:
            return visit_diff(head.visit, (), added, superseded, self._rule)
        visit = head.visit
        if visit is not None and _start(visit) >= first:
            visit = self._visit_before(job.pk, first)
        if visit is None:
            return visit_diff(None, self._stored(job, first), added, superseded, self._rule)
        if visit.exited_at is not None and _end(visit) < first:
            stored = self._stored(job, first)
        else:
            visit, stored = self._within(job, visit, first)
        return visit_diff(visit, stored, added, superseded, self._rule)

    def _within(self, job: _Job, visit: Visit, first: Order) -> tuple[Visit, Iterator[GeofenceEvent]]:
        """The visit as it was some time before `first`, and the events that count from there on.

        Of a visit longer than events are kept some of the first may have expired, and others not yet.
        """
        begun = Visit(visit.entered_at, visit.entered_event_id)
        since = first[0] - MAX_SPAN - self._rule.merge_gap
        if since <= visit.entered_at:
            return begun, self._after(job, _start(visit))
        seen_at = visit.last_seen_at
        if seen_at is not None and seen_at >= since:
            seen_at = self._seen_before(job, begun, since)
        # It is open since then, but perhaps between an exit and the enter that merged with it.
        visit = under_way = replace(begun, last_seen_at=seen_at)
        stored = self._stored(job, (since - self._gap, 0, ""))
        for event in stored:
            if event.occurred_at >= since:
                return visit, chain([event], stored)
            if event.kind == "dwell" or not counts(event, self._rule.min_confidence):
                continue
            if event.kind == "enter":
                visit = under_way
            elif visit.exited_at is None:
                visit = replace(under_way, exited_at=event.occurred_at, exited_event_id=event.event_id)
        return visit, stored

    def _seen_before(self, job: _Job, visit: Visit, until: datetime) -> datetime | None:
        """The last dwell of the visit before then that is known; those between an exit and an enter are not its."""
        seen_at = None
        begin, end = keys.order_prefix(_start(visit)), f"e#{keys.timestamp(until)}"
        marks = set()
        for item in self._table.query(job.pk, begin, end, backwards=True):
            key = str(item["sk"])
            if keys.is_mark(key):
                marks.add(key)
                continue
            event = keys.event_of(job.pair, key)
            if seen_at is not None and event.occurred_at < seen_at - self._rule.merge_gap:
                break
            if keys.superseded_key(key) in marks or not counts(event, self._rule.min_confidence):
                continue
            if event.kind == "exit":
                seen_at = None
            elif event.kind == "dwell":
                seen_at = seen_at or event.occurred_at
            elif seen_at is not None:
                break
        return seen_at

    def _visit_before(self, pk: str, order: Order) -> Visit | None:
        latest = f"v#{keys.timestamp(order[0])}#{keys.LAST}"
        found = self._table.query(pk, "v#", latest, backwards=True)
        visits = ((v, item) for item in found if (v := keys.visit_of(item)) and _start(v) < order)
        for _, same in groupby(visits, key=lambda found: found[0].entered_at):
            visit, item = max(same, key=lambda found: _start(found[0]))
            # One that ended unclosed before then may still lie there, and the visit by which it did may not.
            ended = visit.exit_missed and int(item["expires_at"]) < keys.expires_at(order[0])
            return None if ended else visit
        return None

    def _stored(self, job: _Job, start: Order) -> Iterator[GeofenceEvent]:
        """The events that count, from `start` on, in order."""
        found = self._table.query(job.pk, keys.order_prefix(start), f"e#{keys.LAST}")
        for _, same in groupby((str(item["sk"]) for item in found), lambda key: key.split("#", 3)[:3]):
            known = set(same)
            counting = (k for k in known if keys.superseded_key(k) not in known and not keys.is_mark(k))
            events = sorted((keys.event_of(job.pair, key) for key in counting), key=order_of)
            yield from (event for event in events if order_of(event) >= start)

    def _after(self, job: _Job, order: Order) -> Iterator[GeofenceEvent]:
        return (event for event in self._stored(job, order) if order_of(event) > order)

    def _carry_out(self, jobs: Sequence[_Job]) -> None:
        """Everything that the change under way asks for, then the mark that it is done."""
        todo = [job for job in _sound(jobs) if job.under_way]
        if not todo:
            return
        _fail(todo, self._table.put_all([i for j in todo for i in event_items(j.pk, _under_way(j))]))
        self._each(todo, self._put_visits)
        told = [notice for job in _sound(todo) for notice in _under_way(job).told]
        unpublished = self._bus.publish(told) if told else {}
        for job in _sound(todo):
            job.failure = next((unpublished[n.id] for n in _under_way(job).told if n.id in unpublished), None)
        _fail(todo, self._table.put_all([done_item(job.pair, job.head) for job in _sound(todo)]))
        for job in _sound(todo):
            job.under_way = None

    def _put_visits(self, job: _Job) -> None:
        for item in _under_way(job).visits:
            self._table.put_newer(item)

    def _each(self, jobs: Sequence[_Job], do: Callable[[_Job], None]) -> None:
        def attempt(job: _Job) -> None:
            try:
                do(job)
            except Exception as error:  # one pair's failure is its own: the others go on
                job.failure = error

        for _ in self._side_by_side.map(attempt, _sound(jobs)):
            pass


def _job(pair: Pair, events: Sequence[GeofenceEvent]) -> _Job:
    """Of each id only the least content, in order: the others of this batch can change nothing."""
    least: dict[str, GeofenceEvent] = {}
    for event in events:
        other = least.get(event.event_id)
        if other is None or content_of(event) < content_of(other):
            least[event.event_id] = event
    outdone = len({(e.event_id, content_of(e)) for e in events}) - len(least)
    repeated = len(events) - len(least) - outdone
    return _Job(
        pair,
        keys.pair_key(pair),
        sorted(least.values(), key=order_of),
        Added(repeated=repeated, outdone=outdone),
    )


def _first_version(through: Order) -> int:
    """Milliseconds: after a head has expired versions must not begin again below it, nor below its `done`."""
    return int(through[0].timestamp() * 1000)


def _sound(jobs: Sequence[_Job]) -> list[_Job]:
    return [job for job in jobs if not job.failure]


def _fail(jobs: Sequence[_Job], failures: Failures) -> None:
    if failures:
        of_pair = {pk: error for (pk, _), error in failures.items()}
        for job in jobs:
            job.failure = job.failure or of_pair.get(job.pk)


def _under_way(job: _Job) -> Entry:
    assert job.under_way is not None
    return job.under_way


def _start(visit: Visit) -> Order:
    return visit.entered_at, 0, visit.entered_event_id


def _end(visit: Visit) -> Order:
    assert visit.exited_at is not None
    assert visit.exited_event_id is not None
    return visit.exited_at, 2, visit.exited_event_id
