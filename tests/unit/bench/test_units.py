"""Test the fake DynamoDB's count of capacity units against examples calculated by hand from AWS's documentation."""

import pytest
from botocore.exceptions import ClientError

from tests.bench.fake_aws import Aws, Index, size_of
from tests.bench.units import geofence_events, units_of
from tests.unit.consumer.strategies import as_json, event


def put(aws: Aws, sk: str, padding: int = 0, **more: dict[str, object]) -> None:
    item = {"pk": {"S": "p"}, "sk": {"S": sk}, "x": {"S": "x" * padding}, **more}
    aws.put_item(TableName="visits", Item=item)


def billed(indexes: tuple[Index, ...] = ()) -> Aws:
    aws = Aws(0, billed=True)
    aws._indexes = indexes
    return aws


def test_item_size_includes_attribute_names_strings_numbers_and_booleans() -> None:
    item = {"pk": {"S": "ü"}, "version": {"N": "1234567890"}, "is_open": {"BOOL": True}}
    assert size_of(item) == (2 + 2) + (7 + 5 + 1) + (7 + 1)


def test_write_is_billed_by_the_size_of_the_old_or_new_item_whichever_is_larger() -> None:
    aws = billed()
    put(aws, "a", padding=1024 - len("pk" + "p" + "sk" + "a" + "x"))
    assert aws.units["write"] == 1
    put(aws, "a", padding=1024)
    assert aws.units["write"] == 1 + 2
    put(aws, "a")
    assert aws.units["write"] == 1 + 2 + 2


def test_failed_conditional_write_is_billed_like_a_successful_one() -> None:
    aws = billed()
    put(aws, "a")
    item = {"pk": {"S": "p"}, "sk": {"S": "a"}}
    with pytest.raises(ClientError):
        aws.put_item(TableName="visits", Item=item, ConditionExpression="attribute_not_exists(pk)")
    assert aws.units["write"] == 2


def test_index_write_is_billed_only_if_the_index_entry_changes() -> None:
    aws = billed((Index(("fence",), frozenset({"pk", "sk", "fence", "seen"})),))
    at = {"fence": {"S": "f"}, "seen": {"S": "1"}}
    put(aws, "a")
    assert aws.units["index write"] == 0
    put(aws, "a", **at)
    put(aws, "a", padding=9, **at)  # this attribute is not projected
    assert aws.units["index write"] == 1
    put(aws, "a", **(at | {"seen": {"S": "2"}}))
    assert aws.units["index write"] == 2
    put(aws, "a", **(at | {"fence": {"S": "g"}}))  # deleted under one key and inserted under another
    assert aws.units["index write"] == 4
    put(aws, "a")
    assert aws.units["index write"] == 5


def test_reads_are_billed_per_4_kb_and_eventually_consistent_reads_cost_half() -> None:
    aws = billed()
    put(aws, "a", padding=5000)
    put(aws, "b", padding=5000)
    keys = [{"pk": {"S": "p"}, "sk": {"S": sk}} for sk in ("a", "b", "missing")]
    aws.batch_get_item(RequestItems={"visits": {"Keys": keys, "ConsistentRead": True}})
    assert aws.units["read"] == 2 + 2 + 1  # each item is rounded up separately
    aws.batch_get_item(RequestItems={"visits": {"Keys": keys}})
    assert aws.units["read"] == 5 + 2.5
    between = {":pk": {"S": "p"}, ":first": {"S": "a"}, ":last": {"S": "z"}}
    aws.query(TableName="visits", ExpressionAttributeValues=between, ConsistentRead=True)
    assert aws.units["read"] == 7.5 + 3  # the sum of the sizes is rounded up


def test_capacity_units_and_notifications_of_one_visit_are_counted() -> None:
    lines = [
        as_json(event("exit", 600)),
        as_json(event("enter", 0)),
        b'{"type": "position", "createdAt": ""}',
    ]
    found = units_of(geofence_events(lines))
    assert found["notifications"] == 1
    assert found["write_units"] > 0
    assert found["read_units"] > 0
