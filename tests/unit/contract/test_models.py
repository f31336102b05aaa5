"""The quick check and the thorough one, held against each other."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from contract.events import Checked, InvalidEvent, _at_once
from contract.instants import instant
from contract.models import check
from tests.unit.contract.instants import ACCEPTED, REJECTED
from tests.unit.contract.test_events import ENTER, TRIP

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
ODD: st.SearchStrategy[Any] = st.sampled_from([None, *NUMBERS, *TEXTS, *TIMES, [], {}, [None]]) | st.text(
    max_size=4
)
FIELDS = st.sampled_from(
    ["_id", "type", "createdAt", "deviceId", "user", "geofence", "duration", "confidence"]
)
USERS = st.dictionaries(st.sampled_from(["_id", "userId", "deviceId", "name"]), ODD)
FENCES = st.dictionaries(st.sampled_from(["tag", "externalId", "name"]), ODD)


@st.composite
def nearly_sound(draw: st.DrawFn) -> Any:
    event: dict[str, Any] = dict(draw(st.sampled_from([ENTER, TRIP])))
    event |= draw(st.dictionaries(FIELDS, ODD, max_size=2))
    if draw(st.booleans()):
        event["user"] = draw(USERS)
    if draw(st.booleans()):
        event["geofence"] = draw(st.just(ENTER["geofence"]) | FENCES)
    for gone in draw(st.lists(FIELDS, max_size=1)):
        event.pop(gone, None)
    return event


@given(nearly_sound() | ODD, st.booleans())
@settings(deadline=None, max_examples=1500)
def test_what_is_taken_at_once_is_taken_alike_by_the_models(value: Any, is_crossing: bool) -> None:
    at_once = _at_once(value, is_crossing)
    if at_once is not None:
        assert at_once == check(value, is_crossing)


@given(nearly_sound(), st.booleans())
@settings(deadline=None, max_examples=500)
def test_what_the_models_take_was_taken_at_once_if_it_is_plain(value: Any, is_crossing: bool) -> None:
    """Else the quick way would be quick for nobody, and no test would notice."""
    try:
        thorough = check(value, is_crossing)
    except InvalidEvent:
        return
    if json.dumps(value, ensure_ascii=False).isascii() and not isinstance(value.get("confidence"), float):
        assert _at_once(value, is_crossing) == thorough


def test_sound_events_never_reach_the_models() -> None:
    assert _at_once(ENTER, True) == Checked(
        ENTER["_id"], ENTER["type"], instant(ENTER["createdAt"]), "van-1", check(ENTER, True).fence
    )
    assert _at_once(TRIP, False)
