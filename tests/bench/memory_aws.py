"""DynamoDB and EventBridge in memory, for measuring: what was called, and what AWS would bill for it."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from botocore.exceptions import ClientError

# The partition keys of the visits table's indexes (serverless/visits.yml); both sort by entered_at.
INDEX_KEYS = ("fence_now", "device_id")
# What no index shows: the keys of the item itself, and what its writer left for the next one.
NOT_SHOWN = {"pk", "sk", "version", "entry", "expires_at"}


def size_of(item: dict[str, Any]) -> int:
    """(Amazon DynamoDB Developer Guide: "DynamoDB item sizes and formats".)"""
    return sum(
        len(name.encode()) + len(str(inner).encode()) for name, v in item.items() for inner in v.values()
    )


def shown(item: dict[str, object], key: str) -> tuple[object, ...]:
    """What an index holds of an item: nothing if its key is missing."""
    if key not in item or "entered_at" not in item:
        return ()
    attributes = sorted((name, str(v)) for name, v in item.items() if name not in NOT_SHOWN)
    return str(item[key]), str(item["entered_at"]), attributes


class Aws:
    """The calls of DynamoDB and EventBridge that both make.

    Counts them, the CPU that it takes for itself and, if `billed`, the units that AWS would bill.
    """

    def __init__(self, call_seconds: float, *, billed: bool = False) -> None:
        self.call_seconds = call_seconds
        self.billed = billed
        self.calls: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self.own_seconds = 0.0
        self._tables: dict[str, dict[str, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
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

    def _items(self, table: str, item: dict[str, Any]) -> tuple[dict[str, Any], str]:
        pk = item["pk"]["S"] if "pk" in item else item["id"]["S"]
        return self._tables.setdefault(table, {}).setdefault(pk, {}), item.get("sk", {"S": ""})["S"]

    def _do_put_item(self, TableName: str, Item: Any, ConditionExpression: str = "", **names: Any) -> Any:
        items, sk = self._items(TableName, Item)
        old = items.get(sk)
        if "version" in ConditionExpression and old:
            expected = int(names["ExpressionAttributeValues"][":v"]["N"])
            version = int(old["version"]["N"])
            holds = version < expected if "<" in ConditionExpression else version == expected
        else:
            holds = not ConditionExpression or old is None
        if not holds:
            error: Any = {"Error": {"Code": "ConditionalCheckFailedException", "Message": ""}, "Item": old}
            raise ClientError(error, "PutItem")
        self._put(items, sk, Item)
        return {}

    def _do_update_item(self, TableName: str, Key: Any, **_: Any) -> Any:
        items, sk = self._items(TableName, Key)
        self._put(items, sk, {**items.get(sk, {}), **Key})
        return {}

    def _do_query(self, TableName: str, ExpressionAttributeValues: Any, **how: Any) -> Any:
        values = {name: value["S"] for name, value in ExpressionAttributeValues.items()}
        items = self._tables.get(TableName, {}).get(values[":pk"], {})
        keys = sorted(
            (sk for sk in items if values[":first"] <= sk <= values[":last"]),
            reverse=not how.get("ScanIndexForward", True),
        )
        if self.billed:
            self.units["read"] += max(1, math.ceil(sum(size_of(items[sk]) for sk in keys) / 4096))
        return {"Items": [items[sk] for sk in keys]}

    def _do_batch_get_item(self, RequestItems: Any) -> Any:
        ((table, asked),) = RequestItems.items()
        found = [items.get(sk) for items, sk in (self._items(table, key) for key in asked["Keys"])]
        if self.billed:
            self.units["read"] += sum(max(1, math.ceil(size_of(item or {}) / 4096)) for item in found)
        return {"Responses": {table: [item for item in found if item]}}

    def _do_batch_write_item(self, RequestItems: Any) -> Any:
        ((table, puts),) = RequestItems.items()
        for put in puts:
            items, sk = self._items(table, put["PutRequest"]["Item"])
            self._put(items, sk, put["PutRequest"]["Item"])
        return {}

    def _put(self, items: dict[str, Any], sk: str, item: Any) -> None:
        """A write is billed by the KB of the larger of both items, and again for each index that shows it."""
        old = items.get(sk, {})
        items[sk] = item
        if not self.billed:
            return
        self.units["write"] += math.ceil(max(size_of(old), size_of(item)) / 1024)
        for key in INDEX_KEYS:
            before, after = (shown(each, key) for each in (old, item))
            moved = bool(before and after) and before[:2] != after[:2]
            self.units["index write"] += (before != after) + moved

    @property
    def stored_bytes(self) -> int:
        return sum(
            size_of(item) for t in self._tables.values() for items in t.values() for item in items.values()
        )

    def _do_put_events(self, Entries: Any) -> Any:
        self.units["entry"] += len(Entries)
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "1"} for _ in Entries]}


class Inline(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future

    def map(self, fn: Any, *iterables: Any, **_: Any) -> Any:
        return map(fn, *iterables)
