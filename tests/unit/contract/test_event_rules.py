"""Test the rules by which JSON values are accepted as events or rejected."""

import json
from datetime import UTC, datetime

import pytest

from contract.event_rules import check, geofence_event
from contract.events import Fence, InvalidEvent
from contract.strict_json import parse_json

ENTER: dict[str, object] = {
    "_id": "6543d1f3a2c4e70011aabbcc",
    "type": "user.entered_geofence",
    "createdAt": "2026-11-16T08:00:00.123Z",
    "user": {"deviceId": "van-1", "userId": None},
    "geofence": {"tag": "farm", "externalId": "farm-7"},
}
TRIP = {"_id": "a", "type": "user.updated_trip", "createdAt": "2026-11-16T08:00:00Z", "user": {"userId": "u"}}


def reasons_of(event: object) -> list[tuple[str, str]]:
    with pytest.raises(InvalidEvent) as caught:
        check(parse_json(event if isinstance(event, bytes) else json.dumps(event).encode()))
    return [(reason.code, reason.field) for reason in caught.value.reasons]


def test_all_fields_of_a_geofence_event_are_read() -> None:
    event = geofence_event(json.dumps(ENTER | {"duration": 3, "confidence": 2}).encode())
    assert (event.event_id, event.type) == (ENTER["_id"], ENTER["type"])
    assert (event.kind, event.device_id, event.fence) == ("enter", "van-1", Fence("farm", "farm-7"))
    assert event.occurred_at == datetime(2026, 11, 16, 8, 0, 0, 123000, UTC)
    assert (event.duration_minutes, event.confidence) == (3.0, 2)


def test_confidence_may_be_written_with_a_decimal_point() -> None:
    assert geofence_event(json.dumps(ENTER | {"confidence": 2.0}).encode()).confidence == 2


def test_times_are_truncated_to_microseconds_and_converted_to_utc() -> None:
    event = geofence_event(json.dumps(ENTER | {"createdAt": "2026-11-16T09:30:00.123456789+01:30"}).encode())
    assert event.occurred_at == datetime(2026, 11, 16, 8, 0, 0, 123456, UTC)
    assert event.occurred_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("type_", "kind"), [("user_exited_geofence", "exit"), ("user.dwelled_in_geofence", "dwell")]
)
def test_geofence_event_type_may_have_a_dot_or_an_underscore_after_user(type_: str, kind: str) -> None:
    assert geofence_event(json.dumps(ENTER | {"type": type_}).encode()).kind == kind


def test_types_of_geofence_events_are_configurable() -> None:
    raw = json.dumps(ENTER | {"type": "yard.in"}).encode()
    assert geofence_event(raw, {"yard.in": "enter"}).kind == "enter"
    with pytest.raises(InvalidEvent, match="not_a_geofence_event"):
        geofence_event(raw)


def test_device_id_in_user_takes_precedence_over_the_top_level_device_id() -> None:
    assert check(ENTER | {"deviceId": "other"}).device_id == "van-1"
    assert check(ENTER | {"deviceId": "other", "user": {"deviceId": None}}).device_id == "other"
    assert check(ENTER | {"deviceId": "other", "user": None}).device_id == "other"


@pytest.mark.parametrize("user", [{"userId": "u"}, {"_id": "x"}, {"deviceId": "d"}])
def test_one_id_of_device_user_or_account_suffices_for_an_event_that_is_not_a_geofence_event(
    user: dict[str, str],
) -> None:
    check(TRIP | {"user": user})


def test_geofence_fields_of_other_event_types_are_not_validated() -> None:
    check(TRIP | {"type": "pickup.sampled", "geofence": 7, "confidence": "high", "anything": [None]})


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"_id": None}, [("missing_id", "_id")]),
        ({"_id": ""}, [("field_length", "_id")]),
        ({"_id": 7}, [("wrong_type", "_id")]),
        ({"_id": "x" * 129}, [("field_length", "_id")]),
        ({"_id": "日" * 86}, [("field_length", "_id")]),
        ({"type": None}, [("missing_type", "type")]),
        ({"type": ["user.entered_geofence"]}, [("wrong_type", "type")]),
        ({"createdAt": None}, [("missing_created_at", "createdAt")]),
        ({"createdAt": "2026-11-16T08:00:00"}, [("invalid_created_at", "createdAt")]),
        ({"createdAt": "2026-W47-1T08:00:00Z"}, [("invalid_created_at", "createdAt")]),
        ({"createdAt": "2026-02-30T08:00:00Z"}, [("invalid_created_at", "createdAt")]),
        ({"createdAt": "0001-01-01T00:00:00+10:00"}, [("invalid_created_at", "createdAt")]),
        ({"createdAt": "２026-11-16T08:00:00Z"}, [("invalid_created_at", "createdAt")]),
        ({"createdAt": 1700000000}, [("wrong_type", "createdAt")]),
        ({"user": []}, [("wrong_type", "user")]),
        ({"user": {"deviceId": 5}}, [("wrong_type", "user.deviceId")]),
        ({"user": {"deviceId": "x" * 129}}, [("field_length", "user.deviceId")]),
        ({"user": {"userId": "u"}}, [("missing_device", "user.deviceId")]),
        ({"geofence": None}, [("missing_geofence", "geofence")]),
        ({"geofence": "farm"}, [("wrong_type", "geofence")]),
        ({"geofence": {"tag": "farm"}}, [("missing_geofence", "geofence.externalId")]),
        ({"geofence": {"tag": "", "externalId": "x"}}, [("field_length", "geofence.tag")]),
        ({"geofence": {"tag": "x", "externalId": "日" * 86}}, [("field_length", "geofence.externalId")]),
        ({"confidence": 4}, [("out_of_range", "confidence")]),
        ({"confidence": True}, [("wrong_type", "confidence")]),
        ({"confidence": 2.5}, [("wrong_type", "confidence")]),
        ({"confidence": 1e300}, [("out_of_range", "confidence")]),
        ({"duration": "3"}, [("wrong_type", "duration")]),
        ({"_id": 7, "duration": "3"}, [("wrong_type", "_id"), ("wrong_type", "duration")]),
    ],
)
def test_each_violation_is_reported_with_its_code_and_field(
    change: dict[str, object], reasons: list[tuple[str, str]]
) -> None:
    assert reasons_of(ENTER | change) == reasons


def test_reason_for_an_empty_type_says_that_type_must_not_be_empty() -> None:
    with pytest.raises(InvalidEvent, match="`type` must not be empty"):
        check(TRIP | {"type": ""})


@pytest.mark.parametrize(
    ("sent", "read"),
    [(0, 0), (1.5, 1.5), (576_000, 576_000), (576_000.1, None), (1e308, None), (-0.5, None), (None, None)],
)
def test_only_an_impossible_or_null_duration_counts_as_unknown(sent: float, read: float | None) -> None:
    """If a duration of 1e308 were used, one phone could make all sums and averages infinite."""
    assert check(ENTER | {"duration": sent}).duration_minutes == read
    assert check(ENTER | {"duration": sent, "confidence": 2.0}).duration_minutes == read


def test_event_with_neither_a_device_nor_a_user_is_rejected() -> None:
    assert reasons_of(TRIP | {"user": {}}) == [("missing_identity", "user")]
    assert reasons_of(TRIP | {"user": None, "userId": "u"}) == [("missing_identity", "user")]


@pytest.mark.parametrize("value", [b"3", b'"x"', b"[]", b"null", b"true"])
def test_value_that_is_not_an_object_is_rejected(value: bytes) -> None:
    assert reasons_of(value) == [("not_an_object", "")]
