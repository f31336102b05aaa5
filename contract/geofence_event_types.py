"""The event types that are geofence events, and the kind of each."""

from collections.abc import Mapping
from typing import Literal

Kind = Literal["enter", "dwell", "exit"]

# Some senders write an underscore after `user`. A stage may configure other types (GEOFENCE_KINDS).
GEOFENCE_KINDS: Mapping[str, Kind] = {
    "user.entered_geofence": "enter",
    "user_entered_geofence": "enter",
    "user.dwelled_in_geofence": "dwell",
    "user_dwelled_in_geofence": "dwell",
    "user.exited_geofence": "exit",
    "user_exited_geofence": "exit",
}
