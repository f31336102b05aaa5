"""Test publishing to a stream that accepts only some records or none, or rejects a record permanently."""

import itertools
import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from aws.errors import PermanentError, RetryableError
from contract.stream_record import StreamRecord
from handler.circuit_breaker import OPEN_SECONDS, CircuitBreaker
from handler.publish_with_retries import (
    BACKOFF_CAP_SECONDS,
    MAX_ROUNDS,
    publish,
)
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import Fault


class ScriptedStream:
    """A stream that throttles each record the given number of times before accepting it.

    If the number is negative, every call that contains the record fails.
    """

    def __init__(self, throttles: dict[str, int]) -> None:
        self.throttles = dict(throttles)
        self.taken: list[str] = []
        self.calls: list[list[str]] = []

    def put(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
        names = [record.partition_key for record in records]
        self.calls.append(names)
        if any(self.throttles.get(name, 0) < 0 for name in names):
            raise PermanentError("simulated failure")
        refused = []
        for record in records:
            left = self.throttles.get(record.partition_key, 0)
            if left:
                self.throttles[record.partition_key] = left - 1
                refused.append(record)
            else:
                self.taken.append(record.partition_key)
        return refused


def records(*names: str, size: int = 2) -> list[StreamRecord]:
    return [StreamRecord(name, b"x" * size, line) for line, name in enumerate(names, 1)]


def no_pause(_: float) -> None: ...


def test_only_throttled_records_are_resent() -> None:
    stream = ScriptedStream({"b": 2})
    outcome = publish(records("a", "b", "c"), stream, lambda: 1.0, no_pause)
    assert stream.calls == [["a", "b", "c"], ["b"], ["b"]]
    assert (outcome.taken, outcome.refused, outcome.malformed) == (3, [], [])


def test_bisection_isolates_a_malformed_record_and_publishes_the_rest() -> None:
    names = [str(n) for n in range(100)]
    stream = ScriptedStream({"37": -1})
    outcome = publish(records(*names), stream, lambda: 1.0, no_pause)
    assert [record.partition_key for record in outcome.malformed] == ["37"]
    assert sorted(stream.taken) == sorted(set(names) - {"37"})
    assert len(stream.calls) < 20


@given(st.lists(st.integers(-1, 3), max_size=40), st.integers(0, 60))
@settings(deadline=None, max_examples=100)
def test_each_record_is_reported_once_as_published_not_published_or_malformed(
    fates: list[int], looks: int
) -> None:
    names = [str(n) for n in range(len(fates))]
    stream = ScriptedStream(dict(zip(names, fates, strict=True)))
    clock = itertools.chain([1.0] * looks, itertools.repeat(0.0))

    outcome = publish(records(*names), stream, lambda: next(clock), no_pause)

    left = [record.partition_key for record in [*outcome.refused, *outcome.malformed]]
    assert sorted(stream.taken + left) == sorted(names)
    assert outcome.taken == len(stream.taken)


def test_call_above_the_limits_of_putrecords_is_split_in_half() -> None:
    class Limited(ScriptedStream):
        def put(self, records: Sequence[StreamRecord]) -> list[StreamRecord]:
            if sum(len(record.data) for record in records) > 1000:
                raise PermanentError("simulated failure")
            return super().put(records)

    stream = Limited({})
    outcome = publish(records(*"abcde", size=400), stream, lambda: 1.0, no_pause)
    assert (outcome.taken, outcome.refused, outcome.malformed) == (5, [], [])
    assert stream.calls == [["a", "b"], ["c"], ["d", "e"]]


def test_pauses_are_random_and_limited() -> None:
    pauses: list[float] = []
    outcome = publish(records("a"), ScriptedStream({"a": 99}), lambda: 1.0, pauses.append)
    assert len(outcome.refused) == 1
    assert len(set(pauses)) == len(pauses) > 3
    assert all(0 <= pause <= BACKOFF_CAP_SECONDS for pause in pauses)


def test_environments_restored_from_one_snapshot_pause_differently() -> None:
    """SnapStart restores the same state of `random` in every execution environment."""
    pauses: list[list[float]] = []
    for _ in range(2):
        random.seed(1)
        pauses.append([])
        publish(records("a"), ScriptedStream({"a": 99}), lambda: 1.0, pauses[-1].append)
    assert pauses[0] != pauses[1]


def test_nothing_is_sent_after_the_deadline() -> None:
    stream = ScriptedStream({})
    assert len(publish(records("a", "b"), stream, lambda: 0.0, no_pause).refused) == 2
    assert stream.calls == []


def test_unreachable_stream_leaves_all_records_unpublished() -> None:
    class Away:
        def put(self, given: Sequence[StreamRecord]) -> list[StreamRecord]:
            raise RetryableError("away")

    assert len(publish(records("a", "b"), Away(), lambda: 1.0, no_pause).refused) == 2


ARRIVAL = {
    "_id": "e",
    "type": "user.entered_geofence",
    "createdAt": "2026-11-22T08:00:00.000Z",
    "live": True,
} | {
    "user": {"deviceId": "truck"},
    "geofence": {"tag": "farm", "externalId": "one"},
}


def test_claim_checks_are_enqueued_until_a_trial_call_closes_the_circuit_breaker(
    phone: Phone,
) -> None:
    world = phone.world
    world.faults = [Fault.NONE, *[Fault.BEFORE] * MAX_ROUNDS]
    assert phone.post([ARRIVAL]).status == 202
    assert world.calls == ["store", *["put"] * MAX_ROUNDS, "enqueue"]

    world.calls.clear()
    world.now += OPEN_SECONDS - 0.1
    assert phone.post([ARRIVAL | {"_id": "f"}]).status == 202
    assert world.calls == ["store", "enqueue"]

    world.calls.clear()
    world.now += 0.2
    world.faults = [Fault.NONE, Fault.BEFORE]
    assert phone.post([ARRIVAL | {"_id": "g"}]).status == 202
    assert world.calls == ["store", "put", "enqueue"], "the trial call was retried or omitted"

    world.calls.clear()
    world.now += OPEN_SECONDS
    assert phone.post([ARRIVAL | {"_id": "h"}]).status == 202
    assert phone.post([ARRIVAL | {"_id": "i"}]).status == 202
    assert world.calls == ["store", "put"] * 2, "the circuit breaker did not close"
    assert len(world.promised()) == 5


def test_open_circuit_breaker_is_ignored_if_the_queue_fails(phone: Phone) -> None:
    world = phone.world
    world.faults = [Fault.NONE, *[Fault.BEFORE] * MAX_ROUNDS, Fault.BEFORE]
    assert phone.post([ARRIVAL]).status == 503
    world.calls.clear()
    world.faults = [Fault.NONE, Fault.BEFORE]
    assert phone.post([ARRIVAL]).status == 202
    assert world.calls == ["store", "enqueue", "put"]
    assert world.promised() == set(world.lines("events"))


def test_partial_failure_does_not_open_the_circuit_breaker(phone: Phone) -> None:
    world = phone.world
    world.faults = [Fault.NONE, Fault.PARTLY, *[Fault.BEFORE] * (MAX_ROUNDS - 1)]
    phone.post([ARRIVAL, ARRIVAL | {"_id": "f"}])
    world.calls.clear()
    phone.post([ARRIVAL | {"_id": "g"}])
    assert world.calls == ["store", "put"]


def test_request_that_never_calls_the_stream_does_not_affect_the_circuit_breaker() -> None:
    circuit_breaker = CircuitBreaker()
    circuit_breaker.record(publish(records("a"), ScriptedStream({}), lambda: 0.0, no_pause))
    assert circuit_breaker.rounds() == MAX_ROUNDS


def test_circuit_breaker_does_not_stay_open_after_the_clock_is_set_back() -> None:
    now = [1000.0]
    circuit_breaker = CircuitBreaker(lambda: now[0])
    circuit_breaker.record(publish(records("a"), ScriptedStream({"a": 99}), lambda: 1.0, no_pause))
    assert circuit_breaker.rounds() == 0
    now[0] = 10.0
    assert circuit_breaker.rounds() == 1
