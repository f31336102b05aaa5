"""A visit in the form that operators, the console and subscribers of notifications receive."""

from consumer import keys
from consumer.visits import Pair, Visit

type VisitFields = dict[str, str | float | bool | None]


def fields_of(pair: Pair, visit: Visit) -> VisitFields:
    return {
        "device_id": pair.device_id,
        "geofence_tag": pair.fence.tag,
        "geofence_external_id": pair.fence.external_id,
        "entered_at": keys.timestamp(visit.entered_at),
        "exited_at": None if visit.exited_at is None else keys.timestamp(visit.exited_at),
        "dwell_seconds": visit.dwell_seconds,
        "entered_event_id": visit.entered_event_id,
        "exited_event_id": visit.exited_event_id,
        "exit_missed": visit.exit_missed,
        "last_seen_at": None if visit.last_seen_at is None else keys.timestamp(visit.last_seen_at),
        "app_dwell_seconds": visit.app_dwell_seconds,
    }
