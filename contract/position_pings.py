"""Location pings: positions that an SDK sends between geofence events, without `_id`, `type` or `createdAt`.

A ping becomes an event of type `location.ping`. Its id is derived from its text, so a ping that is sent again is a
duplicate. Pings are archived and loaded into the warehouse, but not published.
"""

import hashlib
from typing import TypeGuard

import msgspec

from contract.event_rules import LocationPing, is_id
from contract.instants import instant
from contract.strict_json import with_members

PING_TYPE = "location.ping"
ID_DIGITS = 24


def is_ping(value: object) -> TypeGuard[dict[str, object]]:
    """Return whether a value has a device, a position and a time, but no `_id`, `type` or `createdAt`."""
    if not isinstance(value, dict) or value.get("_id") is not None:
        return False
    try:
        ping = msgspec.convert(value, LocationPing)
        return is_id(ping.device_id) and bool(instant(ping.updated_at))
    except ValueError:
        return False


def as_event(text: bytes, ping: dict[str, object]) -> bytes:
    """Turn `ping` into an event by adding members to it; return its compact `text` with the same members added."""
    digest = hashlib.sha256(text).hexdigest()
    added = {"_id": digest[:ID_DIGITS], "type": PING_TYPE, "createdAt": str(ping["updatedAt"])}
    ping |= added
    return with_members(text, {name: msgspec.json.encode(value) for name, value in added.items()})
