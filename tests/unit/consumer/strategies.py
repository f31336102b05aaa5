"""Hypothesis strategies for events as phones send them, with so few values that ids and times often collide."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import Kind

START = datetime(2026, 11, 16, 8, tzinfo=UTC)
TYPES: dict[Kind, str] = {
    "enter": "user.entered_geofence",
    "dwell": "user.dwelled_in_geofence",
    "exit": "user.exited_geofence",
}


FARM = Fence("farm", "7")


def event(
    kind: Kind,
    seconds: float,
    event_id: str = "",
    *,
    device: str = "truck-1",
    fence: Fence = FARM,
    minutes: float | None = None,
    confidence: int | None = None,
    spelt: str = ".",
) -> GeofenceEvent:
    return GeofenceEvent(
        event_id=event_id or f"{kind}-{seconds}",
        type=TYPES[kind].replace(".", spelt, 1),
        kind=kind,
        device_id=device,
        fence=fence,
        occurred_at=START + timedelta(seconds=seconds),
        duration_minutes=minutes,
        confidence=confidence,
    )


@dataclass(frozen=True)
class World:
    devices: Sequence[str] = ("truck-1", "truck#2")
    fences: Sequence[Fence] = (Fence("farm", "7"), Fence("farm#7", ""), Fence("farm", "#7"))
    ids: Sequence[str] = tuple(f"e{n}" for n in range(24))
    last_second: int = 900


def events(world: World | None = None) -> st.SearchStrategy[GeofenceEvent]:
    """Return a strategy that draws events from a small set of ids and times.

    Ids therefore repeat, sometimes with different content, and devices often enter and leave in the same second or
    in quick succession.
    """
    world = world or World()
    return st.builds(
        event,
        st.sampled_from(["enter", "dwell", "exit"]),
        st.integers(0, world.last_second // 30).map(lambda n: n * 30),
        st.sampled_from(world.ids),
        device=st.sampled_from(world.devices),
        fence=st.sampled_from(world.fences),
        minutes=st.sampled_from([None, 0.5, 2.0]),
        confidence=st.sampled_from([None, 0, 1, 3]),
        spelt=st.sampled_from([".", "_"]),
    )


def as_json(e: GeofenceEvent) -> bytes:
    """Return an event encoded as JSON, as the app sends it and the stream carries it."""
    body: dict[str, object] = {
        "_id": e.event_id,
        "type": e.type,
        "createdAt": e.occurred_at.isoformat().replace("+00:00", "Z"),
        "user": {"deviceId": e.device_id},
        "geofence": {"tag": e.fence.tag, "externalId": e.fence.external_id},
    }
    if e.duration_minutes is not None:
        body["duration"] = e.duration_minutes
    if e.confidence is not None:
        body["confidence"] = e.confidence
    return json.dumps(body).encode()


def batch_of(datas: Sequence[bytes | str], first: int = 1, stream: str = "geofence") -> dict[str, Any]:
    """Return a Lambda batch of one shard whose records arrived at Kinesis two hours after START.

    Bytes in `datas` are encoded in base64; a `str` is used unchanged.
    """
    return {
        "Records": [
            {
                "eventSource": "aws:kinesis",
                "eventID": f"shardId-000000000000:{n}",
                "eventSourceARN": f"arn:aws:kinesis:us-east-1:000000000000:stream/{stream}",
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": "truck-1",
                    "sequenceNumber": str(n),
                    "data": data if isinstance(data, str) else base64.b64encode(data).decode(),
                    "approximateArrivalTimestamp": (START + timedelta(hours=2)).timestamp(),
                },
            }
            for n, data in enumerate(datas, first)
        ]
    }
