"""Test promises 1 to 4 of docs/architecture.md with random bodies and random failures of the ports.

The module also tests the response time, the object keys and the stored JSON.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aws.errors import RetryableError
from contract.archive_object import object_name
from contract.geofence_event_types import GEOFENCE_KINDS
from handler import publish_with_retries
from handler.ingest import ENQUEUE_SECONDS, STORE_SECONDS, STREAM_SECONDS, Delivery, Effects, ingest
from handler.parse_body import Parts
from handler.validate import validate
from local_snowflake.parse_staged_file import FileFormat, read
from tests.unit.contract.test_archive_object import AT
from tests.unit.contract.test_event_rules import ENTER
from tests.unit.handler.conftest import Answer, Phone
from tests.unit.handler.fakes import Fault, World
from tests.unit.handler.strategies import broken_events, events, lists, requests

modestly = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
type NewPhone = Callable[[], Phone]
type Request = tuple[bytes, Mapping[str, str]]


@modestly
@given(requests())
def test_every_event_is_accepted_rejected_or_a_duplicate(new_phone: NewPhone, request: Request) -> None:
    phone = new_phone()
    answer = phone.post(*request)

    assert answer.status in (202, 400)
    receipt = answer.body
    assert receipt["received"] == receipt["accepted"] + receipt["duplicates"] + receipt["rejected"] > 0
    assert len(phone.world.lines("events")) == receipt["accepted"]
    assert len(phone.world.lines("rejected")) == receipt["rejected"]
    assert (answer.status == 202) == (receipt["accepted"] + receipt["duplicates"] > 0)
    assert (receipt["object_key"] is not None) == (receipt["accepted"] > 0)
    assert (receipt["rejected_key"] is not None) == (receipt["rejected"] > 0)
    assert geofence_lines(phone.world) <= phone.world.promised()


@modestly
@given(requests())
def test_request_repeated_within_the_hour_adds_no_object_and_republishes_its_events(
    new_phone: NewPhone, request: Request
) -> None:
    phone = new_phone()
    first = phone.post(*request)
    objects, published = dict(phone.world.objects), len(phone.world.stream)

    second = phone.post(*request)

    assert (second.status, second.body) == (first.status, first.body)
    assert phone.world.objects == objects
    assert len(phone.world.stream) == 2 * published


@modestly
@given(requests())
def test_object_key_contains_the_hash_and_the_number_of_its_lines(
    new_phone: NewPhone, request: Request
) -> None:
    phone = new_phone()
    phone.post(*request)
    for key in phone.world.objects:
        name = object_name(key)
        assert name is not None
        text = gzip.decompress(phone.world.objects[key])
        assert name.digest == hashlib.sha256(text).hexdigest()
        assert name.lines == text.count(b"\n")


@modestly
@given(requests())
def test_every_stored_line_is_json_that_snowflake_and_duckdb_accept(
    new_phone: NewPhone, request: Request
) -> None:
    phone = new_phone()
    phone.post(*request)
    for key, body in phone.world.objects.items():
        content = read(body, FileFormat(compression="GZIP"))
        assert content.errors == [], key
        lines = phone.world.lines_of(key)
        assert len(content.rows) == len(lines)
        for line in lines:
            duckdb_takes(line.decode())


@settings(modestly, max_examples=250)
@given(
    st.lists(events(), min_size=1, max_size=4),
    lists,
    st.lists(st.sampled_from(Fault), max_size=12),
)
def test_promises_are_kept_whichever_call_fails(
    new_phone: NewPhone, sound: list[dict[str, object]], others: list[object], faults: list[Fault]
) -> None:
    """The fake stream itself checks promise 2, that only archived events are published."""
    phone = new_phone()
    phone.world.faults = list(faults)
    body = json.dumps(sound + others).encode()

    answer = phone.post(body)
    for _ in range(len(faults) + 1):
        holds(phone.world, answer)
        if answer.status != 503:
            break
        assert answer.headers["Retry-After"]
        answer = phone.post(body)

    assert answer.status in (202, 400)
    holds(phone.world, answer)
    assert len(phone.world.keys("events")) <= 1
    assert len(phone.world.keys("rejected")) <= 1


def in_time(world: World, events: list[dict[str, object]], seconds: float) -> None:
    """Handle a request in which each call takes its maximum time. Fail if the calls take more than `seconds`."""
    longest = {"store": STORE_SECONDS, "put": STREAM_SECONDS, "enqueue": ENQUEUE_SECONDS}

    def seconds_left() -> float:
        return seconds - sum(longest[call] for call in world.calls)

    batch = validate(Parts([json.dumps(event).encode() for event in events], {}), "json", GEOFENCE_KINDS, AT)
    delivery = Delivery("request-1", None, None, AT, seconds_left)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publish_with_retries, "BACKOFF_BASE_SECONDS", 0.0)
            ingest(batch, world.ports(), delivery, Effects())
    finally:
        assert seconds_left() >= 0, world.calls


@modestly
@given(
    st.lists(st.one_of(events(), broken_events()), min_size=1, max_size=4),
    st.lists(st.sampled_from(Fault), max_size=6),
    st.floats(0, 27.5),
)
def test_response_is_in_time_even_if_each_call_takes_its_maximum_time(
    given: list[object], faults: list[Fault], seconds: float
) -> None:
    with suppress(RetryableError, RuntimeError):
        in_time(World(faults), given, seconds)


class OnlyTheStream(World):
    """Fake ports whose faults affect only calls to the stream."""

    def next_fault(self, call: str) -> Fault:
        if call == "put":
            return super().next_fault(call)
        self.calls.append(call)
        return Fault.NONE


@modestly
@given(
    st.integers(1, 4),
    st.lists(st.sampled_from([Fault.BEFORE, Fault.AFTER, Fault.PARTLY, Fault.MALFORMED]), max_size=6),
    st.floats(STORE_SECONDS + ENQUEUE_SECONDS, 27.5),
)
def test_slow_stream_leaves_time_for_a_claim_check(number: int, faults: list[Fault], seconds: float) -> None:
    world = OnlyTheStream(faults)
    in_time(world, [ENTER | {"_id": str(n)} for n in range(number)], seconds)
    assert geofence_lines(world) <= world.promised()


def holds(world: World, answer: Answer) -> None:
    assert all(line in set(world.lines("events")) for line in world.promised())
    if answer.status in (202, 400):
        assert len(world.lines("events")) == answer.body["accepted"]
        assert len(world.lines("rejected")) == answer.body["rejected"]
        assert geofence_lines(world) <= world.promised()


def geofence_lines(world: World) -> set[bytes]:
    return {line for line in world.lines("events") if json.loads(line)["type"] in GEOFENCE_KINDS}


def duckdb_takes(text: str) -> None:
    valid = duckdb.execute("SELECT json_valid(?), CAST(CAST(? AS JSON) AS VARCHAR)", [text, text]).fetchone()
    assert valid == (True, text)
