"""Test what the console reads from archived objects, including invalid and hostile ones."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contract.archive_object import Prefix, lines_object
from contract.event_rules import geofence_event
from contract.events import Reason
from tests.rejects import reject_line, unreadable_line
from tools.console import parse_object

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("_id", "type", "createdAt", "user", "deviceId", "geofence", "location", "latitude", "longitude",
          "heading", "locationAccuracy", "duration", "confidence")  # fmt: skip


def read(*events: dict[str, object], prefix: Prefix = "events") -> parse_object.Read:
    lines = [json.dumps(event).encode() for event in events]
    stored = lines_object(prefix, lines, NOW)
    return parse_object.read(stored.key, stored.body, NOW)


def good(**fields: object) -> dict[str, object]:
    return {
        "_id": "e1",
        "type": "user.entered_geofence",
        "createdAt": "2026-11-23T07:59:00.000Z",
        "user": {"deviceId": "truck-1"},
        "geofence": {"tag": "farm", "externalId": "farm-1"},
        "location": {"type": "Point", "coordinates": [5.8, 53.1]},
    } | fields


LONG = "x" * 9999


@settings(max_examples=60, deadline=None)
@example([{"_id": LONG, "type": LONG, "createdAt": LONG, "deviceId": LONG}])
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), json_values), min_size=1, max_size=3))
def test_any_json_object_becomes_one_event_with_limited_field_lengths(events):
    for prefix in ("events", "rejected"):
        found = read(*events, prefix=prefix)
        assert [event.line for event in found.events] == list(range(1, len(events) + 1))
        for event in found.events:
            shown = (event.event_id, event.type, event.device_id, event.at)
            assert all(text is None or len(text) <= parse_object.MAX_SHOWN + 1 for text in shown)
    for position in read(*events).positions:
        assert -180 <= position.longitude <= 180
        assert -90 <= position.latitude <= 90
        assert position.at <= position.received_at


def test_geofence_event_yields_its_device_geofence_and_position():
    found = read(good(confidence=3, duration=4.5))
    [event], [position], [crossing] = found.events, found.positions, found.crossings
    assert (event.kind, event.event_id, event.device_id, event.fence_id) == (
        "good",
        "e1",
        "truck-1",
        "farm#farm-1",
    )
    assert (position.longitude, position.latitude) == (5.8, 53.1)
    assert (crossing.kind, crossing.position, crossing.duration_minutes) == ("enter", (5.8, 53.1), 4.5)


@pytest.mark.parametrize(
    "values",
    [{"confidence": 1.0}, {"confidence": 0, "duration": -4}, {"duration": 10.0**300}, {"duration": 2}],
)
def test_console_and_consumer_parse_confidence_and_duration_alike(values):
    [crossing] = read(good(**values)).crossings
    assert parse_object.event_of(crossing) == geofence_event(json.dumps(good(**values)).encode())


@pytest.mark.parametrize(
    ("prefix", "value"),
    [("events", good(duration=10**400)), ("events", good(confidence=10**400)), ("rejected", {"reasons": 5})],
)
def test_object_with_huge_numbers_or_malformed_reasons_is_parsed(prefix, value):
    assert len(read(value, prefix=prefix).events) == 1


def test_geofence_event_types_are_those_configured_for_the_stage():
    event = good(type="yard.in")
    stored = lines_object("events", [json.dumps(event).encode()], NOW)
    assert parse_object.read(stored.key, stored.body, NOW).crossings == []
    [crossing] = parse_object.read(stored.key, stored.body, NOW, {"yard.in": "enter"}).crossings
    assert (crossing.kind, crossing.type) == ("enter", "yard.in")


def test_event_with_latitude_and_longitude_fields_yields_a_position():
    event = {k: v for k, v in good(type="ping", latitude=53.2, longitude=5.9).items() if k != "location"}
    [position] = read(event).positions
    assert (position.longitude, position.latitude) == (5.9, 53.2)


@pytest.mark.parametrize("coordinates", [[181, 0], [0, 91], ["5", "53"], [True, False], [5.8], {}, None])
def test_invalid_coordinates_are_ignored(coordinates):
    assert read(good(location={"type": "Point", "coordinates": coordinates})).positions == []


def test_position_with_a_future_time_gets_the_time_of_receipt():
    [position] = read(good(createdAt="2026-11-24T07:00:00Z")).positions
    assert position.at == NOW.timestamp()


def test_geofence_shape_in_an_event_is_used_unchanged():
    ring = [[5.0, 53.0], [5.1, 53.0], [5.1, 53.1], [5.0, 53.0]]
    geofence = {
        "tag": "farm",
        "externalId": "farm-1",
        "description": "Hoeve",
        "geometryCenter": {"type": "Point", "coordinates": [5.05, 53.05]},
        "geometryRadius": 80,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    [crossing] = read(good(geofence=geofence)).crossings
    assert (crossing.name, crossing.centre, crossing.radius_m) == ("Hoeve", (5.05, 53.05), 80.0)
    assert crossing.polygon == ring


def test_rejected_event_is_shown_with_its_error_codes_and_its_original_text():
    sent = b'{"_id":"e1","type":"x","litres":1.50,"user":{"deviceId":"<img src=x onerror=alert(1)>"}}'
    reasons = [Reason("missing_created_at", "createdAt", "`createdAt` is missing.")]
    stored = lines_object("rejected", [reject_line(reasons, sent, index=0, event_id="e1")], NOW)
    [event] = parse_object.read(stored.key, stored.body, NOW).events
    assert (event.kind, event.codes, event.device_id) == (
        "bad", ("missing_created_at",), "<img src=x onerror=alert(1)>")  # fmt: skip
    assert parse_object.raw_of(event.stored) == (sent.decode(), None)


def test_body_that_is_not_json_is_shown_as_text():
    body = b'{"_id": \xff broken'
    line = unreadable_line(
        [Reason("not_json", "", "no")], body, content_type="text/<b>", content_encoding=None
    )
    stored = lines_object("rejected", [line], NOW)
    [event] = parse_object.read(stored.key, stored.body, NOW).events
    text, base64_ = parse_object.raw_of(event.stored)
    assert text == '{"_id": \N{REPLACEMENT CHARACTER} broken'
    assert base64.b64decode(base64_ or "") == body
    assert bytes(parse_object.sent_of(event.stored)["event"]) == b"null"


def test_line_that_is_not_a_json_object_is_listed_as_an_event_without_an_id():
    stored = lines_object("events", [b"not json", b"[1]"], NOW)
    assert [event.event_id for event in parse_object.read(stored.key, stored.body, NOW).events] == [
        None,
        None,
    ]
