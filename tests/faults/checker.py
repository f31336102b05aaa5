"""Check that the pipeline loses no event, duplicates none, and derives the right visits and notifications.

The check is a pure function of the responses that phones received and of the final content of every store. It
never relies on the system's own reports. The expected result depends only on what was sent: each planned
event has an expected outcome, and the expected visits follow from applying the rule of `consumer.visits` to
the accepted events.
"""

import base64
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, NamedTuple

from consumer.visits import Pair, Visit, visits_of
from contract.archive_object import object_name
from contract.event_limits import MAX_AGE
from contract.events import GeofenceEvent
from ops.read_stores import Stay, stay
from tests.faults.phones import Exchange
from tests.faults.receipts import Json, response_problems, stored_form
from tools.fleet.phones import Post
from tools.fleet.rounds import Planned

type Kind = Literal[
    "lost",
    "duplicated",
    "wrong visit",
    "both",
    "not sent",
    "wrong answer",
    "undelivered",
    "quarantined",
    "notification",
]
type OfPair = tuple[Pair, Visit]


class Breach(NamedTuple):
    """A broken promise: its kind, and a description that names the affected item."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


class Row(NamedTuple):
    """A row of RAW: line `row_number` (counted from 1) of the object `file_name`."""

    file_name: str
    row_number: int
    payload: str


@dataclass(frozen=True)
class Facts:
    """The requests with their responses, and the content of the stores after a run (None if a store was not read).

    `objects` contains the lines of each object that was added to the bucket, by key. `there_now` is the content of the
    table's index of open visits. `loaded` and `rejects_loaded` are the rows of RAW.EVENTS and RAW.REJECTED.
    `notifications` are the events on the bus, each with its `detail-type` and `detail`. `ended_at` is the time at
    which the stores were read.
    """

    exchanges: Sequence[Exchange]
    objects: Mapping[str, Sequence[bytes]]
    visits: Sequence[OfPair]
    there_now: Sequence[OfPair] | None = None
    loaded: Sequence[Row] | None = None
    rejects_loaded: Sequence[Row] | None = None
    notifications: Sequence[Json] | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class MartFacts:
    """The requests with their responses, and the result of a dbt run.

    `staged` contains the event id of each row in staging, and `visits` the visits in the mart.
    """

    exchanges: Sequence[Exchange]
    staged: Sequence[str]
    visits: Sequence[Stay]


def check_marts(facts: MartFacts) -> list[Breach]:
    """Return a breach for each event that is missing, repeated or unexpected in staging, and for each wrong
    visit in the mart.
    """
    truth = _truth(facts.exchanges)
    staged = Counter(facts.staged)
    return [
        *(Breach("lost", f"{i} is not in staging") for i in truth.accepted.keys() - staged.keys()),
        *(Breach("not sent", f"{i} is in staging") for i in staged.keys() - truth.accepted.keys()),
        *(Breach("duplicated", f"{i} is in staging {n} times") for i, n in staged.items() if n > 1),
        *_visits("the mart", facts.visits, {stay(*one) for one in _rule(truth.crossings, None)}),
    ]


def check(facts: Facts) -> list[Breach]:
    """Check all promises; return one breach for each violation."""
    facts = replace(facts, exchanges=settled(facts.exchanges, facts.objects))
    truth = _truth(facts.exchanges)
    expected = _rule(truth.crossings, facts.ended_at)
    there_now = None if facts.there_now is None else {one for one in expected if one[1].is_open}
    return [
        *_answers(facts),
        *_archive(facts, truth),
        *_warehouse(facts, truth),
        *_visits("DynamoDB", facts.visits, expected),
        *_visits(
            "the index of open visits",
            facts.there_now or (),
            there_now or set(),
        ),
        *_notifications(facts),
    ]


def settled(exchanges: Iterable[Exchange], objects: Mapping[str, Sequence[bytes]]) -> list[Exchange]:
    """Return the exchanges; for each lost phone, `archived` is set to the indices of its events that are in S3.

    Only those events count as sent. The result is exact only if no service except S3 fails. Otherwise an archived event
    may remain unpublished, because it is published only if its phone sends it again, and a lost phone does not.
    """
    exchanges = list(exchanges)
    if not any(exchange.broke for exchange in exchanges):
        return exchanges
    kept: dict[str, list[Json]] = defaultdict(list)
    rejected: set[_Reject] = set()
    for key, lines in objects.items():
        for line in map(json.loads, lines):
            if key.startswith("events/"):
                kept[line["_id"]].append(line)
            elif key.startswith("rejected/"):
                rejected.add(_reject(line))

    def is_archived(post: Post, index: int, event: Planned) -> bool:
        if event.code is None:
            return stored_form(post, event) in kept[event.event_id]
        return bool(_kept_forms(post, index, event) & rejected)

    return [
        replace(x, archived=frozenset(i for i, e in enumerate(x.post.events) if is_archived(x.post, i, e)))
        if x.broke
        else x
        for x in exchanges
    ]


def expected_visits(exchanges: Iterable[Exchange], ended_at: datetime | None) -> set[OfPair]:
    """Return the visits that the consumer must derive from the accepted events.

    If `ended_at` is given, events that were older than MAX_AGE at that time are omitted, because the consumer
    ignores them.
    """
    return _rule(_truth(exchanges).crossings, ended_at)


type _Reject = tuple[int, str, str]
"""The event's index in its request, the code, and the rejected content as `_normalized` returns it."""


@dataclass
class _Truth:
    """The expected outcome of the events that were sent.

    `accepted` maps event ids to contents. `rejected` maps each rejected event to the forms in which it may be
    stored.
    """

    accepted: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))
    rejected: dict[_Reject, frozenset[_Reject]] = field(default_factory=dict)
    rejected_ids: set[str] = field(default_factory=set)
    crossings: list[GeofenceEvent] = field(default_factory=list)

    def add(self, exchange: Exchange) -> None:
        post = exchange.post
        for index, event in enumerate(post.events):
            if exchange.archived is not None and index not in exchange.archived:
                continue
            if event.code is None:
                stored = stored_form(post, event)
                if stored not in self.accepted[event.event_id]:
                    self.accepted[event.event_id].append(stored)
                if event.crossing:
                    self.crossings.append(event.crossing)
            else:
                reject = (index, event.code, _normalized(_sent(event)))
                self.rejected[reject] = _kept_forms(post, index, event)
                self.rejected_ids.add(event.event_id)


def _truth(exchanges: Iterable[Exchange]) -> _Truth:
    truth = _Truth()
    for exchange in exchanges:
        truth.add(exchange)
    return truth


def _sent(event: Planned) -> bytes:
    return event.text.encode("utf-8", "surrogateescape")


def _kept_forms(post: Post, index: int, event: Planned) -> frozenset[_Reject]:
    """Return the forms in which a rejected event may be stored: bytes, JSON, or JSON with the envelope's ids."""
    assert event.code is not None
    forms = {(index, event.code, _normalized(_sent(event)))}
    with suppress(ValueError):
        sent = json.loads(event.text)
        forms |= {(index, event.code, _normalized(each)) for each in (sent, stored_form(post, event))}
    return frozenset(forms)


def _normalized(content: object) -> str:
    """Return the content as text that can be compared: the repr of bytes, or JSON with sorted keys."""
    return repr(content) if isinstance(content, bytes) else json.dumps(content, sort_keys=True)


# --- responses


def _answers(facts: Facts) -> Iterator[Breach]:
    for exchange in facts.exchanges:
        if exchange.fate == "kept" and not exchange.broke:
            yield Breach(
                "undelivered", f"{len(exchange.post.events)} events after {len(exchange.tries)} attempts"
            )
        for one in exchange.tries:
            for problem in response_problems(exchange.post, one, facts.objects):
                yield Breach("wrong answer", f"{one.status}: {problem}")


# --- the archive


def _archive(facts: Facts, truth: _Truth) -> Iterator[Breach]:
    """Check that each event is stored as sent under either events/ or rejected/, that each object's key matches its
    content, and that nothing is quarantined or stored in a second object of the same hour.
    """
    accepted: set[tuple[str, str]] = set()
    rejected: set[_Reject] = set()
    possible = set().union(*truth.rejected.values())
    hours: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, lines in facts.objects.items():
        name = object_name(key)
        if name is None or name.prefix == "set-aside":
            yield Breach("quarantined", key)
            continue
        digest = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
        if (name.digest, name.lines) != (digest, len(lines)):
            yield Breach("not sent", f"{key} does not match its content")
        hours[name.prefix, digest].append(f"{name.hour:%d %H}")
        for line in map(json.loads, lines):
            if name.prefix == "events":
                event_id = line["_id"]
                if line not in truth.accepted.get(event_id, ()):
                    yield Breach(
                        "both" if event_id in truth.rejected_ids else "not sent", f"{event_id} in {key}"
                    )
                accepted.add((event_id, _normalized(line)))
            else:
                reject = _reject(line)
                if reject not in possible:
                    event_id = line.get("event_id")
                    yield Breach("both" if event_id in truth.accepted else "not sent", f"{event_id} in {key}")
                rejected.add(reject)
    for event_id, contents in truth.accepted.items():
        for content in contents:
            if (event_id, _normalized(content)) not in accepted:
                yield Breach("lost", f"{event_id} is not in S3 as {content}")
    for (index, code, _), forms in truth.rejected.items():
        if not forms & rejected:
            yield Breach("lost", f"the reject with {code} at index {index} is not in S3")
    for (prefix, digest), of_one in hours.items():
        # A retry in the next hour may add an object with the same content; a retry in the same hour must not.
        if len(of_one) > min(len(set(of_one)), 2):
            yield Breach("duplicated", f"{prefix}/ has {len(of_one)} objects with digest {digest}")


def _reject(line: Json) -> _Reject:
    content = line["event"] if "event" in line else base64.b64decode(line["body_base64"])
    return line["index"], line["reasons"][0]["code"], _normalized(content)


# --- the warehouse


def _warehouse(facts: Facts, truth: _Truth) -> Iterator[Breach]:
    for prefix, rows in (("events", facts.loaded), ("rejected", facts.rejects_loaded)):
        if rows is None:
            continue
        lines = {
            (key, number): line
            for key, some in facts.objects.items()
            if key.startswith(f"{prefix}/")
            for number, line in enumerate(some, 1)
        }
        counts = Counter((row.file_name, row.row_number) for row in rows)
        for place in lines.keys() - counts.keys():
            yield Breach("lost", f"line {place[1]} of {place[0]} is not in RAW")
        for place, count in counts.items():
            if place not in lines:
                yield Breach(
                    "not sent", f"RAW has a row for line {place[1]} of {place[0]}, which is not in S3"
                )
            elif count > 1:
                yield Breach("duplicated", f"line {place[1]} of {place[0]} is in RAW {count} times")
        for row in rows:
            line = lines.get((row.file_name, row.row_number))
            if line is not None and json.loads(line) != json.loads(row.payload):
                yield Breach("not sent", f"RAW differs from line {row.row_number} of {row.file_name}")


# --- visits


def _rule(crossings: Sequence[GeofenceEvent], ended_at: datetime | None) -> set[OfPair]:
    """Apply the rule of `consumer.visits` to the crossings and return the visits.

    If `ended_at` is given, crossings that were older than MAX_AGE at that time are omitted, because the
    consumer ignores them.
    """
    processed = [c for c in crossings if ended_at is None or ended_at - c.occurred_at <= MAX_AGE]
    return {(pair, v) for pair, history in visits_of(processed).items() for v in history.visits}


def _visits[V: (Stay, OfPair)](store: str, found: Sequence[V], expected: set[V]) -> Iterator[Breach]:
    for twice in (s for s, n in Counter(found).items() if n > 1):
        yield Breach("wrong visit", f"{store} has {_text(twice)} more than once")
    for missing in expected - set(found):
        yield Breach("wrong visit", f"{store} lacks {_text(missing)}")
    for extra in set(found) - expected:
        yield Breach("wrong visit", f"{store} has {_text(extra)}")


def _text(one: Stay | OfPair) -> str:
    if not isinstance(one, Stay):
        pair, visit = one
        return f"{_text(stay(pair, visit))}, last seen {visit.last_seen_at}, app's dwell {visit.app_dwell_seconds} s"
    end = "open" if one.exited_at is None and not one.exit_missed else one.exited_at or "unclosed"
    return f"{one.device_id} at {one.fence.tag}/{one.fence.external_id}, {one.entered_at} to {end}"


def _notifications(facts: Facts) -> Iterator[Breach]:
    """Check that a subscriber that handles each notification id once, in version order, ends up with the stored visits.

    The same notification must not have two ids, and its type must describe how the visit differs from its
    previous version.
    """
    if facts.notifications is None:
        return
    known: dict[tuple[str, str, str], dict[_Start, Json]] = defaultdict(dict)
    known_since: dict[tuple[tuple[str, str, str], _Start], int] = {}
    contents: dict[str, str] = {}
    ids: dict[str, str] = {}
    arrivals = {
        (_notified_pair(e["detail"]), _notified_start(e["detail"]["visit"]), e["detail"]["version"])
        for e in facts.notifications
        if e["detail-type"] == "arrived" and e["detail"]["visit"]
    }
    for event in sorted(facts.notifications, key=lambda event: int(event["detail"]["version"])):
        kind, detail = event["detail-type"], event["detail"]
        content = json.dumps([kind, detail], sort_keys=True)
        if detail["id"] in contents:
            if contents[detail["id"]] != content:
                yield Breach("notification", f"two notifications have the id {detail['id']}")
            continue
        contents[detail["id"]] = content
        without_id = json.dumps([kind, {**detail, "id": ""}], sort_keys=True)
        if ids.setdefault(without_id, detail["id"]) != detail["id"]:
            yield Breach(
                "notification", f"one notification has two ids, {ids[without_id]} and {detail['id']}"
            )
        pair, version = _notified_pair(detail), detail["version"]
        was, now = detail.get("previous"), detail["visit"]
        if was:
            known[pair].pop(_notified_start(was), None)
        is_new = now is not None and (
            _notified_start(now) not in known[pair] or known_since[pair, _notified_start(now)] == version
        )
        match kind:
            case "arrived":
                is_correct = was is None and is_new
            case "departed":
                has_arrived = not is_new or (now and (pair, _notified_start(now), version) in arrivals)
                is_correct = was is None and now is not None and now["exited_at"] is not None and has_arrived
            case _:
                is_correct = kind == "visit_restated" and was is not None
        if not is_correct:
            yield Breach("notification", f"{kind} does not describe the change: {detail}")
        if now:
            if _notified_start(now) not in known[pair]:
                known_since[pair, _notified_start(now)] = version
            known[pair][_notified_start(now)] = now
    notified = {
        (pair[0], pair[1], pair[2], v["entered_event_id"], v["exited_event_id"], v["exit_missed"])
        for pair, visits in known.items()
        for v in visits.values()
    }
    expected = {
        (pair.device_id, *pair.fence, v.entered_event_id, v.exited_event_id, v.exit_missed)
        for pair, v in facts.visits
    }
    for visit in expected - notified:
        yield Breach("notification", f"no notification of {visit}")
    for visit in notified - expected:
        yield Breach("notification", f"notification of a visit that does not exist: {visit}")


type _Start = tuple[str, str]
"""The time and the event with which a visit began; they identify the visit."""


def _notified_pair(detail: Json) -> tuple[str, str, str]:
    return detail["device_id"], detail["geofence_tag"], detail["geofence_external_id"]


def _notified_start(visit: Json) -> _Start:
    return visit["entered_at"], visit["entered_event_id"]
