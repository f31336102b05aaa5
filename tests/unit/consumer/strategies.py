"""Events as phones send them, small enough that collisions of every kind happen."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from contract.events import Fence, GeofenceEvent, Kind

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
    """Few ids, so that ids repeat with the same and with other contents; times that tie and that flap."""
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
