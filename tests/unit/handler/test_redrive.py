"""Test that the records of a claim check are published or quarantined, and that a failed claim check stays queued."""

import json
from dataclasses import dataclass, field

import pytest

from aws.errors import RetryableError
from contract.archive_object import lines_object
from handler import publish_with_retries, redrive
from handler.ingest import STREAM_SECONDS
from handler.redrive import App
from tests.unit.contract.test_archive_object import AT
from tests.unit.handler.fakes import ArchiveFake, Fault, World

EVENTS = [
    b'{"_id":"a","user":{"deviceId":"van-1"}}',
    b'{"_id":"b","deviceId":"van-2","user":null}',
    b'{"_id":"c","user":{"userId":"u"}}',
]
STORED = lines_object("events", EVENTS, AT)


@dataclass
class Desk:
    """The redrive function with fake ports. It also serves as the function's Lambda context."""

    world: World = field(default_factory=World)
    postponed: list[tuple[str, int]] = field(default_factory=list)
    seconds: float = 55.0
    aws_request_id: str = "request-1"

    def __post_init__(self) -> None:
        self.world.objects[STORED.key] = STORED.body

    def take(self, *bodies: object, tries: int = 1) -> list[str]:
        """Process messages; return the ids of the messages that stay in the queue."""
        messages: list[dict[str, object]] = [
            {
                "messageId": f"m{n}",
                "receiptHandle": f"h{n}",
                "attributes": {"ApproximateReceiveCount": str(tries)},
                "body": body if isinstance(body, str) else json.dumps(body),
            }
            for n, body in enumerate(bodies)
        ]
        app = App(ArchiveFake(self.world), self.world.ports().stream, self.postpone)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(redrive, "_app", lambda: app)
            answer = redrive.redrive({"Records": messages}, self)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    def postpone(self, receipt_handle: str, seconds: int) -> None:
        self.postponed.append((receipt_handle, seconds))

    def get_remaining_time_in_millis(self) -> int:
        self.seconds -= 0.01
        return round((self.seconds + STREAM_SECONDS) * 1000)


def claim(*lines: int, key: str = STORED.key) -> dict[str, object]:
    return {"bucket": "archive", "key": key, "lines": lines}


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(publish_with_retries, "BACKOFF_BASE_SECONDS", 0.0)
    return Desk()


def test_lines_of_a_claim_check_are_published_and_partitioned_by_device(desk: Desk) -> None:
    assert desk.take(claim(2), claim(1)) == []
    assert [(r.partition_key, r.data) for r in desk.world.stream] == [
        ("van-2", EVENTS[1]),
        ("van-1", EVENTS[0]),
    ]


def test_archived_event_is_published_even_if_new_rules_would_reject_it(desk: Desk) -> None:
    old = lines_object("events", [b'{"_id":"' + b"x" * 999 + b'","deviceId":"d"}'], AT)
    desk.world.objects[old.key] = old.body
    assert desk.take(claim(1, key=old.key)) == []
    assert len(desk.world.stream) == 1


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        "{}",
        claim(9),
        claim(0),
        claim(3),
        claim(1, key="events/gone"),
        claim(1) | {"bucket": "another"},
    ],
)
def test_invalid_claim_check_is_returned_to_the_queue_and_valid_ones_are_processed(
    desk: Desk, body: object
) -> None:
    assert desk.take(body, claim(1)) == ["m0"]
    assert len(desk.world.stream) == 1


def test_log_names_the_error_of_a_stream_that_fails_for_a_reason_other_than_throttling(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.world.faults = [Fault.NONE, *[Fault.BEFORE] * 50]
    desk.take(claim(1, 2))
    [line] = [line for line in capsys.readouterr().out.splitlines() if "claim_check_returned" in line]
    assert json.loads(line)["error"] == "2 of 2 records were not published: simulated failure"


def test_failing_stream_is_called_only_for_the_first_message(desk: Desk) -> None:
    desk.world.faults = [Fault.NONE, *[Fault.BEFORE] * 50]
    assert desk.take(claim(1), claim(2), claim(1)) == ["m0", "m1", "m2"]
    assert desk.world.calls.count("get") == 1
    assert [handle for handle, _ in desk.postponed] == ["h0", "h1", "h2"]


def test_claim_check_is_returned_to_the_queue_if_one_of_its_records_is_throttled(desk: Desk) -> None:
    desk.world.faults = [Fault.NONE, *[Fault.PARTLY] * 50]
    assert desk.take(claim(1, 2)) == ["m0"]
    desk.world.faults = []
    assert desk.take(claim(1, 2)) == []
    assert {r.data for r in desk.world.stream} == set(EVENTS[:2])


def test_message_is_returned_to_the_queue_if_s3_is_unreachable(desk: Desk) -> None:
    desk.world.faults = [Fault.BEFORE]
    assert desk.take(claim(1)) == ["m0"]


def test_message_is_returned_to_the_queue_after_an_unexpected_exception(desk: Desk) -> None:
    desk.world.faults = [Fault.CRASH]
    assert desk.take(claim(1), claim(2)) == ["m0"]


def test_delay_of_a_returned_message_grows_with_each_attempt_up_to_five_minutes(desk: Desk) -> None:
    for tries in (1, 4, 100):
        desk.world.faults = [Fault.BEFORE]
        desk.take(claim(1), tries=tries)
    first, fourth, hundredth = (seconds for _, seconds in desk.postponed)
    assert 2 <= first <= 4 < 16 <= fourth <= 32 < 150 <= hundredth <= redrive.BACKOFF_CAP_SECONDS


def test_message_is_returned_to_the_queue_even_if_its_delay_cannot_be_set(desk: Desk) -> None:
    def fail(receipt_handle: str, seconds: int) -> None:
        raise RetryableError("simulated failure")

    desk.postpone = fail
    desk.world.faults = [Fault.BEFORE]
    assert desk.take(claim(1)) == ["m0"]


def test_record_that_the_stream_always_rejects_is_quarantined(desk: Desk) -> None:
    desk.world.faults = [Fault.NONE, Fault.MALFORMED]
    assert desk.take(claim(1)) == []
    (line,) = map(json.loads, desk.world.lines("set-aside"))
    assert line["event"]["_id"] == "a"
    assert line["origin"] == {"object_key": STORED.key, "line": "1"}


def test_redriven_record_has_the_partition_key_of_the_original_record(desk: Desk) -> None:
    both = lines_object("events", [b'{"_id":"a","deviceId":"other","user":{"deviceId":"van-1"}}'], AT)
    desk.world.objects[both.key] = both.body
    assert desk.take(claim(1, key=both.key)) == []
    assert desk.world.stream[0].partition_key == "van-1"


def test_slow_stream_is_retried_only_for_a_few_seconds(desk: Desk) -> None:
    class Slow(World):
        def next_fault(self, call: str) -> Fault:
            desk.seconds -= 3.0 if call == "put" else 0.0
            return super().next_fault(call)

    desk.world = Slow([Fault.NONE, *[Fault.BEFORE] * 50], {STORED.key: STORED.body})
    assert desk.take(claim(1)) == ["m0"]
    assert desk.world.calls == ["get", "put", "put"]


def test_message_is_returned_to_the_queue_if_little_time_is_left(desk: Desk) -> None:
    for desk.seconds in (24.9, 5.0):
        assert desk.take(claim(1)) == ["m0"]
    assert desk.world.calls == [], "a read was started, although a read and a put may take 25 s"
