"""Transpile the dbt model of the visit rule to DuckDB SQL, so that the jobs need no second implementation of it."""

from functools import cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "snowpipe" / "dbt"


@cache
def visits_sql(merge_gap_seconds: int, min_confidence: int) -> str:
    """Return the dbt model `visits_by_rule` as one DuckDB query over the table `stg_geofence_events`.

    The model is rendered as in a full refresh.
    """
    import sqlglot
    from jinja2 import Environment, StrictUndefined

    # The output is SQL rather than HTML, and the template is our own model, so autoescape is off.
    jinja = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701
    macros = jinja.from_string((PROJECT / "macros" / "field_conversions.sql").read_text())
    variables = {"merge_gap_seconds": merge_gap_seconds, "min_confidence": min_confidence}
    jinja.globals |= {
        "config": lambda **_: "",
        "reads_everything": lambda: True,
        "ref": lambda name: name,
        "var": variables.__getitem__,
        "key_of": vars(macros.module)["key_of"],
    }
    model = jinja.from_string((PROJECT / "models" / "intermediate" / "visits_by_rule.sql").read_text())
    return sqlglot.transpile(model.render(), read="snowflake", write="duckdb")[0]
