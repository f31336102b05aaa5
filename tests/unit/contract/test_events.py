"""Test that an event is identified by its owner (a device or a user) and its id."""

from hypothesis import example, given
from hypothesis import strategies as st

from contract.event_rules import check
from contract.events import Owned

IDS = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(["1", "1:d", "d", "u", "1:u3:a:b"])


@example(("d", "1:d", "1"), ("d", "1", "d:1"))
@given(st.tuples(st.sampled_from("du"), IDS, IDS), st.tuples(st.sampled_from("du"), IDS, IDS))
def test_event_keys_are_equal_only_for_the_same_owner_and_id(one: object, other: object) -> None:
    assert (Owned(*one).event_key == Owned(*other).event_key) == (one == other)


def test_event_without_a_device_is_identified_by_its_user() -> None:
    of_a_user = {"_id": "e", "type": "x", "createdAt": "2026-11-16T08:00:00Z", "user": {"_id": "radar-1"}}
    assert check(of_a_user).owned == Owned("u", "radar-1", "e")
    assert check(of_a_user | {"user": {"_id": "radar-1", "userId": "driver"}}).owned == Owned(
        "u", "driver", "e"
    )
    assert check(of_a_user | {"deviceId": "van-1"}).owned == Owned("d", "van-1", "e")
