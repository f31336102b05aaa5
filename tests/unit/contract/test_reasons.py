"""Test that every invalid event has a reason and that no valid event has one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from contract.event_rules import check
from contract.events import InvalidEvent, Reason
from contract.geofence_event_types import GEOFENCE_KINDS
from contract.reasons import reasons_of
from tests.unit.contract.instants import ACCEPTED, REJECTED
from tests.unit.contract.test_event_rules import ENTER, TRIP

TIMES = [text for text, _ in [*ACCEPTED, *REJECTED]]
TEXTS = [
    "",
    "x",
    "x" * 128,
    "x" * 129,
    "é" * 128,
    "日" * 86,
    "日" * 85,
    "2026-11-16",
    "0001-01-01T00:00:00+10:00",
]
NUMBERS = [True, False, 0, 3, 4, -1, 2.0, 2.5, 576_000, 576_000.5, 1e300, 10**308]
ODD: st.SearchStrategy[object] = st.sampled_from([None, *NUMBERS, *TEXTS, *TIMES, [], {}, [None]]) | st.text(
    max_size=4
)
FIELDS = st.sampled_from(
    ["_id", "type", "createdAt", "deviceId", "user", "geofence", "duration", "confidence"]
)
USERS = st.dictionaries(st.sampled_from(["_id", "userId", "deviceId", "name"]), ODD)
FENCES = st.dictionaries(st.sampled_from(["tag", "externalId", "name"]), ODD)


@st.composite
def nearly_valid(draw: st.DrawFn) -> dict[str, object]:
    event: dict[str, object] = dict(draw(st.sampled_from([ENTER, TRIP])))
    event |= draw(st.dictionaries(FIELDS, ODD, max_size=2))
    if draw(st.booleans()):
        event["user"] = draw(USERS)
    if draw(st.booleans()):
        event["geofence"] = draw(st.just(ENTER["geofence"]) | FENCES)
    for gone in draw(st.lists(FIELDS, max_size=1)):
        event.pop(gone, None)
    return event


@given(nearly_valid() | ODD)
@settings(deadline=None, max_examples=500)
def test_event_is_rejected_if_and_only_if_it_has_a_reason(value: object) -> None:
    is_crossing = isinstance(value, dict) and value.get("type") in tuple(GEOFENCE_KINDS)
    try:
        check(value)
        reasons: tuple[Reason, ...] = ()
    except InvalidEvent as error:
        reasons = error.reasons
        assert reasons
    assert reasons == tuple(reasons_of(value, is_crossing))


def test_reason_names_the_format_of_a_rejected_time_without_quoting_it() -> None:
    (reason,) = reasons_of(TRIP | {"createdAt": "2026-11-16 08:00 PM"}, False)
    assert reason.message.endswith("like 2026-11-16T08:00:00.000Z; this is a time on a 12-hour clock.")
