"""Compare a rebuild's visits with the warehouse, and list every missing, extra or different visit.

    python -m glue.compare --archive s3://BUCKET --name 2026-11-16T00_2026-11-17T00 [--outputs FILE]
    python -m glue.compare --archive s3://BUCKET --name … --file export.parquet

The exit code is 0 if the visits are equal, 1 if they differ (rebuilt/<name>/differences.ndjson has a line for each
difference), and 2 if they cannot be compared.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glue.archive import Store, open_store
from glue.jobs import exit_code, report
from glue.rebuild import PREFIX, VISIT, rows_of

_KEY = ("device_id", "geofence_tag", "geofence_external_id", "entered_event_id")
_FIELDS = tuple(name for name in VISIT.names if name not in _KEY)
_SHOWN = 20


@dataclass(frozen=True)
class Difference:
    """A visit that is missing from the warehouse, exists only there, or has different values there."""

    what: str
    visit: Mapping[str, str]
    fields: Mapping[str, tuple[object, object]]  # name: (rebuilt, warehouse)


def differences(rebuilt: pa.Table, found: pa.Table) -> list[Difference]:
    """Match the visits of two tables by device, fence and enter event; return the differences.

    Both tables have the columns of VISIT.
    """
    import duckdb

    apart = " OR ".join(f"r.{name} IS DISTINCT FROM w.{name}" for name in _FIELDS)
    with duckdb.connect() as db:
        db.register("r", rebuilt.append_column("here", pa.array([True] * rebuilt.num_rows, pa.bool_())))
        db.register("w", found.append_column("here", pa.array([True] * found.num_rows, pa.bool_())))
        columns = ", ".join(
            f"r.{name} AS r_{name}, w.{name} AS w_{name}" for name in (*_KEY, *_FIELDS, "here")
        )
        rows = db.sql(
            f"""
            SELECT {columns} FROM r FULL JOIN w USING ({", ".join(_KEY)})
            WHERE r.here IS NULL OR w.here IS NULL OR {apart}
            ORDER BY {", ".join(f"coalesce(r.{name}, w.{name})" for name in _KEY)}
            """  # not from user input: contains only our column names
        )
        return [_difference(row) for row in rows.to_arrow_table().to_pylist()]


def _difference(row: Mapping[str, Any]) -> Difference:
    side = "r" if row["r_here"] else "w"
    visit = {name: row[f"{side}_{name}"] for name in _KEY}
    if not row["w_here"]:
        return Difference("missing", visit, {})
    if not row["r_here"]:
        return Difference("extra", visit, {})
    both = {name: (row[f"r_{name}"], row[f"w_{name}"]) for name in _FIELDS}
    return Difference("different", visit, {name: pair for name, pair in both.items() if pair[0] != pair[1]})


def visit_table(rows: Iterable[Mapping[str, object]]) -> pa.Table:
    """Convert database rows to a table with the schema VISIT. Times without a zone are in UTC."""
    wanted = [{name: _plain(row[name]) for name in VISIT.names} for row in rows]
    return pa.Table.from_pylist(wanted, schema=VISIT)


def _plain(value: object) -> object:
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return float(value) if isinstance(value, Decimal) else value


def warehouse_visits(start: datetime, end: datetime, outputs: Path | None) -> pa.Table:
    """Return the visits in MARTS.GEOFENCE_VISITS that began in the range."""
    from snowpipe import roles, settings, warehouse

    known = settings.load(os.environ, outputs)
    with warehouse.connect(known.connection, role=roles.operator) as session:
        rows = session.query(
            f"SELECT {', '.join(VISIT.names)} FROM {known.connection.database}.MARTS.GEOFENCE_VISITS "
            "WHERE entered_at >= %s AND entered_at < %s",
            (start.strftime("%Y-%m-%d %H:%M:%S"), end.strftime("%Y-%m-%d %H:%M:%S")),
        )
    return visit_table(rows)


def exported_visits(path: Path, start: datetime, end: datetime) -> pa.Table:
    """Return the visits in an export of the mart that began in the range."""
    # Snowflake writes column names in upper case.
    rows = [{name.lower(): value for name, value in row.items()} for row in pq.read_table(path).to_pylist()]
    found = visit_table(rows)
    in_range = [start <= at < end for at in found.column("entered_at").to_pylist()]
    return found.filter(pa.array(in_range, pa.bool_()))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m glue.compare", description=__doc__)
    parser.add_argument("--archive", required=True)
    parser.add_argument("--name", required=True, help="name of the rebuild")
    parser.add_argument(
        "--outputs",
        type=Path,
        help="outputs.json with the warehouse's address; default: the SNOWFLAKE_* variables, else .local/outputs.json",
    )
    parser.add_argument(
        "--file", type=Path, help="a Parquet export of the mart to compare instead of the warehouse"
    )
    given = parser.parse_args(argv)
    try:
        store = open_store(given.archive)
    except ValueError as error:
        parser.error(str(error))
    try:
        summary = json.loads(store.read(f"{PREFIX}/{given.name}/summary.json"))
    except Exception as error:
        print(f"No finished rebuild {given.name!r} found: {error}", file=sys.stderr)
        return 2
    start, end = (datetime.fromisoformat(summary[side]) for side in ("from", "to"))
    if given.file:
        try:
            found = exported_visits(given.file, start, end)
        except (OSError, pa.ArrowException, KeyError) as error:
            print(
                f"{given.file} cannot be read as a Parquet export of GEOFENCE_VISITS: {error}",
                file=sys.stderr,
            )
            return 2
    else:
        from cli.refusal import Refusal

        try:
            found = warehouse_visits(start, end, given.outputs)
        except Refusal as refusal:
            print(refusal, file=sys.stderr)
            return 2
    listed = differences(rows_of(store, given.name, "visits"), found)
    write(store, given.name, listed)
    kinds = {kind: sum(each.what == kind for each in listed) for kind in ("missing", "extra", "different")}
    report(
        "visits_compared",
        name=given.name,
        rebuilt=summary["visits"],
        warehouse=found.num_rows,
        **kinds,
        unreadable=len(summary["unreadable"]),  # objects whose events the rebuild lacks
    )
    for each in listed[:_SHOWN]:
        report("visit_differs", what=each.what, **each.visit, fields=each.fields)
    return 1 if listed else 0


def write(store: Store, name: str, listed: Sequence[Difference]) -> None:
    lines = (
        json.dumps({"what": d.what, **d.visit, "fields": d.fields}, default=str, allow_nan=False) + "\n"
        for d in listed
    )
    store.write(f"{PREFIX}/{name}/differences.ndjson", "".join(lines).encode())


if __name__ == "__main__":
    sys.exit(exit_code(main))
