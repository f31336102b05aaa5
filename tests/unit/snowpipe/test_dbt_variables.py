"""Test that dbt uses the contract's limits and, by default, the consumer's visit rule."""

import re
from datetime import timedelta
from pathlib import Path

import yaml

from consumer.visits import DEFAULT_RULE
from contract.event_limits import (
    MAX_AGE_AT_RECEIPT,
    MAX_CLOCK_AHEAD,
    MAX_CONTENTS_PER_EVENT,
    MAX_DURATION_MINUTES,
    MAX_LITRES,
)
from contract.geofence_event_types import GEOFENCE_KINDS
from snowpipe.ddl_files import DDL

PROJECT = Path(__file__).parents[3] / "snowpipe/dbt/dbt_project.yml"


def test_dbt_variables_equal_the_limits_of_the_contract_and_the_visit_rule_of_the_consumer() -> None:
    variables = yaml.safe_load(PROJECT.read_text())["vars"]
    assert variables["merge_gap_seconds"] == DEFAULT_RULE.merge_gap.total_seconds()
    assert variables["min_confidence"] == DEFAULT_RULE.min_confidence
    assert variables["geofence_kinds"] == GEOFENCE_KINDS
    assert timedelta(days=variables["max_age_days"]) == MAX_AGE_AT_RECEIPT
    assert timedelta(hours=variables["max_hours_ahead"]) == MAX_CLOCK_AHEAD
    assert variables["max_duration_minutes"] == MAX_DURATION_MINUTES
    assert variables["max_litres"] == MAX_LITRES
    assert variables["max_contents_per_event"] == MAX_CONTENTS_PER_EVENT


def test_look_back_is_at_least_as_long_as_a_copy_may_take() -> None:
    """Rows that a COPY loads contain the time at which the COPY began, but become visible only when it ends."""
    look_back = yaml.safe_load(PROJECT.read_text())["vars"]["lookback_minutes"]
    ddl = (DDL / "01_warehouse.sql").read_text()
    [limit] = re.findall(r"STATEMENT_TIMEOUT_IN_SECONDS = (\d+)", ddl)
    assert timedelta(minutes=look_back) >= timedelta(seconds=int(limit))
