"""Test the metrics that CloudWatch extracts from our log lines (embedded metric format)."""

import json
import time

import pytest
import structlog

from contract import logs, metrics


@pytest.fixture
def logged(capsys):
    """Return a function that logs a line with the metrics of the stage `dev`, and returns the parsed line."""

    def log(event, **fields):
        logs.configure("INFO", metrics.with_metrics("dev"))
        structlog.get_logger().info(event, **fields)
        return json.loads(capsys.readouterr().out)

    yield log
    structlog.reset_defaults()


def test_canonical_log_line_contains_its_metrics(logged):
    line = logged(
        logs.EVENTS_INGESTED, received=2, accepted=2, rejected=0, store_ms=12.5, object_key="events/k"
    )
    [directive] = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Milkrun"
    assert directive["Dimensions"] == [["stage"]]
    assert {m["Name"]: m["Unit"] for m in directive["Metrics"]} == {
        "received": "Count",
        "accepted": "Count",
        "rejected": "Count",
        "store_ms": "Milliseconds",
    }
    # By the specification, every dimension is a string member of the root, and every metric is a number.
    assert line["stage"] == "dev"
    assert all(isinstance(line[m["Name"]], int | float) for m in directive["Metrics"])
    # CloudWatch drops a metric whose time is more than two weeks old or two hours ahead.
    assert line["_aws"]["Timestamp"] == pytest.approx(time.time() * 1000, abs=60_000)
    assert line["object_key"] == "events/k"


def test_unit_of_a_metric_follows_from_the_suffix_of_its_name():
    names = ("total_ms", "lateness_seconds", "set_aside_share", "accepted")
    assert [metrics.unit_of(name) for name in names] == ["Milliseconds", "Seconds", "Percent", "Count"]


def test_rejected_events_are_counted_by_code(logged):
    line = logged(logs.EVENTS_INGESTED, rejected=3, rejected_by_code={"missing_id": 2, "field_length": 1})
    names = {m["Name"] for m in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    assert names == {"rejected", "rejected_missing_id", "rejected_field_length"}
    assert line["rejected_missing_id"] == 2


def test_stage_may_omit_the_metrics_that_no_alarm_uses(capsys):
    logs.configure("INFO", metrics.with_metrics("dev", "alarms"))
    codes = {"device_mismatch": 1, "missing_id": 2}
    structlog.get_logger().info(logs.EVENTS_INGESTED, received=2, events_per_device=1, rejected_by_code=codes)
    line = json.loads(capsys.readouterr().out)
    structlog.reset_defaults()
    names = {m["Name"] for m in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    assert names == {"events_per_device", "rejected_device_mismatch"}
    assert line["received"] == 2


def test_log_lines_that_are_not_canonical_contain_no_metrics(logged):
    assert "_aws" not in logged("something_else_happened", accepted=2)


def test_missing_or_null_field_is_not_a_metric(logged):
    assert "_aws" not in logged(logs.EVENTS_INGESTED, lateness_seconds=None, object_key=None)
