"""Search the console's memory for a string that the user typed."""

from collections.abc import Iterable

from contract.archive_object import object_name
from tools.console.fleet import PlaceRow
from tools.console.state import ConsoleState

MOST = 8
SEARCHED = "trucks, places, and the latest events by id and object key"


def search(state: ConsoleState, text: str) -> dict[str, object]:
    """Return the trucks, places, events and objects whose name, id or key contains `text`, at most MOST of
    each kind.
    """
    wanted = text.strip().casefold()
    if not wanted:
        return {"trucks": [], "places": [], "events": [], "objects": [], "trace": None, "searched": SEARCHED}
    known = state.fences()
    trucks = _best(((device, device) for device in state.fleet.devices()), wanted)
    return {
        "trucks": trucks,
        "places": [
            {"fence_id": fence_id, "name": name, "tag": tag}
            for fence_id, name, tag in _places_like(known, wanted)
        ],
        "events": [
            {"event_id": e.event_id, "type": e.type, "device_id": e.device_id, "kind": e.kind,
             "key": e.key, "line": e.line}
            for e in state.events.with_id_like(wanted, MOST)
        ],
        "objects": list(
            dict.fromkeys(e.key for e in state.events.in_object(wanted, MOST))
        ),
        # An event id or an object key that is not in memory may be in the archive.
        "trace": text.strip() if len(wanted) >= 4 or object_name(text.strip()) else None,
        "searched": SEARCHED,
    }  # fmt: skip


def _best(named: Iterable[tuple[str, str]], wanted: str) -> list[str]:
    found = [(name.casefold().find(wanted), len(name), name, id_) for name, id_ in named]
    return [id_ for at, _, _, id_ in sorted(each for each in found if each[0] >= 0)[:MOST]]


def _places_like(places: list[PlaceRow], wanted: str) -> list[tuple[str, str, str]]:
    found = []
    for place in places:
        name, external_id, tag = place["name"], place["external_id"], place["tag"]
        at = min(
            (n for n in (name.casefold().find(wanted), external_id.casefold().find(wanted)) if n >= 0),
            default=None,
        )
        if at is None and f"{tag}/{external_id}".casefold().find(wanted) < 0:
            continue
        found.append((99 if at is None else at, len(name), name, place["fence_id"], tag))
    return [(fence_id, name, tag) for _, _, name, fence_id, tag in sorted(found)[:MOST]]
