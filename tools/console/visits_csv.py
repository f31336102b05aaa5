"""Write visits as CSV, with the entry and exit times both in UTC and in the fleet's time zone."""

import csv
import io
from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from ops.spreadsheet import spreadsheet_safe
from tools.console.known_visits import VisitRow

FIELDS = (
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


def header(zone: ZoneInfo) -> str:
    return ",".join((*FIELDS, f"entered ({zone.key})", f"left ({zone.key})")) + "\r\n"


def as_csv(rows: Iterable[VisitRow], zone: ZoneInfo) -> str:
    """Return visits as CSV rows without a header; entry and exit times are also given in the fleet's time zone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    for row in rows:
        writer.writerow(
            [
                *(spreadsheet_safe(row.get(name)) for name in FIELDS),
                _local_time(row["entered_at"], zone),
                _local_time(row["exited_at"], zone),
            ]
        )
    return text.getvalue()


def _local_time(at: str | None, zone: ZoneInfo) -> str:
    return f"{datetime.fromisoformat(at).astimezone(zone):%Y-%m-%d %H:%M:%S}" if at else ""
