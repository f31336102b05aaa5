"""Promises 1 to 4 of docs/architecture.md, for any body and any failure at any call of a port."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import duckdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.events import GEOFENCE_KINDS
from contract.objects import object_name
from snowpipe.local.files import FileFormat, read
from tests.unit.handler.conftest import Answer, Phone
from tests.unit.handler.fakes import Fault, World
from tests.unit.handler.strategies import events, lists, requests

modestly = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
type NewPhone = Callable[[], Phone]
type Request = tuple[bytes, Mapping[str, str]]


@modestly
@given(requests())
def test_whatever_is_received_is_accepted_or_rejected_or_a_duplicate(
    new_phone: NewPhone, request: Request
) -> None:
    phone = new_phone()
    answer = phone.post(*request)

    assert answer.status in (202, 400)
    told = answer.body
    assert told["received"] == told["accepted"] + told["duplicates"] + told["rejected"] > 0
    assert len(phone.world.lines("events")) == told["accepted"]
    assert len(phone.world.lines("rejected")) == told["rejected"]
    assert (answer.status == 202) == (told["accepted"] + told["duplicates"] > 0)
    assert (told["object_key"] is not None) == (told["accepted"] > 0)
    assert (told["rejected_key"] is not None) == (told["rejected"] > 0)
    assert geofence_lines(phone.world) <= phone.world.promised()


@modestly
@given(requests())
def test_the_same_request_makes_the_same_objects_and_is_published_again(
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
def test_keys_tell_the_number_and_the_hash_of_their_lines(new_phone: NewPhone, request: Request) -> None:
    phone = new_phone()
    phone.post(*request)
    for key in phone.world.objects:
        name = object_name(key)
        assert name is not None
        assert name.lines == len(phone.world.lines_of(key))
        assert name.key == key


@modestly
@given(requests())
def test_every_stored_line_loads_in_a_strict_warehouse(new_phone: NewPhone, request: Request) -> None:
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
def test_no_failure_at_any_call_breaks_a_promise(
    new_phone: NewPhone, sound: list[dict[str, Any]], others: list[Any], faults: list[Fault]
) -> None:
    """The fake stream itself checks promise 2: nothing is published that is not archived."""
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
