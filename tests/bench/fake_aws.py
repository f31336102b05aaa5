"""In-memory fakes of DynamoDB and EventBridge for benchmarks. They count the calls and the units that AWS
would bill.

The bill follows AWS's documentation, independently of the code under test (Amazon DynamoDB Developer Guide:
"DynamoDB item sizes and formats", "DynamoDB read and write operations", "Using Global Secondary Indexes in
DynamoDB"). A call that the fake does not implement raises an error, so that every call is
billed.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from botocore.exceptions import ClientError

from aws.errors import ServiceError

TEMPLATE = Path(__file__).parents[2] / "serverless" / "visits_table.yml"
type Attribute = dict[str, Any]
"""A value with its type, such as {"N": "5"}."""
type Item = dict[str, Attribute]
WRITE_UNIT_BYTES = 1024
READ_UNIT_BYTES = 4096


class Index(NamedTuple):
    """A global secondary index of the visits table: its key attributes, and all attributes that it projects."""

    keys: tuple[str, ...]
    shown: frozenset[str]

    def entry(self, item: Item) -> Item:
        """Return the item's entry in the index; {} if the item lacks one of the index's keys."""
        if any(key not in item for key in self.keys):
            return {}
        return {name: value for name, value in item.items() if name in self.shown}

    def write_units(self, old: Item, new: Item) -> int:
        """Return the write units that the index consumes when an item changes.

        If the entry's key changes, both the old and the new entry are billed.
        """
        before, after = self.entry(old), self.entry(new)
        if before == after:
            return 0
        if before and after and any(before[key] != after[key] for key in self.keys):
            return units(before) + units(after)
        return max(units(before), units(after))


def indexes() -> tuple[Index, ...]:
    """Return the visits table's global secondary indexes, as the template defines them."""
    table = yaml.safe_load(TEMPLATE.read_text())["Resources"]["VisitsTable"]["Properties"]
    primary = [key["AttributeName"] for key in table["KeySchema"]]
    found = []
    for index in table.get("GlobalSecondaryIndexes", ()):
        keys = tuple(key["AttributeName"] for key in index["KeySchema"])
        others = index["Projection"].get("NonKeyAttributes", ())
        found.append(Index(keys, frozenset([*primary, *keys, *others])))
    return tuple(found)


def size_of(item: Item) -> int:
    """Return an item's billed size in bytes: the UTF-8 bytes of names and strings; for a number, one byte plus half
    a byte per significant digit; one byte for a Boolean or a null.
    """
    return sum(len(name.encode()) + _size(*next(iter(value.items()))) for name, value in item.items())


def _size(kind: str, value: object) -> int:
    if kind == "N":
        return math.ceil(len(str(value).lstrip("-").strip("0")) / 2) + 1
    return 1 if kind in ("BOOL", "NULL") else len(str(value).encode())


def units(item: Item) -> int:
    """Return the write units for storing an item: one per started KB."""
    return max(1, math.ceil(size_of(item) / WRITE_UNIT_BYTES))


def read_units(size: int, *, consistent: bool) -> float:
    return max(1, math.ceil(size / READ_UNIT_BYTES)) * (1 if consistent else 0.5)


class ConditionFailed(ClientError, ServiceError):
    """The error for a failed condition. It has both the type that the peer catches (botocore's) and the type that
    our consumer catches (ServiceError).
    """

    def __init__(self, old: Item | None) -> None:
        self.code = "ConditionalCheckFailedException"
        self.response: Any = {"Error": {"Code": self.code, "Message": ""}, "Item": old}
        Exception.__init__(self, self.code)


class Aws:
    """A fake of the DynamoDB and EventBridge calls that our consumer and the Powertools peer make.

    It counts the calls, its own CPU time and, if `billed`, the units that AWS would bill.
    """

    def __init__(self, call_seconds: float, *, billed: bool = False) -> None:
        self.call_seconds = call_seconds
        self.billed = billed
        self.calls: Counter[str] = Counter()
        self.units: dict[str, float] = {"write": 0, "index write": 0, "read": 0, "entry": 0}
        self.own_seconds = 0.0
        self._indexes = indexes()
        self._tables: dict[str, dict[str, Item]] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., object]:
        do = getattr(type(self), f"_do_{name}")

        def call(**request: object) -> object:
            if self.call_seconds:
                time.sleep(self.call_seconds)
            began = time.thread_time()
            try:
                with self._lock:
                    self.calls[name] += 1
                    return do(self, **request)
            finally:
                self.own_seconds += time.thread_time() - began

        return call

    def _items(self, table: str, item: Item) -> tuple[dict[str, Item], str]:
        pk = item["pk"]["S"] if "pk" in item else item["id"]["S"]
        return self._tables.setdefault(table, {}).setdefault(pk, {}), item.get("sk", {"S": ""})["S"]

    def _do_put_item(self, TableName: str, Item: Item, ConditionExpression: str = "", **names: Any) -> object:
        items, sk = self._items(TableName, Item)
        old = items.get(sk)
        if "version" in ConditionExpression and old:
            expected = int(names["ExpressionAttributeValues"][":v"]["N"])
            version = int(old["version"]["N"])
            holds = version < expected if "<" in ConditionExpression else version == expected
        else:
            holds = not ConditionExpression or old is None
        if not holds:
            # AWS bills a failed conditional write like a successful one.
            self.units["write"] += max(units(old or {}), units(Item)) if self.billed else 0
            raise ConditionFailed(old)
        self._put(items, sk, Item)
        return {}

    def _do_update_item(self, TableName: str, Key: Item, **_: object) -> object:
        """Store only the key of the item. Only the Powertools peer calls UpdateItem, to record its idempotency keys."""
        items, sk = self._items(TableName, Key)
        self._put(items, sk, {**items.get(sk, {}), **Key})
        return {}

    def _do_query(self, TableName: str, ExpressionAttributeValues: Item, **how: object) -> object:
        values = {name: value["S"] for name, value in ExpressionAttributeValues.items()}
        items = self._tables.get(TableName, {}).get(values[":pk"], {})
        keys = sorted(
            (sk for sk in items if values[":first"] <= sk <= values[":last"]),
            reverse=not how.get("ScanIndexForward", True),
        )
        if self.billed:
            size = sum(size_of(items[sk]) for sk in keys)
            self.units["read"] += read_units(size, consistent=bool(how.get("ConsistentRead")))
        return {"Items": [items[sk] for sk in keys]}

    def _do_batch_get_item(self, RequestItems: Mapping[str, Mapping[str, Any]]) -> object:
        ((table, asked),) = RequestItems.items()
        found = [items.get(sk) for items, sk in (self._items(table, key) for key in asked["Keys"])]
        if self.billed:  # each item is billed separately, even if it does not exist
            consistent = asked.get("ConsistentRead", False)
            self.units["read"] += sum(
                read_units(size_of(item or {}), consistent=consistent) for item in found
            )
        return {"Responses": {table: [item for item in found if item]}}

    def _do_batch_write_item(self, RequestItems: Mapping[str, list[dict[str, dict[str, Item]]]]) -> object:
        ((table, puts),) = RequestItems.items()
        for put in puts:
            items, sk = self._items(table, put["PutRequest"]["Item"])
            self._put(items, sk, put["PutRequest"]["Item"])
        return {}

    def _put(self, items: dict[str, Item], sk: str, item: Item) -> None:
        """Store an item. AWS bills the size of the larger of the old and the new item, and also a write to each index
        whose entry changes.
        """
        old = items.get(sk, {})
        items[sk] = item
        if not self.billed:
            return
        self.units["write"] += max(units(old), units(item))
        self.units["index write"] += sum(index.write_units(old, item) for index in self._indexes)

    @property
    def stored_bytes(self) -> int:
        return sum(
            size_of(item) for t in self._tables.values() for items in t.values() for item in items.values()
        )

    def _do_put_events(self, Entries: list[object]) -> object:
        self.units["entry"] += len(Entries)
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "1"} for _ in Entries]}


class Inline(Executor):
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = Future[T]()
        future.set_result(fn(*args, **kwargs))
        return future
