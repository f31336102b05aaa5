"""List the places, each with its latest visit and the number of visits that began today."""

from datetime import datetime
from zoneinfo import ZoneInfo

from ops import fleet_day
from ops.read_stores import utc
from tools.console import parse_object
from tools.console.known_visits import VisitRow
from tools.console.state import ConsoleState


def places(state: ConsoleState, zone: ZoneInfo, now: datetime) -> list[dict[str, object]]:
    """Return each place with the number of trucks inside, the number of visits that began since midnight in the
    fleet's time zone, and its latest visit.

    The console's memory lacks the closed visits of trucks that have sent nothing since the console started, and the
    marts lack the visits since the last dbt run. The number of visits is the larger of these two counts.
    """
    began_at = fleet_day.bounds(fleet_day.day_of(now, zone), zone)[0]
    midnight = parse_object.written(began_at)
    today: dict[str, int] = {}
    latest: dict[str, VisitRow] = {}
    for row in state.visits.rows():
        fence_id = row["fence_id"]
        if row["entered_at"] >= midnight:
            today[fence_id] = today.get(fence_id, 0) + 1
        if fence_id not in latest or row["entered_at"] > latest[fence_id]["entered_at"]:
            latest[fence_id] = row
    found: list[dict[str, object]] = []
    for place in state.fences():
        fence_id = place["fence_id"]
        last, in_marts = latest.get(fence_id), state.mart_places.get(fence_id)
        latest_visit: dict[str, object] = {
            "last_device_id": last and last["device_id"],
            "last_entered_at": last and last["entered_at"],
            "last_exited_at": last and last["exited_at"],
        }
        if in_marts and in_marts.midnight == began_at:
            today[fence_id] = max(today.get(fence_id, 0), in_marts.today)
        if in_marts:
            entered, exited = parse_object.written(utc(in_marts.last_entered_at)), in_marts.last_exited_at
            if last is None or entered > last["entered_at"]:
                latest_visit = {
                    "last_device_id": None,
                    "last_entered_at": entered,
                    "last_exited_at": exited and parse_object.written(utc(exited)),
                }
        found.append(
            {
                "fence_id": fence_id,
                "tag": place["tag"],
                "external_id": place["external_id"],
                "kind": place["kind"],
                "name": place["name"],
                "there": place["there"],
                "visits_today": today.get(fence_id, 0),
                "usual_dwell_seconds": state.visits.usual_dwell(fence_id, place["tag"]),
            }
            | latest_visit
        )
    return found
