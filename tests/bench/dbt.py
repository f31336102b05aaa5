"""Measure dbt on a million events: `python -m tests.bench.dbt [--json]`.

The benchmark uses only the local Snowflake, whose table RAW.EVENTS is filled by SQL to three sizes in turn. At each
size it measures a full run, adds one percent of new events and measures an incremental run. The results are
the seconds that the models' statements take (from dbt's run_results.json), and those of the whole command.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snowpipe import apply, ddl_files
from snowpipe.run_dbt import dbt
from snowpipe.settings import Aws, Connection, Settings
from snowpipe.warehouse import Snowflake, connect
from tests.bench import figures
from tests.bench.figures import Figures, progress

TABLES = (100_000, 300_000, 1_000_000)
NEW_SHARE = 0.01
# Fill in steps that fit into memory.
STEP = 250_000
# On a busy machine, skip the remaining sizes after this time.
BUDGET_SECONDS = 240.0
# The objects that are needed to fill RAW directly, without stage, pipe and roles
OBJECTS = (
    "warehouse",
    "database",
    "schema_raw",
    "schema_staging",
    "schema_marts",
    "table_events",
    "table_rejected",
)
# One event in five is a geofence event: each of 500 trucks is at one of 40 farms for ten minutes out of every
# twenty. Consecutive loads are three days apart, so that only the newest is within the look-back.
FILL = """
INSERT INTO MILKRUN.RAW.EVENTS (payload, file_name, file_row_number, file_modified_at, scanned_at)
WITH numbered AS (
    SELECT SEQ4() + {first} AS n FROM TABLE(GENERATOR(ROWCOUNT => {count}))
), placed AS (
    SELECT n, FLOOR(n / 5) AS g, MOD(FLOOR(n / 10), 500) AS truck, FLOOR(n / 5000) AS stop FROM numbered
), timed AS (
    SELECT *, DATEADD('second', stop * 1200 + MOD(g, 2) * 600, '2026-01-01'::TIMESTAMP_NTZ) AS moment FROM placed
)
SELECT
    PARSE_JSON(
        '{{"_id":"' || n || '","type":"'
        || CASE WHEN MOD(n, 5) > 0 THEN 'user.updated_trip'
                WHEN MOD(g, 2) = 0 THEN 'user.entered_geofence' ELSE 'user.exited_geofence' END
        || '","createdAt":"' || REPLACE(moment::VARCHAR, ' ', 'T') || 'Z"'
        || ',"live":true,"user":{{"userId":"driver","deviceId":"truck-' || truck || '"}}'
        || ',"geofence":{{"tag":"farm","externalId":"farm-' || MOD(stop, 40) || '"}}'
        || ',"location":{{"type":"Point","coordinates":[5.' || MOD(n, 97) || ',53.2]}},"locationAccuracy":8'
        || ',"metadata":{{"note":"{note}"}}}}'
    ),
    'events/' || FLOOR(n / 20), MOD(n, 20) + 1,
    DATEADD('day', {day}, '2026-01-01'::TIMESTAMP_NTZ), DATEADD('day', {day}, '2026-01-01'::TIMESTAMP_LTZ)
FROM timed
"""


@contextmanager
def warehouse(
    folder: Path, module: str = "local_snowflake", memory: str = "512MB"
) -> Iterator[tuple[Snowflake, Settings]]:
    command = [sys.executable, "-m", module, "--port", "0", "--dir", f"{folder}/db"]
    # With 256 MB, merging a million events at once runs out of memory.
    options = [
        "--aws-endpoint-url",
        "http://127.0.0.1:9",
        "--log-file",
        f"{folder}/log",
        "--memory-limit",
        memory,
    ]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        connection = Connection(
            account="milkrun",
            user="b",
            password="b",
            host="127.0.0.1",
            port=port,
            protocol="http",
            role="ACCOUNTADMIN",
        )
        with connect(connection) as session:
            yield session, Settings(connection=connection, aws=Aws(), folder=folder, source="the bench")
    finally:
        process.terminate()
        process.wait()


def make_tables(session: Snowflake) -> None:
    parameters = ddl_files.Parameters(
        database="MILKRUN",
        warehouse="MILKRUN_WH",
        bucket="bench",
        topic_arn="arn:aws:sns:us-east-1:000000000000:bench",
        storage_role_arn="arn:aws:iam::000000000000:role/bench",
        external_id="bench",
    )
    wanted = [d for d in ddl_files.definitions(parameters) if d.path.stem.partition("_")[2] in OBJECTS]
    assert len(wanted) == len(OBJECTS)
    apply.run(session, wanted)


def run_dbt(settings: Settings, *options: str) -> tuple[float, float]:
    """Run dbt; return the models' total execution time as dbt reports it, and the command's duration, in seconds."""
    began = time.monotonic()
    with (settings.folder / "dbt.out").open("w") as output:
        kept = os.dup(1)
        os.dup2(output.fileno(), 1)
        try:
            code = dbt(["run", *options], settings, os.environ)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
    assert code == 0, (settings.folder / "dbt.out").read_text()[-3000:]
    seconds = time.monotonic() - began
    results = json.loads((settings.folder / "dbt" / "target" / "run_results.json").read_text())["results"]
    return sum(result["execution_time"] for result in results), seconds


def measure() -> Figures:
    found = Figures(series={"dbt/sql_s by rows": []})
    with tempfile.TemporaryDirectory() as name, warehouse(Path(name)) as (session, settings):
        make_tables(session)
        rows = day = 0

        def fill(count: int) -> None:
            nonlocal rows, day
            day += 3
            for start in range(0, count, STEP):
                step = min(STEP, count - start)
                session.query(FILL.format(first=rows, count=step, day=day, note="x" * 120))
                rows += step

        began = time.monotonic()
        for size in TABLES:
            if time.monotonic() - began > BUDGET_SECONDS:
                progress(f"dbt: skipping {size:,} events, because the time budget is used up")
                break
            progress(f"dbt: filling RAW to {size:,} events")
            fill(size - rows - 1)
            fill(1)  # a newer load, so that all others are older than the look-back
            progress("dbt: running all models over all rows")
            first, _ = run_dbt(settings, "--full-refresh")
            fill(int(size * NEW_SHARE))
            progress("dbt: running incrementally with one percent more events")
            sql, command = run_dbt(settings)
            found.series["dbt/sql_s by rows"].append((rows, sql))
            found.rates |= {
                f"dbt/sql_s@{size}": sql,
                f"dbt/command_s@{size}": command,
                f"dbt/sql_s first@{size}": first,
            }
        counted = session.query("SELECT COUNT(*) AS n FROM MILKRUN.STAGING.STG_EVENTS")
        assert counted[0]["n"] == rows, (counted, rows)
        visits = session.query("SELECT COUNT(*) AS n FROM MILKRUN.MARTS.GEOFENCE_VISITS")
        found.rates |= {"dbt/rows": rows, "dbt/visits": visits[0]["n"]}
    return found


if __name__ == "__main__":
    sys.exit(figures.main(measure, sys.argv[1:]))
