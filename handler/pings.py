"""Location pings: the positions that an SDK sends between crossings have no `_id`, `type` or `createdAt`.

A ping becomes an event of type `location.ping` whose id is derived from its text, so that the same ping sent again is
the same event. It goes to the archive and the warehouse, never to the stream.
"""

import hashlib
from collections.abc import Mapping
from typing import TypeGuard

import msgspec

from contract.events import is_id
from contract.instants import instant
from handler.parse_body import with_members

PING_TYPE = "location.ping"
ID_DIGITS = 24


def is_ping(value: object) -> TypeGuard[dict[str, object]]:
    """Return whether a value has no `_id`, `type` and `createdAt`, but a device, a position and a time."""
    return (
        isinstance(value, dict)
        and value.get("_id") is None
        and is_id(value.get("deviceId"))
        and value.get("type") is None
        and value.get("createdAt") is None
        and _is_number(value.get("latitude"))
        and _is_number(value.get("longitude"))
        and _is_instant(value.get("updatedAt"))
    )


def as_event(text: bytes, ping: dict[str, object]) -> bytes:
    """Return the ping's compact text with the members that an event needs.

    They are also added to `ping`, its parsed value.
    """
    digest = hashlib.sha256(text).hexdigest()
    added: Mapping[str, str] = {
        "_id": digest[:ID_DIGITS],
        "type": PING_TYPE,
        "createdAt": str(ping["updatedAt"]),
    }
    ping |= added
    return with_members(text, {name: msgspec.json.encode(value) for name, value in added.items()})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_instant(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(instant(value))
    except ValueError:
        return False
