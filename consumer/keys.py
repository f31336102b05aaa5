"""How pairs, events and visits stand in the table.

`#` separates the parts of a key and ids may hold any character, so `#` and `%` inside a part are
percent-encoded: two different things never share a key. All items of one pair lie under one partition key.

    head            the pair's last visit, its version, and the change under way
    done            the version whose change is complete and published
    e#…             an event that counts or once did, in walking order but for ties; all of it is in the key
    i#<event id>    the first content that was met under this id
    x#<event id>#…  a lesser content that was met under it later
    v#…             a visit that a later one follows
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache

from aws.table import Item
from consumer.visits import Order, Pair, Visit, order_of
from contract.events import Fence, GeofenceEvent, Kind

HEAD = "head"
DONE = "done"
LAST = "\U0010ffff"  # sorts after every key
KEPT_FOR = timedelta(days=90)

_KINDS: tuple[Kind, ...] = ("enter", "dwell", "exit")


def quoted(part: str) -> str:
    if "#" in part or "%" in part:
        return part.replace("%", "%25").replace("#", "%23")
    return part


def unquoted(part: str) -> str:
    return part.replace("%23", "#").replace("%25", "%")


# Cached, as the times below: each is asked for six times an event, a tenth of the consumer's own CPU.
@lru_cache(4096)
def pair_key(pair: Pair) -> str:
    return f"{quoted(pair.device_id)}#{fence_key(pair.fence)}"


def fence_key(fence: Fence) -> str:
    return f"{quoted(fence.tag)}#{quoted(fence.external_id)}"


@lru_cache(4096)
def timestamp(at: datetime) -> str:
    """Of a time in UTC: fixed width with microseconds, so that text sorts as time does."""
    return at.isoformat(timespec="microseconds")[:26] + "Z"


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def event_key(event: GeofenceEvent) -> str:
    """The whole of what the rule reads of an event. `event_of` is the inverse."""
    at, rank, event_id = order_of(event)
    # + 0.0 turns -0.0, which the rule takes for equal, into 0.0.
    minutes = "" if event.duration_minutes is None else repr(event.duration_minutes + 0.0)
    confidence = "" if event.confidence is None else str(event.confidence)
    return f"e#{timestamp(at)}#{rank}#{quoted(event_id)}#{quoted(event.type)}#{minutes}#{confidence}"


def event_of(pair: Pair, key: str) -> GeofenceEvent:
    _, at, rank, event_id, type_, minutes, confidence = key.split("#")
    return GeofenceEvent(
        event_id=unquoted(event_id),
        type=unquoted(type_),
        kind=_KINDS[int(rank)],
        device_id=pair.device_id,
        fence=pair.fence,
        occurred_at=instant(at),
        duration_minutes=float(minutes) if minutes else None,
        confidence=int(confidence) if confidence else None,
    )


def order_prefix(order: Order) -> str:
    """What the keys of all events of one instant and kind begin with; ids are not in order below it."""
    return f"e#{timestamp(order[0])}#{order[1]}#"


def instant_of(event_key: str) -> datetime:
    return instant(event_key.split("#", 2)[1])


def id_key(event_id: str) -> str:
    return f"i#{quoted(event_id)}"


def first_key(event_key: str) -> str:
    """`id_key` of the event with this key."""
    return f"i#{event_key.split('#', 4)[3]}"


def lesser_prefix(event_id: str) -> str:
    return f"x#{quoted(event_id)}#"


def lesser_key(event_key: str) -> str:
    return f"x#{event_key.split('#', 4)[3]}#{hashlib.sha256(event_key.encode()).hexdigest()[:32]}"


def superseded_key(event_key: str) -> str:
    """The mark beside an event's item that its content does not count any more."""
    return f"{event_key}#-"


def is_mark(key: str) -> bool:
    return key.endswith("#-")


def visit_key(visit: Visit) -> str:
    return f"v#{timestamp(visit.entered_at)}#{quoted(visit.entered_event_id)}"


def expires_at(at: datetime) -> int:
    """The TTL of what tells of `at`, in epoch seconds."""
    return int((at + KEPT_FOR).timestamp())


def visit_attributes(pair: Pair, visit: Visit) -> Item:
    """A visit as attributes, of a `v#` item or of the head; both indexes are made of them."""
    found: dict[str, str | bool | None] = {
        "device_id": pair.device_id,
        "geofence_tag": pair.fence.tag,
        "geofence_external_id": pair.fence.external_id,
        "fence_now": fence_key(pair.fence) if visit.is_open else None,
        "entered_at": timestamp(visit.entered_at),
        "entered_event_id": visit.entered_event_id,
        "exited_at": None if visit.exited_at is None else timestamp(visit.exited_at),
        "exited_event_id": visit.exited_event_id,
        "exit_missed": visit.exit_missed,
        "last_seen_at": None if visit.last_seen_at is None else timestamp(visit.last_seen_at),
        # Text: a double may be larger than DynamoDB's numbers.
        "app_dwell_seconds": None if visit.app_dwell_seconds is None else repr(visit.app_dwell_seconds),
    }
    return {name: value for name, value in found.items() if value is not None}


def visit_of(item: Mapping[str, str | int | bool]) -> Visit | None:
    """The inverse of `visit_attributes`; None for a head without a visit and for one that is gone."""
    if "entered_at" not in item:
        return None

    def time(name: str) -> datetime | None:
        return instant(str(item[name])) if name in item else None

    return Visit(
        entered_at=instant(str(item["entered_at"])),
        entered_event_id=str(item["entered_event_id"]),
        exited_at=time("exited_at"),
        exited_event_id=str(item["exited_event_id"]) if "exited_event_id" in item else None,
        exit_missed=bool(item["exit_missed"]),
        last_seen_at=time("last_seen_at"),
        app_dwell_seconds=float(item["app_dwell_seconds"]) if "app_dwell_seconds" in item else None,
    )


def pair_of_visit(item: Mapping[str, str | int | bool]) -> Pair:
    return Pair(str(item["device_id"]), Fence(str(item["geofence_tag"]), str(item["geofence_external_id"])))
