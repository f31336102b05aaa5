"""The consumer as a Kinesis Client Library worker: `python -m consumer.kcl`, wherever a process may run.

Without arguments this is the worker: it writes the library's properties, starts its Java daemon and passes on
what that says. The daemon starts this module again with `--shard` for each shard it holds. `--health` exits 0
while all is well. What must hold (amazon_kclpy README; tried):

- An exception out of `process_records` loses its batch in silence: nothing is raised there. What fails now
  is tried again; when that has lasted too long the process ends without a checkpoint, the daemon with it, and
  whoever supervises the worker starts it anew from the last checkpoint.
- A shard process speaks with the daemon over stdout: it logs to stderr.
- A shard that ended must be checkpointed, or its children are not read; one whose lease is lost must not.
- SIGTERM reaches the daemon alone; it lets every shard process checkpoint before it ends them.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any

import structlog
from pydantic import BeforeValidator, Field
from pydantic_core import from_json

from aws.access import Access
from consumer.consume import Outcome, consume
from consumer.ports import ports_of
from consumer.records import Record
from consumer.report import report
from consumer.settings import Settings
from contract import logs
from contract.metrics import with_metrics

DAEMON = "software.amazon.kinesis.multilang.MultiLangDaemon"
CHECKPOINT_TRIES = 5
LONGEST_PAUSE_SECONDS = 10.0

log = structlog.get_logger()


class KclSettings(Settings):
    """What a worker needs besides. Properties are the library's own names and stand above ours."""

    stream_name: Annotated[str, Field(alias="STREAM_NAME", min_length=1)]
    application_name: Annotated[
        str, Field(alias="KCL_APPLICATION_NAME", description="also the name of the lease table")
    ] = ""
    region: Annotated[str, Field(alias="AWS_REGION", min_length=1)]
    give_up_seconds: Annotated[float, Field(alias="KCL_GIVE_UP_SECONDS", gt=0)] = 300
    grace_seconds: Annotated[float, Field(alias="KCL_GRACE_SECONDS", gt=0)] = 20
    stale_seconds: Annotated[float, Field(alias="KCL_STALE_SECONDS", gt=0)] = 120
    state_folder: Annotated[Path, Field(alias="KCL_STATE_FOLDER")] = (
        Path(tempfile.gettempdir()) / "milkrun-kcl"
    )
    kinesis_endpoint: Annotated[str, Field(alias="AWS_ENDPOINT_URL_KINESIS")] = ""
    dynamodb_endpoint: Annotated[str, Field(alias="AWS_ENDPOINT_URL_DYNAMODB")] = ""
    any_endpoint: Annotated[str, Field(alias="AWS_ENDPOINT_URL")] = ""
    more_properties: Annotated[
        Mapping[str, str | int],
        Field(alias="KCL_PROPERTIES", description='JSON, {"maxRecords": 500, …}'),
        BeforeValidator(lambda text: from_json(text) if isinstance(text, str) and text else {}),
    ] = {}

    @property
    def properties(self) -> dict[str, str | int]:
        """The library's properties file."""
        ours: dict[str, str | int] = {
            # Split at blanks by the daemon, so no path may stand here: the worker puts ours first in PATH.
            "executableName": f"{Path(sys.executable).name} -m consumer.kcl --shard",
            "streamName": self.stream_name,
            "applicationName": self.application_name or f"milkrun-{self.stage}-consumer",
            "workerId": f"{socket.gethostname()}-{os.getpid()}-{random.randrange(16**8):08x}",
            "AwsCredentialsProvider": "DefaultCredentialsProvider",
            "processingLanguage": "python/3.13",
            "initialPositionInStream": "TRIM_HORIZON",
            "regionName": self.region,
            "metricsLevel": "NONE",
            "retrievalMode": "POLLING",  # fan-out costs extra for each consumer and shard
            "maxRecords": 500,
            "callProcessRecordsEvenForEmptyRecordList": "true",  # the sign of life of an idle shard
            "shutdownGraceMillis": int(self.grace_seconds * 1000),  # without it nobody gets to checkpoint
        }
        endpoints = {
            "kinesisEndpoint": self.kinesis_endpoint or self.any_endpoint,
            "dynamoDBEndpoint": self.dynamodb_endpoint or self.any_endpoint,
        }
        return {**ours, **{name: url for name, url in endpoints.items() if url}, **self.more_properties}


# --- one shard -----------------------------------------------------------------------------------------


class GaveUp(SystemExit):
    """The library lets this one exception end the process; the batch is not checkpointed and comes again."""


class ShardProcessor:
    """What the library calls for one shard. `consume` does one batch, `alive` hears every sign of life."""

    version = 3

    def __init__(
        self,
        consume: Callable[[Sequence[Record]], Outcome],
        *,
        stream: str,
        give_up_seconds: float,
        alive: Callable[[str, str], None] = lambda *_: None,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consume = consume
        self._stream = stream
        self._give_up_seconds = give_up_seconds
        self._alive = alive
        self._pause = pause
        self._clock = clock
        self._shard_id = ""
        self._done: tuple[str, int] | None = None

    def initialize(self, initialization: Any) -> None:
        self._shard_id = initialization.shard_id
        logs.bind(shard_id=self._shard_id)
        log.info("shard_taken", after=initialization.sequence_number)
        self._alive(self._shard_id, "taken")

    def process_records(self, batch: Any) -> None:
        """Never raises but to end the process."""
        try:
            self._alive(self._shard_id, "running")
            self._until_done([self._record(delivered) for delivered in batch.records], batch.checkpointer)
        except Exception:
            log.exception("shard_failed")
            raise GaveUp(1) from None

    def lease_lost(self, _: Any) -> None:
        log.info("lease_lost")
        self._alive(self._shard_id, "gone")

    def shard_ended(self, end: Any) -> None:
        if not self._checkpoint(end.checkpointer, None, None):
            log.error("checkpoint_impossible", failure="at the end of the shard")
            raise GaveUp(1)
        log.info("shard_ended")
        self._alive(self._shard_id, "gone")

    def shutdown_requested(self, request: Any) -> None:
        """All that was delivered is done or was never checkpointed: say once more how far that is."""
        if self._done:
            self._checkpoint(request.checkpointer, *self._done)
        log.info("shutdown_requested", checkpoint=self._done and self._done[0])
        self._alive(self._shard_id, "gone")

    def _until_done(self, records: Sequence[Record], checkpointer: Any) -> None:
        give_up_at = self._clock() + self._give_up_seconds
        tries = 0
        while records:
            outcome = self._consume(records)
            stopped_at = outcome.stopped_at
            done = [r for r in records if stopped_at is None or r.position < stopped_at.position]
            records = records[len(done) :]
            if done:
                self._done = done[-1].sequence_number, done[-1].sub_sequence_number
                self._checkpoint(checkpointer, *self._done)
                give_up_at, tries = self._clock() + self._give_up_seconds, 0
            if records:
                if self._clock() >= give_up_at:
                    log.error("shard_given_up", stopped_at=records[0].sequence_number)
                    raise GaveUp(1)
                self._alive(self._shard_id, "retrying")
                self._pause(random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.2 * 2**tries)))
                tries += 1

    def _checkpoint(
        self, checkpointer: Any, sequence_number: str | None, sub_sequence_number: int | None
    ) -> bool:
        """False if it failed again and again: that costs repetition, never a loss, but at the end of a shard.

        True if another worker has the shard too. Only a broken daemon ends the process.
        """
        for attempt in range(CHECKPOINT_TRIES):
            try:
                checkpointer.checkpoint(sequence_number, sub_sequence_number)
            except (
                Exception
            ) as error:  # amazon_kclpy's CheckpointError: its value is the name of a Java class
                name = str(getattr(error, "value", error))
                if name == "InvalidStateException":
                    log.error("checkpoint_impossible", failure=name)
                    raise GaveUp(1) from None
                log.warning("checkpoint_failed", failure=name)
                if name == "ShutdownException":  # another worker has the shard by now
                    return True
                self._pause(random.uniform(0, 0.2 * 2**attempt))
            else:
                return True
        return False

    def _record(self, delivered: Any) -> Record:
        return Record(
            data=delivered.binary_data,
            partition_key=delivered.partition_key,
            sequence_number=delivered.sequence_number,
            sub_sequence_number=delivered.sub_sequence_number,
            shard_id=self._shard_id,
            stream=self._stream,
            arrived_at=datetime.fromtimestamp(delivered.timestamp_millis / 1000, UTC),
        )


def run_shard(settings: KclSettings) -> int:
    from amazon_kclpy.kcl import KCLProcess  # not in the Lambda's zip

    # Ctrl-C and group signals are the worker's affair; without the daemon stdin ends, and so do we.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    to_daemon, sys.stdout = sys.stdout, sys.stderr
    logs.configure(settings.log_level, with_metrics(settings.stage))
    ports = ports_of(settings, Access.of_user(os.environ))

    def consume_and_report(records: Sequence[Record]) -> Outcome:
        outcome = consume(records, ports, kinds=settings.geofence_kinds)
        report(records, outcome)
        return outcome

    health = Health(settings.state_folder)
    processor = ShardProcessor(
        consume_and_report,
        stream=settings.stream_name,
        give_up_seconds=settings.give_up_seconds,
        alive=health.note,
    )
    KCLProcess(processor, output_file=to_daemon).run()
    return 0


# --- health --------------------------------------------------------------------------------------------


class Health:
    """Files that tell whoever asks: the worker's process id, and each shard's last sign of life."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for left_over in self._folder.glob("shard-*"):
            left_over.unlink()
        (self._folder / "worker").write_text(str(os.getpid()))

    def end(self) -> None:
        with suppress(FileNotFoundError):
            (self._folder / "worker").unlink()

    def note(self, shard_id: str, state: str) -> None:
        file = self._folder / f"shard-{shard_id}"
        if state == "gone":
            file.unlink(missing_ok=True)
        else:
            file.write_text(state)

    def problems(self, stale_seconds: float) -> list[str]:
        """Empty while all is well. A shard that waits for DynamoDB is alive: a restart would not help it."""
        try:
            os.kill(int((self._folder / "worker").read_text()), 0)
        except (OSError, ValueError):
            return ["no worker is running"]
        now = time.time()
        return [
            f"{file.name} has given no sign of life for {now - file.stat().st_mtime:.0f} s"
            for file in self._folder.glob("shard-*")
            if now - file.stat().st_mtime > stale_seconds
        ]


# --- the worker ----------------------------------------------------------------------------------------

_LOGBACK = """<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><target>System.err</target>
    <encoder><pattern>%d{ISO8601,UTC} %-5level %logger{0} %msg%n</pattern></encoder></appender>
  <statusListener class="ch.qos.logback.core.status.NopStatusListener"/>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"""
# The daemon passes on what a shard process writes to stderr twice: as it is, and as a message of its own.
_SAID_AGAIN = "Received error line from subprocess ["


class NoJavaError(Exception):
    """There is no Java to run the daemon with."""


def command(folder: Path) -> list[str]:
    import amazon_kclpy  # not in the Lambda's zip

    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is None:
        raise NoJavaError("Java 17 or newer is needed: install a JRE, or set JAVA_HOME")
    jars = Path(amazon_kclpy.__file__).parent / "jars" / "*"
    return [
        java,
        # Named, because the library's jar brings a logback.xml of its own.
        f"-Dlogback.configurationFile={folder / 'logback.xml'}",
        "-cp",
        str(jars),
        DAEMON,
        "--properties-file",
        str(folder / "kcl.properties"),
    ]


def run_worker(settings: KclSettings, environment: Mapping[str, str]) -> int:
    """Run the daemon until it ends or somebody asks to. Its exit code; 0 after a SIGTERM that it obeyed."""
    folder = settings.state_folder
    daemon_command = command(folder)
    health = Health(folder)
    health.begin()
    lines = (f"{name} = {value}" for name, value in settings.properties.items())
    (folder / "kcl.properties").write_text("\n".join([*lines, ""]))
    (folder / "logback.xml").write_text(_LOGBACK)
    python = str(Path(sys.executable).parent)
    # A session of its own: a signal to the group would kill the shard processes before they checkpoint.
    daemon = subprocess.Popen(
        daemon_command,
        env={
            **environment,
            "PATH": f"{python}{os.pathsep}{environment.get('PATH', '')}",
            "AWS_DEFAULT_REGION": settings.region,  # botocore does not read AWS_REGION
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_end_with_parent,  # noqa: PLW1509 - no thread of ours runs yet
    )
    with _signals_to(daemon, settings.grace_seconds) as was_asked:
        assert daemon.stdout is not None
        pass_on(daemon.stdout, sys.stdout, sys.stderr)
        code = daemon.wait()
    health.end()
    return 0 if was_asked.is_set() and code in (0, 143, -signal.SIGTERM) else code or 1


def pass_on(daemon: IO[str], out: IO[str], err: IO[str]) -> None:
    """Our own log lines, once each, to stdout; what the library itself says to stderr."""
    for line in daemon:
        if line.strip() and _SAID_AGAIN not in line:
            print(line.rstrip(), file=out if line.startswith("{") else err, flush=True)


@contextmanager
def _signals_to(daemon: subprocess.Popen[str], grace_seconds: float) -> Iterator[threading.Event]:
    """SIGTERM and SIGINT ask the daemon to end; if it has not by the end of its grace, it is killed."""
    was_asked = threading.Event()
    killer: list[threading.Timer] = []

    def ask(*_: object) -> None:
        if not was_asked.is_set():
            was_asked.set()
            daemon.terminate()
            killer.append(threading.Timer(grace_seconds + 10, daemon.kill))
            killer[0].start()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield was_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for timer in killer:
            timer.cancel()


def _end_with_parent() -> None:
    """In the daemon, before it becomes Java: a worker that is killed must not leave it behind (Linux)."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    settings = KclSettings.model_validate(os.environ)
    if "--health" in arguments:
        problems = Health(settings.state_folder).problems(settings.stale_seconds)
        print(json.dumps({"healthy": not problems, "problems": problems}, allow_nan=False))
        return 1 if problems else 0
    if "--shard" in arguments:
        return run_shard(settings)
    try:
        return run_worker(settings, os.environ)
    except NoJavaError as problem:
        print(problem, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
