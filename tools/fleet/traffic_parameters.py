"""The parameters of the sample traffic, and their defaults."""

import secrets
from dataclasses import dataclass
from datetime import datetime

DEFAULT_TRUCKS = 12
DEFAULT_FARMS = 40
# Fractions of the number of events
DEFAULT_DUPLICATES = 0.04
DEFAULT_LATE = 0.12  # also the probability that a phone is offline (in a dead zone) on a stretch
DEFAULT_INVALID = 0.012

SPEED_KMH = 50
# In the live demo, trucks are twelve times as fast, so that their movement is visible. The events have the actual time.
LIVE_SPEED_KMH = 12 * SPEED_KMH
LIVE_TICK_SECONDS = 3.0  # between two positions
LIVE_STOP_SECONDS = 20.0
MINUTES_BETWEEN_POSITIONS = 2.2
STOP_MINUTES = (8, 18)
PICKUP_LITRES = (400, 6000)
# The fractions of stops at which the enter event is missed, the exit event is missed, and the truck flaps (exits and
# enters again)
MISSED_ENTERS = 0.03
MISSED_EXITS = 0.06
FLAPPING = 0.2
# The fraction of events that a phone sends only after the event that follows them
SWAPPED = 0.03


def new_run_id() -> str:
    return secrets.token_hex(4)


def checked_run_id(text: str) -> str:
    """Return the run id unchanged if it is valid. Raises ValueError otherwise."""
    if len(text) != 8 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"a run id must have 8 hexadecimal digits (0-9, a-f), not {text!r}")
    return text


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a morning. `run` (8 hex digits) is a prefix of all event ids and a suffix of all device ids.

    `duplicates`, `late` and `invalid` are fractions of the number of events: events sent twice, events sent
    only after a dead zone, and additional invalid events. `begins_at` must have a time zone; the events span
    about `rounds` × 4 hours from then.
    """

    run: str
    begins_at: datetime
    seed: int = 1
    trucks: int = DEFAULT_TRUCKS
    farms: int = DEFAULT_FARMS
    rounds: int = 2
    duplicates: float = DEFAULT_DUPLICATES
    late: float = DEFAULT_LATE
    invalid: float = DEFAULT_INVALID
    batch_size: int = 20
    first_truck: int = 0

    def __post_init__(self) -> None:
        checked_run_id(self.run)
        if self.begins_at.tzinfo is None:
            raise ValueError("begins_at must have a time zone")
        for name in ("trucks", "farms", "rounds", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
