"""What a batch costs the consumer, as ratios measured in one run: `python -m tests.bench.consumer [--json]`.

Ours and a peer on Powertools (`peers/powertools_consumer.py`) do the same work on the same fake of DynamoDB and
EventBridge in memory, where each call takes 5 ms: seconds, CPU seconds, and calls an event. Our own CPU is measured
without those 5 ms, in one thread, less what the fake itself took.
"""

import json
import os
import platform
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from consumer.aws import EventBus
from consumer.change import Rule
from consumer.consume import Ports, consume
from consumer.records import records_of
from consumer.store import Store
from consumer.table import DynamoTable
from tests.unit.consumer.fakes import FakeSetAside
from tests.unit.consumer.strategies import as_json, batch_of, event

CALL_SECONDS = 0.005


class Aws:
    """The calls of DynamoDB and EventBridge that both make. Counts them, and the time that it takes for itself."""

    def __init__(self, call_seconds: float) -> None:
        self.call_seconds = call_seconds
        self.calls: Counter[str] = Counter()
        self.own_seconds = 0.0
        self._tables: dict[str, dict[str, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        do = getattr(type(self), f"_do_{name}")

        def call(**request: Any) -> Any:
            if self.call_seconds:
                time.sleep(self.call_seconds)
            began = time.perf_counter()
            try:
                with self._lock:
                    self.calls[name] += 1
                    return do(self, **request)
            finally:
                self.own_seconds += time.perf_counter() - began

        return call

    def _items(self, table: str, item: dict[str, Any]) -> tuple[dict[str, Any], str]:
        pk = item["pk"]["S"] if "pk" in item else item["id"]["S"]
        return self._tables.setdefault(table, {}).setdefault(pk, {}), item.get("sk", {"S": ""})["S"]

    def _do_put_item(self, TableName: str, Item: Any, ConditionExpression: str = "", **names: Any) -> Any:  # noqa: N803
        items, sk = self._items(TableName, Item)
        old = items.get(sk)
        if "version" in ConditionExpression and old:
            expected = int(names["ExpressionAttributeValues"][":v"]["N"])
            version = int(old["version"]["N"])
            holds = version < expected if "<" in ConditionExpression else version == expected
        else:
            holds = not ConditionExpression or old is None
        if not holds:
            error = {"Error": {"Code": "ConditionalCheckFailedException", "Message": ""}, "Item": old}
            raise ClientError(error, "PutItem")
        items[sk] = Item
        return {}

    def _do_update_item(self, TableName: str, Key: Any, **_: Any) -> Any:  # noqa: N803
        items, sk = self._items(TableName, Key)
        items[sk] = {**items.get(sk, {}), **Key}
        return {}

    def _do_query(self, TableName: str, ExpressionAttributeValues: Any, **how: Any) -> Any:  # noqa: N803
        values = {name: value["S"] for name, value in ExpressionAttributeValues.items()}
        items = self._tables.get(TableName, {}).get(values[":pk"], {})
        keys = sorted(
            (sk for sk in items if values[":first"] <= sk <= values[":last"]),
            reverse=not how.get("ScanIndexForward", True),
        )
        return {"Items": [items[sk] for sk in keys]}

    def _do_batch_get_item(self, RequestItems: Any) -> Any:  # noqa: N803
        ((table, asked),) = RequestItems.items()
        found = (items.get(sk) for items, sk in (self._items(table, key) for key in asked["Keys"]))
        return {"Responses": {table: [item for item in found if item]}}

    def _do_batch_write_item(self, RequestItems: Any) -> Any:  # noqa: N803
        ((table, puts),) = RequestItems.items()
        for put in puts:
            items, sk = self._items(table, put["PutRequest"]["Item"])
            items[sk] = put["PutRequest"]["Item"]
        return {}

    def _do_put_events(self, Entries: Any) -> Any:  # noqa: N803
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "1"} for _ in Entries]}


class Inline(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future

    def map(self, fn: Any, *iterables: Any, **_: Any) -> Any:
        return map(fn, *iterables)


def rounds(devices: int, fences: int, visits: int = 1) -> list[bytes]:
    """Each device enters and leaves each of its fences so often, all devices at once, as a stream has them."""
    made = [
        (
            seconds,
            event(
                kind,
                seconds,
                f"{device:05}-{fence:05}-{visit:03}-{kind}",
                device=f"truck-{device}",
                fence=farm,
            ),
        )
        for device in range(devices)
        for fence in range(fences)
        for visit in range(visits)
        for kind, seconds in (
            ("enter", 600 * (fence + fences * visit)),
            ("exit", 600 * (fence + fences * visit) + 300),
        )
        for farm in [FENCE._replace(external_id=f"farm-{fence}")]
    ]
    return [as_json(e) for _, e in sorted(made, key=lambda pair: pair[0])]


FENCE = event("enter", 0).fence
SHAPES = {
    # 500 events of 50 devices: each at five fences, arriving and leaving
    "500": rounds(50, 5),
    # the same at one fence, five times
    "500 at one fence": rounds(50, 1, visits=5),
    # batches of 200: as above; as dispersed as can be; all of one device at one fence
    "200": rounds(20, 5),
    "200 pairs": [*rounds(200, 1)[:200]],
    "one pair": rounds(1, 1, visits=100),
}


class Context:
    aws_request_id = "bench"
    function_name = "bench"

    def get_remaining_time_in_millis(self) -> int:
        return 600_000


def ours(aws: Aws, side_by_side: Executor) -> Callable[[Any], None]:
    table, bus = DynamoTable(aws, "visits", side_by_side), EventBus(aws, "bus", side_by_side)  # type: ignore[arg-type]
    ports = Ports(Store(table, bus, Rule(), side_by_side), FakeSetAside())

    def run(batch: Any) -> None:
        outcome = consume(records_of(batch), ports)
        assert outcome.stopped_at is None
        assert outcome.added == len(batch["Records"])

    return run


def peer(aws: Aws) -> Callable[[Any], None]:
    from tests.bench.peers.powertools_consumer import Consumer

    consumer = Consumer(aws, aws)

    def run(batch: Any) -> None:
        assert consumer(batch, Context()) == {"batchItemFailures": []}

    return run


def timed(run: Callable[[Any], None], batch: Any) -> tuple[float, float]:
    cpu, began = time.process_time(), time.perf_counter()
    run(batch)
    return time.perf_counter() - began, time.process_time() - cpu


def against_powertools(rounds_: int = 3) -> dict[str, float]:
    batch = batch_of(SHAPES["500"])
    mine, theirs, calls = [], [], {}
    with ThreadPoolExecutor(16) as side_by_side:
        for _ in range(rounds_):
            for name, make, times in (
                ("ours", lambda aws: ours(aws, side_by_side), mine),
                ("powertools", peer, theirs),
            ):
                aws = Aws(CALL_SECONDS)
                times.append(timed(make(aws), batch))
                calls[name] = aws.calls.total() / 500
    seconds, cpu = (statistics.median(column) for column in zip(*mine, strict=True))
    peer_seconds, peer_cpu = (statistics.median(column) for column in zip(*theirs, strict=True))
    return {
        "consumer/powertools@500": seconds / peer_seconds,
        "consumer_cpu/powertools@500": cpu / peer_cpu,
        "records a second, ours": 500 / seconds,
        "records a second, powertools": 500 / peer_seconds,
        "calls an event, ours": calls["ours"],
        "calls an event, powertools": calls["powertools"],
    }


def calls_an_event() -> dict[str, float]:
    """Of a first batch, and of the next one that finds its pairs known."""
    found = {}
    for name, datas in SHAPES.items():
        aws = Aws(0)
        run = ours(aws, Inline())
        run(batch_of(datas))
        found[f"calls an event, {name}"] = aws.calls.total() / len(datas)
        before = aws.calls.total()
        run(
            batch_of(
                [data.replace(b"T08:", b"T09:").replace(b'"_id": "', b'"_id": "again-') for data in datas]
            )
        )
        found[f"calls an event, {name}, again"] = (aws.calls.total() - before) / len(datas)
    return found


def own_cpu(shape: str, rounds_: int = 15) -> dict[str, float]:
    # Padded to the 500 bytes of an event as phones send them.
    datas = [data[:-1] + b', "note": "' + b"x" * (488 - len(data)) + b'"}' for data in SHAPES[shape]]
    spent, loads = [], []
    batch = batch_of(datas)
    for _ in range(rounds_):
        aws = Aws(0)
        run = ours(aws, Inline())
        _, cpu = timed(run, batch)
        spent.append(cpu - aws.own_seconds)
        _, cpu = timed(lambda some: [json.loads(data) for data in some], datas)
        loads.append(cpu)
    own, floor = statistics.median(spent) / 500 * 1e6, statistics.median(loads) / 500 * 1e6
    return {
        f"consumer_cpu/json.loads@{shape}": own / floor,
        f"own CPU, µs an event, {shape}": own,
        f"json.loads, µs an event, {shape}": floor,
    }


def main(arguments: list[str]) -> int:
    figures = against_powertools() | calls_an_event() | own_cpu("500") | own_cpu("500 at one fence")
    if "--json" in arguments:
        ratios = {name: value for name, value in figures.items() if "/" in name}
        print(json.dumps({"ratios": ratios, "figures": figures}))
        return 0
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs")
    for name, value in figures.items():
        print(f"{name:45} {value:8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
