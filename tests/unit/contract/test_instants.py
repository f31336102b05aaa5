"""Every form of time is accepted or rejected alike by the contract, the documented schema and the archive's readers."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from contract.events import InvalidEvent, check
from contract.instants import instant
from glue.archive import Lines, Stored
from glue.rows import line_rows
from tests.unit.contract.instants import ACCEPTED, REJECTED
from tests.unit.contract.test_events import ENTER

SCHEMA = Draft202012Validator(
    json.loads((Path(__file__).parents[3] / "docs" / "event.schema.json").read_text())
)
STORED = Stored("events/x", 0, instant("2026-11-28T13:00:00Z"))


def spark_reads(text: str) -> Any:
    """`created_at` of the row that every engine of glue/ gets of a line."""
    line = json.dumps(ENTER | {"createdAt": text}).encode()
    (row,) = line_rows(Lines(STORED, [line])).to_pylist()
    return row["created_at"]


@pytest.mark.parametrize(("text", "utc"), ACCEPTED, ids=[repr(text) for text, _ in ACCEPTED])
def test_an_unambiguous_time_is_accepted(text: str, utc: str) -> None:
    meant = datetime.fromisoformat(utc + "Z")
    assert instant(text) == meant
    assert instant(text).utcoffset() == timedelta(0)
    assert check(ENTER | {"createdAt": text}).created_at == meant
    assert SCHEMA.is_valid(ENTER | {"createdAt": text})
    assert spark_reads(text) == meant


@pytest.mark.parametrize(("text", "form"), REJECTED, ids=[repr(text) for text, _ in REJECTED])
def test_an_ambiguous_time_is_rejected_and_its_form_is_named(text: str, form: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the contract's own
        instant(text)
    with pytest.raises(InvalidEvent) as caught:
        check(ENTER | {"createdAt": text})
    (reason,) = caught.value.reasons
    assert (reason.code, reason.field) == ("invalid_created_at", "createdAt")
    assert form in reason.message
    assert ("this is" in reason.message) == bool(form)
    if "calendar" not in form and not text.endswith(
        "\n"
    ):  # a pattern knows no calendar; Python's $ is no ECMA $
        assert not SCHEMA.is_valid(ENTER | {"createdAt": text})
    assert spark_reads(text) is None


@pytest.mark.parametrize("number", [1795870800, 1795870800123, 1795870800.5])
def test_a_json_number_is_named_as_an_epoch(number: float) -> None:
    with pytest.raises(InvalidEvent, match=r"wrong_type createdAt: .* a number, such as an epoch"):
        check(ENTER | {"createdAt": number})
