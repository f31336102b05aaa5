"""Sample archives for tests: events in the handler's layout, and the real delivery rounds if their file exists."""

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from consumer.visits import Rule, visits_of
from contract.archive_object import Prefix, lines_object, lines_of
from contract.event_limits import MAX_CONTENTS_PER_EVENT
from contract.event_rules import check
from contract.events import Fence, GeofenceEvent, Owned
from contract.geofence_event_types import Kind
from glue.archive import Folder, Store, floor_hour
from glue.rebuild import rows_of

Row = tuple[object, ...]

HOUR = datetime(2026, 11, 16, 8, tzinfo=UTC)
ROUNDS = Path(__file__).resolve().parents[4] / "shared/data/delivery-rounds.ndjson.gz"
TYPES: dict[Kind, str] = {
    "enter": "user.entered_geofence",
    "dwell": "user.dwelled_in_geofence",
    "exit": "user.exited_geofence",
}


def line(
    event_id: str,
    type_: str = "user.updated_trip",
    at: datetime = HOUR,
    device: str = "van-1",
    user: object = "driver-1",
    **more: object,
) -> bytes:
    text = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    event = {
        "_id": event_id,
        "type": type_,
        "createdAt": text,
        "user": {"userId": user, "deviceId": device},
        **more,
    }
    return json.dumps(event, separators=(",", ":")).encode()


def crossing_line(event: GeofenceEvent) -> bytes:
    more: dict[str, object] = {"geofence": {"tag": event.fence.tag, "externalId": event.fence.external_id}}
    if event.duration_minutes is not None:
        more["duration"] = event.duration_minutes
    if event.confidence is not None:
        more["confidence"] = event.confidence
    return line(event.event_id, event.type, event.occurred_at, event.device_id, **more)


def archived(
    folder: Path, lines: Iterable[bytes], hour: datetime = HOUR, batch: int = 20, prefix: Prefix = "events"
) -> list[str]:
    """Write lines to objects of `batch` lines each; return the keys of the objects."""
    every = list(lines)
    made = [lines_object(prefix, every[start : start + batch], hour) for start in range(0, len(every), batch)]
    for each in made:
        Folder(folder).write(each.key, each.body)
    return [each.key for each in made]


def rounds_archived(folder: Path, batch: int = 20) -> dict[datetime, list[bytes]]:
    """Archive the 30,921 real events under the hour of their `createdAt`; return the lines of each hour."""
    hours: dict[datetime, list[bytes]] = {}
    with gzip.open(ROUNDS) as lines:
        for each in lines:
            at = datetime.fromisoformat(json.loads(each)["createdAt"])
            hours.setdefault(floor_hour(at), []).append(each.rstrip(b"\n"))
    for hour, those in hours.items():
        archived(folder, those, hour, batch)
    return hours


def random_crossings(seed: int, count: int = 60) -> list[GeofenceEvent]:
    """Return random geofence events. Many share a timestamp, some share an id but differ in content, and some gaps
    equal the merge gap.
    """
    pick = random.Random(seed)
    ids = [f"e{seed}-{n}" for n in range(max(2, count * 3 // 4))]
    return [
        GeofenceEvent(
            event_id=pick.choice(ids),
            type=TYPES[kind] if pick.random() < 0.8 else TYPES[kind].replace("user.", "user_"),
            kind=kind,
            device_id=f"van-{seed}-{pick.randrange(2)}",
            fence=Fence(pick.choice(["farm", "Ferme é"]), f"f{pick.randrange(2)}"),
            occurred_at=HOUR
            + timedelta(seconds=pick.randrange(0, 40) * 60, microseconds=pick.choice([0, 0, 0, 1])),
            duration_minutes=pick.choice([None, 0.0, 1.5, 1.25]),
            confidence=pick.choice([None, 0, 1, 2, 3]),
        )
        for kind in pick.choices(list(TYPES), weights=[4, 2, 4], k=count)
    ]


def payloads(store: Folder, keys: Sequence[str]) -> Iterator[bytes]:
    from io import BytesIO

    import pyarrow.parquet as pq

    for key in keys:
        for text in pq.read_table(BytesIO(store.read(key)), columns=["payload"]).column(0).to_pylist():
            yield text.encode()


def expected_visits(
    events: Iterable[GeofenceEvent], merge_gap_seconds: int = 120, min_confidence: int = 0
) -> list[Row]:
    """Compute visits with the consumer's rule; return them as rows with the schema `glue.rebuild.VISIT`."""
    histories = visits_of(events, Rule(timedelta(seconds=merge_gap_seconds), min_confidence))
    rows = [
        (
            pair.device_id,
            pair.fence.tag,
            pair.fence.external_id,
            visit.entered_at,
            visit.exited_at,
            visit.exit_missed,
            visit.last_seen_at,
            visit.app_dwell_seconds,
            visit.entered_event_id,
            visit.exited_event_id,
        )
        for pair, history in histories.items()
        for visit in history.visits
    ]
    return sorted(rows, key=repr)


def rebuilt_rows(store: Store, name: str, what: str = "visits") -> list[Row]:
    table = rows_of(store, name, what)
    return sorted(zip(*(column.to_pylist() for column in table.columns), strict=True), key=repr)


def expected_conflicts(store: Store, keys: Iterable[str]) -> list[Row]:
    """Return the conflicts as rows with the schema `glue.rebuild.CONFLICT`.

    They are found by comparing each delivery of an event with its first delivery in a plain loop.
    """
    modified = {each.key: each.modified_at for each in store.list("events/")}
    deliveries: dict[Owned, list[tuple[datetime, str, int, str]]] = {}
    for key in keys:
        for number, each in enumerate(lines_of(store.read(key)), 1):
            event = json.loads(each)
            content = json.dumps(event, sort_keys=True)
            deliveries.setdefault(check(event).owned, []).append((modified[key], key, number, content))
    rows: list[Row] = []
    for owned, those in deliveries.items():
        those.sort()
        kept = those[0]
        contents = list(dict.fromkeys(each[3] for each in those))[:MAX_CONTENTS_PER_EVENT]
        for content in contents[1:]:
            same = [each for each in those if each[3] == content]
            place = (same[0][1], same[0][2], len(same), kept[1], kept[2])
            rows.append((owned.event_key, owned.event_id, *place))
    return sorted(rows, key=repr)
