"""Test that dbt's results do not depend on the time zone and the date formats of the Snowflake account."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
import sqlglot
from jinja2 import Environment, StrictUndefined

from snowpipe import dbt_process

PROJECT = Path(__file__).parents[3] / "snowpipe/dbt"


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Tokyo"])
def test_first_run_reads_everything_in_any_session_time_zone(zone: str) -> None:
    jinja = Environment(undefined=StrictUndefined, autoescape=False, extensions=["jinja2.ext.do"])
    macros = jinja.from_string((PROJECT / "macros/restate.sql").read_text())
    jinja.globals |= {"config": lambda **_: "", "completed_run": lambda: None, "source": lambda _, name: name}
    jinja.globals["epoch"] = vars(macros.module)["epoch"]
    model = jinja.from_string((PROJECT / "models/staging/high_water_mark.sql").read_text()).render()
    with duckdb.connect() as db:
        db.execute(f"SET TimeZone = '{zone}'")
        for table in ("events", "rejected"):
            db.execute(f"CREATE TABLE {table} (scanned_at TIMESTAMPTZ)")
        [mark] = db.sql(sqlglot.transpile(model, read="snowflake", write="duckdb")[0]).fetchall()
    assert [at.astimezone(UTC) for at in mark] == [datetime(1970, 1, 1, tzinfo=UTC)] * 3


def test_dbt_connects_with_its_own_time_zone_and_formats_instead_of_those_of_the_account() -> None:
    connector = SimpleNamespace(connect=lambda **given: given)
    dbt_process.set_session(connector)
    given = connector.connect(account="a", session_parameters={"QUERY_TAG": "milkrun-dbt"})
    assert given["account"] == "a"
    assert given["session_parameters"] == {
        "QUERY_TAG": "milkrun-dbt",
        "TIMEZONE": "UTC",
        "DATE_INPUT_FORMAT": "AUTO",
        "DATE_OUTPUT_FORMAT": "YYYY-MM-DD",
        "TIMESTAMP_INPUT_FORMAT": "AUTO",
        "TIMESTAMP_NTZ_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3",
    }
