"""Visits of a (device, fence) that has none any more: dbt's delete+insert leaves them."""

from typing import Any

import duckdb
import pytest
from jinja2 import Environment, StrictUndefined

from glue.dbt_sql import PROJECT


def drop_ghost_visits(min_confidence: int) -> str:
    jinja = Environment(undefined=StrictUndefined, autoescape=False)
    jinja.globals |= {"is_incremental": lambda: True, "this": "geofence_visits", "ref": lambda name: name}
    jinja.globals |= {"var": {"min_confidence": min_confidence}.__getitem__}
    macros: Any = jinja.from_string((PROJECT / "macros" / "drop_ghost_visits.sql").read_text())
    return str(macros.module.drop_ghost_visits())


@pytest.mark.parametrize(
    ("min_confidence", "left"), [(0, {"sure", "unsure", "unknown"}), (2, {"sure", "unknown"})]
)
def test_only_a_pair_with_an_enter_that_counts_keeps_its_visits(min_confidence: int, left: set[str]) -> None:
    with duckdb.connect() as warehouse:
        warehouse.execute("""
            CREATE TABLE stg_geofence_events AS FROM (VALUES
                ('sure', 'enter', 3), ('unsure', 'enter', 1), ('unknown', 'enter', NULL), ('left', 'exit', 3)
            ) AS events (device_fence_key, kind, confidence);
            CREATE TABLE geofence_visits AS SELECT device_fence_key FROM stg_geofence_events;
        """)
        warehouse.execute(drop_ghost_visits(min_confidence))
        found = warehouse.execute("SELECT device_fence_key FROM geofence_visits").fetchall()
    assert {key for (key,) in found} == left
