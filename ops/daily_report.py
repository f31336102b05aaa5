"""`milkrun report`: write a report on one day of the fleet, from staging and marts, as HTML or CSV.

A day begins at midnight in the stage's time zone (fleetTimeZone). Collections, litres and visits count for
the day on which the truck entered the place. If a visit at an exclusive place has no exit event but the truck
later entered another exclusive place (`ops/presence_rule.py`), the time of that entry is used as the inferred exit.
"""

import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from contract.event_limits import MAX_LITRES
from ops import fleet_day, terminal
from ops.read_stores import utc
from ops.spreadsheet import spreadsheet_safe
from snowpipe.warehouse import MissingObject, Row, Warehouse

COLLECTION_TAGS = ("farm", "stop")
"""The fence tags of collections, as in the dbt variable collection_tags."""
TAGS = ", ".join(f"'{tag}'" for tag in COLLECTION_TAGS)
SILENT_REACH = timedelta(days=14)
MAX_LISTED = 5000
"""Maximum number of rows in the table of missing exits; every other figure counts all visits."""


@dataclass(frozen=True)
class Table:
    """A table of the report. If the table has no rows, the sentence `if_empty` is shown instead."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    if_empty: str


@dataclass(frozen=True)
class Report:
    day: date
    zone: ZoneInfo
    made_at: datetime
    totals: Mapping[str, object]
    tables: Sequence[Table] = field(default_factory=tuple)
    notes: Sequence[str] = ()


def report(warehouse: Warehouse, database: str, day: date, zone: ZoneInfo, now: datetime) -> Report:
    """Build the report for one day from the marts. Raises MissingObject if the marts do not exist."""
    start, end = fleet_day.bounds(day, zone)
    marts = _Marts(warehouse, database, _ntz(start), _ntz(end))
    try:
        [total] = marts.totals()
        places, trucks, missed = marts.places(), marts.trucks(), marts.missed()
        litres, silent, quality = marts.litres(), marts.silent(_ntz(start - SILENT_REACH)), marts.quality()
    except MissingObject:
        raise MissingObject("The marts do not exist yet: run `milkrun warehouse dbt build`.") from None
    missing_exits = int(total["missing_exits"] or 0)
    notes = []
    if end > now:
        notes.append("The day is not over yet; the numbers are those of the last dbt run.")
    if missing_exits > len(missed):
        notes.append(f"The table of missing exits lists the first {len(missed):,} of {missing_exits:,}.")
    return Report(
        day,
        zone,
        now,
        {
            "visits": int(total["visits"]),
            "collections": int(total["collections"] or 0),
            "litres": round(sum(litres.values())),
            "trucks with visits": int(total["trucks"]),
            "places visited": len(places),
            "missing exits": missing_exits,
        },
        (
            Table(
                "By place",
                ("place", "visits", "trucks", "litres", "usual stay, min", "longest, min", "inferred exits"),
                [
                    (
                        _place(row),
                        int(row["visits"]),
                        int(row["trucks"]),
                        round(litres.get(_place(row), 0)),
                        _minutes(row["usual"]),
                        _minutes(row["longest"]),
                        int(row["inferred_exits"]),
                    )
                    for row in places
                ],
                "No visit began on this day.",
            ),
            Table(
                "By truck",
                ("truck", "visits", "collections", "time at places, min"),
                [
                    (
                        row["device_id"],
                        int(row["visits"]),
                        int(row["collections"]),
                        _minutes(row["dwell_seconds"] or 0),
                    )
                    for row in trucks
                ],
                "No truck entered a place on this day.",
            ),
            Table(
                "Missing exits",
                ("truck", "place", "entered", "seen elsewhere at"),
                [
                    (
                        row["device_id"],
                        _place(row),
                        _local(row["entered_at"], zone),
                        _local(row["inferred_at"], zone),
                    )
                    for row in missed
                ],
                "No visit that began on this day has a missing exit.",
            ),
            Table(
                "Silent trucks",
                ("truck", "last event"),
                [(row["device_id"], _local(row["last_at"], zone)) for row in silent],
                "Every truck that sent events in the previous two weeks also sent events on this day.",
            ),
            Table("Data quality", ("measure", "events"), quality, "No events were received on this day."),
        ),
        notes,
    )


@dataclass(frozen=True)
class _Marts:
    """The queries for one day's report.

    Snowflake aggregates the visits, because those of a large fleet do not fit in memory.
    """

    warehouse: Warehouse
    database: str
    start: str
    end: str

    def totals(self) -> list[Row]:
        return self._visits(
            "SELECT COUNT(*) AS visits, COUNT_IF(is_collection) AS collections,"
            " COUNT(DISTINCT device_id) AS trucks,"
            " COUNT_IF(exit_missed OR inferred_at IS NOT NULL) AS missing_exits FROM visits"
        )

    def places(self) -> list[Row]:
        return self._visits(
            "SELECT geofence_tag, geofence_external_id, COUNT(*) AS visits,"
            " COUNT(DISTINCT device_id) AS trucks, MEDIAN(dwell_seconds) AS usual,"
            " MAX(dwell_seconds) AS longest,"
            " COUNT_IF(exited_at IS NULL AND inferred_at IS NOT NULL) AS inferred_exits"
            " FROM visits GROUP BY 1, 2 ORDER BY 1, 2"
        )

    def trucks(self) -> list[Row]:
        return self._visits(
            "SELECT device_id, COUNT(*) AS visits, COUNT_IF(is_collection) AS collections,"
            " SUM(dwell_seconds) AS dwell_seconds FROM visits GROUP BY 1 ORDER BY 1"
        )

    def missed(self) -> list[Row]:
        return self._visits(
            "SELECT device_id, geofence_tag, geofence_external_id, entered_at, inferred_at FROM visits"
            f" WHERE exit_missed OR inferred_at IS NOT NULL ORDER BY entered_at, visit_key LIMIT {MAX_LISTED}"
        )

    def _visits(self, select: str) -> list[Row]:
        """Run a SELECT on `visits`, a CTE with the day's visits and inferred exits; return its rows."""
        database = f"{self.database}.MARTS"
        return self._asked(
            "WITH visits AS (SELECT visits.visit_key, visits.device_id, visits.geofence_tag,"
            " visits.geofence_external_id, visits.entered_at, visits.exited_at, visits.exit_missed,"
            f" visits.geofence_tag IN ({TAGS}) AS is_collection, presence.exit_inferred_at AS inferred_at,"
            " COALESCE(visits.dwell_seconds,"
            " DATEDIFF('millisecond', visits.entered_at, presence.exit_inferred_at) / 1000) AS dwell_seconds"
            f" FROM {database}.GEOFENCE_VISITS AS visits LEFT JOIN {database}.CURRENT_PRESENCE AS presence"
            " ON visits.visit_key = presence.visit_key AND presence.contradicted_by_event_id IS NOT NULL"
            " WHERE visits.entered_at >= %s::TIMESTAMP_NTZ AND visits.entered_at < %s::TIMESTAMP_NTZ) "
            f"{select}"
        )

    def litres(self) -> dict[str, float]:
        """Return the litres collected at each place.

        Litres are assigned to visits as in the mart DAILY_FARM_COLLECTIONS.
        """
        rows = self._asked(
            "SELECT visits.geofence_tag, visits.geofence_external_id,"
            f" SUM(IFF(TRY_TO_DOUBLE(events.metadata:litres::VARCHAR) BETWEEN 0 AND {MAX_LITRES},"
            " TRY_TO_DOUBLE(events.metadata:litres::VARCHAR), 0)) AS litres"
            f" FROM {self.database}.MARTS.GEOFENCE_VISITS AS visits"
            f" INNER JOIN {self.database}.STAGING.STG_EVENTS AS events"
            " ON visits.device_id = events.device_id AND events.occurred_at >= visits.entered_at"
            " AND events.occurred_at <= visits.exited_at"
            f" WHERE events.event_type = 'pickup.completed' AND visits.geofence_tag IN ({TAGS})"
            " AND visits.entered_at >= %s::TIMESTAMP_NTZ AND visits.entered_at < %s::TIMESTAMP_NTZ GROUP BY 1, 2"
        )
        return {_place(row): float(row["litres"] or 0) for row in rows}

    def silent(self, since: str) -> list[Row]:
        """Return the trucks that have an event between `since` and the day but none on the day, each with the time of
        its last event.
        """
        return self.warehouse.query(
            f"SELECT device_id, MAX(occurred_at) AS last_at FROM {self.database}.STAGING.STG_EVENTS"
            " WHERE device_id IS NOT NULL AND occurred_at >= %s::TIMESTAMP_NTZ"
            " AND occurred_at < %s::TIMESTAMP_NTZ GROUP BY 1 HAVING MAX(occurred_at) < %s::TIMESTAMP_NTZ"
            " ORDER BY 2, 1",
            [since, self.end, self.start],
        )

    def quality(self) -> list[list[object]]:
        rows = self._asked(
            "SELECT outcome, code, SUM(events) AS events, SUM(conflicts) AS conflicts"
            f" FROM {self.database}.MARTS.INGEST_QUALITY"
            " WHERE received_hour >= %s::TIMESTAMP_NTZ AND received_hour < %s::TIMESTAMP_NTZ"
            " GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2"
        )
        conflicts = sum(int(row["conflicts"] or 0) for row in rows)
        found: list[list[object]] = [
            [" ".join(filter(None, (row["outcome"], row["code"]))), int(row["events"])] for row in rows
        ]
        return [*found, ["sent again with different content", conflicts]] if conflicts else found

    def _asked(self, sql: str) -> list[Row]:
        """Run a statement whose two parameters are the beginning and the end of the day; return its rows."""
        return self.warehouse.query(sql, [self.start, self.end])


def _minutes(seconds: float | Decimal | None) -> float | None:
    return None if seconds is None else round(float(seconds) / 60, 1)


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
    """Return the report as a self-contained HTML page without scripts. Texts from events are escaped."""
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
        f"<p>From midnight to midnight, {_escaped(report.zone.key)}. Created at"
        f" {_local(report.made_at, report.zone)}.</p>{notes}<dl>{totals}</dl>"
        f"{''.join(map(_html_table, report.tables))}</main></body></html>\n"
    )


def _html_table(table: Table) -> str:
    if not table.rows:
        return f"<h2>{_escaped(table.title)}</h2><p>{_escaped(table.if_empty)}</p>"
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
    """Return the report as CSV: the totals and notes, then one table after another, each with its title and header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(("Milkrun", report.day.isoformat(), report.zone.key))
    writer.writerows(report.totals.items())
    writer.writerows((note,) for note in report.notes)
    for table in report.tables:
        writer.writerow(())
        writer.writerow((table.title,))
        writer.writerow(table.columns)
        writer.writerows([spreadsheet_safe(cell) for cell in row] for row in table.rows)
    return text.getvalue()


# --- the command

NAMED = {"today": 0, "yesterday": 1}
"""The names that --day accepts, each with the number of days before today."""


def _day_name(text: str) -> str:
    """Parse an option that names a day.

    `today` and `yesterday` are returned unchanged, because the stage's time zone is not known yet.
    """
    try:
        if text in NAMED:
            return text
        day = date.fromisoformat(text)
        if not 2000 <= day.year < 3000:  # in the years 1 and 9999, UTC times may overflow
            raise ValueError(text)
        return day.isoformat()
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a day: write a date such as 2026-11-27, today or yesterday"
        ) from None


def command(
    context: typer.Context,
    *,
    day: Annotated[
        str,
        typer.Option(
            parser=_day_name,
            metavar="DAY",
            help="Day that the report covers: today, yesterday or a date such as 2026-11-27.",
        ),
    ] = "yesterday",
    to_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=terminal.writable,
            help="Write the report to this file: HTML if its name ends in .html or .htm, otherwise CSV. "
            "Default: print CSV.",
        ),
    ] = None,
    stage: terminal.Stage = "local",
) -> None:
    """Write a report on one day of the fleet: collections, litres, visits, missing exits and silent trucks."""
    outputs = terminal.outputs_of(context, stage)
    now = datetime.now(UTC)
    try:
        zone = fleet_day.zone_of(outputs.time_zone)
    except ValueError as error:
        raise typer.BadParameter(f"the stage setting fleetTimeZone is invalid: {error}") from None
    today = fleet_day.day_of(now, zone)
    chosen = today - timedelta(days=NAMED[day]) if day in NAMED else date.fromisoformat(day)
    with outputs.warehouse() as warehouse:
        made = report(warehouse, outputs.database, chosen, zone, now)
    if to_file is None:
        typer.echo(as_csv(made), nl=False)
        return
    # Write bytes, so that the line endings of the csv module are not converted.
    to_file.write_bytes(
        (as_html(made) if to_file.suffix.lower() in (".html", ".htm") else as_csv(made)).encode()
    )
    terminal.err.print(f"wrote {to_file} (visits on {chosen}: {made.totals['visits']})")
