"""Measure how many rows a dbt run scans as the history grows: `python -m tests.bench.marts [--rows
1000000,10000000] [--folder FOLDER] [--json]`.

SQL fills the RAW schema of a local Snowflake with 360,000 events a day from 500 trucks in time order; a fifth are
geofence events. After a first run over the history, two runs are measured: one with an hour's new events, and one
with a backlog of 100,000. Both also get events that are two days late, and repeated events; each kind is one percent
of the number of new events. The main result is the number of rows that DuckDB scans in a run, divided by the number
of new rows plus the events on the days that they touch. The ledger, which every run scans completely, is counted
separately. The scanned bytes are computed from the columns that DuckDB reads, and from the mean uncompressed size of
their values in a sample of each table.

A history of more than 10,000,000 events is made from one of that length: the rows of its tables are copied with
earlier days and other keys. The filled warehouses stay in the folder, and each measured run prints all
figures so far.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snowpipe.settings import Settings
from snowpipe.warehouse import Snowflake
from tests.bench import figures
from tests.bench.dbt import make_tables, warehouse
from tests.bench.figures import Figures, progress
from tests.model_runs import Dbt

HISTORY = (1_000_000, 10_000_000)
A_DAY = 360_000
NEW = {"hour": A_DAY // 24, "backlog": 100_000}
# Fill in steps that fit into memory.
STEP = 500_000
LEDGER = "event_ledger"
PROFILED, MEMORY = "tests.bench.profiled_snowflake", "4GB"
FOLDER = Path(__file__).parents[2] / ".local" / "bench" / "marts"
# The tables of the history, and the column that tells the original rows from copies, which are older.
CLOCKS = {
    "RAW.EVENTS": "scanned_at",
    "STAGING.EVENT_LEDGER": "received_hour",
    "STAGING.STG_EVENTS": "received_at",
    "STAGING.STG_GEOFENCE_EVENTS": "event_date",
    "STAGING.STG_PICKUPS": "event_date",
    "STAGING.GEOFENCE_PAIR_DAYS": "event_date",
    "MARTS.GEOFENCE_VISITS": "entered_date",
    "MARTS.DAILY_FARM_COLLECTIONS": "collection_date",
    "MARTS.FLEET_DAILY": "event_date",
    "MARTS.INGEST_QUALITY": "received_hour",
}
FIXED_BYTES = {"BOOLEAN": 1, "DATE": 4}  # all numbers and timestamps have 8 bytes
FILL = """
INSERT INTO MILKRUN.RAW.EVENTS (payload, file_name, file_row_number, file_modified_at, scanned_at)
WITH numbered AS (
    SELECT SEQ4() * {every} + {first} AS n FROM TABLE(GENERATOR(ROWCOUNT => {count}))
), placed AS (
    SELECT n, FLOOR(n / 5) AS g, MOD(FLOOR(n / 10), 500) AS truck, FLOOR(n / 5000) AS stop FROM numbered
), timed AS (
    SELECT
        *,
        DATEADD('second', stop * 1200 + MOD(g, 2) * 600 - {late}, '2026-01-01'::TIMESTAMP_NTZ) AS moment,
        DATEADD('second', {came} + stop * 1200 + 900, '2026-01-01'::TIMESTAMP_NTZ) AS received_at
    FROM placed
)
SELECT
    PARSE_JSON(
        '{{"_id":"{id}' || n || '","type":"'
        || CASE WHEN MOD(n, 100) = 7 THEN 'pickup.completed' WHEN MOD(n, 5) > 0 THEN 'user.updated_trip'
                WHEN MOD(g, 2) = 0 THEN 'user.entered_geofence' ELSE 'user.exited_geofence' END
        || '","createdAt":"' || REPLACE(moment::VARCHAR, ' ', 'T')
        || 'Z","user":{{"deviceId":"truck-' || truck || '"}}'
        || ',"geofence":{{"tag":"farm","externalId":"farm-' || MOD(stop, 40) || '"}}}}'
    ),
    'events/{id}' || FLOOR(n / 20), MOD(n, 20) + 1, received_at, received_at::TIMESTAMP_LTZ
FROM timed
"""


def fill(
    session: Snowflake, first: int, count: int, every: int = 1, late: int = 0, came: int = 0, id_: str = ""
) -> None:
    for start in range(0, count, STEP):
        session.query(
            FILL.format(
                first=first + start * every,
                count=min(STEP, count - start),
                every=every,
                late=late,
                came=came,
                id=id_,
            )
        )


def scanned(file: Path) -> Counter[tuple[str, str, tuple[str, ...]]]:
    """Read the recorded scans from the file; return the number of scanned rows per model, table and columns."""
    found: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
    for line in file.read_text().splitlines():
        statement = json.loads(line)
        for table, rows, columns in statement["scans"]:
            found[statement["node"], table, tuple(columns)] += rows
    return found


def widths(session: Snowflake, table: str) -> dict[str, float]:
    """Return the mean uncompressed bytes of each column's values; strings are measured in a sample of 10,000 rows."""
    _, schema, name = table.upper().split(".")
    kinds = {
        row["column_name"]: row["data_type"]
        for row in session.query(
            "SELECT column_name, data_type FROM MILKRUN.INFORMATION_SCHEMA.COLUMNS"
            f" WHERE table_schema = '{schema}' AND table_name = '{name}'"
        )
    }
    texts = [column for column, kind in kinds.items() if kind in ("TEXT", "VARIANT")]
    lengths = ", ".join(f"COALESCE(AVG(LENGTH({column}::VARCHAR)), 0) AS {column}" for column in texts)
    [measured] = (
        session.query(f"SELECT {lengths} FROM (SELECT * FROM {table} LIMIT 10000)") if texts else [{}]
    )
    return {
        column.lower(): float(measured.get(column.lower(), FIXED_BYTES.get(kind, 8)))
        for column, kind in kinds.items()
    }


def multiply(session: Snowflake, times: int) -> None:
    """Multiply the length of the history by `times`: insert copies of the rows of the tables in CLOCKS, with earlier
    days and other keys.
    """
    days = HISTORY[-1] // A_DAY + 1
    for table, clock in CLOCKS.items():
        schema, name = table.split(".")
        columns = session.query(
            "SELECT column_name, data_type FROM MILKRUN.INFORMATION_SCHEMA.COLUMNS"
            f" WHERE table_schema = '{schema}' AND table_name = '{name}' ORDER BY ordinal_position"
        )
        for copy in range(1, times):
            progress(f"marts: making copy {copy} of {table}")
            values = ", ".join(
                copied(row["column_name"], row["data_type"], copy, copy * days) for row in columns
            )
            session.query(
                f"INSERT INTO MILKRUN.{table} SELECT {values} FROM MILKRUN.{table} WHERE {clock} >= '2026-01-01'"
            )
    session.query(
        f"UPDATE MILKRUN.STAGING.GEOFENCE_PAIR_HEADS"
        f" SET first_entered_at = DATEADD('day', -{days * (times - 1)}, first_entered_at)"
    )


def copied(column: str, kind: str, copy: int, days: int) -> str:
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        return f"DATEADD('day', -{days}, {column})"
    if column == "KEY_HEAD":
        return f"LEFT(MD5(event_key || '{copy}'), 16)"
    if column.endswith("_KEY") and column != "DEVICE_FENCE_KEY":
        return f"MD5({column} || '{copy}')"
    return column


@contextmanager
def filled(folder: Path, size: int) -> Iterator[tuple[Snowflake, Settings]]:
    """Yield a running copy of the warehouse with `size` rows in RAW. The original is filled once and kept in
    the folder.
    """
    original, copy = folder / f"raw-{size}", folder / "run"
    if not original.exists():
        unfinished = folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with warehouse(unfinished, PROFILED, MEMORY) as (session, _):
            make_tables(session)
            progress(f"marts: filling RAW with {size:,} events")
            fill(session, 0, size)
        unfinished.rename(original)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    with warehouse(copy, PROFILED, MEMORY) as started:
        yield started
    shutil.rmtree(copy)


def measure(folder: Path, history: tuple[int, ...] = HISTORY) -> Iterator[Figures]:
    """Measure dbt runs on each history; yield all figures so far after each run, because the larger histories
    take hours.
    """
    found = Figures(series={f"marts/{what}@{name} by history": [] for what in MEASURED for name in NEW})
    scans = folder / "scans"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MILKRUN_SCANS"] = str(scans)
    for size in history:
        first = min(size, HISTORY[-1])
        with filled(folder, first) as (session, settings), Dbt(settings) as dbt:
            progress(f"marts: running dbt for the first time over {first:,} events")
            began = time.monotonic()
            dbt.run("run")
            progress(f"marts: the first run took {time.monotonic() - began:.0f} s")
            multiply(session, size // first)
            for kind, new in NEW.items():
                add(session, first, new)
                first += new
                scans.unlink(missing_ok=True)
                began = time.monotonic()
                dbt.run("run")
                seconds = time.monotonic() - began
                note(found, session, kind, size, seconds, scanned(scans))
                if size == history[0] * 10:
                    found.ratios[f"marts/seconds of a run at 10 times the history/{kind}"] = (
                        seconds / found.rates[f"marts/run_s/{kind}@{history[0]}"]
                    )
                yield found


MEASURED = ("rows_scanned", "run_s", "bytes_scanned")


def add(session: Snowflake, first: int, new: int) -> None:
    fill(session, first, new)
    fill(session, first, new // 100, every=100, late=2 * 86_400, id_=f"late-{first}-")
    # Repeated events, which occurred half a day before and are received again now.
    fill(session, first - A_DAY // 2, new // 100, came=A_DAY // 2 // 5000 * 1200, id_="")


def note(
    found: Figures,
    session: Snowflake,
    kind: str,
    size: int,
    seconds: float,
    scans: Counter[tuple[str, str, tuple[str, ...]]],
) -> None:
    rows: Counter[bool] = Counter()
    size_of: Counter[bool] = Counter()
    known = {table: widths(session, table) for table in {table for _, table, _ in scans}}
    for (model, table, columns), count in scans.most_common():
        if count > NEW[kind] / 2:
            run = f"dbt run ({kind}) with a history of {size:,} events"
            progress(f"marts: {run}: {model} scanned {count:,} rows of {table}")
        is_ledger = table.lower().endswith(LEDGER)
        rows[is_ledger] += count
        size_of[is_ledger] += round(count * sum(known[table].get(column, 0.0) for column in columns))
    new = count_of(session, "NEW_EVENTS")
    touched = count_of(
        session, "STG_EVENTS WHERE event_date IN (SELECT event_date FROM MILKRUN.STAGING.RESTATED_DAYS)"
    )
    figures_of_run = {
        "run_s": seconds,
        "new_rows": new,
        "touched_rows": touched,
        "rows_scanned": rows[False],
        "ledger_rows_scanned": rows[True],
        "bytes_scanned": size_of[False],
        "ledger_bytes_scanned": size_of[True],
        "gb_per_million_new": size_of[False] / new * 1e6 / 1e9,
    }
    found.rates |= {f"marts/{name}/{kind}@{size}": value for name, value in figures_of_run.items()}
    for name in MEASURED:
        found.series[f"marts/{name}@{kind} by history"].append((size, figures_of_run[name]))
    found.ratios[f"marts/scanned over new and touched/{kind}@{size}"] = rows[False] / (new + touched)


def count_of(session: Snowflake, what: str) -> int:
    found: int = session.query(f"SELECT COUNT(*) AS n FROM MILKRUN.STAGING.{what}")[0]["n"]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--rows", default=",".join(map(str, HISTORY)))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder for the filled warehouses")
    given, rest = parser.parse_known_args()
    sys.exit(figures.main(lambda: measure(given.folder, tuple(map(int, given.rows.split(",")))), rest))
