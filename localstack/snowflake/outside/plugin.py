"""A pytest plugin for the outside suites: it makes the connector use plain HTTP, and writes one JSON line per
test to the file that `OUTSIDE_RESULTS` names.

A test's outcome is the worst outcome of its setup, call and teardown. The field `text` of a failed test ends with the
refusals that the local Snowflake returned during the test, because dbt writes them only to its own log.
"""

import json
import os
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest
from snowflake.connector import connect, connection, errors

# The SQLAlchemy dialect does not read the protocol from its URL, so set the connector's default protocol.
connection.DEFAULT_CONFIGURATION["protocol"] = ("http", str)

RANKS = {"passed": 0, "skipped": 1, "failed": 2}
REFUSAL = "Not supported by the local Snowflake"
worst: dict[str, tuple[str, str, str]] = {}
"""The outcome of each running test, the error that made it fail, and that error with all output and refusals."""
refusals: list[str] = []
seen: dict[int, tuple[BaseException, str]] = {}
"""The output and refusals that belong to each exception, keyed by the exception's id. They are kept for later tests,
because a class fixture that failed raises the same exception again in each test."""
initialize = errors.Error.__init__


def note_refusal(self: errors.Error, *arguments: object, **options: object) -> None:
    initialize(self, *arguments, **options)
    if REFUSAL in str(self.msg):
        refusals.append(str(self.msg))


errors.Error.__init__ = note_refusal  # type: ignore[method-assign]


def pytest_runtest_setup() -> None:
    refusals.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo:
        error = call.excinfo.value
        _, text = seen.setdefault(id(error), (error, "\n".join([report.capstdout, *refusals])))
        report.sections.append(("refused", text))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome, error, text = worst.get(report.nodeid, ("passed", "", ""))
    if RANKS.get(report.outcome, 0) > RANKS[outcome]:
        outcome, error = report.outcome, report.longreprtext
        text = "\n".join([error, *dict(report.sections).values()])
    worst[report.nodeid] = (outcome, error, text)
    if report.when == "teardown":
        if outcome == "failed" and "SNOWFLAKE_DATABASE" in os.environ:
            drop_relations()
        del worst[report.nodeid]
        with Path(os.environ["OUTSIDE_RESULTS"]).open("a") as results:
            entry = {"test": report.nodeid, "outcome": outcome, "error": error, "text": text}
            results.write(json.dumps(entry, allow_nan=False) + "\n")


def drop_relations() -> None:
    """Drop the relations that a failed test of snowflake-sqlalchemy left behind, because the next tests use
    the same names.
    """
    options = {name: os.environ[f"SNOWFLAKE_{name.upper()}"] for name in OPTIONS}
    with connect(**options, protocol="http") as opened, opened.cursor() as cursor:
        for kind, name_at, schema_at in (("TABLE", 1, 4), ("VIEW", 1, 4), ("SEQUENCE", 0, 2)):
            cursor.execute(f"SHOW {kind}S IN DATABASE {options['database']}")
            for row in cursor.fetchall():
                with suppress(errors.Error):
                    cursor.execute(f'DROP {kind} IF EXISTS "{row[schema_at]}"."{row[name_at]}"')


OPTIONS = ("account", "user", "password", "host", "port", "database")
