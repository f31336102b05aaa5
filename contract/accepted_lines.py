"""The lines stored under `events/`: the events as the app sent them, with the members that Milkrun adds."""

from collections.abc import Mapping

import msgspec

from contract.position_pings import as_event, is_ping
from contract.strict_json import with_members


def accepted_line(text: bytes, event: object, identity: Mapping[str, str]) -> bytes:
    """Return the line for an event, given as compact text and parsed. `event` receives the added members, too.

    A location ping receives an id, a type and a time. An event whose `user` is absent or null receives `identity`, the
    ids of the envelope's `user`, if there are any.
    """
    if is_ping(event):
        text = as_event(text, event)
    if identity and isinstance(event, dict) and event.get("user") is None:
        event["user"] = identity
        text = with_members(text, {"user": msgspec.json.encode(identity)})
    return text
