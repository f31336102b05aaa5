"""Snowpipe: receive notifications, find the pipes for each file, load the files, then delete the messages.

The order is a promise: a message is deleted only after the rows and history of its files are committed or, for a
pipe that cannot load now, the files are recorded as waiting. If the process is killed earlier, the
message is delivered again, and the history shows what was already loaded.
"""

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import botocore.exceptions
import duckdb
import structlog

from local_snowflake.catalog import Catalog
from local_snowflake.catalog_objects import PIPE_HISTORY, Pipe
from local_snowflake.channel import GONE, Channel, Channels, Message
from local_snowflake.delivery import Delivery
from local_snowflake.error_notifications import Notices
from local_snowflake.loader import MAX_FILES, Loader, StagedFile, StageRefused, StageUnreachable, in_batches
from local_snowflake.plans import NotRunnable, Plan
from local_snowflake.sql import hidden

log = structlog.get_logger()

RETRY_STALLED = timedelta(seconds=15)
LONGEST_PAUSE_SECONDS = 10.0


@dataclass
class Activity:
    """A pipe's activity since the process started, as SYSTEM$PIPE_STATUS shows it. It is stored only in
    memory, not in the catalog.
    """

    received: datetime | None = None
    forwarded: datetime | None = None
    pulled: datetime | None = None
    in_flight: int = 0
    stalled: NotRunnable | None = None
    stalled_on: datetime | None = None
    stalled_version: int = 0


class Ingest:
    def __init__(self, catalog: Catalog, loader: Loader, channels: Channels, delivery: Delivery) -> None:
        self.catalog = catalog
        self.loader = loader
        self.channels = channels
        self.delivery = delivery
        self.notices = Notices(catalog, channels.aws)
        self.activity: defaultdict[str, Activity] = defaultdict(Activity)
        self.problems: dict[str, str] = {}
        """Descriptions of the current problems. The key is the region whose queue cannot be reached, or `loading`."""
        self.fatal: str | None = None
        self.on_fatal: Callable[[], None] = lambda: None
        self._inbox: queue.Queue[Message] = queue.Queue(maxsize=2 * MAX_FILES)
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self._receiving: set[str] = set()
        self._pipes: tuple[int, list[Pipe]] = (-1, [])
        self._nothing_waits: set[tuple[str, datetime | None]] = set()
        self._pending = threading.RLock()
        """Held while a file's state changes from in flight to waiting, so that the file is counted exactly once."""

    # ---- life

    def start(self) -> None:
        for pipe in self.catalog.pipes("auto_ingest"):
            self.listen(self.channels.of_region(region_of(pipe) or self.channels.aws.region))
        self._start(self._load_for_ever, "load")

    def listen(self, channel: Channel) -> None:
        if channel.region not in self._receiving:
            self._receiving.add(channel.region)
            self._start(self._receive_for_ever, f"receive-{channel.region}", channel)

    def _start(self, target: Callable[..., None], name: str, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=5)

    # ---- receiving

    def _receive_for_ever(self, channel: Channel) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._subscribe(channel)
                for message in channel.receive(wait_seconds=1):
                    self._inbox.put(message)
                now = self.catalog.clock()
                for pipe in self.auto_pipes():
                    self.activity[pipe.pipe_id].pulled = now
                if failures:
                    log.info("queue_reachable_again", region=channel.region)
                failures = 0
                self.problems.pop(channel.region, None)
            except Exception as error:  # after any error, the next attempt may succeed
                if isinstance(error, botocore.exceptions.ClientError) and (
                    error.response["Error"]["Code"] in GONE
                ):
                    channel.forget()
                failures += 1
                self.problems[channel.region] = str(error)
                if failures == 1 or failures % 10 == 0:
                    log.warning("queue_unreachable", region=channel.region, tries=failures, reason=str(error))
                self._stopping.wait(min(0.5 * 2 ** min(failures, 5), LONGEST_PAUSE_SECONDS))

    def _subscribe(self, channel: Channel) -> None:
        for pipe in self.auto_pipes():
            if pipe.topic and region_of(pipe) == channel.region:
                channel.subscribe(pipe.topic)

    def auto_pipes(self) -> list[Pipe]:
        return [pipe for pipe in self.all_pipes() if pipe.auto_ingest]

    def all_pipes(self) -> list[Pipe]:
        version = self.catalog.version
        if self._pipes[0] != version:
            self._pipes = (version, self.catalog.pipes())
        return self._pipes[1]

    # ---- loading

    def _load_for_ever(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self.load_once(wait_seconds=0.2)
                self.load_waiting()
                self.notices.send()
                failures = 0
                self.problems.pop("loading", None)
            except Exception as error:
                # Only an unusable database ends the loading. Nothing is lost, because the queue delivers again each
                # message whose files were not committed.
                if isinstance(error, duckdb.FatalException) or "database has been invalidated" in str(error):
                    self.fatal = f"the database is unusable until the process is restarted: {error}"
                    log.error("database_unusable", reason=str(error))
                    self.on_fatal()
                    return
                failures += 1
                self.problems["loading"] = in_words(error)
                log.warning(
                    "loading_failed", tries=failures, reason=in_words(error), exc_info=is_a_bug(error)
                )
                self._stopping.wait(min(0.5 * 2 ** min(failures, 5), LONGEST_PAUSE_SECONDS))

    def load_once(self, wait_seconds: float) -> None:
        """Receive messages, load their files, and delete each message unless one of its files must be retried. Raises
        the first error that makes a retry necessary.
        """
        messages = self.delivery(self._take(wait_seconds))
        if not messages:
            return
        unhandled: set[int] = set()
        forwarded: dict[str, list[tuple[StagedFile, Message]]] = defaultdict(list)
        pipes = {pipe.pipe_id: pipe for pipe in self.auto_pipes()}
        now = self.catalog.clock()
        for message in messages:
            if message.problem:
                log.info("message_skipped", reason=message.problem)
            for created in message.created:
                targets = 0
                for pipe in pipes.values():
                    activity = self.activity[pipe.pipe_id]
                    activity.received = now
                    name = self._file_name(pipe, created.bucket, created.key)
                    if name is None:
                        continue
                    targets += 1
                    activity.forwarded = now
                    file = StagedFile(
                        created.bucket, created.key, name, created.size, created.event_time or now
                    )
                    forwarded[pipe.pipe_id].append((file, message))
                if not targets:
                    log.info(
                        "object_skipped",
                        reason="no pipe loads this object",
                        bucket=created.bucket,
                        key=created.key,
                    )
        problem: Exception | None = None
        for pipe_id, arrivals in forwarded.items():
            files = [file for file, _ in arrivals]
            try:
                unread, reason = self.load_files(pipes[pipe_id], files)
            except Exception as error:  # Still load the files of the other pipes.
                unread, reason = set(files), error
            problem = problem or reason
            unhandled |= {id(message) for file, message in arrivals if file in unread}
        self._delete([message for message in messages if id(message) not in unhandled])
        if problem:
            raise problem

    def _take(self, wait_seconds: float) -> list[Message]:
        messages: list[Message] = []
        try:
            messages.append(self._inbox.get(timeout=wait_seconds))
            while len(messages) < MAX_FILES:
                messages.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        return messages

    def _file_name(self, pipe: Pipe, bucket: str, key: str) -> str | None:
        try:
            location = self.loader.plan(pipe).location
        except NotRunnable:
            location = pipe.location  # stored at the creation of the pipe; its stage may have been dropped
        return location.file_name(bucket, key)

    def load_files(
        self, pipe: Pipe, files: Sequence[StagedFile], waiting: bool = False, draining: bool = False
    ) -> tuple[set[StagedFile], Exception | None]:
        """Load files through a pipe. Return the files that must be retried, and the error that makes the retry
        necessary. The error is None if the files only wait for the pipe, or if no file must be retried.

        `waiting` means that the files are already recorded as waiting. `draining` means that the files are loaded
        even if the pipe is paused.
        """
        files = list({file.file_name: file for file in files}.values())
        fresh = self._not_loaded(pipe, files)
        if len(fresh) < len(files):
            log.info("files_already_in_history", pipe=str(pipe.name), files=len(files) - len(fresh))
        # A waiting file is already counted by its row in _local_pending.
        in_flight = 0 if waiting else len(fresh)
        self._count_in_flight(pipe, in_flight)
        try:
            plan = self.runnable(pipe, draining)
            unread: set[StagedFile] = set()
            for batch in in_batches(fresh):
                read = self.loader.read(plan, batch)
                self.loader.load(plan, read.files)
                self.notices.about(plan, read.files)
                log.info(
                    "files_loaded",
                    pipe=str(pipe.name),
                    files=len(read.files),
                    rows=sum(file.loaded for file in read.files),
                    failed=sum(file.status == "Load failed" for file in read.files),
                )
                refused = [problem for _, problem in read.unread if isinstance(problem, StageRefused)]
                if refused:
                    reason = NotRunnable("STALLED_STAGE_PERMISSION_ERROR", str(refused[0]))
                    self.stall(pipe, reason)
                    raise reason
                if read.unread:
                    unread |= {file for file, _ in read.unread}
                    return unread | set(fresh[fresh.index(batch[-1]) + 1 :]), read.unread[0][1]
            return unread, None
        except (NotRunnable, duckdb.Error) as error:
            reason = self.reason_to_wait(pipe, error)
            if waiting:
                return set(fresh), None
            with self._pending:
                if left := self._not_loaded(pipe, fresh):
                    self.put_waiting(pipe, left)
                self._count_in_flight(pipe, -in_flight)
                in_flight = 0
            log.info("files_waiting", pipe=str(pipe.name), files=len(fresh), state=reason.state)
            return set(), None
        finally:
            self._count_in_flight(pipe, -in_flight)

    def _not_loaded(self, pipe: Pipe, files: Sequence[StagedFile]) -> list[StagedFile]:
        """Return the files that are not in the pipe's load history, because a notification may be delivered twice.
        If the pipe has no valid plan, for example because its stage was dropped, return all files.
        """
        loaded: set[str] = set()
        with suppress(NotRunnable):
            loaded = self.loader.loaded_by_pipe(self.loader.plan(pipe), [file.file_name for file in files])
        return [file for file in files if file.file_name not in loaded]

    def _count_in_flight(self, pipe: Pipe, files: int) -> None:
        with self._pending:
            self.activity[pipe.pipe_id].in_flight += files

    def pending(self, pipe: Pipe) -> tuple[int, datetime | None]:
        """Return the number of files that wait or are being loaded, each counted once, and the arrival time
        of the oldest waiting file.
        """
        with self._pending:
            waiting, oldest = self.waiting_since(pipe)
            return waiting + self.activity[pipe.pipe_id].in_flight, oldest

    def reason_to_wait(self, pipe: Pipe, error: NotRunnable | duckdb.Error) -> NotRunnable:
        """Return the reason why the pipe's files must wait. A transient error, such as a full disk, is raised again
        instead, so that the load is retried. Any other database error stalls the pipe.
        """
        if isinstance(error, NotRunnable):
            return error
        if isinstance(error, PASSING_ERRORS) or "Failed to commit" in str(error):
            raise error
        reason = NotRunnable("STALLED_EXECUTION_ERROR", str(error).splitlines()[0])
        self.stall(pipe, reason)
        return reason

    def runnable(self, pipe: Pipe, draining: bool = False) -> Plan:
        if pipe.paused_on and not draining:
            raise NotRunnable("PAUSED", "The pipe is paused.")
        activity = self.activity[pipe.pipe_id]
        if (
            activity.stalled
            and activity.stalled_on
            and activity.stalled_version == self.catalog.version
            and self.catalog.clock() - activity.stalled_on < RETRY_STALLED
        ):
            raise activity.stalled
        plan = self.loader.plan(pipe)
        activity.stalled = None
        return plan

    def stall(self, pipe: Pipe, reason: NotRunnable) -> None:
        activity = self.activity[pipe.pipe_id]
        activity.stalled, activity.stalled_on = reason, self.catalog.clock()
        activity.stalled_version = self.catalog.version

    def _delete(self, messages: Sequence[Message]) -> None:
        by_region: dict[str, list[Message]] = defaultdict(list)
        for message in messages:
            by_region[message.region].append(message)
        for region, of_region in by_region.items():
            self.channels.of_region(region).delete(of_region)

    # ---- files that wait for a paused or stopped pipe, or were added by REFRESH

    def put_waiting(self, pipe: Pipe, files: Sequence[StagedFile]) -> None:
        database = pipe.name.database
        self.catalog.create_histories(database)
        now = self.catalog.clock()
        with self.catalog.transaction() as cursor:
            cursor.executemany(
                f"INSERT INTO {hidden(database)}._local_pending VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    [pipe.pipe_id, file.bucket, file.key, file.file_name, file.size, now, file.received_on]
                    for file in files
                ],
            )
        self._nothing_waits = {look for look in self._nothing_waits if look[0] != pipe.pipe_id}

    def load_waiting(self) -> None:
        problem: Exception | None = None
        for pipe in self.all_pipes():
            look = (pipe.pipe_id, pipe.paused_on)
            if look in self._nothing_waits:
                continue
            self._nothing_waits.add(look)  # before reading the files, because REFRESH may add files meanwhile
            files = self._waiting_files(pipe)
            if not files:
                continue
            self._nothing_waits.discard(look)
            try:
                unread, reason = self.load_files(pipe, files, waiting=True, draining=True)
            except Exception as error:  # Still load the files of the other pipes.
                unread, reason = set(files), error
            problem = problem or reason
            done = [file.file_name for file in files if file not in unread]
            self.catalog.rows(
                f"""DELETE FROM {hidden(pipe.name.database)}._local_pending
                    WHERE pipe_id = ? AND file_name IN (SELECT unnest(?::VARCHAR[]))""",
                [pipe.pipe_id, done],
            )
        if problem:
            raise problem

    def waiting_since(self, pipe: Pipe) -> tuple[int, datetime | None]:
        self.catalog.create_histories(pipe.name.database)
        rows = self.catalog.rows(
            f"""SELECT count(DISTINCT file_name), min(received_on)
                FROM {hidden(pipe.name.database)}._local_pending WHERE pipe_id = ? AND created_on > ?""",
            [pipe.pipe_id, self.catalog.clock() - PIPE_HISTORY],
        )
        return rows[0][0], rows[0][1]

    def last_ingested(self, pipe: Pipe) -> tuple[str | None, datetime | None]:
        try:
            database = self.loader.plan(pipe).target.database
        except NotRunnable:
            return None, None
        self.catalog.create_histories(database)
        rows = self.catalog.rows(
            f"""SELECT file_name, last_load_time FROM {hidden(database)}._local_history
                WHERE pipe_id = ? AND status <> 'Load failed' ORDER BY last_load_time DESC LIMIT 1""",
            [pipe.pipe_id],
        )
        return rows[0] if rows else (None, None)

    def _waiting_files(self, pipe: Pipe) -> list[StagedFile]:
        """Return up to MAX_FILES waiting files that a pipe may load now. A paused pipe still loads files that were
        queued before the pause (Snowflake: "Manage Snowpipe").
        """
        self.catalog.create_histories(pipe.name.database)
        rows = self.catalog.rows(
            f"""SELECT DISTINCT bucket, key, file_name, file_size, received_on
                FROM {hidden(pipe.name.database)}._local_pending
                WHERE pipe_id = ? AND created_on > ? AND (?::TIMESTAMPTZ IS NULL OR created_on < ?)
                LIMIT {MAX_FILES}""",
            [pipe.pipe_id, self.catalog.clock() - PIPE_HISTORY, pipe.paused_on, pipe.paused_on],
        )
        return [StagedFile(*row) for row in rows]


PASSING_ERRORS = (
    duckdb.IOException,
    duckdb.TransactionException,
    duckdb.SerializationException,
    duckdb.FatalException,
    duckdb.ConnectionException,
)


def is_a_bug(error: Exception) -> bool:
    known = (
        StageUnreachable,
        OSError,
        duckdb.Error,
        botocore.exceptions.ClientError,
        botocore.exceptions.BotoCoreError,
    )
    return not isinstance(error, known)


def in_words(error: Exception) -> str:
    text = str(error)[:500]
    if "No space left on device" in text or "File too large" in text:
        return f"the disk is full. Free some space; loading then continues automatically ({text})."
    return text


def region_of(pipe: Pipe) -> str | None:
    return pipe.topic.split(":")[3] if pipe.topic else None
