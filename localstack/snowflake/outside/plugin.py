"""A pytest plugin for the outside suites: it makes the connector use plain HTTP and writes one JSON line per
test to the file `OUTSIDE_RESULTS`. A test's outcome is the worst of its setup, call and teardown.
"""

import json
import os
from pathlib import Path

import pytest
from snowflake.connector import connection

# The dialect takes no protocol from its URL, so it becomes the connector's default.
connection.DEFAULT_CONFIGURATION["protocol"] = ("http", str)

RANKS = {"passed": 0, "skipped": 1, "failed": 2}
worst: dict[str, tuple[str, str]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome, text = worst.get(report.nodeid, ("passed", ""))
    if RANKS.get(report.outcome, 0) > RANKS[outcome]:
        # dbt writes the error of a model to its log only.
        outcome, text = report.outcome, f"{report.longreprtext}\n{report.capstdout}"
    worst[report.nodeid] = (outcome, text)
    if report.when == "teardown":
        del worst[report.nodeid]
        with Path(os.environ["OUTSIDE_RESULTS"]).open("a") as results:
            entry = {"test": report.nodeid, "outcome": outcome, "text": text}
            results.write(json.dumps(entry, allow_nan=False) + "\n")
