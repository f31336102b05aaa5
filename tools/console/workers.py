"""Threads that ask the sources and tell the board. Each fails alone, says why, and tries again.

The board belongs to the event loop: a worker hands over what it read, parsed, and never touches it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec

from consumer import visit_diff
from contract import logs
from contract.objects import ObjectName, object_name
from ops import redrive, visits
from ops.outputs import Outputs
from ops.stores import utc
from snowpipe.archive import Archive
from snowpipe.refusal import MissingObject
from snowpipe.warehouse import Snowflake
from tools.console import feed, health
from tools.console.board import Board
from tools.console.live import Live, Notice, Stored
from tools.console.meters import WINDOW_S
from tools.console.replay import Kinds

# A source that took long is asked again after so many times as long: a page must not be a load.
SPARING = 10
LONGEST_PAUSE_S = 60.0
RETRY_S = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks. 0: only when somebody asks for it."""

    listing: float = 2.0
    live_listing: float = 30.0
    logs: float = 2.0
    visits: float = 3.0
    live_visits: float = 30.0
    queues: float = 5.0
    warehouse: float = 5.0
    reconcile: float = 300.0
    unwatched: float = 60.0
    # A statement of the warehouse that takes longer is given up: it may never be answered.
    give_up_after: int = 6


class Clients:
    """One client a service, made when first needed; made anew when credentials ran out."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}

    def __call__(self, service: str) -> Any:
        with self._lock:  # making clients is not safe in several threads
            if service not in self._made:
                self._made[service] = self._outputs.aws(service, attempts=2)
            return self._made[service]

    def renew(self) -> None:
        import boto3

        with self._lock:
            self._made.clear()
            boto3.DEFAULT_SESSION = None


class Session:
    """A session of the warehouse for one user at a time, opened when first needed."""

    def __init__(self, outputs: Outputs, give_up_after_s: int) -> None:
        self._outputs = outputs
        self._give_up_after_s = give_up_after_s
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._warehouse: Snowflake | None = None

    @contextmanager
    def __call__(self) -> Iterator[Snowflake]:
        with self._lock:
            try:
                if self._warehouse is None:
                    self._warehouse = self._open.enter_context(self._outputs.warehouse(self._give_up_after_s))
                yield self._warehouse
            except MissingObject:
                raise  # Snowflake understood the statement, so the session is as it was
            except Exception:
                self.close()
                raise

    def close(self) -> None:
        """Not waited for: what is broken says goodbye to nobody for as long as it may."""

        def close(session: ExitStack) -> None:
            with suppress(Exception):
                session.close()

        threading.Thread(target=close, args=(self._open.pop_all(),), daemon=True).start()
        self._warehouse = None


class Keys:
    """Which objects of the last hours are known; safe to ask from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hours: dict[datetime, set[int]] = {}

    def add(self, name: ObjectName) -> bool:
        """Whether it is new."""
        # 64 bits of a hash: a third of a million keys meet by chance once in a hundred million days.
        known = hash(name.key)
        with self._lock:
            hour = self._hours.setdefault(name.hour, set())
            if known in hour:
                return False
            hour.add(known)
            if len(self._hours) > 30:
                del self._hours[min(self._hours)]
            return True

    def __contains__(self, key: str) -> bool:
        name = object_name(key)
        with self._lock:
            return bool(name and hash(name.key) in self._hours.get(name.hour, ()))


@dataclass
class Shared:
    """What the workers have in common."""

    outputs: Outputs
    stage: str
    board: Board
    loop: asyncio.AbstractEventLoop
    aws: Clients
    pace: Pace
    keys: Keys
    kinds: Kinds
    over: threading.Event

    def tell(self, what: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the console ends
            self.loop.call_soon_threadsafe(what, *args)

    def ask[T](self, what: Callable[[], T]) -> T:
        """`what()` as the event loop answers it."""

        async def asked() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(10)


class Worker(threading.Thread):
    """`look` once, return how long to wait until the next one."""

    source = ""
    # Asked even while nobody looks at the page.
    always = False

    def __init__(self, shared: Shared) -> None:
        super().__init__(name=f"console-{type(self).__name__.lower()}", daemon=True)
        self.shared = shared
        self.board = shared.board
        self.woken = threading.Event()
        self._began = 0.0
        self._failures = 0

    def look(self) -> float:
        raise NotImplementedError

    def run(self) -> None:
        while not self.shared.over.is_set():
            if not self.always and not self.board.is_watched:
                self._say("idle")
                self._wait(self.shared.pace.unwatched)
                continue
            self._began = time.monotonic()
            try:
                pause = self.look()
                took = time.monotonic() - self._began
                self._failures = 0
                self._say("ok")
                self._wait(max(pause, min(SPARING * took, LONGEST_PAUSE_S) if pause else 0))
            except Exception as fault:  # whatever it is, it is this source's alone
                if self.shared.over.is_set():
                    return
                if health.is_about_credentials(fault):
                    self.shared.aws.renew()
                self._say("down", health.reason_of(fault))
                self.failed()
                self._wait(RETRY_S[min(self._failures, len(RETRY_S) - 1)])
                self._failures += 1

    def failed(self) -> None:
        """For whoever must begin anew."""

    def wake(self) -> None:
        self.woken.set()

    def _wait(self, seconds: float) -> None:
        self.woken.wait(seconds)
        self.woken.clear()

    def _say(self, state: health.State, reason: str | None = None) -> None:
        if self.source:
            self.shared.tell(self.board.sources.say, self.source, state, reason)


class Reader(Worker):
    """The archive: what is new in it by listing, and what stands in the new objects."""

    source = "archive"
    always = True
    SEED_OBJECTS = 600
    SEED_HOURS = 24
    MAX_PENDING = 2000
    AT_ONCE = 8

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._pending: deque[tuple[ObjectName, datetime]] = deque()
        self._lock = threading.Lock()
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="console-reader")
        self._listed_at = 0.0
        self._listing_took = 0.0
        self._is_seeded = False
        self.is_live = False

    @property
    def _archive(self) -> Archive:
        return Archive(self.shared.aws("s3"), self.shared.outputs.bucket)

    def stored(self, key: str, at: datetime) -> None:
        """From any thread: an object is there."""
        name = object_name(key)
        if name is None or name.prefix == "set-aside" or not self.shared.keys.add(name):
            return
        if name.prefix == "events":
            self.shared.tell(self.board.pipeline.archived, key, at.timestamp(), name.lines)
        with self._lock:
            self._pending.append((name, at))
            # Too thick to be read: counted by the number in the key, not shown.
            skipped = [self._pending.popleft() for _ in range(len(self._pending) - self.MAX_PENDING)]
        for each, when in skipped:
            self._skip(each, when)
        self.wake()

    def _skip(self, name: ObjectName, at: datetime) -> None:
        kind = "good" if name.prefix == "events" else "bad"
        self.shared.tell(self.board.skip, kind, name.lines, at.timestamp())

    def look(self) -> float:
        if not self._is_seeded:
            self._seed()
            self._is_seeded = True
        every = self.shared.pace.live_listing if self.is_live else self.shared.pace.listing
        every = max(every, min(SPARING * self._listing_took, LONGEST_PAUSE_S / 4))
        if time.monotonic() - self._listed_at >= every:
            self._list()
        self._read_pending()
        # 0: as soon as something is told, without regard to how long this took.
        self.woken.wait(max(0.05, every - (time.monotonic() - self._listed_at)))
        return 0

    def _list(self) -> None:
        began = time.monotonic()
        now = datetime.now(UTC)
        # Objects of the old hour still come when the new one has begun.
        for prefix in ("events/", "rejected/"):
            for found in self._archive.in_hours(prefix, now - timedelta(minutes=5), now):
                self.stored(found.key, found.modified_at)
        self._listed_at = time.monotonic()
        self._listing_took = self._listed_at - began

    def _seed(self) -> None:
        """The latest objects, as far back as it takes to have some; of the last hour all are counted."""
        now = datetime.now(UTC)
        found = []
        for hours in range(self.SEED_HOURS):
            hour = now - timedelta(hours=hours)
            for prefix in ("events/", "rejected/"):
                found += list(self._archive.in_hours(prefix, hour, hour))
            if hours >= 1 and len(found) >= self.SEED_OBJECTS:
                break
        found.sort(key=lambda each: each.modified_at)
        older, latest = found[: -self.SEED_OBJECTS], found[-self.SEED_OBJECTS :]
        for each in older:
            name = object_name(each.key)
            if name and name.prefix == "events" and self.shared.keys.add(name):
                self.shared.tell(
                    self.board.pipeline.archived, each.key, each.modified_at.timestamp(), name.lines
                )
        for each in latest:
            self.stored(each.key, each.modified_at)

    def _read_pending(self) -> None:
        while not self.shared.over.is_set():
            # Taken out first: `stored` drops the oldest of those that wait.
            with self._lock:
                some = [self._pending.popleft() for _ in range(min(self.AT_ONCE, len(self._pending)))]
            if not some:
                return
            left = deque(some)
            try:
                for read in self._readers.map(self._read, some):
                    _, at = left.popleft()
                    if read is not None:
                        self.shared.tell(self.board.take, read, at.timestamp())
            finally:
                with self._lock:
                    self._pending.extendleft(reversed(left))

    def _read(self, each: tuple[ObjectName, datetime]) -> feed.Read | None:
        """None for what is gone meanwhile."""
        name, at = each
        body = self._archive.body(name.key)
        return None if body is None else feed.read(name.key, body, at, self.shared.kinds())


class Listener(Worker):
    """The console's own queue."""

    source = "live"
    always = True

    def __init__(self, shared: Shared, live: Live, reader: Reader) -> None:
        super().__init__(shared)
        self.live = live
        self._reader = reader

    def look(self) -> float:
        if not self._reader.is_live:
            self.live.open()
            # What was stored until now nobody told of.
            self._reader.is_live = True
            self._reader.wake()
        self._say("ok")
        for news in self.live.receive():
            match news:
                case Stored(key, at):
                    self._reader.stored(key, at)
                case Notice(kind, detail):
                    self.shared.tell(self._tell, kind, detail)
        return 0

    def _tell(self, kind: str, detail: dict[str, Any]) -> None:
        # What is on the bus need not be ours.
        with suppress(LookupError, TypeError, ValueError):
            self.board.book.tell(kind, detail)

    def failed(self) -> None:
        self._reader.is_live = False
        self._reader.wake()


class LogReader(Worker):
    """The functions' canonical lines: what the dashboard's metrics are made of."""

    source = "logs"
    always = True
    NAMES: ClassVar = {
        "ingest": logs.EVENTS_INGESTED,
        "redrive": logs.RECORDS_REDRIVEN,
        "consume": logs.RECORDS_CONSUMED,
    }
    # Lines may be found this much later than their time.
    OVERLAP_S = 60.0
    MAX_LINES = 20_000

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._since = dict.fromkeys(self.NAMES, time.time() - WINDOW_S)
        self._seen: dict[str, dict[str, float]] = {function: {} for function in self.NAMES}

    def look(self) -> float:
        for function, name in self.NAMES.items():
            self._read(function, name)
        pace = self.shared.pace
        return pace.logs if self.board.is_watched else pace.unwatched

    def _read(self, function: str, name: str) -> None:
        client = self.shared.aws("logs")
        request: dict[str, Any] = {
            "logGroupName": f"/aws/lambda/milkrun-{self.shared.stage}-{function}",
            "startTime": int(self._since[function] * 1000),
            # What a function sets aside is told in a line of its own. LocalStack ignores the pattern.
            "filterPattern": f'{{ ($.event = "{name}") || ($.event = "{logs.RECORDS_SET_ASIDE}") }}',
        }
        newest, read, seen = self._since[function] + self.OVERLAP_S, 0, self._seen[function]
        while read < self.MAX_LINES:
            try:
                page = client.filter_log_events(**request)
            except client.exceptions.ResourceNotFoundException:
                return  # a function that has not run yet
            for found in page["events"]:
                at = found["timestamp"] / 1000
                read += 1
                if found["eventId"] in seen:
                    continue
                seen[found["eventId"]] = at
                newest = max(newest, at)
                with suppress(msgspec.MsgspecError):
                    line = msgspec.json.decode(found["message"])
                    if isinstance(line, dict):
                        self.shared.tell(self._logged, at, line)
            if "nextToken" not in page:
                break
            request["nextToken"] = page["nextToken"]
        else:
            self.shared.tell(setattr, self.board.pipeline, "partial", True)
        self._since[function] = since = newest - self.OVERLAP_S
        # Those that the next look will find again; times are whole milliseconds.
        self._seen[function] = {line: at for line, at in seen.items() if at > since - 0.002}

    def _logged(self, at: float, line: dict[str, Any]) -> None:
        self.board.pipeline.logged(at, line, self.shared.keys.__contains__)


class VisitReader(Worker):
    """The visits table: at first, and to mend what the bus did not tell; without the bus, all the time."""

    source = "visits"
    DEVICES_A_LOOK = 20
    MAX_DEVICES = 500
    SINCE = timedelta(hours=48)

    def __init__(self, shared: Shared, reader: Reader) -> None:
        super().__init__(shared)
        self._reader = reader
        self._asked: set[str] = set()
        self._missing: set[str] = set()
        self._scanned_at = 0.0

    def look(self) -> float:
        pace, board = self.shared.pace, self.board
        every = pace.live_visits if self._reader.is_live else pace.visits
        if time.monotonic() - self._scanned_at >= every:
            self._scan()
            self._scanned_at = time.monotonic()
        devices = self.shared.ask(board.fleet.devices)[: self.MAX_DEVICES]
        new = [device for device in devices if device not in self._asked][: self.DEVICES_A_LOOK]
        crossed = self.shared.ask(board.take_crossed)
        changed = [] if self._reader.is_live else crossed[: self.DEVICES_A_LOOK]
        for device in dict.fromkeys([*new, *changed]):
            self._asked.add(device)
            self.shared.tell(board.book.reread if device in changed else self._read, *self._of(device))
        return 0.2 if new else min(every, pace.visits)

    def _read(self, _: str, rows: list[visit_diff.Row]) -> None:
        self.board.book.read(rows, as_news=False)

    def _opened(self, rows: list[visit_diff.Row], as_news: bool) -> None:
        self.board.book.read(rows, as_news=as_news)

    def _of(self, device: str) -> tuple[str, list[visit_diff.Row]]:
        since = datetime.now(UTC) - self.SINCE
        table = self.shared.outputs.visits_table
        return device, visits.visits_of_device(self.shared.aws("dynamodb"), table, device, since)

    def _scan(self) -> None:
        rows = list(visits.there_now(self.shared.aws("dynamodb"), self.shared.outputs.visits_table))
        there = {(row["device_id"], row["entered_event_id"]) for row in rows}
        held = self.shared.ask(self.board.book.open_starts)
        missing = {start[0] for start in held if (start[0], start[3]) not in there}
        self.shared.tell(self._opened, rows, bool(self._asked))
        # An index follows its table a moment later: with the bus, only what is missing twice is asked for.
        doubtful = missing & self._missing if self._reader.is_live else missing
        for device in sorted(doubtful)[: self.DEVICES_A_LOOK]:
            self.shared.tell(self.board.book.reread, *self._of(device))
        self._missing = missing


class QueueReader(Worker):
    source = "queues"

    def look(self) -> float:
        sqs, outputs = self.shared.aws("sqs"), self.shared.outputs
        counts = [
            redrive.waiting(sqs, url) for url in (outputs.redrive_queue_url, outputs.dead_letter_queue_url)
        ]
        self.shared.tell(self.board.pipeline.queues, *counts)
        return self.shared.pace.queues


class WarehouseReader(Worker):
    """What is loaded and what is in the marts. Asked only while somebody looks: a warehouse costs money."""

    source = "snowflake"
    # Rows may appear this much later than the time that they bear.
    OVERLAP_S = 180.0

    def __init__(self, shared: Shared, session: Session) -> None:
        super().__init__(shared)
        self._session = session
        self._known_to: float | None = None

    def look(self) -> float:
        if not self.shared.pace.warehouse:
            self._wait(3600)
            return 0
        with self._session() as warehouse:
            # Not counted: to load the connector and sign in.
            self._began = time.monotonic()
            self.ask(warehouse)
        return self.shared.pace.warehouse

    def ask(self, warehouse: Snowflake) -> None:
        now, database, board = time.time(), self.shared.outputs.database, self.board
        since = max(now - WINDOW_S, (self._known_to or 0.0) - self.OVERLAP_S)
        first = datetime.fromtimestamp(int(since), UTC)
        loaded = warehouse.query(
            "SELECT DATE_TRUNC('second', scanned_at) AS at, COUNT(*) AS n,"
            f" MAX(file_modified_at) AS modified_at FROM {database}.RAW.EVENTS"
            " WHERE scanned_at >= %s::TIMESTAMP_TZ GROUP BY 1 ORDER BY 1",
            [first.isoformat()],
        )
        lag = (
            max(0.0, (utc(loaded[-1]["at"]) - utc(loaded[-1]["modified_at"])).total_seconds())
            if loaded
            else None
        )
        pipes = {name: self._pipe(warehouse, name) for name in ("EVENTS_PIPE", "REJECTED_PIPE")}
        self.shared.tell(self._loaded, _by_second(loaded), int(since), lag, pipes)
        try:
            staged = warehouse.query(
                "SELECT DATE_TRUNC('second', scanned_at) AS at, COUNT(*) AS n"
                f" FROM {database}.STAGING.STG_EVENTS WHERE scanned_at >= %s::TIMESTAMP_TZ GROUP BY 1",
                [datetime.fromtimestamp(int(now - WINDOW_S), UTC).isoformat()],
            )
        except MissingObject:
            self.shared.tell(setattr, board.pipeline, "marts_built", False)
        else:
            self.shared.tell(self._staged, _by_second(staged), int(now - WINDOW_S))
        self._known_to = now

    def _pipe(self, warehouse: Snowflake, name: str) -> dict[str, Any]:
        pipe = f"{self.shared.outputs.database}.RAW.{name}"
        [row] = warehouse.query(f"SELECT SYSTEM$PIPE_STATUS('{pipe}') AS status")
        status = msgspec.json.decode(row["status"])
        return {"state": status.get("executionState"), "pending_files": status.get("pendingFileCount", 0)}

    def _loaded(
        self, counts: dict[int, int], since: int, lag: float | None, pipes: dict[str, dict[str, Any]]
    ) -> None:
        meter = self.board.pipeline.meters["loaded"]
        meter.put(counts, since)
        meter.lag_s = lag if lag is not None else meter.lag_s
        self.board.pipeline.pipes = pipes

    def _staged(self, counts: dict[int, int], since: int) -> None:
        self.board.pipeline.marts_built = True
        self.board.pipeline.meters["marts"].put(counts, since)


class Reconciling(Worker):
    """The same comparison as `milkrun reconcile`, of the last two hours; one at a time."""

    HOURS = 2
    SETTLE_S = 60

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._asked = threading.Event()
        self._began_at: float | None = None

    def ask(self) -> bool:
        """Run now; False if it is running."""
        if self.board.pipeline.reconciled.state == "running":
            return False
        self.board.pipeline.reconciled.state = "running"
        self._asked.set()
        self.wake()
        return True

    def look(self) -> float:
        every = self.shared.pace.reconcile
        due = every and (self._began_at is None or time.monotonic() - self._began_at >= every)
        if not due and not self._asked.is_set():
            return every / 10 if every else 3600
        self._asked.clear()
        self._began_at = time.monotonic()
        self.shared.tell(setattr, self.board.pipeline.reconciled, "state", "running")
        try:
            result = self._compared()
        except Exception as fault:  # said where the result would stand; the sources speak for themselves
            result = {"state": "failed", "equal": None, "problem": health.reason_of(fault), "found": {}}
        self.shared.tell(self._done, result, time.monotonic() - self._began_at)
        return 0.1

    def _compared(self) -> dict[str, Any]:
        from ops.reconcile import MEANINGS, Reconciler

        to = datetime.now(UTC)
        start, settled_at = to - timedelta(hours=self.HOURS), to - timedelta(seconds=self.SETTLE_S)
        with self.shared.outputs.warehouse(max(60, self.shared.pace.give_up_after)) as warehouse:
            found = Reconciler(self.shared.outputs, self.shared.stage, warehouse).look(start, to, settled_at)
        crossings = found.crossings
        return {
            "state": "done",
            "equal": found.equal,
            "problem": None,
            "found": {
                "from": feed.written(start),
                "to": feed.written(to),
                "differences": [
                    {
                        "kind": each.kind,
                        "meaning": MEANINGS[each.kind],
                        "key": each.key,
                        "line": each.line,
                        "lines": each.lines,
                        "rows": each.rows,
                        "events": each.events[:20],
                    }
                    for each in found.differences[:100]
                ],
                "more": found.more + max(0, len(found.differences) - 100),
                "in_flight": found.in_flight,
                "geofence_events": {
                    "archived": crossings.archived,
                    "consumed": crossings.consumed,
                    "too_old": crossings.too_old,
                },
            },
        }

    def _done(self, result: dict[str, Any], seconds: float) -> None:
        reconciled = self.board.pipeline.reconciled
        problem = result["problem"]
        reconciled.state, reconciled.equal = result["state"], result["equal"]
        reconciled.problem = problem and self.board.sources.without_secrets(problem)
        reconciled.found = result["found"]
        reconciled.at, reconciled.seconds = self.board.now(), round(seconds, 1)


def _by_second(rows: list[dict[str, Any]]) -> dict[int, int]:
    return {int(utc(row["at"]).timestamp()): int(row["n"]) for row in rows}
