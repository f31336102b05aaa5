"""Test that `milkrun trace` prints a one-line verdict, that its exit code says whether the event has arrived, and that
its steps are in order.
"""

from datetime import UTC, datetime, timedelta

import pytest

from ops.event_finder import Finder, Step, _covers, in_order, is_key, lags
from ops.reachable_stores import unreachable
from ops.trace import EXIT_CODES, verdict
from tests.unit.ops.test_terminal import NOWHERE

AT = datetime(2026, 11, 28, 12, tzinfo=UTC)
KEY = "events/dt=2026-11-28/hh=12/x.1.ndjson.gz"
STORED = [Step("received", AT), Step("archived", AT, {"key": KEY}), Step("answered", AT)]
LOADED = [*STORED, Step("loaded", AT, {"table": "RAW.EVENTS"}), Step("staged", None)]
PUBLISHED = [*LOADED, Step("published", AT, {"shard": "0"})]
LOST = Step("not on the stream", None), Step("not consumed", None)
REJECT = [
    Step("archived", AT, {"key": KEY}),
    Step("rejected", None, {"reasons": "missing_geofence geofence: m"}),
    Step("loaded", AT),
]


@pytest.mark.parametrize(
    ("steps", "said", "code"),
    [
        (LOADED, "ARRIVED: archived, loaded, staged", 0),
        ([*PUBLISHED, Step("consumed", AT), Step("in a visit", None)], "ARRIVED", 0),
        (REJECT, "REJECTED: missing_geofence geofence: m, stored in s3://…/events/dt=", 0),
        ([*STORED, Step("not loaded", None, {"key": KEY})], "NOT LOADED", 1),
        ([*LOADED, *LOST], "NOT PUBLISHED", 1),
        ([*LOADED, Step("answered, some events enqueued for redrive", AT), *LOST], "WAITS FOR THE STREAM", 1),
        ([*PUBLISHED, Step("not consumed", None)], "NOT CONSUMED", 1),
        ([*PUBLISHED, Step("set aside", None, {"reasons": "no_device"})], "QUARANTINED: no_device", 1),
        ([], "NOT FOUND", 1),
        ([Step("gone from S3", None, {"key": KEY}), Step("not loaded", None, {"key": KEY})], "NOT FOUND", 1),
        (
            [*REJECT, *LOADED],
            "ARRIVED: archived, loaded, staged; another delivery was rejected: missing_g",
            0,
        ),
    ],
    ids=[
        "arrived",
        "visit",
        "rejected",
        "not-loaded",
        "lost",
        "redrive",
        "behind",
        "quarantine",
        "nowhere",
        "key-of-nothing",
        "repaired",
    ],
)
def test_verdict_of_trace_determines_the_exit_code(steps: list[Step], said: str, code: int) -> None:
    line, arrival = verdict(steps, {})
    assert line.startswith(said)
    assert EXIT_CODES[arrival] == code


@pytest.mark.parametrize("steps", [[], STORED, LOADED], ids=["nothing", "stored", "loaded"])
def test_verdict_of_trace_is_unknown_if_a_store_is_unreachable(steps: list[Step]) -> None:
    assert EXIT_CODES[verdict(steps, {"Snowflake": "frozen"})[1]] == 2


def test_trace_lists_unreachable_stores_and_does_not_query_them() -> None:
    unasked = unreachable(NOWHERE)
    assert set(unasked) == {"S3", "Kinesis", "DynamoDB", "CloudWatch Logs", "Lambda"}
    finder = Finder(NOWHERE, "local", None, unasked)
    now = datetime.now(UTC)
    assert finder.event("e", now - timedelta(hours=1), now, lambda _: None) == []
    assert finder.object(KEY) == []
    assert finder.request("r", now, now) == []
    assert in_order([]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("events/by-hand.json", True),
        ("rejected/dt=2026-11-16/hh=08/copy.ndjson.gz", True),
        ("set-aside/x", True),
        ("events", False),
        ("compacted/x.parquet", False),
        ("a/b", False),
    ],
)
def test_text_that_begins_with_an_archive_prefix_is_recognized_as_an_object_key(
    text: str, expected: bool
) -> None:
    assert is_key(text) is expected


def test_trace_orders_steps_by_time_and_puts_steps_without_a_time_after_their_predecessor() -> None:
    steps = [
        Step("archived", AT + timedelta(seconds=2)),
        Step("received", AT + timedelta(seconds=1)),
        Step("consumed", None),
        Step("happened", AT),
        Step("loaded", AT + timedelta(seconds=5)),
    ]
    assert [step.what for step in in_order(steps)] == [
        "happened",
        "received",
        "archived",
        "consumed",
        "loaded",
    ]
    assert [row["lag_s"] for row in lags(in_order(steps))] == [-1, 0, 1, None, 4]


@pytest.mark.parametrize(
    ("line", "covered"),
    [
        ({"first_sequence_number": "10", "last_sequence_number": "20"}, True),
        ({"first_sequence_number": "10", "last_sequence_number": "15"}, True),
        ({"first_sequence_number": "16", "last_sequence_number": "20"}, False),
        ({"first_sequence_number": "10", "last_sequence_number": "20", "stopped_at": "16"}, True),
        ({"first_sequence_number": "10", "last_sequence_number": "20", "stopped_at": "15"}, False),
        ({"records": 0}, False),
    ],
)
def test_log_line_of_a_batch_covers_the_sequence_numbers_that_the_batch_processed(
    line: dict[str, object], covered: bool
) -> None:
    assert _covers(line, 15) == covered


def test_trace_shows_a_repeated_step_once() -> None:
    assert len(in_order([Step("archived", AT), Step("archived", AT)])) == 1
