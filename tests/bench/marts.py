"""Measure how many rows a dbt run scans as the history grows: `python -m tests.bench.marts [--rows
1000000,10000000] [--json]`.

RAW of a local Snowflake is filled by SQL: 500 trucks, 360,000 events a day in time order, a fifth of them
geofence events. After a first run over the history, the same number of new events is added, one percent of
them two days late and one percent repeated. The result is the number of rows that DuckDB scans in a run, by
table. The ledger, which every run scans completely, is counted separately.
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
NEW = 100_000
A_DAY = 360_000
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
    """Rows by model and scanned table since the file was last read."""
    found: Counter[tuple[str, str]] = Counter()
    for line in file.read_text().splitlines() if file.exists() else ():
        statement = json.loads(line)
        for table, rows in statement["scans"]:
            found[statement["node"], table.lower().rpartition(".")[2].strip('"')] += rows
    file.unlink(missing_ok=True)
    return found


def measure(history: tuple[int, ...] = HISTORY, new: int = NEW) -> Figures:
    found = Figures(series={"marts/rows_scanned by history": [], "marts/run_s by history": []})
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
                fill(session, size, new)
                fill(session, size, new // 100, every=100, late=2 * 86_400, id_="late-")
                # repeated: the same events of the day before, received now
                fill(session, size - A_DAY // 2, new // 100, came=A_DAY // 2 // 5000 * 1200, id_="")
                scanned(scans)
                began = time.monotonic()
                dbt.run("run")
                seconds = time.monotonic() - began
                scans_by_statement = scanned(scans)
                rows: Counter[str] = Counter()
                for (_, table), count in scans_by_statement.items():
                    rows[table] += count
                for (model, table), count in scans_by_statement.most_common(25):
                    progress(f"marts: {count:>10,} rows of {table} for {model}")
                days = session.query(
                    "SELECT COUNT(*) AS n FROM MILKRUN.STAGING.STG_EVENTS WHERE event_date IN"
                    " (SELECT event_date FROM MILKRUN.STAGING.RESTATED_DAYS)"
                )[0]["n"]
                everything = sum(rows.values()) - rows[LEDGER]
                found.series["marts/rows_scanned by history"].append((size, everything))
                found.series["marts/run_s by history"].append((size, seconds))
                largest = max(count for table, count in rows.items() if table != LEDGER)
                found.rates |= {
                    f"marts/run_s@{size}": seconds,
                    f"marts/rows_scanned@{size}": everything,
                    f"marts/ledger_rows_scanned@{size}": rows[LEDGER],
                }
                found.ratios |= {
                    f"marts/scanned over new and touched@{size}": everything / (new + days),
                    f"marts/largest table over new and touched@{size}": largest / (new + days),
                }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--rows", default=",".join(map(str, HISTORY)))
    given, rest = parser.parse_known_args()
    sys.exit(figures.main(lambda: measure(tuple(map(int, given.rows.split(",")))), rest))
