"""Test that a complete position without event fields becomes an event of type `location.ping`."""

import hashlib
import json
from datetime import datetime

import pytest

from tests.unit.contract.instants import ACCEPTED, REJECTED
from tests.unit.handler.conftest import Phone

PING: dict[str, object] = {
    "deviceId": "van-1",
    "userId": "driver",
    "latitude": 53.20,
    "longitude": 5,
    "accuracy": 8.5,
    "updatedAt": "2026-11-16T08:00:00.123+0000",
}
TEXT = b'{"deviceId":"van-1","latitude":53.20,"longitude":5,"accuracy":8.50,"updatedAt":"2026-11-16T08:00:00.123+0000"}'
ID = hashlib.sha256(TEXT).hexdigest()[:24]
STORED = (
    TEXT[:-1]
    + b',"_id":"%b","type":"location.ping","createdAt":"2026-11-16T08:00:00.123+0000"}' % ID.encode()
)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (TEXT, "application/json"),
        (TEXT.replace(b",", b" ,\n "), "application/json"),
        (b"[%b]" % TEXT, "application/json"),
        (b'{"event":%b}' % TEXT, "application/json"),
        (b'{"events":[%b],"user":{"ip":"192.0.2.7"}}' % TEXT, "application/json"),
        (b"\xef\xbb\xbf" + TEXT + b"\r\n", "application/x-ndjson"),
        (TEXT[:-1] + b',"_id":null,"type":null,"createdAt":null}', "application/json"),
    ],
    ids=["bare", "with whitespace", "array", "envelope of one", "envelope", "NDJSON", "nulls"],
)
def test_ping_is_stored_as_an_event_and_never_published(phone: Phone, body: bytes, content_type: str) -> None:
    answer = phone.post(body, {"Content-Type": content_type})
    assert (answer.status, answer.body["accepted"], answer.body["errors"]) == (202, 1, [])
    (line,) = phone.world.lines("events")
    if b"null" not in body:
        assert line == STORED
    else:  # the id is the hash of the text as sent, including its nulls
        assert json.loads(line) == json.loads(STORED) | {"_id": hashlib.sha256(body).hexdigest()[:24]}
        assert line.count(b'"_id"') == line.count(b'"createdAt"') == 1
    assert phone.world.stream == []


@pytest.mark.parametrize(
    "change",
    [{"updatedAt": "2026-11-16T08:00:00"}, {"updatedAt": None}, {"latitude": "53.2"}, {"deviceId": 7}],
    ids=["no offset", "no time", "text", "number"],
)
def test_rejection_of_an_invalid_ping_says_what_a_position_needs(
    phone: Phone, change: dict[str, object]
) -> None:
    """Otherwise, the response would only ask for `_id`, `type` and `createdAt`, which a ping does not have."""
    errors = phone.post(PING | change).body["errors"]
    [message] = [error["message"] for error in errors if error["code"] == "missing_id"]
    assert "`updatedAt` with an offset" in message
    event = {"type": "x", "deviceId": "d", "createdAt": "2026-11-16T08:00:00Z"}
    assert [error["message"] for error in phone.post(event).body["errors"]] == ["`_id` is missing."]


def test_repeated_ping_is_a_duplicate(phone: Phone) -> None:
    answer = phone.post([PING, PING, PING | {"latitude": 53.3}])
    assert (answer.body["accepted"], answer.body["duplicates"]) == (2, 1)
    assert phone.post([PING, PING, PING | {"latitude": 53.3}]).body["object_key"] == answer.body["object_key"]
    assert len(phone.world.keys("events")) == 1


def test_ping_in_an_envelope_gets_the_ids_from_the_envelope(phone: Phone) -> None:
    phone.post(b'{"events":[%b],"user":{"userId":"driver"}}' % TEXT)
    assert phone.world.lines("events") == [STORED[:-1] + b',"user":{"userId":"driver"}}']


@pytest.mark.parametrize(("text", "utc"), ACCEPTED, ids=[repr(text) for text, _ in ACCEPTED])
def test_time_of_a_ping_may_have_any_accepted_format(phone: Phone, text: str, utc: str) -> None:
    phone.world.received_at = datetime.fromisoformat(f"{utc}Z")
    assert phone.post([PING | {"updatedAt": text}]).status == 202
    assert json.loads(phone.world.lines("events")[0])["createdAt"] == text


NO_PINGS = [
    *({"updatedAt": text} for text, _ in REJECTED),
    *({name: None} for name in ("deviceId", "latitude", "longitude", "updatedAt")),
    {"latitude": "53.2"},
    {"longitude": True},
    {"latitude": [53.2]},
    {"updatedAt": 1795870800},
    {"deviceId": ""},
    {"deviceId": "x" * 129},
    {"deviceId": 7},
]


@pytest.mark.parametrize("change", NO_PINGS, ids=repr)
def test_incomplete_or_invalid_ping_is_rejected_as_an_event_without_an_id(
    phone: Phone, change: dict[str, object]
) -> None:
    answer = phone.post([PING | change])
    assert answer.status == 400
    assert answer.codes[0] == "missing_id"


@pytest.mark.parametrize("field", ["_id", "type", "createdAt"])
def test_position_with_one_of_the_event_fields_is_validated_as_an_event(phone: Phone, field: str) -> None:
    answer = phone.post([PING | {field: "2026-11-16T08:00:00Z"}])
    assert answer.status == 400
    assert len(answer.codes) == 2


def test_ping_is_not_published_even_if_its_type_is_configured_as_a_geofence_type(phone: Phone) -> None:
    phone.settings = {"GEOFENCE_KINDS": '{"location.ping": "enter"}'}
    assert phone.post([PING]).status == 202
    assert phone.world.stream == []
