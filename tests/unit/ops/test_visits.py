"""Test the output of `milkrun visits` on a terminal."""

from datetime import UTC, datetime

import pytest

from ops.visits import in_brief

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
VISIT = {
    "device_id": "truck-01",
    "geofence_tag": "farm",
    "geofence_external_id": "farm-38",
    "entered_at": "2026-11-28T06:30:10.000Z",
    "exited_at": "2026-11-28T06:45:00.000Z",
    "dwell_seconds": 890.0,
    "entered_event_id": "a",
    "exited_event_id": "b",
    "exit_missed": False,
    "contradicted_by_event_id": None,
    "exit_inferred_at": None,
}
OPEN = {"exited_at": None, "exited_event_id": None, "dwell_seconds": None}


@pytest.mark.parametrize(
    ("changes", "when", "stay", "state"),
    [
        ({}, "06:30–06:45", "15 min", "left"),
        (OPEN, "06:30–", "5 h 30 min", "there now"),
        (OPEN | {"entered_at": "2026-11-28T12:50:00.000Z"}, "12:50–", "0 min", "there now"),
        (OPEN | {"exit_missed": True}, "06:30–", "unknown", "exit missing"),
        (
            OPEN | {"contradicted_by_event_id": "c", "exit_inferred_at": "2026-11-28T07:07:00.000Z"},
            "06:30–",
            "unknown",
            "exit missing, elsewhere at 07:07",
        ),
        (
            {"entered_at": "2026-11-27T23:50:00.000Z", "exited_at": "2026-11-28T00:05:00.000Z"},
            "2026-11-27 23:50–00:05",
            "15 min",
            "left",
        ),
    ],
    ids=["left", "open", "device clock ahead", "no exit", "contradicted", "over midnight"],
)
def test_each_visit_is_printed_on_one_line_with_clock_times(
    changes: dict[str, object], when: str, stay: str, state: str
) -> None:
    [shown] = in_brief([VISIT | changes], NOW)
    assert shown == {
        "place": "farm/farm-38",
        "device": "truck-01",
        "when": when,
        "stay": stay,
        "state": state,
    }
