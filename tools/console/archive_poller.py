"""Find new objects in the archive by listing it or by receiving notifications, and read the objects."""

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from contract.archive_object import ObjectName, object_name
from snowpipe.archive import Archive
from tools.console import parse_object
from tools.console.change_queue import ChangeQueue, Notice, Stored
from tools.console.polling import LONGEST_PAUSE_S, SPARING, Poller, Shared


class ArchivePoller(Poller):
    """A poller that lists the archive and reads new objects."""

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
        self._listed_to = datetime.now(UTC)
        self._listing_took = 0.0
        self._is_seeded = False
        self._must_list = threading.Event()
        self.is_live = False

    @property
    def _archive(self) -> Archive:
        return Archive(self.shared.aws("s3"), self.shared.outputs.bucket)

    def stored(self, key: str, at: datetime) -> None:
        """Queue an object for reading, unless it is known or quarantined, or its key does not have Milkrun's format.

        Safe to call from any thread.
        """
        name = object_name(key)
        if name is None or name.prefix == "set-aside" or not self.shared.keys.add(name):
            return
        if name.prefix == "events":
            self.shared.tell(self.state.pipeline.archived, key, at.timestamp(), name.lines)
        with self._lock:
            self._pending.append((name, at))
            # If objects arrive too fast to be read, only add up the numbers of lines, which are part of their keys.
            skipped = [self._pending.popleft() for _ in range(len(self._pending) - self.MAX_PENDING)]
        for each, when in skipped:
            self._skip(each, when)
        self.wake()

    def list_now(self) -> None:
        """List the archive without waiting for the next regular time. Safe to call from any thread."""
        self._must_list.set()
        self.wake()

    def _skip(self, name: ObjectName, at: datetime) -> None:
        kind = "good" if name.prefix == "events" else "bad"
        self.shared.tell(self.state.skip, kind, name.lines, at.timestamp())

    def look(self) -> float:
        if not self._is_seeded:
            self._seed()
            self._is_seeded = True
        every = self.shared.pace.live_listing if self.is_live else self.shared.pace.listing
        every = max(every, min(SPARING * self._listing_took, LONGEST_PAUSE_S / 4))
        if self._must_list.is_set() or time.monotonic() - self._listed_at >= every:
            self._must_list.clear()
            self._list()
        self._read_pending()
        # Wait here and return 0. Otherwise, a notification after a slow read would not start the next read immediately.
        self.woken.wait(max(0.05, every - (time.monotonic() - self._listed_at)))
        return 0

    def _list(self) -> None:
        began = time.monotonic()
        now = datetime.now(UTC)
        # Objects of the previous hour can still arrive shortly after that hour has ended. The last listing may be
        # hours ago, because S3 was down or the computer was asleep.
        since = max(self._listed_to, now - timedelta(hours=self.SEED_HOURS)) - timedelta(minutes=5)
        for prefix in ("events/", "rejected/"):
            for found in self._archive.in_hours(prefix, since, now):
                self.stored(found.key, found.modified_at)
        self._listed_to = now
        self._listed_at = time.monotonic()
        self._listing_took = self._listed_at - began

    def _seed(self) -> None:
        """At startup, queue the latest SEED_OBJECTS objects for reading. The older objects found are not read; only
        the lines of those in `events/` are counted.
        """
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
                    self.state.pipeline.archived, each.key, each.modified_at.timestamp(), name.lines
                )
        for each in latest:
            self.stored(each.key, each.modified_at)

    def _read_pending(self) -> None:
        while not self.shared.over.is_set():
            # Remove the objects before reading them, because `stored` drops the oldest pending objects
            # when the queue is full.
            with self._lock:
                some = [self._pending.popleft() for _ in range(min(self.AT_ONCE, len(self._pending)))]
            if not some:
                return
            left = deque(some)
            try:
                for read in self._readers.map(self._read, some):
                    _, at = left.popleft()
                    if read is not None:
                        self.shared.tell(self.state.take, read, at.timestamp())
            finally:
                with self._lock:
                    self._pending.extendleft(reversed(left))

    def _read(self, each: tuple[ObjectName, datetime]) -> parse_object.Read | None:
        """Read an object and return its parsed lines; None if the object has been deleted."""
        name, at = each
        body = self._archive.body(name.key)
        return None if body is None else parse_object.read(name.key, body, at, self.shared.kinds())


class QueueListener(Poller):
    """A poller that receives notifications of new objects and changed visits from the console's own queue."""

    source = "live"
    always = True

    def __init__(self, shared: Shared, live: ChangeQueue, reader: ArchivePoller) -> None:
        super().__init__(shared)
        self.live = live
        self._reader = reader

    def look(self) -> float:
        if not self._reader.is_live:
            self.live.open()
            self._reader.is_live = True
            # No notification was sent for objects stored before the queue existed.
            self._reader.list_now()
        self._say("ok")
        for news in self.live.receive():
            match news:
                case Stored(key, at):
                    self._reader.stored(key, at)
                case Notice(kind, detail):
                    self.shared.tell(self.state.tell_visit, kind, detail)
        return 0

    def failed(self) -> None:
        self._reader.is_live = False
        self._reader.wake()
