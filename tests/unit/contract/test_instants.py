"""Test that the contract, the documented schema and the engines in glue/ accept the same time formats.

One test checks that glue/ and SQLite also reject the same device times as too old or too far ahead.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from contract.event_rules import check
from contract.events import InvalidEvent
from contract.instants import instant
from glue.archive import Lines, Stored
from glue.rows import fact_rows, line_rows
from snowpipe.archive import Object
from snowpipe.sqlite import load
from tests.unit.contract.instants import ACCEPTED, REJECTED
from tests.unit.contract.test_event_rules import ENTER

SCHEMA = Draft202012Validator(
    json.loads((Path(__file__).parents[3] / "docs" / "event.schema.json").read_text())
)
STORED = Stored("events/x", 0, instant("2026-11-28T13:00:00Z"))


def spark_reads(text: str) -> object:
    """Return `created_at` as the engines in glue/ read it from an event whose `createdAt` is `text`."""
    line = json.dumps(ENTER | {"createdAt": text}).encode()
    (row,) = line_rows(Lines(STORED, [line])).to_pylist()
    return row["created_at"]


@pytest.mark.parametrize(("text", "utc"), ACCEPTED, ids=[repr(text) for text, _ in ACCEPTED])
def test_unambiguous_time_is_accepted(text: str, utc: str) -> None:
    meant = datetime.fromisoformat(utc + "Z")
    assert instant(text) == meant
    assert instant(text).utcoffset() == timedelta(0)
    assert check(ENTER | {"createdAt": text}).created_at == meant
    assert SCHEMA.is_valid(ENTER | {"createdAt": text})
    assert spark_reads(text) == meant


@pytest.mark.parametrize(("text", "form"), REJECTED, ids=[repr(text) for text, _ in REJECTED])
def test_ambiguous_or_invalid_time_is_rejected_and_its_format_is_named_if_known(text: str, form: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its messages differ
        instant(text)
    with pytest.raises(InvalidEvent) as caught:
        check(ENTER | {"createdAt": text})
    (reason,) = caught.value.reasons
    assert (reason.code, reason.field) == ("invalid_created_at", "createdAt")
    assert form in reason.message
    assert ("this is" in reason.message) == bool(form)
    # The schema's pattern cannot check the calendar. In Python, unlike ECMAScript, `$` matches before a final newline.
    if "does not exist" not in form and not text.endswith("\n"):
        assert not SCHEMA.is_valid(ENTER | {"createdAt": text})
    assert spark_reads(text) is None


@pytest.mark.parametrize("number", [1795870800, 1795870800123, 1795870800.5])
def test_numeric_time_is_rejected(number: float) -> None:
    with pytest.raises(InvalidEvent, match=r"wrong_type createdAt: .* not a number such as a Unix timestamp"):
        check(ENTER | {"createdAt": number})


RECEIVED = datetime(2026, 11, 28, 12, tzinfo=UTC)
KEY = "events/dt=2026-11-28/hh=12/x.ndjson"
AGE, AHEAD, MICROSECOND = timedelta(days=400), timedelta(hours=25), timedelta(microseconds=1)
CLOCKS = {
    "400 days before the hour": (RECEIVED - AGE, None),
    "a microsecond longer ago": (RECEIVED - AGE - MICROSECOND, "created_at_too_old"),
    "25 hours after the hour began": (RECEIVED + AHEAD, None),
    "a microsecond further ahead": (RECEIVED + AHEAD + MICROSECOND, "created_at_in_future"),
    "year 8": (datetime(8, 11, 28, 8, tzinfo=UTC), "created_at_too_old"),
    "year 1": (datetime(1, 1, 1, tzinfo=UTC), "created_at_too_old"),
    "year 9999": (datetime(9999, 12, 31, tzinfo=UTC), "created_at_in_future"),
}


class OneLine:
    """An archive that contains one object with one line."""

    def __init__(self, line: bytes) -> None:
        self._line = line

    def objects(self) -> Iterator[Object]:
        yield Object(KEY, RECEIVED, len(self._line))

    def body(self, _: str) -> bytes:
        return self._line


@pytest.mark.parametrize(("at", "code"), CLOCKS.values(), ids=CLOCKS)
def test_glue_and_sqlite_accept_the_same_device_times_as_dbt(
    at: datetime, code: str | None, tmp_path: Path
) -> None:
    """tests/e2e/test_dbt_models.py tests the same device times with dbt."""
    line = json.dumps(ENTER | {"createdAt": at.isoformat()}).encode()
    read = Lines(Stored(KEY, len(line), RECEIVED), [line])
    assert fact_rows(read, conflicts=False).num_rows == (code is None)
    [owned] = fact_rows(read, conflicts=True).column("event_key").to_pylist()
    assert (owned is None) == (code is not None)

    [*_] = load(tmp_path / "events.db", OneLine(line))
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        assert database.execute("SELECT invalid_code FROM events").fetchall() == [(code,)]
