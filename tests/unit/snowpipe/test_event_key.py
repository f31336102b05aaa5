"""Test that the dbt macro `event_key` and the contract's `Owned.event_key` return the same key."""

import duckdb
import sqlglot
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import Environment, StrictUndefined

from contract.events import Owned
from glue.dbt_sql import PROJECT

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


def key_in_sql() -> str:
    jinja = Environment(undefined=StrictUndefined, autoescape=False)
    macros: object = jinja.from_string((PROJECT / "macros" / "field_conversions.sql").read_text())
    snowflake = f"SELECT {macros.module.event_key('device_id', 'user_id', 'event_id')} FROM events"
    return sqlglot.transpile(snowflake, read="snowflake", write="duckdb")[0]


@settings(deadline=None, max_examples=50)
@given(st.none() | TEXTS, TEXTS, TEXTS)
@example(None, "a\0", "e\u0301")
@example("\U0001f69a", "u", "1:d")
def test_dbt_macro_gives_the_same_event_key_as_the_contract(
    device: str | None, user: str, event_id: str
) -> None:
    with duckdb.connect() as warehouse:
        warehouse.execute("CREATE TABLE events (device_id VARCHAR, user_id VARCHAR, event_id VARCHAR)")
        warehouse.execute("INSERT INTO events VALUES (?, ?, ?)", [device, user, event_id])
        found = warehouse.execute(key_in_sql()).fetchall()
    owned = Owned("d", device, event_id) if device else Owned("u", user, event_id)
    assert found == [(owned.event_key,)]
