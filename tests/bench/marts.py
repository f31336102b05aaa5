"""Measure how many rows a dbt run scans as the history grows: `python -m tests.bench.marts [--rows
1000000,10000000] [--json]`.

RAW of a local Snowflake is filled by SQL: 500 trucks, 360,000 events a day in time order, a fifth of them
geofence events. After a first run over the history, two runs are measured: of an hour's events, and of a
backlog of 100,000. One percent of the new events are two days late, and one percent are repeated. The result is
the number of rows that DuckDB scans in a run, by table, divided by the new rows plus the events on the days that
they touch. The ledger, which every run scans completely, is counted separately.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

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


def scanned(file: Path) -> Counter[tuple[str, str]]:
    """Return the number of scanned rows per model and table since the last call."""
    found: Counter[tuple[str, str]] = Counter()
    for line in file.read_text().splitlines() if file.exists() else ():
        statement = json.loads(line)
        for table, rows in statement["scans"]:
            found[statement["node"], table.lower().rpartition(".")[2].strip('"')] += rows
    file.unlink(missing_ok=True)
    return found


def measure(history: tuple[int, ...] = HISTORY) -> Figures:
    found = Figures(series={f"marts/{what}@{name} by history": [] for what in MEASURED for name in NEW})
    for size in history:
        with tempfile.TemporaryDirectory() as name:
            scans = Path(name) / "scans"
            os.environ["MILKRUN_SCANS"] = str(scans)
            server = warehouse(Path(name), "tests.bench.profiled_snowflake", "4GB")
            with server as (session, settings), Dbt(settings) as dbt:
                make_tables(session)
                progress(f"marts: filling RAW with {size:,} events")
                fill(session, 0, size)
                progress("marts: a first run over all of it")
                dbt.run("run")
                first = size
                for kind, new in NEW.items():
                    add(session, first, new)
                    first += new
                    scanned(scans)
                    began = time.monotonic()
                    dbt.run("run")
                    seconds = time.monotonic() - began
                    note(found, session, kind, size, seconds, scanned(scans))
    for kind in NEW if len(history) > 1 else ():
        shortest, *_, longest = (seconds for _, seconds in found.series[f"marts/run_s@{kind} by history"])
        found.ratios[f"marts/seconds of a run at {history[-1] // history[0]} times the history/{kind}"] = (
            longest / shortest
        )
    return found


MEASURED = ("rows_scanned", "run_s")


def add(session: Snowflake, first: int, new: int) -> None:
    fill(session, first, new)
    fill(session, first, new // 100, every=100, late=2 * 86_400, id_=f"late-{first}-")
    # repeated: events of half a day before, received again now
    fill(session, first - A_DAY // 2, new // 100, came=A_DAY // 2 // 5000 * 1200, id_="")


def note(
    found: Figures,
    session: Snowflake,
    kind: str,
    size: int,
    seconds: float,
    scans: Counter[tuple[str, str]],
) -> None:
    rows: Counter[str] = Counter()
    for (_, table), count in scans.items():
        rows[table] += count
    for (model, table), count in scans.most_common(40):
        progress(f"marts: {kind}@{size}: {count:>10,} rows of {table} for {model}")
    new = count_of(session, "NEW_EVENTS")
    touched = count_of(
        session, "STG_EVENTS WHERE event_date IN (SELECT event_date FROM MILKRUN.STAGING.RESTATED_DAYS)"
    )
    everything = sum(rows.values()) - rows[LEDGER]
    found.series[f"marts/rows_scanned@{kind} by history"].append((size, everything))
    found.series[f"marts/run_s@{kind} by history"].append((size, seconds))
    name = f"{kind}@{size}"
    found.rates |= {
        f"marts/run_s/{name}": seconds,
        f"marts/new_rows/{name}": new,
        f"marts/touched_rows/{name}": touched,
        f"marts/rows_scanned/{name}": everything,
        f"marts/ledger_rows_scanned/{name}": rows[LEDGER],
    }
    found.ratios[f"marts/scanned over new and touched/{name}"] = everything / (new + touched)


def count_of(session: Snowflake, what: str) -> int:
    found: int = session.query(f"SELECT COUNT(*) AS n FROM MILKRUN.STAGING.{what}")[0]["n"]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--rows", default=",".join(map(str, HISTORY)))
    given, rest = parser.parse_known_args()
    sys.exit(figures.main(lambda: measure(tuple(map(int, given.rows.split(",")))), rest))
