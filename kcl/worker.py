"""The consumer as a Kinesis Client Library worker: `python -m kcl.worker`, on any machine with Java.

Without arguments, the process writes the library's properties file and replaces itself with the library's Java daemon.
The daemon starts this module again with `--shard` for each shard whose lease it has. `--health` exits with 0 if the
worker is healthy. Facts about the library (from the README of amazon_kclpy, confirmed by experiment):

- If `process_records` raises an exception, its batch is lost silently. Therefore a failed batch is retried, and after
  KCL_GIVE_UP_SECONDS without progress the process ends without a further checkpoint. Then the daemon ends too, and its
  supervisor restarts it from the last checkpoint.
- The daemon talks to a shard process over its stdin and stdout, so the process logs to stderr.
- The daemon also reads the AWS endpoints from environment variables (AWS SDK for Java 2.x: "Configuring client
  endpoints").
- The end of a shard must be checkpointed, otherwise its child shards are not read. After losing a shard's lease, the
  process must not checkpoint.
- After SIGTERM, the daemon lets every shard process checkpoint before ending it.
"""

import json
import os
import random
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, NoReturn

import msgspec
import structlog

from aws.access import Access
from aws.retry import jitter
from consumer.aws_clients import ports_of
from consumer.batch_log import report
from consumer.consume import Outcome, consume
from consumer.records import Record
from consumer.settings import Settings
from contract import logs
from contract.metrics import with_metrics
from contract.settings import Name

if TYPE_CHECKING:  # amazon_kclpy is installed only where a worker runs
    from amazon_kclpy import messages
    from amazon_kclpy.kcl import Checkpointer

DAEMON = "software.amazon.kinesis.multilang.MultiLangDaemon"
CHECKPOINT_TRIES = 5
MAX_PAUSE_SECONDS = 10.0
PROPERTIES = "kcl.properties"
LOGBACK = Path(__file__).with_name("logback.xml")

type Seconds = Annotated[float, msgspec.Meta(gt=0)]

log = structlog.get_logger()


class KclSettings(Settings, frozen=True, kw_only=True, rename="upper"):
    json_variables = ("GEOFENCE_KINDS", "KCL_PROPERTIES")

    stream_name: Name
    aws_region: Name
    kcl_application_name: str = ""  # also the name of the lease table
    kcl_give_up_seconds: Seconds = 300
    kcl_grace_seconds: Seconds = 20
    kcl_stale_seconds: Seconds = 120
    kcl_state_folder: str = f"{tempfile.gettempdir()}/milkrun-kcl"
    # KCL properties as a JSON object, such as {"maxRecords": 500}; they override the defaults of this module.
    kcl_properties: Mapping[str, str | int] = {}

    @property
    def properties(self) -> dict[str, str | int]:
        """Return the content of the library's properties file."""
        return {
            # The name, not the path, because the daemon splits this at spaces. Python's folder is first in PATH.
            "executableName": f"{Path(sys.executable).name} -m kcl.worker --shard",
            "streamName": self.stream_name,
            "applicationName": self.kcl_application_name or f"milkrun-{self.stage}-consumer",
            "workerId": f"{socket.gethostname()}-{os.getpid()}-{random.randrange(16**8):08x}",
            "AwsCredentialsProvider": "DefaultCredentialsProvider",
            "processingLanguage": "python/3.13",
            "initialPositionInStream": "TRIM_HORIZON",
            "regionName": self.aws_region,
            "metricsLevel": "NONE",
            "retrievalMode": "POLLING",  # fan-out costs extra per consumer and shard
            "maxRecords": 500,
            "callProcessRecordsEvenForEmptyRecordList": "true",  # shows that an idle shard is alive
            # Without this property, no process can checkpoint at shutdown.
            "shutdownGraceMillis": int(self.kcl_grace_seconds * 1000),
            **self.kcl_properties,
        }


@dataclass
class ShardProcessor:
    """Processes one shard. The library calls its methods, each of which passes the shard's id and state to `alive`.

    To give up, a method raises SystemExit, the only exception that makes the library end the process. The unfinished
    part of the batch is then not checkpointed and is delivered again.
    """

    version: ClassVar = 3

    consume: Callable[[Sequence[Record]], Outcome]
    stream: str
    give_up_seconds: float
    alive: Callable[[str, str], None] = lambda *_: None
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    shard_id: str = ""
    done: Record | None = None

    def initialize(self, initialization: "messages.InitializeInput") -> None:
        self.shard_id = initialization.shard_id
        logs.bind(shard_id=self.shard_id)
        log.info("shard_taken", after=initialization.sequence_number)
        self.alive(self.shard_id, "taken")

    def process_records(self, batch: "messages.ProcessRecordsInput") -> None:
        try:
            self.alive(self.shard_id, "running")
            self._until_done([self._record(delivered) for delivered in batch.records], batch.checkpointer)
        except Exception:
            log.exception("shard_failed")
            raise SystemExit(1) from None

    def lease_lost(self, _: "messages.LeaseLostInput") -> None:
        log.info("lease_lost")
        self.alive(self.shard_id, "gone")

    def shard_ended(self, end: "messages.ShardEndedInput") -> None:
        if not self._checkpoint(end.checkpointer, None):
            log.error("checkpoint_impossible", failure="the end of the shard was not checkpointed")
            raise SystemExit(1)
        log.info("shard_ended")
        self.alive(self.shard_id, "gone")

    def shutdown_requested(self, request: "messages.ShutdownRequestedInput") -> None:
        """Checkpoint the last finished record again, in case the earlier checkpoint failed."""
        if self.done:
            self._checkpoint(request.checkpointer, self.done)
        log.info("shutdown_requested", checkpoint=self.done and self.done.sequence_number)
        self.alive(self.shard_id, "gone")

    def _until_done(self, records: Sequence[Record], checkpointer: "Checkpointer") -> None:
        give_up_at = self.clock() + self.give_up_seconds
        tries = 0
        while records:
            stopped_at = self.consume(records).stopped_at
            done = [r for r in records if stopped_at is None or r.position < stopped_at.position]
            records = records[len(done) :]
            if done:
                self.done = done[-1]
                self._checkpoint(checkpointer, self.done)
                give_up_at, tries = self.clock() + self.give_up_seconds, 0
            if records:
                if self.clock() >= give_up_at:
                    log.error("shard_given_up", stopped_at=records[0].sequence_number)
                    raise SystemExit(1)
                self.alive(self.shard_id, "retrying")
                self.pause(jitter(min(MAX_PAUSE_SECONDS, 0.2 * 2**tries)))
                tries += 1

    def _checkpoint(self, checkpointer: "Checkpointer", record: Record | None) -> bool:
        """Checkpoint `record`, or the end of the shard if it is None. Returns False if every attempt failed.

        Also returns True if another worker has taken over the shard. Raises SystemExit after an InvalidStateException.
        """
        position = (record.sequence_number, record.sub_sequence_number) if record else (None, None)
        for attempt in range(CHECKPOINT_TRIES):
            try:
                checkpointer.checkpoint(*position)
                return True
            except Exception as error:
                # The value of amazon_kclpy's CheckpointError is the name of a Java class.
                name = str(getattr(error, "value", error))
            if name == "InvalidStateException":
                log.error("checkpoint_impossible", failure=name)
                raise SystemExit(1)
            log.warning("checkpoint_failed", failure=name)
            if name == "ShutdownException":  # because another worker has the shard
                return True
            self.pause(jitter(0.2 * 2**attempt))
        return False

    def _record(self, delivered: "messages.Record") -> Record:
        return Record(
            data=delivered.binary_data,
            partition_key=delivered.partition_key,
            sequence_number=delivered.sequence_number,
            sub_sequence_number=delivered.sub_sequence_number,
            shard_id=self.shard_id,
            stream=self.stream,
            arrived_at=datetime.fromtimestamp(delivered.timestamp_millis / 1000, UTC),
        )


def run_shard(settings: KclSettings) -> None:
    from amazon_kclpy.kcl import KCLProcess  # installed only where a worker runs

    # Signals to the process group are meant for the daemon. When the daemon ends, stdin closes, and this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    to_daemon, sys.stdout = sys.stdout, sys.stderr
    logs.configure(settings.log_level, with_metrics(settings.stage, settings.metrics))
    ports = ports_of(settings, Access.of_user(os.environ))

    def consume_and_report(records: Sequence[Record]) -> Outcome:
        outcome = consume(records, ports, kinds=settings.geofence_kinds)
        report(records, outcome)
        return outcome

    alive, give_up_seconds = Health(Path(settings.kcl_state_folder)).note, settings.kcl_give_up_seconds
    processor = ShardProcessor(consume_and_report, settings.stream_name, give_up_seconds, alive)
    KCLProcess(processor, output_file=to_daemon).run()


class Health:
    """The worker's health as files: one with its process id, and one per shard, written at each heartbeat."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self) -> None:
        """Delete an earlier worker's files, and store this worker's process id.

        Exits if another user could write to the folder, because the properties file in it names the program to run.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._folder.lstat()
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
            _exit(f"{self._folder} is a link or writable by others: set KCL_STATE_FOLDER to a private folder")
        for file in (self._folder / "worker", self._folder / PROPERTIES, *self._folder.glob("shard-*")):
            file.unlink(missing_ok=True)
        (self._folder / "worker").write_text(str(os.getpid()))

    def note(self, shard_id: str, state: str) -> None:
        file = self._folder / f"shard-{shard_id}"
        if state == "gone":
            file.unlink(missing_ok=True)
        else:
            file.write_text(state)

    def problems(self, stale_seconds: float) -> list[str]:
        """Return the worker's problems. Waiting for DynamoDB is not one, because a restart would not help."""
        try:
            os.kill(int((self._folder / "worker").read_text()), 0)
        except (OSError, ValueError):
            return ["no worker is running"]
        found = []
        for file in self._folder.glob("shard-*"):
            with suppress(FileNotFoundError):  # the worker lost this shard after the files were listed
                seconds = time.time() - file.stat().st_mtime
                if seconds > stale_seconds:
                    found.append(f"{file.name} has had no heartbeat for {seconds:.0f} s")
        return found


def become_daemon(settings: KclSettings, environment: Mapping[str, str]) -> None:
    """Replace this process with the library's daemon. Exits with 2 if Java or a private state folder is missing."""
    import amazon_kclpy  # installed only where a worker runs

    home = environment.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is None:
        _exit("Java 17 or newer is needed: install a JRE, or set JAVA_HOME")
    folder = Path(settings.kcl_state_folder)
    Health(folder).begin()
    properties = folder / PROPERTIES
    properties.touch(mode=0o600)  # kcl_properties may contain secrets
    properties.write_text("".join(f"{name} = {value}\n" for name, value in settings.properties.items()))
    jars = f"{Path(amazon_kclpy.__file__).parent}/jars/*"
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    # The library's jar has a logback.xml too, so ours is named on the command line.
    command = [java, f"-Dlogback.configurationFile={LOGBACK}", "-cp", jars, DAEMON]
    own = {"PATH": path, "AWS_DEFAULT_REGION": settings.aws_region}  # botocore does not read AWS_REGION
    os.execve(java, [*command, "--properties-file", str(properties)], {**environment, **own})


def _exit(problem: str) -> NoReturn:
    print(problem, file=sys.stderr)
    raise SystemExit(2)


def main(arguments: Sequence[str]) -> int:
    # Refuse other arguments, because a misspelt `--health` would start a second worker and disturb the health check.
    if list(arguments) not in ([], ["--health"], ["--shard"]):
        print("Usage: python -m kcl.worker [--health | --shard]", file=sys.stderr)
        return 2
    settings = KclSettings.of(os.environ)
    if "--health" in arguments:
        problems = Health(Path(settings.kcl_state_folder)).problems(settings.kcl_stale_seconds)
        print(json.dumps({"healthy": not problems, "problems": problems}, allow_nan=False))
        return 1 if problems else 0
    if "--shard" in arguments:
        run_shard(settings)
    else:
        become_daemon(settings, os.environ)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
