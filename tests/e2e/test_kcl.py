"""Test the consumer as a KCL worker on its own stream and table: killed workers, shared shards, and an orderly stop."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from consumer.visits import visits_of
from contract.event_rules import geofence_event
from contract.events import Fence
from ops import read_stores
from ops.stage_outputs import ROOT
from tests.e2e.pipeline import Event, Pipeline, eventually, round_trip
from tools.stack.start_kcl_worker import environment_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MORNING = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=8)

# With these settings, a worker processes its first record after twenty seconds instead of two minutes. They are not
# suitable for production.
IMPATIENT = {
    "shardSyncIntervalMillis": 1000,
    "parentShardPollIntervalMillis": 1000,
    "leaseAssignmentIntervalMillis": 1000,
    "workerMetricsReporterFreqInMillis": 1000,
    "inMemoryWorkerMetricsCaptureFrequencyMillis": 500,
    "failoverTimeMillis": 3000,
    "idleTimeBetweenReadsInMillis": 250,
    "maxRecords": 8,
}


ENDED_BY_SIGTERM = 143  # Java's exit code after SIGTERM


@dataclass
class Yard:
    """A stream with two shards, a table with the schema of the deployed visits table, and the workers that use them."""

    pipeline: Pipeline
    folder: Path
    stream: str
    table: str
    sent: list[Event] = field(default_factory=list)
    workers: list["Worker"] = field(default_factory=list)

    def put(self, events: Sequence[Event]) -> None:
        records = [{"Data": json.dumps(e).encode(), "PartitionKey": e["user"]["deviceId"]} for e in events]
        answer = self.pipeline.aws("kinesis").put_records(StreamName=self.stream, Records=records)
        assert answer["FailedRecordCount"] == 0
        self.sent += events

    def worker(self, application: str) -> "Worker":
        folder = self.folder / f"worker-{len(self.workers)}"
        environment = {
            **environment_for(self.pipeline.outputs, "local", os.environ),
            "STREAM_NAME": self.stream,
            "VISITS_TABLE": self.table,
            "KCL_APPLICATION_NAME": application,
            "KCL_STATE_FOLDER": str(folder),
            "KCL_PROPERTIES": json.dumps(IMPATIENT),
        }
        worker = Worker(folder, environment)
        self.workers.append(worker)
        return worker

    def leases(self, application: str) -> dict[str, dict[str, object]]:
        dynamodb = self.pipeline.aws("dynamodb")
        try:
            found = dynamodb.scan(TableName=application)["Items"]
        except dynamodb.exceptions.ResourceNotFoundException:
            return {}
        return {
            item["leaseKey"]["S"]: {name: next(iter(value.values())) for name, value in item.items()}
            for item in found
        }

    def forget_leader(self, application: str) -> None:
        """Delete the leader's entry, as the KCL does two minutes after the leading worker has died."""
        key = {"key": {"S": "Leader"}}
        self.pipeline.aws("dynamodb").delete_item(TableName=f"{application}-CoordinatorState", Key=key)

    def all_is_there(self) -> bool:
        expected: dict[str, list[tuple[object, ...]]] = {}
        for pair, history in visits_of(geofence_event(json.dumps(e).encode()) for e in self.sent).items():
            expected.setdefault(pair.device_id, []).extend(
                (v.entered_event_id, v.exited_event_id) for v in history.visits
            )
        dynamodb = self.pipeline.aws("dynamodb")
        found = {
            device: [
                (s.entered_event_id, s.exited_event_id)
                for s in read_stores.device_stays(dynamodb, self.table, device)
            ]
            for device in expected
        }
        return {d: sorted(v, key=str) for d, v in found.items()} == {
            d: sorted(v, key=str) for d, v in expected.items()
        }


class Worker:
    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        self._log, self._environment = folder / "log", environment
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kcl.worker"], cwd=ROOT, env=environment, stderr=log
            )

    def batches(self) -> list[dict[str, object]]:
        """Return the `records_consumed` log lines that the worker has written so far, one per batch."""
        lines = self._log.read_text().splitlines(keepends=True)
        ours = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [line for line in ours if line["event"] == "records_consumed"]

    def consumed(self) -> int:
        return sum(line["consumed"] for line in self.batches())

    def is_healthy(self) -> bool:
        asked = [sys.executable, "-m", "kcl.worker", "--health"]
        asking = subprocess.run(asked, check=False, cwd=ROOT, env=self._environment, capture_output=True)
        return asking.returncode == 0

    def tree(self) -> list[int]:
        """Return the process ids of the worker and of its descendants, which process the shards."""
        found, parents = [], [self.process.pid]
        while parents:
            found += parents
            listed = ",".join(map(str, parents))
            ps = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", listed], check=False, capture_output=True, text=True
            )
            parents = [int(pid) for pid in ps.stdout.split()]
        return found

    def kill(self) -> None:
        """Kill the worker and its descendant processes with SIGKILL, as if their host had failed."""
        tree = self.tree()
        for pid in (*tree[1:], tree[0]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def ask_to_end(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=60)


@pytest.fixture
def yard(pipeline: Pipeline, tmp_path: Path) -> Iterator[Yard]:
    name = f"kcl-{uuid4().hex[:8]}"
    kinesis, dynamodb = pipeline.aws("kinesis"), pipeline.aws("dynamodb")
    kinesis.create_stream(StreamName=name, ShardCount=2)
    kinesis.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
    deployed = dynamodb.describe_table(TableName=pipeline.outputs.visits_table)["Table"]
    dynamodb.create_table(
        TableName=f"{name}-visits",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=deployed["KeySchema"],
        AttributeDefinitions=deployed["AttributeDefinitions"],
        GlobalSecondaryIndexes=[
            {key: index[key] for key in ("IndexName", "KeySchema", "Projection")}
            for index in deployed["GlobalSecondaryIndexes"]
        ],
    )
    found = Yard(pipeline, tmp_path, name, f"{name}-visits")
    try:
        yield found
    finally:
        for worker in found.workers:
            if worker.process.poll() is None:
                worker.kill()
        kinesis.delete_stream(StreamName=name)
        dynamodb.delete_table(TableName=f"{name}-visits")


def rounds(device: str, trucks: int = 6, farms: int = 6) -> Iterator[Event]:
    fences = [Fence("farm", f"farm-{n}") for n in range(farms)]
    for truck in range(trucks):
        yield from round_trip(f"{device}-{truck}", fences, MORNING)


def test_killed_kcl_worker_loses_no_event(yard: Yard, device: str) -> None:
    yard.put(list(rounds(device, trucks=10, farms=10)))  # so many that the worker is killed before it is done
    first = yard.worker(yard.stream)
    eventually(lambda: first.consumed() > 0, within=150)
    first.kill()
    assert first.consumed() < len(yard.sent), "the worker had already consumed everything"
    assert not first.is_healthy()
    yard.put(list(rounds(f"{device}-later", trucks=2)))
    yard.forget_leader(yard.stream)
    second = yard.worker(yard.stream)
    assert eventually(yard.all_is_there, within=150, every=1)
    assert second.is_healthy()
    assert second.ask_to_end() == ENDED_BY_SIGTERM


def test_two_kcl_workers_share_the_shards_and_write_checkpoints_when_stopped(yard: Yard, device: str) -> None:
    application = f"{yard.stream}-shared"
    workers = [yard.worker(application), yard.worker(application)]

    def owners() -> set[str]:
        # The library distributes shards by their load. Without records, the first worker may keep both.
        yard.put(list(rounds(f"{device}-{len(yard.sent)}", trucks=2, farms=2)))
        return {lease["leaseOwner"] for lease in yard.leases(application).values() if "leaseOwner" in lease}

    assert eventually(lambda: len(owners()) == 2, within=180, every=2)
    yard.put(list(rounds(device)))
    assert eventually(yard.all_is_there, within=120, every=1)
    assert all(worker.consumed() > 0 for worker in workers), "a worker has consumed no record"
    trees = [worker.tree() for worker in workers]
    assert [worker.ask_to_end() for worker in workers] == [ENDED_BY_SIGTERM] * 2
    assert not any(Path(f"/proc/{pid}").exists() for tree in trees for pid in tree)
    last: dict[str, int] = {}  # a shard may have moved from one worker to the other
    for batch in (batch for worker in workers for batch in worker.batches()):
        shard, reached = batch["shard_id"], int(batch["last_sequence_number"])
        last[shard] = max(reached, last.get(shard, 0))
    assert {shard: int(lease["checkpoint"]) for shard, lease in yard.leases(application).items()} == last
