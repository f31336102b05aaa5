"""Test that S3 notifications are delivered at least once in an order that a seed determines, that invalid ones are
reported, and that processed ones are deleted.
"""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from local_snowflake.channel import Aws as AwsClients
from local_snowflake.channel import Channel, Message, notification
from local_snowflake.delivery import Delivery, InOrder
from local_snowflake.testing import Warehouse


def delivered(delivery: Delivery, batches: list[int]) -> list[Message]:
    numbers = iter(range(sum(batches)))
    got: list[Message] = []
    for size in batches:
        got += delivery([Message("r", str(next(numbers)), ()) for _ in range(size)])
    while delivery.waiting:
        got += delivery([])
    return got


@settings(max_examples=60, deadline=None)
@given(st.integers(), st.lists(st.integers(0, 20), max_size=8))
def test_each_message_is_delivered_at_least_once(seed: int, batches: list[int]) -> None:
    receipts = [message.receipt for message in delivered(Delivery(seed), batches)]
    assert set(receipts) == {str(number) for number in range(sum(batches))}


def test_seed_determines_which_messages_are_late_or_repeated() -> None:
    first, again = (delivered(Delivery(3), [20] * 10) for _ in range(2))
    assert first == again
    receipts = [int(message.receipt) for message in first]
    assert receipts != sorted(receipts)
    assert len(receipts) > 200
    assert delivered(Delivery(4), [20] * 10) != first


def test_in_order_mode_delivers_each_message_once_and_in_order() -> None:
    assert [message.receipt for message in delivered(InOrder(), [3, 2])] == ["0", "1", "2", "3", "4"]


def announcement(key: str, size: object = 1) -> str:
    thing = {"bucket": {"name": "b"}, "object": {"key": key, "size": size}}
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": thing}]})


def test_bucket_key_and_size_are_read_from_a_notification() -> None:
    (found,), problem = notification(announcement("events/a+b%C3%A9", 7))
    assert (found.bucket, found.key, found.size, problem) == ("b", "events/a bé", 7, None)


@settings(max_examples=100, deadline=None)
@example("[" * 100_000)
@example('{"a":' * 100_000)
@example(announcement("k", float("inf")))
@example(announcement("k", 10**30))
@example(announcement("k", -1))
@example(announcement("events/\ud800"))
@example(announcement("events/%00"))
@example(announcement("events/" + "x" * 1024))
@example(announcement(""))
@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4).map(str))
def test_invalid_message_body_is_reported_without_an_exception(body: str) -> None:
    created, problem = notification(body)
    assert created == ()
    assert problem


class Sqs:
    def __init__(self) -> None:
        self.deleted: list[str] = []

    def create_queue(self, QueueName: str) -> dict[str, str]:  # parameters are named as in boto3
        return {"QueueUrl": QueueName}

    def get_queue_attributes(self, **_: object) -> dict[str, dict[str, str]]:
        return {"Attributes": {"QueueArn": "arn"}}

    def set_queue_attributes(self, **_: object) -> None:
        pass

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> None:
        assert len({entry["Id"] for entry in Entries}) == len(Entries) <= 10
        self.deleted += [entry["ReceiptHandle"] for entry in Entries]


def test_processed_messages_are_deleted_in_batches_of_at_most_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    sqs = Sqs()
    monkeypatch.setattr(AwsClients, "client", lambda *_: sqs)
    channel = Channel(AwsClients("http://127.0.0.1:1", "r"), "A", "r", 1)
    channel.delete([Message("r", str(number), ()) for number in range(25)])
    assert sqs.deleted == [str(number) for number in range(25)]


def test_files_are_loaded_once_although_delivery_repeats_messages(loading: Warehouse) -> None:
    for number in range(60):
        loading.put(f"events/{number}", {"_id": number})
    loading.has_rows(60)
    names = [row["FILE_NAME"] for row in loading.run("SELECT file_name FROM RAW.EVENTS")]
    assert len(set(names)) == 60
