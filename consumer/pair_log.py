"""The head item of a pair, and the entry in it: the change under way, whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import msgspec

from aws.table import Item
from consumer import keys
from consumer.visit_diff import Notification, VisitDiff, notifications
from consumer.visits import Order, Pair, Visit
from contract.events import GeofenceEvent


class Entry(msgspec.Struct, frozen=True):
    """All that a change asks to be written and told, so that whoever reads it can carry it out.

    Events stand here as their keys: `first` under their id, `lesser` than the one that counted until now,
    `superseded` by a lesser one.
    """

    first: list[str]
    lesser: list[str]
    superseded: list[str]
    visits: list[Item]
    told: list[Notification]


@dataclass(frozen=True, slots=True)
class Head:
    """`through`: no event that counts is later. `visit`: the last one. `entry`: what made this `version`."""

    version: int = 0
    through: Order | None = None
    visit: Visit | None = None
    entry: bytes = b""

    @property
    def expires_at(self) -> int | None:
        """An open visit may last longer than the events are kept, and its exit must still find it."""
        is_open = self.visit is not None and self.visit.is_open
        return None if is_open or self.through is None else keys.expires_at(self.through[0])


def head_item(pair: Pair, head: Head) -> Item:
    assert head.through is not None
    at, rank, event_id = head.through
    expiry: Item = {} if head.expires_at is None else {"expires_at": head.expires_at}
    return {
        "pk": keys.pair_key(pair),
        "sk": keys.HEAD,
        "version": head.version,
        "through": f"{keys.timestamp(at)}#{rank}#{event_id}",
        "entry": head.entry.decode(),
        **(keys.visit_attributes(pair, head.visit) if head.visit else {}),
        **expiry,
    }


def head_of(item: Item) -> Head:
    at, rank, event_id = str(item["through"]).split("#", 2)
    through = keys.instant(at), int(rank), event_id
    return Head(int(item["version"]), through, keys.visit_of(item), str(item["entry"]).encode())


def done_item(pair: Pair, head: Head) -> Item:
    expiry: Item = {} if head.expires_at is None else {"expires_at": head.expires_at}
    return {"pk": keys.pair_key(pair), "sk": keys.DONE, "version": head.version, **expiry}


def entry_of(head: Head) -> Entry:
    return msgspec.json.decode(head.entry, type=Entry)


def new_entry(
    pair: Pair,
    version: int,
    changed: VisitDiff,
    *,
    first: list[GeofenceEvent],
    lesser: list[GeofenceEvent],
    superseded: list[GeofenceEvent],
) -> Entry:
    pk = keys.pair_key(pair)
    after = {keys.visit_key(v): v for v in changed.after}
    gone = {keys.visit_key(v): v for v in changed.before if keys.visit_key(v) not in after}
    latest = max(event.occurred_at for event in (*first, *lesser))
    return Entry(
        first=[keys.event_key(e) for e in first],
        lesser=[keys.event_key(e) for e in lesser],
        superseded=[keys.event_key(e) for e in superseded],
        visits=[
            *(
                # For as long as an event that it takes may come late.
                _visit_item(
                    pk,
                    key,
                    version,
                    v.exited_at or changed.followed_at[v],
                    keys.visit_attributes(pair, v),
                )
                for key, v in after.items()
            ),
            # Not deleted: a slow process could put it again, were there no later version to stop it.
            *(_visit_item(pk, key, version, max(v.entered_at, latest), {}) for key, v in gone.items()),
        ],
        told=notifications(pair, version, changed),
    )


def _visit_item(pk: str, key: str, version: int, until: datetime, attributes: Item) -> Item:
    return {
        "pk": pk,
        "sk": key,
        "version": version,
        "expires_at": keys.expires_at(until),
        **attributes,
    }


def event_items(pk: str, entry: Entry) -> Iterator[Item]:
    """Written once and for all: put in any order, by anyone, again and again."""

    def item(sk: str, key: str, **attributes: str) -> Item:
        return {"pk": pk, "sk": sk, **attributes, "expires_at": keys.expires_at(keys.instant_of(key))}

    for key in entry.first:
        yield item(key, key)
        yield item(keys.first_key(key), key, content=key)
    for key in entry.lesser:
        yield item(key, key)
        yield item(keys.lesser_key(key), key, content=key)
    for key in entry.superseded:
        yield item(keys.superseded_key(key), key)
