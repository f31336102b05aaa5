"""Measure the whole path on the local stack: `python -m tests.bench.end_to_end [--json]`.

With 1, 20 and 100 events per request, it measures the events per second of several concurrent phones, the time from a
POST until its visit is in DynamoDB and until its rows can be queried, and the CPU time of each component. It also
compares the loading of a backlog with plain GETs of the same objects. If its own stack (MILKRUN_LOCAL, MILKRUN_PORT)
is not running, the benchmark starts one and deletes it afterwards. Most of the measured time is spent in LocalStack;
the figures show how much.
"""

import os
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import urllib3

from contract import logs
from contract.archive_object import lines_object
from ops import read_stores
from ops.read_log_lines import log_lines
from ops.stage_outputs import Outputs
from snowpipe.warehouse import Row, Snowflake
from tests.bench import figures, handler
from tests.bench.figures import Figures, progress
from tools.stack.processes import Process, Processes, descendants, description
from tools.stack.stack import Stack

SIZES = (1, 20, 100)
PHONES = 4
SENDING_SECONDS = 12.0
SINGLE_POSTS = 12
TIMEOUT_SECONDS = 90.0
BACKLOG = 2000
LAST_DEVICES = 40  # enough devices to have some on every shard
ENVIRONMENT = {"MILKRUN_LOCAL": ".local-bench", "MILKRUN_PORT": "6500"}
TITLES = {"localstack": "LocalStack", "snowflake": "Snowflake"}
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def running() -> Iterator[Stack]:
    stack = Stack.of(ENVIRONMENT | dict(os.environ), step=announced)
    was_up = stack.is_up()
    stack.up()  # also deploys changes
    try:
        yield stack
    finally:
        if not was_up:
            stack.down()


@contextmanager
def announced(words: str) -> Iterator[None]:
    progress(words)
    yield


# --- CPU per component ------------------------------------------------------------------------------------


def cpu_seconds(processes: Processes) -> dict[str, float]:
    """Return the CPU seconds that each component of the stack has used so far, without child processes that
    have ended.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for top in processes.recorded():
        for process in [top, *descendants(top)]:
            found[component(top.name, process)] += _ticks(process.pid) / TICKS
    return found


def component(part: str, process: Process) -> str:
    what = description(process)
    if what.startswith("milkrun-"):
        return what.rpartition("-")[2] + " function"
    return "Kinesis mock" if "main.js" in what else TITLES.get(part, part)


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(field) for field in fields[11:13])


# --- posting ----------------------------------------------------------------------------------------------


class Phones:
    """Phones that send new events; their device ids all begin with the same run id."""

    def __init__(self, outputs: Outputs, size: int) -> None:
        self.run = f"bench-{uuid4().hex[:8]}"
        self.keys: list[str] = []
        self.devices: list[str] = []
        self.seconds: list[float] = []
        self._http = urllib3.PoolManager(maxsize=PHONES, retries=False, timeout=30)
        self._outputs, self._key = outputs, {"x-api-key": outputs.api_key}
        self._size = size

    def post(self) -> tuple[str, str]:
        """Send one request, in which a new device enters at least one farm; return its S3 object key and the device
        id.
        """
        device = f"{self.run}-{len(self.keys)}-{threading.get_ident()}"
        events = [event | {"_id": uuid4().hex[:24]} for event in handler.events(self._size)]
        for event in events:
            event["user"] = {"userId": "bench", "deviceId": device}
        began = time.monotonic()
        answer = self._http.request("POST", self._outputs.endpoint, json=events, headers=self._key)
        self.seconds.append(time.monotonic() - began)
        assert answer.status == 202, answer.data
        key = str(answer.json()["object_key"])
        self.keys.append(key)
        self.devices.append(device)
        return key, device

    def post_for(self, seconds: float) -> float:
        """Send requests from several phones concurrently for this many seconds; return events per second."""
        began = time.monotonic()

        def one(_: int) -> None:
            while time.monotonic() - began < seconds:
                self.post()

        with ThreadPoolExecutor(PHONES) as phones:
            list(phones.map(one, range(PHONES)))
        return len(self.keys) * self._size / (time.monotonic() - began)


def await_true(probe: Callable[[], bool], what: str, every: float) -> float:
    """Poll until `probe` returns True; return the time.monotonic() of that moment."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not probe():
        assert time.monotonic() < deadline, f"{what} did not appear within {TIMEOUT_SECONDS} s"
        time.sleep(every)
    return time.monotonic()


class World:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.outputs = stack.outputs()
        self._dynamodb = self.outputs.aws("dynamodb")

    def visited(self, device: str) -> bool:
        return any(read_stores.device_stays(self._dynamodb, self.outputs.visits_table, device))

    def rows(self, warehouse: Snowflake, keys: list[str]) -> int:
        return sum(1 for _ in read_stores.loaded_event_ids(warehouse, self.outputs.database, keys))

    def function_lines(self, start: datetime) -> list[Row]:
        end = datetime.now(UTC) + timedelta(seconds=5)
        found = log_lines(self.outputs, "local", "ingest", logs.EVENTS_INGESTED, start=start, end=end)
        return [line for _, line in found]


def at_once(world: World, size: int) -> Figures:
    """Measure the throughput of several phones, and the CPU time that each component uses until all rows and the
    visits of the last devices exist.
    """
    phones = Phones(world.outputs, size)
    start, before, client = datetime.now(UTC), cpu_seconds(world.stack.processes), time.process_time()
    progress(f"sending from {PHONES} phones for {SENDING_SECONDS:.0f} s, {size} events per request")
    rate = phones.post_for(SENDING_SECONDS)
    client = time.process_time() - client
    events = len(phones.keys) * size
    with world.outputs.warehouse() as warehouse:
        await_true(lambda: world.rows(warehouse, phones.keys) >= events, "all rows", 0.5)
    await_true(
        lambda: all(world.visited(device) for device in phones.devices[-LAST_DEVICES:]), "all visits", 0.5
    )
    after = cpu_seconds(world.stack.processes)
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    lines = [line for line in world.function_lines(start) if line.get("object_key") in set(phones.keys)]
    own = [line["total_ms"] - line["store_ms"] - line["publish_ms"] for line in lines]
    found = Figures(
        rates={
            f"e2e/events_per_s@{size}": rate,
            f"e2e/request_ms@{size}": statistics.median(phones.seconds) * 1e3,
            f"e2e/function_ms@{size}": statistics.median(line["total_ms"] for line in lines),
            f"e2e/own_ms@{size}": statistics.median(own),
        }
    )
    for name, seconds in spent.items():
        found.rates[f"e2e/cpu_ms_per_event {name}@{size}"] = seconds / events * 1e3
    found.rates[f"e2e/cpu_ms_per_event phones@{size}"] = client / events * 1e3
    ours = sum(seconds for name, seconds in spent.items() if name.endswith("function"))
    found.ratios[f"e2e/cpu of functions@{size}"] = ours / sum(spent.values())
    return found


def one_by_one(world: World, size: int) -> Figures:
    """Measure the seconds from one request until its visit and its rows exist, on an idle stack."""
    phones = Phones(world.outputs, size)
    waits: dict[str, list[float]] = {"visit": [], "row": []}
    progress(f"sending {SINGLE_POSTS} single requests of {size} events")
    with world.outputs.warehouse() as warehouse, ThreadPoolExecutor(2) as watchers:

        def is_loaded(key: str) -> bool:
            return world.rows(warehouse, [key]) == size

        for _ in range(SINGLE_POSTS):
            began = time.monotonic()
            key, device = phones.post()
            probes: dict[str, Callable[[], bool]] = {
                "visit": partial(world.visited, device),
                "row": partial(is_loaded, key),
            }
            found = {name: watchers.submit(await_true, probe, name, 0.05) for name, probe in probes.items()}
            for name, future in found.items():
                waits[name].append(future.result() - began)
    return Figures(
        rates={
            f"e2e/post_to_{name}_s {point}@{size}": value
            for name, each in waits.items()
            for point, value in (("p50", statistics.median(each)), ("max", max(each)))
        }
    )


def loader_and_gets(world: World) -> Figures:
    """Measure how fast the local pipe loads a backlog from LocalStack, and how fast LocalStack serves GETs of
    the same objects.
    """
    progress(f"reading a backlog of {BACKLOG} objects from LocalStack, then loading it")
    s3, bucket, database = world.outputs.aws("s3"), world.outputs.bucket, world.outputs.database
    run = uuid4().hex
    lines = [[b'{"_id":"%b-%d-%d"}' % (run.encode(), n, k) for k in range(20)] for n in range(BACKLOG)]
    objects = [lines_object("events", some, datetime.now(UTC)) for some in lines]
    with world.outputs.warehouse() as warehouse, ThreadPoolExecutor(PHONES) as readers:
        warehouse.query(f"ALTER PIPE {database}.RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE", ())
        list(readers.map(lambda o: s3.put_object(Bucket=bucket, Key=o.key, Body=o.body), objects))
        began = time.monotonic()
        list(readers.map(lambda o: s3.get_object(Bucket=bucket, Key=o.key)["Body"].read(), objects))
        gets = BACKLOG / (time.monotonic() - began)
        began = time.monotonic()
        warehouse.query(f"ALTER PIPE {database}.RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = FALSE", ())
        keys = [o.key for o in objects]
        await_true(lambda: world.rows(warehouse, keys) >= 20 * BACKLOG, "all rows of the backlog", 0.2)
        loads = BACKLOG / (time.monotonic() - began)
    return Figures(
        ratios={"loader/localstack_gets": loads / gets},
        rates={"loader/objects_per_s behind LocalStack": loads, "loader/localstack_gets_per_s": gets},
    )


def measure() -> Figures:
    found = Figures()
    with running() as stack:
        world = World(stack)
        Phones(world.outputs, 1).post_for(4)  # warm the functions up
        for size in SIZES:
            found.add(at_once(world, size))
            found.add(one_by_one(world, size))
        found.add(loader_and_gets(world))
    return found


if __name__ == "__main__":
    sys.exit(figures.main(measure, sys.argv[1:]))
