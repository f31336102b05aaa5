"""Test which JSON values are events and which are rejected."""

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.events import (
    Fence,
    InvalidEvent,
    Owned,
    check,
    compact,
    geofence_event,
    parse_json,
)

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


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"a":1,"a":1}', id="a name twice"),
        pytest.param(b'{"a":[{"b":1,"\\u0062":2}]}', id="a name twice, deep inside and escaped"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":-Infinity}', id="Infinity"),
        pytest.param(b'{"a":1e999}', id="beyond a double"),
        pytest.param(b'{"a":[1E+400]}', id="beyond a double, with a sign"),
        pytest.param(b'{"a":1e0000400}', id="beyond a double, with zeros"),
        pytest.param(b'{"a":' + b"9" * 310 + b"}", id="a whole number beyond a double"),
        pytest.param(b'{"a":' + b"9" * 300 + b"e20}", id="a long number with a short exponent"),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", id="a number too long to read"),
        pytest.param(b'{"a":"\\ud800"}', id="a lone surrogate"),
        pytest.param(b'{"\\udc00":1}', id="a lone surrogate in a name"),
        pytest.param(b'{"a":"\xff"}', id="not UTF-8"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="a surrogate in UTF-8"),
        pytest.param(b'{"a":"\x01"}', id="a control character"),
        pytest.param(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", id="33 levels"),
        pytest.param(b"[" * 100_000, id="a hundred thousand brackets"),
        pytest.param(b'{"a":01}', id="a leading zero"),
        pytest.param(b'{"a":1,}', id="a comma too many"),
        pytest.param(b'{"a":1} x', id="text after it"),
        pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_json_that_a_warehouse_would_not_load_is_rejected(raw: bytes) -> None:
    with pytest.raises(InvalidEvent) as caught:
        parse_json(raw)
    assert [reason.code for reason in caught.value.reasons] == ["invalid_json_value"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":' + b"[" * 31 + b"]" * 31 + b"}",
        b'{"a":' + b"[" * 31 + b"]" * 31 + b',"b":[]}',
        b'{"a":1e308,"b":-1.7976931348623157e308}',
        b'{"a":' + b"9" * 308 + b"}",
        b'{"a":"\\ud83d\\ude00","b":"1e999","c":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}',
        b'{"e829":1,"a":1e-999}',
        b'{"":0}',
    ],
)
def test_unusual_but_valid_json_is_accepted(raw: bytes) -> None:
    assert parse_json(raw) == json.loads(raw)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abé"), inner, max_size=3),
    max_leaves=6,
)
EDITS = st.sampled_from(
    [b"", b'"a":1,', b'"\\u0061":1,', b"9" * 310, b"e400", b"NaN", b"\xff", b"\\", b'"', b"0", b" "]
)


@given(VALUES, EDITS, st.integers(0, 200), st.booleans())
@settings(deadline=None, max_examples=300)
def test_strict_parser_reads_the_same_values_from_accepted_json(
    value: object, edit: bytes, at: int, escaped: bool
) -> None:
    """The fast path of `parse_json` must not accept a text that the slow path rejects."""
    text = json.dumps(value, ensure_ascii=escaped, separators=(",", ":")).encode("utf-8", "surrogatepass")
    raw = text[:at] + edit + text[at:]
    try:
        read = parse_json(raw)
    except InvalidEvent:
        return

    def no_name_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    def finite(digits: str) -> float:
        assert math.isfinite(float(digits))
        return float(digits)

    assert json.loads(raw, object_pairs_hook=no_name_twice, parse_float=finite, parse_constant=finite) == read


@given(VALUES)
@settings(deadline=None, max_examples=100)
def test_json_written_by_a_strict_encoder_is_accepted(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


def test_compact_removes_only_whitespace_outside_strings() -> None:
    raw = b' {"a" :\t"x  \\u0041\\n" ,\r\n "n": [ 1.50 , 1E5 , -0 ] } '
    assert compact(raw) == b'{"a":"x  \\u0041\\n","n":[1.50,1E5,-0]}'


def test_all_fields_of_a_geofence_event_are_read() -> None:
    event = geofence_event(json.dumps(ENTER | {"duration": 3, "confidence": 2}).encode())
    assert event.event_id == ENTER["_id"]
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
def test_geofence_type_may_contain_a_dot_or_an_underscore(type_: str, kind: str) -> None:
    assert geofence_event(json.dumps(ENTER | {"type": type_}).encode()).kind == kind


def test_types_of_geofence_events_are_configurable() -> None:
    raw = json.dumps(ENTER | {"type": "yard.in"}).encode()
    assert geofence_event(raw, {"yard.in": "enter"}).kind == "enter"
    with pytest.raises(InvalidEvent, match="not_a_geofence_event"):
        geofence_event(raw)


def test_device_id_of_the_user_takes_precedence_over_that_of_the_event() -> None:
    assert check(ENTER | {"deviceId": "other"}).device_id == "van-1"
    assert check(ENTER | {"deviceId": "other", "user": {"deviceId": None}}).device_id == "other"
    assert check(ENTER | {"deviceId": "other", "user": None}).device_id == "other"


@pytest.mark.parametrize("user", [{"userId": "u"}, {"_id": "x"}, {"deviceId": "d"}])
def test_event_that_is_not_a_geofence_event_needs_only_a_device_or_a_user_id(user: dict[str, str]) -> None:
    check(TRIP | {"user": user})


def test_unknown_types_and_fields_are_not_validated() -> None:
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
        ({"confidence": 4}, [("out_of_range", "confidence")]),
        ({"confidence": True}, [("wrong_type", "confidence")]),
        ({"confidence": 2.5}, [("wrong_type", "confidence")]),
        ({"confidence": 1e300}, [("out_of_range", "confidence")]),
        ({"duration": "3"}, [("wrong_type", "duration")]),
        ({"_id": 7, "duration": "3"}, [("wrong_type", "_id"), ("wrong_type", "duration")]),
    ],
)
def test_every_reason_names_its_field(change: dict[str, object], reasons: list[tuple[str, str]]) -> None:
    assert reasons_of(ENTER | change) == reasons


def test_reason_for_an_empty_type_says_that_it_must_not_be_empty() -> None:
    with pytest.raises(InvalidEvent, match="`type` must not be empty"):
        check(TRIP | {"type": ""})


@pytest.mark.parametrize(
    ("sent", "read"),
    [(0, 0), (1.5, 1.5), (576_000, 576_000), (576_000.1, None), (1e308, None), (-0.5, None), (None, None)],
)
def test_impossible_duration_counts_as_unknown(sent: float, read: float | None) -> None:
    """If such a duration counted, one phone could make all sums and averages infinite."""
    assert check(ENTER | {"duration": sent}).duration_minutes == read
    assert check(ENTER | {"duration": sent, "confidence": 2.0}).duration_minutes == read, (
        "parsed with pydantic"
    )


def test_event_with_neither_a_device_nor_a_user_is_rejected() -> None:
    assert reasons_of(TRIP | {"user": {}}) == [("missing_identity", "user")]
    assert reasons_of(TRIP | {"user": None, "userId": "u"}) == [("missing_identity", "user")]


@pytest.mark.parametrize("value", [b"3", b'"x"', b"[]", b"null", b"true"])
def test_value_that_is_not_an_object_is_rejected(value: bytes) -> None:
    assert reasons_of(value) == [("not_an_object", "")]


IDS = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(["1", "1:d", "d", "u", "1:u3:a:b"])


@given(st.tuples(st.sampled_from("du"), IDS, IDS), st.tuples(st.sampled_from("du"), IDS, IDS))
def test_event_keys_are_equal_only_for_the_same_owner_and_id(one: object, other: object) -> None:
    assert (Owned(*one).event_key == Owned(*other).event_key) == (one == other)


def test_event_without_a_device_belongs_to_its_user() -> None:
    of_a_user = {"_id": "e", "type": "x", "createdAt": ENTER["createdAt"], "user": {"_id": "radar-1"}}
    assert check(of_a_user).owned == Owned("u", "radar-1", "e")
    assert check(of_a_user | {"user": {"_id": "radar-1", "userId": "driver"}}).owned == Owned(
        "u", "driver", "e"
    )
    assert check(of_a_user | {"deviceId": "van-1"}).owned == Owned("d", "van-1", "e")
