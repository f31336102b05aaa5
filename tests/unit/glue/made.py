"""Archives made for tests: events laid out as the handler lays them, and the real rounds where they exist."""

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contract.events import Fence, GeofenceEvent, Kind
from contract.objects import lines_object
from glue.archive import Folder, floor_hour

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
    user: str = "driver-1",
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
    folder: Path, lines: Iterable[bytes], hour: datetime = HOUR, batch: int = 20, prefix: str = "events"
) -> list[str]:
    """Write lines as objects of `batch` events; returns the keys."""
    store, keys, some = Folder(folder), [], []
    for each in [*lines, None]:
        if each is not None:
            some.append(each)
        if some and (each is None or len(some) == batch):
            made = lines_object(prefix, some, hour)  # type: ignore[arg-type]
            store.write(made.key, made.body)
            keys.append(made.key)
            some = []
    return keys


def rounds_archived(folder: Path, batch: int = 20) -> dict[datetime, list[bytes]]:
    """The 30,921 real events as an archive by the hour of their `createdAt`; returns what lies in each hour."""
    hours: dict[datetime, list[bytes]] = {}
    with gzip.open(ROUNDS) as lines:
        for each in lines:
            at = datetime.fromisoformat(json.loads(each)["createdAt"]).replace(
                minute=0, second=0, microsecond=0
            )
            hours.setdefault(at, []).append(each.rstrip(b"\n"))
    for hour, those in hours.items():
        archived(folder, those, hour, batch)
    return hours


def random_crossings(seed: int, count: int = 60, devices: int = 2, fences: int = 2) -> list[GeofenceEvent]:
    """A small world where ties, ids with several contents and gaps at the merge limit are common."""
    pick = random.Random(seed)
    ids = [f"e{n}" for n in range(max(2, count * 3 // 4))]
    return [
        GeofenceEvent(
            event_id=pick.choice(ids),
            type=TYPES[kind] if pick.random() < 0.8 else TYPES[kind].replace("user.", "user_"),
            kind=kind,
            device_id=f"van-{pick.randrange(devices)}",
            fence=Fence(pick.choice(["farm", "Ferme é"]), f"f{pick.randrange(fences)}"),
            occurred_at=HOUR
            + timedelta(seconds=pick.randrange(0, 40) * 60, microseconds=pick.choice([0, 0, 0, 1])),
            duration_minutes=pick.choice([None, 0.0, 1.5, 1.25]),
            confidence=pick.choice([None, 0, 1, 2, 3]),
        )
        for kind in pick.choices(["enter", "dwell", "exit"], weights=[4, 2, 4], k=count)
    ]


def payloads(store: Folder, keys: Sequence[str]) -> Iterator[bytes]:
    from io import BytesIO

    import pyarrow.parquet as pq

    for key in keys:
        for text in pq.read_table(BytesIO(store.read(key)), columns=["payload"]).column(0).to_pylist():
            yield text.encode()
