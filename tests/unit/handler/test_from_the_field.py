"""Test request bodies like those of real senders, which an earlier version lost, misread or changed."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contract.event_rules import check
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import World
from tools.fleet.event_file import posts_of_file

NDJSON = {"Content-Type": "application/x-ndjson"}
RADAR_IOS_SDK = (
    b'{"event":{"_id":"radar-ios-1","type":"user.entered_geofence","live":true,'
    b'"createdAt":"2026-11-28T13:00:00.123+0000","actualCreatedAt":"2026-11-28T13:00:01.000+0000",'
    b'"confidence":3,"replayed":false,"geofence":{"tag":"farm","externalId":"farm-1"},'
    b'"location":{"type":"Point","coordinates":[144.96,-37.81]}},"user":{"deviceId":"ios-1"}}\n'
)
USER_NULL = (
    b'{"events":[{"_id":"un-1","type":"user.exited_geofence","createdAt":"2026-11-28T13:00:00Z",'
    b'"geofence":{"tag":"farm","externalId":"f1"},"user":null}],'
    b'"user":{"userId":"driver-1","deviceId":"phone-1"}}\n'
)
JAPANESE_CALENDAR = (
    b'[{"_id":"jp-1","type":"user.entered_geofence","deviceId":"jp-dev","createdAt":"0008-11-28T08:00:00Z",'
    b'"geofence":{"tag":"farm","externalId":"f1"}},\n'
    b' {"_id":"jp-2","type":"user.exited_geofence","deviceId":"jp-dev","createdAt":"2026-11-28T11:10:00Z",'
    b'"duration":10,"geofence":{"tag":"farm","externalId":"f1"}}]\n'
)
DURATION_1E308 = (
    b'[{"_id":"inf-1","type":"user.entered_geofence","deviceId":"inf-dev","createdAt":"2026-11-28T10:50:00Z",'
    b'"geofence":{"tag":"farm","externalId":"f1"}},\n'
    b' {"_id":"inf-2","type":"user.exited_geofence","deviceId":"inf-dev","createdAt":"2026-11-28T11:05:00Z",'
    b'"duration":1e308,"geofence":{"tag":"farm","externalId":"f1"}}]\n'
)
BIG_NUMBER = (
    b'{"_id":"big-1","type":"odo.read","deviceId":"big-dev","createdAt":"2026-11-28T10:53:13.000Z",'
    b'"odo":9007199254740993,"price":1.50,"neg0":-0.0}\n'
)


@pytest.fixture
def phone() -> Phone:
    return Phone(World(received_at=datetime(2026, 11, 28, 14, tzinfo=UTC)))


def test_geofence_event_from_radars_ios_sdk_is_published_as_sent_with_the_user_of_the_envelope(
    phone: Phone,
) -> None:
    assert phone.post(RADAR_IOS_SDK).status == 202
    [line] = phone.world.lines("events")
    sent = RADAR_IOS_SDK.removeprefix(b'{"event":').partition(b',"user":')[0]
    assert line == sent[:-1] + b',"user":{"deviceId":"ios-1"}}'
    assert [(record.partition_key, record.data) for record in phone.world.stream] == [("ios-1", line)]
    assert check(json.loads(line)).created_at == datetime(2026, 11, 28, 13, 0, 0, 123000, UTC)


def test_event_with_a_null_user_gets_the_ids_from_the_envelope(phone: Phone) -> None:
    assert phone.post(USER_NULL).status == 202
    [line] = phone.world.lines("events")
    assert json.loads(line)["user"] == {"userId": "driver-1", "deviceId": "phone-1"}
    assert [record.partition_key for record in phone.world.stream] == ["phone-1"]


def test_only_the_event_with_a_year_from_another_calendar_is_rejected(phone: Phone) -> None:
    answer = phone.post(JAPANESE_CALENDAR)
    assert (answer.status, answer.body["accepted"]) == (202, 1)
    errors = [(error["event_id"], error["code"]) for error in answer.body["errors"]]
    assert errors == [("jp-1", "created_at_too_old")]
    assert [json.loads(record.data)["_id"] for record in phone.world.stream] == ["jp-2"]


@pytest.mark.parametrize("year", ["2569", "1970"], ids=["Buddhist calendar", "empty battery"])
def test_rejection_of_an_implausible_year_names_both_possible_causes(phone: Phone, year: str) -> None:
    event = {"_id": "a", "type": "x", "deviceId": "d", "createdAt": f"{year}-11-28T08:00:00Z"}
    [error] = phone.post(event).body["errors"]
    assert error["message"].endswith("check the phone's clock and calendar.")


def test_duration_of_1e308_is_stored_as_sent_and_counts_as_unknown(phone: Phone) -> None:
    assert phone.post(DURATION_1E308).body["accepted"] == 2
    _, line = phone.world.lines("events")
    assert b'"duration":1e308' in line
    assert check(json.loads(line)).duration_minutes is None


def test_long_number_is_archived_with_all_its_digits(phone: Phone) -> None:
    assert phone.post(BIG_NUMBER).status == 202
    assert phone.world.lines("events") == [BIG_NUMBER.rstrip()]


def line(file: str, number: int, at: str = "13:57:55.503Z") -> bytes:
    text = f'"_id": "f-{file}-{number}", "type": "pickup.started", "deviceId": "f-{file}", '
    return b"{" + text.encode() + f'"createdAt": "2026-11-28T{at}"'.encode() + b"}"


MARK = b"\xef\xbb\xbf"
LATER = "13:57:55.504Z"
FILES = {
    "bom": MARK + b"".join(line("bom", n) + b"\n" for n in range(3)),
    "bom-crlf": gzip.compress(MARK + b"".join(line("bomcrlf", n) + b"\r\n" for n in range(3))),
    "cat-bom": b"".join(
        gzip.compress(MARK + b"".join(line(f"cat{n}", i, LATER) + b"\n" for i in range(2))) for n in (1, 2)
    ),
    "formfeed": b"".join(line("ff", n, LATER) + b"\n" for n in range(2)) + b"\x0c\n",
}
IDS = {
    "bom": ["f-bom-0", "f-bom-1", "f-bom-2"],
    "bom-crlf": ["f-bomcrlf-0", "f-bomcrlf-1", "f-bomcrlf-2"],
    "cat-bom": ["f-cat1-0", "f-cat1-1", "f-cat2-0", "f-cat2-1"],
    "formfeed": ["f-ff-0", "f-ff-1"],
}


@pytest.mark.parametrize("name", FILES)
def test_every_event_in_a_file_with_boms_or_form_feeds_is_accepted(
    phone: Phone, name: str, tmp_path: Path
) -> None:
    """`milkrun send` and the demo read the same events from a file as the handler reads from an identical body."""
    body = FILES[name]
    (tmp_path / "file").write_bytes(body)
    [post] = posts_of_file(tmp_path / "file")
    assert [json.loads(event.text)["_id"] for event in post.events] == IDS[name]

    packed = body.startswith(b"\x1f\x8b")
    headers = NDJSON | ({"Content-Encoding": "gzip"} if packed else {})
    assert phone.post(body, headers).body["accepted"] == len(IDS[name])
    assert [json.loads(each)["_id"] for each in phone.world.lines("events")] == IDS[name]
