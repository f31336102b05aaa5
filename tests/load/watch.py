"""Sample the memory of every process of a stack and the length of every queue, every two seconds."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import urllib3

from contract import logs
from ops import redrive
from ops.stage_outputs import Outputs
from snowpipe.warehouse import Warehouse
from tools.stack.processes import Process, Processes, descendants, description, memory
from tools.stack.settings import Settings

EVERY_SECONDS = 2.0
KEEPERS = ("localstack", "kinesis mock")  # these keep all data in memory by design


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, taken `at` seconds after the start of the load. `memory` maps a process's name and id
    (`ingest 4711`) to its resident bytes; `buffered` is the size of DuckDB's buffers in the local Snowflake's memory.

    `queues` maps each queue to its length, and `behind_s` to the seconds by which the consumer lagged behind the
    stream at its last batch.
    """

    at: float
    memory: dict[str, int]
    queues: dict[str, float]
    buffered: int = 0


class Watch:
    """A context manager that takes a sample every two seconds and appends it to `samples`."""

    def __init__(self, settings: Settings, outputs: Outputs, began: float) -> None:
        self._processes = Processes(settings.run_folder, settings.log_folder)
        self._outputs, self._began = outputs, began
        self._logs = FunctionLogs(settings.lambda_log_folder)
        self._sqs, self._kinesis = outputs.aws("sqs"), outputs.aws("kinesis")
        shards = self._kinesis.list_shards(StreamName=outputs.stream)["Shards"]
        self._shards = [shard["ShardId"] for shard in shards]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.samples: list[Sample] = []
        self.fault: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def waiting(self) -> float:
        """Return the number of claim checks, files and records that waited in the redrive queue, the pipes and the
        stream at the last sample; 1 if there is no sample yet. Raises the error that stopped the sampling, if any.
        """
        if self.fault:
            raise self.fault
        if not self.samples:
            return 1
        return sum(self.samples[-1].queues[name] for name in ("redrive", "snowpipe", "stream"))

    def _run(self) -> None:
        try:
            with self._outputs.warehouse() as warehouse:
                while not self._over.wait(EVERY_SECONDS):
                    at = time.monotonic() - self._began
                    self.samples.append(Sample(at, self._memory(), self._queues(warehouse), self._buffered()))
        except Exception as error:
            self.fault = error

    def _memory(self) -> dict[str, int]:
        found = {}
        for top in self._processes.recorded():
            for process in [top, *descendants(top)]:
                if used := memory(process):
                    found[f"{name_of(top, process)} {process.pid}"] = used.rss_kib * 1024
        return found

    def _buffered(self) -> int:
        health = f"http://127.0.0.1:{self._outputs.snowflake.port}/health"
        return int(urllib3.request("GET", health, timeout=10).json()["buffered_bytes"])

    def _queues(self, warehouse: Warehouse) -> dict[str, float]:
        self._logs.read()
        return {
            "redrive": redrive.waiting(self._sqs, self._outputs.redrive_queue_url),
            "dead letters": redrive.waiting(self._sqs, self._outputs.dead_letter_queue_url),
            "snowpipe": sum(self._pending(warehouse, pipe) for pipe in ("EVENTS_PIPE", "REJECTED_PIPE")),
            "stream": sum(self._unread(shard) for shard in self._shards),
            "behind_s": self._logs.behind_seconds,
        }

    def _unread(self, shard: str) -> int:
        """Return the number of records in a shard after the last record consumed."""
        after = self._logs.consumed_up_to.get(shard)
        request = {"StreamName": self._outputs.stream, "ShardId": shard}
        if after:
            request |= {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": after}
        else:
            request |= {"ShardIteratorType": "TRIM_HORIZON"}
        iterator = self._kinesis.get_shard_iterator(**request)["ShardIterator"]
        return len(self._kinesis.get_records(ShardIterator=iterator)["Records"])

    def _pending(self, warehouse: Warehouse, pipe: str) -> int:
        name = f"{self._outputs.database}.RAW.{pipe}"
        [row] = warehouse.query(f"SELECT SYSTEM$PIPE_STATUS('{name}') AS status")
        return int(json.loads(row["status"]).get("pendingFileCount", 0))


def name_of(top: Process, process: Process) -> str:
    text = description(process)
    if text.startswith("milkrun-"):
        return text.rpartition("-")[2]
    return "kinesis mock" if "kinesis-local" in text or text.startswith("node ") else top.name


class FunctionLogs:
    """The consumer's progress, read from its canonical log lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.consumed_up_to: dict[str, str] = {}
        self.behind_seconds = 0.0

    def read(self) -> None:
        for path in self._folder.glob("*.log"):
            for line in self._lines(path):
                if line.get("event") == logs.RECORDS_CONSUMED and "shard_id" in line:
                    self.consumed_up_to[line["shard_id"]] = line["last_sequence_number"]
                    self.behind_seconds = float(line["behind_seconds"])

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break  # this line is still being written
                self._read[path] = self._read.get(path, 0) + len(line)
                with suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict):
                        yield found
