"""Sending to a stream that takes some, none, or refuses for good."""

import itertools
import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from aws.errors import PermanentError, RetryableError
from handler.publish import (
    BACKOFF_CAP_SECONDS,
    MAX_CALL_BYTES,
    MAX_ROUNDS,
    OPEN_SECONDS,
    CircuitBreaker,
    publish,
)
from handler.validate import Record
from tests.unit.handler.conftest import Phone
from tests.unit.handler.fakes import Fault


class ScriptedStream:
    """Takes a record once it has refused it so often; the negative ones spoil every call."""

    def __init__(self, circuit_breaker: dict[str, int]) -> None:
        self.circuit_breaker = dict(circuit_breaker)
        self.taken: list[str] = []
        self.calls: list[list[str]] = []

    def put(self, records: Sequence[Record]) -> list[Record]:
        names = [record.partition_key for record in records]
        self.calls.append(names)
        if any(self.circuit_breaker.get(name, 0) < 0 for name in names):
            raise PermanentError("on purpose")
        refused = []
        for record in records:
            left = self.circuit_breaker.get(record.partition_key, 0)
            if left:
                self.circuit_breaker[record.partition_key] = left - 1
                refused.append(record)
            else:
                self.taken.append(record.partition_key)
        return refused


def records(*names: str, size: int = 2) -> list[Record]:
    return [Record(name, b"x" * size, line) for line, name in enumerate(names, 1)]


def no_pause(_: float) -> None: ...


def test_only_what_was_refused_is_sent_again() -> None:
    stream = ScriptedStream({"b": 2})
    outcome = publish(records("a", "b", "c"), stream, lambda: 1.0, no_pause)
    assert stream.calls == [["a", "b", "c"], ["b"], ["b"]]
    assert (outcome.taken, outcome.refused, outcome.malformed) == (3, [], [])


def test_a_culprit_is_found_by_halving_and_delays_nobody() -> None:
    names = [str(n) for n in range(100)]
    stream = ScriptedStream({"37": -1})
    outcome = publish(records(*names), stream, lambda: 1.0, no_pause)
    assert [record.partition_key for record in outcome.malformed] == ["37"]
    assert sorted(stream.taken) == sorted(set(names) - {"37"})
    assert len(stream.calls) < 20


@given(st.lists(st.integers(-1, 3), max_size=40), st.integers(0, 60))
@settings(deadline=None, max_examples=100)
def test_each_record_is_taken_refused_or_malformed_and_only_one_of_these(
    fates: list[int], looks: int
) -> None:
    names = [str(n) for n in range(len(fates))]
    stream = ScriptedStream(dict(zip(names, fates, strict=True)))
    clock = itertools.chain([1.0] * looks, itertools.repeat(0.0))

    outcome = publish(records(*names), stream, lambda: next(clock), no_pause)

    left = [record.partition_key for record in [*outcome.refused, *outcome.malformed]]
    assert sorted(stream.taken + left) == sorted(names)
    assert outcome.taken == len(stream.taken)


def test_calls_keep_to_the_limits_of_putrecords() -> None:
    stream = ScriptedStream({})
    publish(records(*map(str, range(1001))), stream, lambda: 1.0, no_pause)
    assert [len(call) for call in stream.calls] == [500, 500, 1]

    stream = ScriptedStream({})
    large = MAX_CALL_BYTES // 4
    publish(records(*map(str, range(9)), size=large - 1), stream, lambda: 1.0, no_pause)
    assert [len(call) for call in stream.calls] == [4, 4, 1]

    stream = ScriptedStream({})
    publish(records(*map(str, range(9)), size=large), stream, lambda: 1.0, no_pause)
    assert [len(call) for call in stream.calls] == [3, 3, 3], "the key counts too"


def test_pauses_grow_are_jittered_and_stay_short() -> None:
    pauses: list[float] = []
    outcome = publish(records("a"), ScriptedStream({"a": 99}), lambda: 1.0, pauses.append)
    assert len(outcome.refused) == 1
    assert len(set(pauses)) == len(pauses) > 3
    assert all(0 <= pause <= BACKOFF_CAP_SECONDS for pause in pauses)


def test_environments_restored_from_one_snapshot_do_not_pause_alike() -> None:
    """SnapStart restores the state of `random` too, the same in a thousand places."""
    pauses: list[list[float]] = []
    for _ in range(2):
        random.seed(1)
        pauses.append([])
        publish(records("a"), ScriptedStream({"a": 99}), lambda: 1.0, pauses[-1].append)
    assert pauses[0] != pauses[1]


def test_nothing_is_sent_once_the_time_is_up() -> None:
    stream = ScriptedStream({})
    assert len(publish(records("a", "b"), stream, lambda: 0.0, no_pause).refused) == 2
    assert stream.calls == []


def test_a_stream_that_is_away_refuses_all() -> None:
    class Away:
        def put(self, given: Sequence[Record]) -> list[Record]:
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


def test_after_a_request_without_a_published_record_the_next_enqueues_a_claim_check_at_once(
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
    assert world.calls == ["store", "put", "enqueue"], "one look, and no more patience"

    world.calls.clear()
    world.now += OPEN_SECONDS
    assert phone.post([ARRIVAL | {"_id": "h"}]).status == 202
    assert phone.post([ARRIVAL | {"_id": "i"}]).status == 202
    assert world.calls == ["store", "put"] * 2, "it takes again, and is trusted again"
    assert len(world.promised()) == 5


def test_without_the_queue_the_stream_is_asked_whatever_it_said_a_moment_ago(phone: Phone) -> None:
    world = phone.world
    world.faults = [Fault.NONE, *[Fault.BEFORE] * MAX_ROUNDS, Fault.BEFORE]
    assert phone.post([ARRIVAL]).status == 503
    world.calls.clear()
    world.faults = [Fault.NONE, Fault.BEFORE]
    assert phone.post([ARRIVAL]).status == 202
    assert world.calls == ["store", "enqueue", "put"]
    assert world.promised() == set(world.lines("events"))


def test_one_refused_record_among_others_is_no_stream_that_is_away(phone: Phone) -> None:
    world = phone.world
    world.faults = [Fault.NONE, Fault.PARTLY, *[Fault.BEFORE] * (MAX_ROUNDS - 1)]
    phone.post([ARRIVAL, ARRIVAL | {"_id": "f"}])
    world.calls.clear()
    phone.post([ARRIVAL | {"_id": "g"}])
    assert world.calls == ["store", "put"]


def test_a_request_that_had_no_time_to_ask_the_stream_says_nothing_about_it() -> None:
    circuit_breaker = CircuitBreaker()
    circuit_breaker.record(publish(records("a"), ScriptedStream({}), lambda: 0.0, no_pause))
    assert circuit_breaker.rounds() == MAX_ROUNDS


def test_a_clock_that_was_set_back_does_not_close_the_stream_for_long() -> None:
    now = [1000.0]
    circuit_breaker = CircuitBreaker(lambda: now[0])
    circuit_breaker.record(publish(records("a"), ScriptedStream({"a": 99}), lambda: 1.0, no_pause))
    assert circuit_breaker.rounds() == 0
    now[0] = 10.0
    assert circuit_breaker.rounds() == 1
