"""Search the console's memory for a string that the user typed, and list places and visits."""

import csv
import io
from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from contract.archive_object import object_name
from ops import fleet_day
from ops.read_stores import utc
from ops.spreadsheet import spreadsheet_safe
from tools.console import parse_object
from tools.console.fleet import PlaceRow
from tools.console.known_visits import VisitRow
from tools.console.state import ConsoleState

MOST = 8
SEARCHED = "trucks, places, and the latest events by id, device and object"


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
            for e in state.events.matching("all", limit=MOST, q=wanted)
            if e.event_id and (wanted in e.event_id.casefold())
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


def places(state: ConsoleState, zone: ZoneInfo, now: datetime) -> list[dict[str, object]]:
    """Return each place with the number of trucks inside, the number of its visits since midnight in the
    fleet's time zone, and its latest visit.
    """
    midnight = parse_object.written(fleet_day.bounds(fleet_day.day_of(now, zone), zone)[0])
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


CSV_FIELDS = (
    "device_id",
    "geofence_tag",
    "geofence_external_id",
    "entered_at",
    "exited_at",
    "dwell_seconds",
    "exit_missed",
    "contradicted_by_event_id",
    "exit_inferred_at",
    "entered_event_id",
    "exited_event_id",
)


def visits_csv_header(zone: ZoneInfo) -> str:
    return ",".join((*CSV_FIELDS, f"entered ({zone.key})", f"left ({zone.key})")) + "\r\n"


def visits_csv(rows: Iterable[VisitRow], zone: ZoneInfo) -> str:
    """Return visits as CSV rows without a header; times are given both in UTC and in the fleet's time zone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    for row in rows:
        writer.writerow(
            [
                *(spreadsheet_safe(row.get(name)) for name in CSV_FIELDS),
                local_time(row["entered_at"], zone),
                local_time(row["exited_at"], zone),
            ]
        )
    return text.getvalue()


def local_time(at: str | None, zone: ZoneInfo) -> str:
    return f"{datetime.fromisoformat(at).astimezone(zone):%Y-%m-%d %H:%M:%S}" if at else ""
