"""Do the promises hold? A pure function over what phones saw and what every store holds in the end.

What must be follows from what was sent alone: each planned event knows its fate, and the visits are the rule of
`consumer.visits` over the accepted set. Nothing here asks the system under test what it thinks.
"""

import base64
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jsonschema
import yaml

from consumer.visits import Pair, Visit, visits_of
from contract.events import MAX_AGE, GeofenceEvent
from contract.objects import object_name
from ops.stores import Stay, stay
from tests.faults.phones import Exchange, Try
from tools.fleet.rounds import Planned, Post
from tools.fleet.send import rejects_in

type Kind = Literal[
    "lost", "doubled", "wrong visit", "both", "not sent", "wrong answer", "undelivered", "set aside", "told"
]
type Json = dict[str, Any]
type OfPair = tuple[Pair, Visit]

_OPENAPI = Path(__file__).parents[2] / "docs/openapi.yaml"


class Breach(NamedTuple):
    """A promise that does not hold, and for what."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


class Row(NamedTuple):
    """A row of RAW: the line `row_number` (from 1) of an object."""

    file_name: str
    row_number: int
    payload: str


@dataclass(frozen=True)
class Facts:
    """What a run left behind. None for what was not looked at.

    `objects`: key to lines, of all that the bucket gained. `there_now`: what the table's index of open visits shows.
    `told`: the bus' events, each with its `detail-type` and `detail`.
    """

    exchanges: Sequence[Exchange]
    objects: Mapping[str, Sequence[bytes]]
    visits: Sequence[OfPair]
    there_now: Sequence[OfPair] | None = None
    loaded: Sequence[Row] | None = None
    rejects_loaded: Sequence[Row] | None = None
    told: Sequence[Json] | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class MartFacts:
    """Of one run: an id for each row of staging, and the mart's visits."""

    exchanges: Sequence[Exchange]
    staged: Sequence[str]
    visits: Sequence[Stay]


def check_marts(facts: MartFacts) -> list[Breach]:
    """Each accepted event once in staging, and the rule over all of them in the mart, however old."""
    truth = _truth(facts.exchanges)
    staged = Counter(facts.staged)
    return [
        *(Breach("lost", f"{i} is not in staging") for i in truth.accepted.keys() - staged.keys()),
        *(Breach("not sent", f"{i} in staging") for i in staged.keys() - truth.accepted.keys()),
        *(Breach("doubled", f"{i} in staging, {n} times") for i, n in staged.items() if n > 1),
        *_visits("the mart", facts.visits, {stay(*one) for one in _rule(truth.crossings, None)}),
    ]


def check(facts: Facts) -> list[Breach]:
    """Every breach there is; none is what is promised."""
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
            "the index of who is there",
            facts.there_now or (),
            there_now or set(),
        ),
        *_notices(facts),
    ]


def settled(exchanges: Iterable[Exchange], objects: Mapping[str, Sequence[bytes]]) -> list[Exchange]:
    """Nobody promised anything to a phone that broke: of its batch that was sent what S3 has, and nothing else.

    So this holds where S3 alone refuses: an event that is archived and then finds no stream waits for its phone.
    """
    exchanges = list(exchanges)
    if not any(exchange.broke for exchange in exchanges):
        return exchanges
    kept: dict[str, list[Json]] = defaultdict(list)
    refused: set[_Refusal] = set()
    for key, lines in objects.items():
        for line in map(json.loads, lines):
            if key.startswith("events/"):
                kept[line["_id"]].append(line)
            elif key.startswith("rejected/"):
                refused.add(_refusal(line))

    def is_archived(post: Post, index: int, event: Planned) -> bool:
        if event.code is None:
            return stored_form(post, event) in kept[event.event_id]
        return bool(_ways(post, index, event) & refused)

    return [
        replace(x, archived=frozenset(i for i, e in enumerate(x.post.events) if is_archived(x.post, i, e)))
        if x.broke
        else x
        for x in exchanges
    ]


def expected_visits(exchanges: Iterable[Exchange], ended_at: datetime | None) -> set[OfPair]:
    """The rule over the accepted set; with `ended_at` only over what the consumer still takes then."""
    return _rule(_truth(exchanges).crossings, ended_at)


type _Refusal = tuple[int, str, str]
"""Index in its request, code, and what was refused, as `_written`."""


@dataclass
class _Truth:
    """What was sent, by event id. `refused` has for each refused event the ways in which it may be kept."""

    accepted: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[_Refusal, frozenset[_Refusal]] = field(default_factory=dict)
    refused_ids: set[str] = field(default_factory=set)
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
                self.refused[index, event.code, _written(_sent(event))] = _ways(post, index, event)
                self.refused_ids.add(event.event_id)


def _truth(exchanges: Iterable[Exchange]) -> _Truth:
    truth = _Truth()
    for exchange in exchanges:
        truth.add(exchange)
    return truth


def _sent(event: Planned) -> bytes:
    return event.text.encode("utf-8", "surrogateescape")


def _ways(post: Post, index: int, event: Planned) -> frozenset[_Refusal]:
    """In which a refused event may be kept."""
    assert event.code is not None
    ways = {(index, event.code, _written(_sent(event)))}
    with suppress(ValueError):
        sent = json.loads(event.text)
        ways |= {(index, event.code, _written(each)) for each in (sent, stored_form(post, event))}
    return frozenset(ways)


def _written(content: object) -> str:
    """Bytes, or JSON without regard to layout."""
    return repr(content) if isinstance(content, bytes) else json.dumps(content, sort_keys=True)


def stored_form(post: Post, event: Planned) -> Json:
    """What an accepted event's line must say: the event as sent, and the envelope's ids where it has no user."""
    sent: Json = json.loads(event.text)
    if post.form == "envelope" and "user" not in sent:
        sender = json.loads(post.user)
        sent["user"] = {name: sender[name] for name in ("userId", "deviceId", "_id") if name in sender}
    return sent


# --- answers


def _answers(facts: Facts) -> Iterator[Breach]:
    for exchange in facts.exchanges:
        if exchange.fate == "kept" and not exchange.broke:
            yield Breach(
                "undelivered", f"{len(exchange.post.events)} events after {len(exchange.tries)} tries"
            )
        for one in exchange.tries:
            for problem in _answer(exchange.post, one, facts.objects):
                yield Breach("wrong answer", f"{one.status}: {problem}")


def _answer(post: Post, one: Try, objects: Mapping[str, Sequence[bytes]]) -> Iterator[str]:
    """Ours is as docs/openapi.yaml and the receipt's arithmetic have it; a gateway's own only tells to wait."""
    match one.status:
        case None | 429 | 500 | 502 | 504:
            return
        case 503:
            if "code" in (one.answer or {}) and not one.retry_after:
                yield "no Retry-After"
            return
        case 202 | 400:
            pass
        case _:
            yield "not an answer to what was sent"
            return
    if one.answer is None:
        yield "not JSON"
        return
    yield from _schema_problems(one)
    told = one.answer
    codes = {i: e.code for i, e in enumerate(post.events) if e.code is not None}
    sound = {json.dumps(stored_form(post, e), sort_keys=True) for e in post.events if e.code is None}
    duplicates = len(post.events) - len(codes) - len(sound)
    expected = {
        "received": len(post.events),
        "accepted": len(sound),
        "duplicates": duplicates,
        "rejected": len(codes),
    }
    if (found := {name: told.get(name) for name in expected}) != expected:
        yield f"told {found}, must be {expected}"
    if dict(rejects_in(dict(told))) != codes:
        yield f"reasons {dict(rejects_in(dict(told)))}, must be {codes}"
    if (one.status == 202) != bool(sound):
        yield "202 is for one accepted event at least"
    for name, wanted, prefix in (
        ("object_key", len(sound), "events"),
        ("rejected_key", len(codes), "rejected"),
    ):
        key = str(told.get(name) or "")
        if not wanted:
            if key:
                yield f"{name} without an event in it"
        elif key not in objects:
            yield f"{name} {key} is not in S3"
        elif len(objects[key]) != wanted or not key.startswith(f"{prefix}/"):
            yield f"{name} {key} holds {len(objects[key])} lines, must be {wanted}"


def _schema_problems(one: Try) -> Iterator[str]:
    validators = _validators()
    media_type = one.content_type.partition(";")[0]
    validator = validators.get((str(one.status), media_type))
    if validator is None:
        yield f"{media_type!r} is not in docs/openapi.yaml"
    elif problem := next(validator.iter_errors(one.answer), None):
        yield problem.message[:200]


@cache
def _validators() -> Mapping[tuple[str, str], jsonschema.Draft202012Validator]:
    document = yaml.safe_load(_OPENAPI.read_text())
    return {
        (status, media_type): jsonschema.Draft202012Validator(
            {**described["schema"], "components": document["components"]}
        )
        for status, response in document["paths"]["/v1/events"]["post"]["responses"].items()
        for media_type, described in response.get("content", {}).items()
    }


# --- the archive


def _archive(facts: Facts, truth: _Truth) -> Iterator[Breach]:
    """Each event is there as it was sent, in one of the two places; each object is named by what it holds."""
    accepted: set[tuple[str, str]] = set()
    refused: set[_Refusal] = set()
    possible = set().union(*truth.refused.values())
    hours: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, lines in facts.objects.items():
        name = object_name(key)
        if name is None or name.prefix == "set-aside":
            yield Breach("set aside", key)
            continue
        digest = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
        if (name.digest, name.lines) != (digest, len(lines)):
            yield Breach("not sent", f"{key} is not what its name says")
        hours[name.prefix, digest].append(f"{name.hour:%d %H}")
        for line in map(json.loads, lines):
            if name.prefix == "events":
                event_id = line["_id"]
                if line not in truth.accepted.get(event_id, ()):
                    yield Breach(
                        "both" if event_id in truth.refused_ids else "not sent", f"{event_id} in {key}"
                    )
                accepted.add((event_id, _written(line)))
            else:
                refusal = _refusal(line)
                if refusal not in possible:
                    event_id = line.get("event_id")
                    yield Breach("both" if event_id in truth.accepted else "not sent", f"{event_id} in {key}")
                refused.add(refusal)
    for event_id, contents in truth.accepted.items():
        for content in contents:
            if (event_id, _written(content)) not in accepted:
                yield Breach("lost", f"{event_id} is not in S3 as {content}")
    for (index, code, _), ways in truth.refused.items():
        if not ways & refused:
            yield Breach("lost", f"a reject, {code} at {index}, is not in S3")
    for (prefix, digest), of_one in hours.items():
        # Across an hour's turn a retry may add an object of the same content; within an hour never.
        if len(of_one) > min(len(set(of_one)), 2):
            yield Breach("doubled", f"{prefix}/ has {len(of_one)} objects of {digest}")


def _refusal(line: Json) -> _Refusal:
    content = line["event"] if "event" in line else base64.b64decode(line["body_base64"])
    return line["index"], line["reasons"][0]["code"], _written(content)


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
                yield Breach("not sent", f"RAW has line {place[1]} of {place[0]}")
            elif count > 1:
                yield Breach("doubled", f"line {place[1]} of {place[0]} is in RAW {count} times")
        for row in rows:
            line = lines.get((row.file_name, row.row_number))
            if line is not None and json.loads(line) != json.loads(row.payload):
                yield Breach("not sent", f"RAW says otherwise in line {row.row_number} of {row.file_name}")


# --- visits


def _rule(crossings: Sequence[GeofenceEvent], ended_at: datetime | None) -> set[OfPair]:
    """With `ended_at` only what the consumer still takes: older events are for the warehouse."""
    taken = [c for c in crossings if ended_at is None or ended_at - c.occurred_at <= MAX_AGE]
    return {(pair, v) for pair, history in visits_of(taken).items() for v in history.visits}


def _visits[V: (Stay, OfPair)](where: str, found: Sequence[V], expected: set[V]) -> Iterator[Breach]:
    for twice in (s for s, n in Counter(found).items() if n > 1):
        yield Breach("wrong visit", f"{where} shows twice {_said(twice)}")
    for missing in expected - set(found):
        yield Breach("wrong visit", f"{where} lacks {_said(missing)}")
    for extra in set(found) - expected:
        yield Breach("wrong visit", f"{where} has {_said(extra)}")


def _said(one: Stay | OfPair) -> str:
    if not isinstance(one, Stay):
        pair, visit = one
        return (
            f"{_said(stay(pair, visit))}, seen {visit.last_seen_at}, by the app {visit.app_dwell_seconds} s"
        )
    end = "open" if one.exited_at is None and not one.exit_missed else one.exited_at or "unclosed"
    return f"{one.device_id} at {one.fence.tag}/{one.fence.external_id}, {one.entered_at} to {end}"


def _notices(facts: Facts) -> Iterator[Breach]:
    """Somebody who takes every notice, each id once and in order of version, knows the visits.

    One notice has one id, and its kind says what is new of the visit to whoever heard the versions before.
    """
    if facts.told is None:
        return
    known: dict[tuple[str, str, str], dict[_Start, Json]] = defaultdict(dict)
    known_since: dict[tuple[tuple[str, str, str], _Start], int] = {}
    contents: dict[str, str] = {}
    ids: dict[str, str] = {}
    arrivals = {
        (_pair_told(e["detail"]), _start_told(e["detail"]["visit"]), e["detail"]["version"])
        for e in facts.told
        if e["detail-type"] == "arrived" and e["detail"]["visit"]
    }
    for event in sorted(facts.told, key=lambda event: int(event["detail"]["version"])):
        kind, detail = event["detail-type"], event["detail"]
        said = json.dumps([kind, detail], sort_keys=True)
        if detail["id"] in contents:
            if contents[detail["id"]] != said:
                yield Breach("told", f"two notices have the id {detail['id']}")
            continue
        contents[detail["id"]] = said
        without_id = json.dumps([kind, {**detail, "id": ""}], sort_keys=True)
        if ids.setdefault(without_id, detail["id"]) != detail["id"]:
            yield Breach("told", f"one notice has two ids, {ids[without_id]} and {detail['id']}")
        pair, version = _pair_told(detail), detail["version"]
        was, now = detail.get("previous"), detail["visit"]
        if was:
            known[pair].pop(_start_told(was), None)
        is_new = now is not None and (
            _start_told(now) not in known[pair] or known_since[pair, _start_told(now)] == version
        )
        match kind:
            case "arrived":
                is_so = was is None and is_new
            case "departed":
                has_arrived = not is_new or (now and (pair, _start_told(now), version) in arrivals)
                is_so = was is None and now is not None and now["exited_at"] is not None and has_arrived
            case _:
                is_so = kind == "visit_restated" and was is not None
        if not is_so:
            yield Breach("told", f"{kind}, and not so: {detail}")
        if now:
            if _start_told(now) not in known[pair]:
                known_since[pair, _start_told(now)] = version
            known[pair][_start_told(now)] = now
    told = {
        (pair[0], pair[1], pair[2], v["entered_event_id"], v["exited_event_id"], v["exit_missed"])
        for pair, visits in known.items()
        for v in visits.values()
    }
    true = {
        (pair.device_id, *pair.fence, v.entered_event_id, v.exited_event_id, v.exit_missed)
        for pair, v in facts.visits
    }
    for visit in true - told:
        yield Breach("told", f"nobody was told of {visit}")
    for visit in told - true:
        yield Breach("told", f"told, and not so: {visit}")


type _Start = tuple[str, str]
"""When a visit began, and by which event: what makes it the same visit."""


def _pair_told(detail: Json) -> tuple[str, str, str]:
    return detail["device_id"], detail["geofence_tag"], detail["geofence_external_id"]


def _start_told(visit: Json) -> _Start:
    return visit["entered_at"], visit["entered_event_id"]
