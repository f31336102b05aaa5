"""Test that log lines never contain the id of a user, device, event or geofence, whatever fails."""

import json
from collections.abc import Callable

import pytest

from aws.errors import PermanentError
from consumer.batch_log import report
from consumer.consume import Outcome
from consumer.records import Record as StreamRecord
from consumer.store import RaceLost
from contract.instants import instant
from handler import validate
from tests.unit.handler.conftest import Phone
from tests.unit.handler.test_answers import ENTER
from tests.unit.handler.test_redrive import Desk

IDS = ["user-4711", "device-4711", "account-4711", "event-4711", "farm-4711"]
USER = {"userId": IDS[0], "deviceId": IDS[1], "_id": IDS[2]}
EVENT = ENTER | {"_id": IDS[3], "user": USER, "geofence": {"tag": "farm", "externalId": IDS[4]}}
CONFLICT = EVENT | {"createdAt": "2026-11-16T07:59:00Z"}


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize(
    "body",
    [
        [EVENT, EVENT, CONFLICT],
        [EVENT | {"_id": IDS[3] * 200}],
        [EVENT | {"createdAt": IDS[0]}],
        [EVENT | {"user": USER | {"deviceId": [IDS[1]]}}],
        {"user": USER | {"userId": {"x": IDS[0]}}, "events": [{"_id": IDS[3]}]},
        json.dumps(EVENT).encode()[:-3],
        json.dumps(EVENT).encode().replace(b'"userId"', b'"user-4711":1,"user-4711":2,"userId"'),
        b'{"device-4711":' * 600,
        b'"\xff device-4711',
    ],
    ids=[
        "accepted", "long-id", "time", "list", "envelope", "cut", "name-twice", "deep", "not-utf-8",
    ],
)  # fmt: skip
def test_no_id_in_a_request_is_logged(phone: Phone, capsys: pytest.CaptureFixture[str], body: object) -> None:
    phone.post(body)
    said = logged(capsys)
    assert "events_ingested" in said
    assert not [each for each in IDS if each in said]


@pytest.mark.parametrize(
    "error",
    [
        KeyError(IDS[1]),
        ValueError(f"Value '{IDS[1]}' at 'records.1.member.partitionKey' failed to satisfy a constraint"),
        PermanentError("kinesis: ValidationException", IDS[1]),
    ],
    ids=["key", "value", "aws"],
)
def test_no_id_in_an_exception_message_is_logged(
    phone: Phone, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError(IDS[0]) from cause

    monkeypatch.setattr(validate, "check", fail)
    assert phone.post([EVENT]).status == 503
    said = logged(capsys)
    assert "ingest_failed" in said
    assert "RuntimeError" in said
    assert not [each for each in IDS if each in said]


@pytest.mark.parametrize("claim", [{"key": IDS[1]}, {"bucket": IDS[0], "key": "k", "lines": [1]}, IDS[1]])
def test_no_id_in_a_claim_check_is_logged(claim: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert Desk().take(claim) == ["m0"]
    said = logged(capsys)
    assert "claim_check_returned" in said
    assert not [each for each in IDS if each in said]


def test_log_line_is_short_even_for_a_huge_claim_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert Desk().take("x" * 200_000, {"bucket": "b" * 100_000, "key": "k" * 100_000, "lines": []}) == [
        "m0",
        "m1",
    ]
    said = logged(capsys)
    assert said.count("claim_check_returned") == 2
    assert len(said) < 2_000


@pytest.mark.parametrize(
    "failure",
    [lambda: KeyError(IDS[1]), lambda: PermanentError("dynamodb: ValidationException", IDS[1])],
    ids=["key", "aws"],
)
def test_failed_batch_logs_no_ids(
    capsys: pytest.CaptureFixture[str], failure: Callable[[], Exception]
) -> None:
    records = [record(number) for number in "12"]
    report(records, Outcome(records=2, stopped_at=records[0], failure=failure()))
    report(
        records,
        Outcome(
            records=2,
            stopped_at=records[0],
            failure=RaceLost("other processes changed the pair first in all 20 attempts"),
        ),
    )
    said = logged(capsys)
    assert said.count("records_consumed") == 2
    assert "changed the pair first in all 20 attempts" in said
    assert not [each for each in IDS if each in said]


def record(number: str) -> StreamRecord:
    at = instant("2026-11-16T08:00:00Z")
    return StreamRecord(json.dumps(EVENT).encode(), IDS[1], number, "shard-1", "stream", at)
