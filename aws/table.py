"""A DynamoDB table with the keys `pk` and `sk`, and the four operations that the visit store needs."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import batched
from typing import Any

from aws.errors import ServiceError
from aws.json_client import JsonClient
from aws.retry import send_until_done

type Item = dict[str, str | int | bool]
type Key = tuple[str, str]
type Failures = dict[Key, Exception]

GETS_PER_REQUEST = 100
_TYPES = {str: "S", int: "N", bool: "BOOL"}


def key_of(item: Item) -> Key:
    return str(item["pk"]), str(item["sk"])


@dataclass(frozen=True, slots=True)
class Table:
    """The DynamoDB table `name`. `executor` runs the requests of one `get` in parallel."""

    dynamodb: JsonClient
    name: str
    executor: Executor

    def get(self, wanted: Sequence[Key], *, consistent: bool = True) -> tuple[dict[Key, Item], Failures]:
        """Return the items that exist, and the failures by key. An eventually consistent read costs half as much."""
        found: dict[Key, Item] = {}
        failures: Failures = {}
        groups = batched(wanted, GETS_PER_REQUEST, strict=False)
        for some, failed in self.executor.map(lambda group: self._get_some(group, consistent), groups):
            found |= some
            failures |= failed
        return found, failures

    def put_version(self, item: Item, expected: int | None) -> bool:
        """Put the item and return True if the stored `version` is `expected` (None: no item), otherwise False."""
        condition = "attribute_not_exists(pk)" if expected is None else "version = :v"
        return self._put_if(item, condition, expected)

    def put_newer(self, item: Item) -> bool:
        """Put the item and return True, unless the stored `version` is the same or higher; then return False."""
        return self._put_if(item, "attribute_not_exists(pk) OR version < :v", int(item["version"]))

    def query(self, pk: str, first: str, last: str) -> Iterator[Item]:
        """Yield the items of the partition `pk` with first <= sk <= last. Pages are read on demand."""
        request: dict[str, object] = {
            "TableName": self.name,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :first AND :last",
            "ExpressionAttributeValues": {":pk": {"S": pk}, ":first": {"S": first}, ":last": {"S": last}},
            "ConsistentRead": True,
        }
        while True:
            page = self.dynamodb.query(**request)
            yield from map(loaded, page["Items"])
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _put_if(self, item: Item, condition: str, version: int | None) -> bool:
        request = {"TableName": self.name, "Item": dumped(item), "ConditionExpression": condition}
        if version is not None:
            request["ExpressionAttributeValues"] = {":v": {"N": str(version)}}
        try:
            self.dynamodb.put_item(**request)
        except ServiceError as error:
            if error.code == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def _get_some(self, wanted: Sequence[Key], consistent: bool) -> tuple[dict[Key, Item], Failures]:
        found: dict[Key, Item] = {}

        def get(some: Sequence[Key]) -> list[Key]:
            named = [{"pk": {"S": pk}, "sk": {"S": sk}} for pk, sk in some]
            asked = {self.name: {"Keys": named, "ConsistentRead": consistent}}
            answer = self.dynamodb.batch_get_item(RequestItems=asked)
            for item in map(loaded, answer["Responses"].get(self.name, ())):
                found[key_of(item)] = item
            left = answer.get("UnprocessedKeys", {}).get(self.name, {"Keys": []})["Keys"]
            return [(key["pk"]["S"], key["sk"]["S"]) for key in left]

        return found, send_until_done(get, {key: key for key in wanted}, "DynamoDB")


def dumped(item: Item) -> dict[str, dict[str, object]]:
    return {k: {_TYPES[type(v)]: str(v) if type(v) is int else v} for k, v in item.items()}


def loaded(item: Mapping[str, Mapping[str, Any]]) -> Item:
    return {k: int(v["N"]) if "N" in v else next(iter(v.values())) for k, v in item.items()}
