"""The latest accepted and rejected events, limited in number and total bytes, and the number of all events that the
console has found since its start or last reset.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice

from snowpipe.quoting import quoted
from tools.console import parse_object
from tools.console.parse_object import Event

# kind of event: (maximum number of events, maximum bytes of their stored lines)
BOUNDS = {"good": (5000, 12 << 20), "bad": (2000, 6 << 20)}


class RecentEvents:
    def __init__(self) -> None:
        self._seq = 0
        self._held: dict[str, deque[Event]] = {kind: deque() for kind in BOUNDS}
        self._bytes = dict.fromkeys(BOUNDS, 0)
        self.counted = dict.fromkeys(BOUNDS, 0)
        self._fresh: dict[str, list[Event]] = {kind: [] for kind in BOUNDS}

    def add(self, event: Event) -> None:
        self._seq += 1
        event.seq = self._seq
        held = self._held[event.kind]
        held.append(event)
        self._fresh[event.kind].append(event)
        self.counted[event.kind] += 1
        self._bytes[event.kind] += event.size
        number, size = BOUNDS[event.kind]
        while len(held) > number or (self._bytes[event.kind] > size and len(held) > 1):
            self._bytes[event.kind] -= held.popleft().size

    def skipped(self, kind: str, lines: int) -> None:
        """Count the events of objects that were not read because too many objects arrived at once."""
        self.counted[kind] += lines

    def take_fresh(self, most: int) -> tuple[dict[str, list[Event]], int]:
        """Return the events added since the last call, at most `most` of each kind, the newest first; and the
        number of events left out.
        """
        fresh = {kind: list(islice(reversed(events), most)) for kind, events in self._fresh.items()}
        left_out = sum(map(len, self._fresh.values())) - sum(map(len, fresh.values()))
        for events in self._fresh.values():
            events.clear()
        return fresh, left_out

    def forget(self) -> None:
        for kind in BOUNDS:
            self._held[kind].clear()
            self._fresh[kind].clear()
            self._bytes[kind] = self.counted[kind] = 0

    def find(self, seq: int) -> Event | None:
        return next((event for event in self._newest("all") if event.seq == seq), None)

    def of_id(self, event_id: str, device_id: str = "") -> Event | None:
        """Return the latest event with this id. Devices may share an id, so `device_id` restricts the search to one."""
        of_device = (each for each in self._newest("all") if not device_id or each.device_id == device_id)
        return next((event for event in of_device if event.event_id == event_id), None)

    def at(self, key: str, line: int) -> Event | None:
        return next((e for e in self._newest("all") if e.key == key and e.line == line), None)

    def in_object(self, part: str, limit: int) -> list[Event]:
        """Return one event from each object whose key contains `part` (ignoring case), for at most `limit`
        objects.
        """
        wanted, found = part.casefold(), dict[str, Event]()
        for event in self._newest("all"):
            if wanted in event.key.casefold() and len(found) < limit:
                found.setdefault(event.key, event)
        return list(found.values())

    def with_id_like(self, part: str, limit: int) -> list[Event]:
        """Return the events whose id contains `part`, ignoring case; at most `limit`, the newest first."""
        wanted = part.casefold()
        found = (each for each in self._newest("all") if each.event_id and wanted in each.event_id.casefold())
        return list(islice(found, limit))

    def matching(
        self,
        kind: str,
        *,
        limit: int,
        before: int | None = None,
        event_id: str = "",
        type_: str = "",
        device: str = "",
        code: str = "",
        q: str = "",
    ) -> list[Event]:
        """Return the events that match all filters, at most `limit`, the newest first.

        An empty filter matches every event. `q` matches any part of the id, the device or the type, ignoring case.
        """
        # Events contain only the beginnings of long values, so shorten the filters in the same way.
        event_id, type_, device = (parse_object.cut(value) or "" for value in (event_id, type_, device))
        wanted = q.casefold()
        found = (
            event
            for event in self._newest(kind)
            if (before is None or event.seq < before)
            and (not event_id or event.event_id == event_id)
            and (not type_ or event.type == type_)
            and (not device or event.device_id == device)
            and (not code or code in event.codes)
            and (not wanted or _says(event, wanted))
        )
        return list(islice(found, limit))

    def held(self) -> dict[str, int]:
        return {kind: len(held) for kind, held in self._held.items()}

    def types(self) -> list[str]:
        return sorted({event.type for event in self._newest("all") if event.type})

    def codes(self) -> list[str]:
        return sorted({code for event in self._held["bad"] for code in event.codes})

    def _newest(self, kind: str) -> Iterator[Event]:
        if kind != "all":
            yield from reversed(self._held[kind])
            return
        good, bad = (iter(reversed(self._held[kind])) for kind in ("good", "bad"))
        one, other = next(good, None), next(bad, None)
        while one or other:
            if other is None or (one is not None and one.seq > other.seq):
                assert one is not None
                yield one
                one = next(good, None)
            else:
                yield other
                other = next(bad, None)


def _says(event: Event, wanted: str) -> bool:
    return any(wanted in value.casefold() for value in (event.event_id, event.device_id, event.type) if value)


def row(event: Event) -> dict[str, object]:
    common = {
        name: getattr(event, name)
        for name in (
            "seq",
            "kind",
            "event_id",
            "type",
            "device_id",
            "at",
            "received_at",
            "key",
            "line",
            "size",
        )
    }
    if event.kind == "good":
        return common | {"fence_id": event.fence_id}
    return common | {"codes": event.codes, "reasons": event.reasons, "app_version": event.app_version}


def whole(event: Event, bucket: str, database: str) -> dict[str, object]:
    """Return the event in the form that the page receives, with its line in S3, the S3 URI, and SQL that finds it."""
    stored = event.stored.decode(errors="replace")
    raw, base64_ = (stored, None) if event.kind == "good" else parse_object.raw_of(event.stored)
    table = "EVENTS" if event.kind == "good" else "REJECTED"
    sql = (
        f"SELECT payload FROM {database}.RAW.{table}"
        f" WHERE file_name = {quoted(event.key)} AND file_row_number = {event.line}"
    )
    return row(event) | {
        "raw": raw,
        "body_base64": base64_,
        "stored": stored,
        "raw_truncated": False,
        "s3_uri": f"s3://{bucket}/{event.key}",
        "sql": sql,
    }
