"""`milkrun report --day`: one day of the fleet from the marts, as HTML or CSV.

A day is one of the stage's time zone (fleetTimeZone). Collections, litres and visits count on the day when a
truck entered. If an exit is missing and an enter elsewhere contradicts the visit, the dwell time ends at that
enter and counts as inferred.
"""

import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ops import fleet_day, terminal
from ops.spreadsheet import spreadsheet_safe
from ops.stores import utc
from snowpipe.refusal import MissingObject, Refusal
from snowpipe.warehouse import Warehouse

COLLECTION_TAGS = ("farm", "stop")
"""The fence tags of collections, as in the dbt variable collection_tags."""
SILENT_REACH = timedelta(days=14)
MAX_ROWS = 5000

type Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of the report. `says` is shown if it has no rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    says: str


@dataclass(frozen=True)
class Report:
    day: date
    zone: ZoneInfo
    made_at: datetime
    totals: Mapping[str, object]
    tables: Sequence[Table] = field(default_factory=tuple)
    notes: Sequence[str] = ()


def report(warehouse: Warehouse, database: str, day: date, zone: ZoneInfo, now: datetime) -> Report:
    """Read one day. Raises Refusal if the marts do not exist."""
    start, end = fleet_day.bounds(day, zone)
    try:
        visits = _visits(warehouse, database, start, end)
        litres = _litres(warehouse, database, start, end)
        trucks = _trucks(warehouse, database, start, end)
        quality = _quality(warehouse, database, start, end)
    except MissingObject:
        raise Refusal("The marts do not exist yet: run `milkrun warehouse dbt build`.") from None
    inferred = _inferred(warehouse, database)
    for row in visits:
        row["inferred_at"] = inferred.get((row["device_id"], row["entered_event_id"]))
    collections = [row for row in visits if row["geofence_tag"] in COLLECTION_TAGS]
    missed = [row for row in visits if row["exit_missed"] or row["inferred_at"]]
    total_litres = sum(float(row["litres"] or 0) for row in litres)
    totals: dict[str, object] = {
        "visits": len(visits),
        "collections": len(collections),
        "litres": round(total_litres),
        "trucks with visits": len({row["device_id"] for row in visits}),
        "places visited": len({(row["geofence_tag"], row["geofence_external_id"]) for row in visits}),
        "missing exits": len(missed),
    }
    silent = [
        [row["device_id"], _local(row["last_at"], zone)] for row in trucks if utc(row["last_at"]) < start
    ]
    notes = []
    if end > now:
        notes.append("The day is not over: the numbers are those of the last dbt run.")
    if len(visits) >= MAX_ROWS:
        notes.append(f"Only the first {MAX_ROWS} visits are counted.")
    return Report(
        day,
        zone,
        now,
        totals,
        (
            _by_place(visits, litres),
            _by_truck(visits),
            Table(
                "Missing exits",
                ("truck", "place", "entered", "seen elsewhere at"),
                [
                    [
                        row["device_id"],
                        _place(row),
                        _local(row["entered_at"], zone),
                        _local(row["inferred_at"], zone),
                    ]
                    for row in missed
                ],
                "Every visit that ended has an exit event.",
            ),
            Table(
                "Silent trucks",
                ("truck", "last event"),
                silent,
                "Every truck of the last two weeks sent events on this day.",
            ),
            Table(
                "Data quality",
                ("measure", "events"),
                quality,
                "No events were received on this day.",
            ),
        ),
        notes,
    )


def _visits(warehouse: Warehouse, database: str, start: datetime, end: datetime) -> list[Row]:
    return warehouse.query(
        "SELECT device_id, geofence_tag, geofence_external_id, entered_at, exited_at, dwell_seconds,"
        f" exit_missed, is_there_now, entered_event_id FROM {database}.MARTS.GEOFENCE_VISITS"
        " WHERE entered_at >= %s::TIMESTAMP_NTZ AND entered_at < %s::TIMESTAMP_NTZ"
        f" ORDER BY entered_at, visit_key LIMIT {MAX_ROWS}",
        [_ntz(start), _ntz(end)],
    )


def _litres(warehouse: Warehouse, database: str, start: datetime, end: datetime) -> list[Row]:
    """Return the pickups by the visit in which they happened, as the mart DAILY_FARM_COLLECTIONS counts them."""
    return warehouse.query(
        "SELECT visits.geofence_tag, visits.geofence_external_id, COUNT(*) AS pickups,"
        " SUM(IFF(TRY_TO_DOUBLE(events.metadata:litres::VARCHAR) BETWEEN 0 AND 1000000,"
        " TRY_TO_DOUBLE(events.metadata:litres::VARCHAR), 0)) AS litres"
        f" FROM {database}.MARTS.GEOFENCE_VISITS AS visits INNER JOIN {database}.STAGING.STG_EVENTS AS events"
        " ON visits.device_id = events.device_id AND events.occurred_at >= visits.entered_at"
        " AND events.occurred_at <= visits.exited_at"
        " WHERE events.event_type = 'pickup.completed' AND visits.entered_at >= %s::TIMESTAMP_NTZ"
        " AND visits.entered_at < %s::TIMESTAMP_NTZ GROUP BY 1, 2",
        [_ntz(start), _ntz(end)],
    )


def _trucks(warehouse: Warehouse, database: str, start: datetime, end: datetime) -> list[Row]:
    """Return each truck's last event before the end of the day, for trucks of the two weeks before."""
    return warehouse.query(
        f"SELECT device_id, MAX(occurred_at) AS last_at FROM {database}.STAGING.STG_EVENTS"
        " WHERE device_id IS NOT NULL AND occurred_at >= %s::TIMESTAMP_NTZ AND occurred_at < %s::TIMESTAMP_NTZ"
        " GROUP BY 1 ORDER BY 2, 1",
        [_ntz(start - SILENT_REACH), _ntz(end)],
    )


def _quality(warehouse: Warehouse, database: str, start: datetime, end: datetime) -> list[list[object]]:
    rows = warehouse.query(
        "SELECT outcome, code, SUM(events) AS events, SUM(conflicts) AS conflicts"
        f" FROM {database}.MARTS.INGEST_QUALITY"
        " WHERE received_hour >= %s::TIMESTAMP_NTZ AND received_hour < %s::TIMESTAMP_NTZ"
        " GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2",
        [_ntz(start), _ntz(end)],
    )
    conflicts = sum(int(row["conflicts"] or 0) for row in rows)
    found: list[list[object]] = [
        [" ".join(filter(None, (row["outcome"], row["code"]))), int(row["events"])] for row in rows
    ]
    return [*found, ["ids sent again with different content", conflicts]] if conflicts else found


def _inferred(warehouse: Warehouse, database: str) -> dict[tuple[str, str], datetime]:
    """Return the inferred exits of contradicted open visits; none if the mart does not exist."""
    try:
        rows = warehouse.query(
            "SELECT device_id, entered_event_id, exit_inferred_at"
            f" FROM {database}.MARTS.CURRENT_PRESENCE WHERE contradicted_by_event_id IS NOT NULL"
        )
    except MissingObject:
        return {}
    return {(row["device_id"], row["entered_event_id"]): row["exit_inferred_at"] for row in rows}


def _by_place(visits: Iterable[Row], litres: Iterable[Row]) -> Table:
    collected = {(row["geofence_tag"], row["geofence_external_id"]): row for row in litres}
    rows = []
    for place, some in _grouped(visits, lambda row: (row["geofence_tag"], row["geofence_external_id"])):
        dwells = [_dwell_minutes(row) for row in some]
        known = [minutes for minutes in dwells if minutes is not None]
        picked = collected.get(place)
        rows.append(
            [
                "/".join(place),
                len(some),
                len({row["device_id"] for row in some}),
                round(float(picked["litres"] or 0)) if picked else 0,
                round(median(known), 1) if known else None,
                round(max(known), 1) if known else None,
                sum(1 for row in some if row["exited_at"] is None and row["inferred_at"]),
            ]
        )
    columns = ("place", "visits", "trucks", "litres", "usual stay, min", "longest, min", "inferred exits")
    return Table("By place", columns, rows, "No visit began on this day.")


def _by_truck(visits: Iterable[Row]) -> Table:
    rows = [
        [
            device,
            len(some),
            sum(1 for row in some if row["geofence_tag"] in COLLECTION_TAGS),
            round(sum(_dwell_minutes(row) or 0 for row in some), 1),
        ]
        for device, some in _grouped(visits, lambda row: row["device_id"])
    ]
    return Table(
        "By truck",
        ("truck", "visits", "collections", "time at places, min"),
        rows,
        "No truck visited a place.",
    )


def _grouped(rows: Iterable[Row], key: Any) -> list[tuple[Any, list[Row]]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return sorted(found.items())


def _dwell_minutes(row: Row) -> float | None:
    if row["dwell_seconds"] is not None:
        return float(row["dwell_seconds"]) / 60
    if row["inferred_at"] is not None:
        return float((utc(row["inferred_at"]) - utc(row["entered_at"])).total_seconds()) / 60
    return None


def _place(row: Row) -> str:
    return f"{row['geofence_tag']}/{row['geofence_external_id']}"


def _local(at: datetime | None, zone: ZoneInfo) -> str:
    return f"{utc(at).astimezone(zone):%Y-%m-%d %H:%M}" if at else ""


def _ntz(at: datetime) -> str:
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")


# --- output

STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;"
    "border-bottom:1px solid #ddd}td{font-variant-numeric:tabular-nums}h2{margin-top:2rem}"
    "dl{display:flex;flex-wrap:wrap;gap:1rem 2.5rem}dt{color:#555}dd{margin:0;font-size:1.5rem}"
    "@media(prefers-color-scheme:dark){body{background:#16181b;color:#e8e9eb}dt{color:#b3b7be}"
    "th,td{border-color:#3a3e45}}"
)


def as_html(report: Report) -> str:
    """Return one self-contained page without scripts, with all texts of events escaped."""
    day = f"{report.day:%A %-d %B %Y}"
    totals = "".join(
        f"<div><dt>{_escaped(n)}</dt><dd>{_shown(v)}</dd></div>" for n, v in report.totals.items()
    )
    notes = "".join(f"<p>{_escaped(note)}</p>" for note in report.notes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Milkrun, {day}</title><style>{STYLE}</style></head><body><main><h1>{day}</h1>"
        f"<p>From midnight to midnight, {_escaped(report.zone.key)}. Made from the marts at"
        f" {_local(report.made_at, report.zone)}.</p>{notes}<dl>{totals}</dl>"
        f"{''.join(map(_html_table, report.tables))}</main></body></html>\n"
    )


def _html_table(table: Table) -> str:
    if not table.rows:
        return f"<h2>{_escaped(table.title)}</h2><p>{_escaped(table.says)}</p>"
    head = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{_shown(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return (
        f"<h2>{_escaped(table.title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _shown(value: object) -> str:
    if value is None or value == "":
        return "–"
    return f"{value:,}" if isinstance(value, int | float) else _escaped(value)


def _escaped(value: object) -> str:
    return html.escape(str(value))


def as_csv(report: Report) -> str:
    """Return all tables one below the other, each with its title and header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(("Milkrun", report.day.isoformat(), report.zone.key))
    writer.writerows(report.totals.items())
    for table in report.tables:
        writer.writerow(())
        writer.writerow((table.title,))
        writer.writerow(table.columns)
        writer.writerows([spreadsheet_safe(cell) for cell in row] for row in table.rows)
    return text.getvalue()


# --- the command

NAMED = {"today": 0, "yesterday": 1}
"""Days ago."""


def _day_name(text: str) -> str:
    """Parse an option that names a day; `today` depends on the stage's time zone."""
    try:
        if text in NAMED:
            return text
        day = date.fromisoformat(text)
        if not 2000 <= day.year < 3000:  # the first and last days of the calendar have no midnight in UTC
            raise ValueError(text)
        return day.isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date such as 2026-11-27, today or yesterday") from None


def command(
    context: typer.Context,
    *,
    day: Annotated[
        str,
        typer.Option(parser=_day_name, metavar="DATE", help="A date such as 2026-11-27, today or yesterday."),
    ] = "yesterday",
    to_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=terminal.writable,
            help="File to write (.html or .csv). Default: print CSV.",
        ),
    ] = None,
    stage: terminal.Stage = "local",
) -> None:
    """Report one day of the fleet from the marts: collections, litres, visits, missing exits, silent trucks."""
    outputs = terminal.outputs_of(context, stage)
    now = datetime.now(UTC)
    try:
        zone = fleet_day.zone_of(outputs.time_zone)
    except ValueError as error:
        raise typer.BadParameter(f"stage setting fleetTimeZone: {error}") from None
    today = fleet_day.day_of(now, zone)
    chosen = today - timedelta(days=NAMED[day]) if day in NAMED else date.fromisoformat(day)
    with outputs.warehouse() as warehouse:
        made = report(warehouse, outputs.database, chosen, zone, now)
    if to_file is None:
        typer.echo(as_csv(made), nl=False)
        return
    # The csv module writes its own line endings.
    to_file.write_bytes(
        (as_html(made) if to_file.suffix.lower() in (".html", ".htm") else as_csv(made)).encode()
    )
    terminal.err.print(f"{to_file}: {made.totals['visits']} visits on {chosen}")
