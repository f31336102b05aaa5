"""Code shared by all pollers: clients, known object keys, and the thread that reads a source repeatedly.

Only the event loop's thread changes the console's state, so a poller passes parsed values to the event loop.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cli.deadline import NoAnswerError
from consumer.visits import Rule
from contract.archive_object import ObjectName, object_name
from ops.stage_outputs import Outputs
from snowpipe.warehouse import MissingObject, Snowflake
from tools.console import source_states
from tools.console.replay import Kinds
from tools.console.state import ConsoleState
from tools.console.update_intervals import Pace

# After a slow read, a poller pauses for this multiple of the read's duration (at most LONGEST_PAUSE_S) to limit the
# load on its source.
SPARING = 10
LONGEST_PAUSE_S = 60.0
RETRY_S = (1.0, 2.0, 5.0, 10.0)


class Clients:
    """One boto3 client per AWS service, created on first use and again after the credentials have expired."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}

    def __call__(self, service: str) -> Any:
        with self._lock:  # creating clients is not thread-safe
            if service not in self._made:
                self._made[service] = self._outputs.aws(service, attempts=2)
            return self._made[service]

    def renew(self) -> None:
        import boto3

        with self._lock:
            self._made.clear()
            boto3.DEFAULT_SESSION = None


class Session:
    """A warehouse session, opened on first use and used by one thread at a time.

    If Snowflake does not respond, the threads that wait for their turn fail together with the current one. Otherwise
    they would wait one after another, each until its own deadline.
    """

    def __init__(self, outputs: Outputs, give_up_after_s: int) -> None:
        self._outputs = outputs
        self._give_up_after_s = give_up_after_s
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._warehouse: Snowflake | None = None
        self._silent_at = 0.0
        self._silence = ""

    @contextmanager
    def __call__(self) -> Iterator[Snowflake]:
        began = time.monotonic()
        with self._lock:
            if self._silent_at > began:
                raise NoAnswerError(self._silence)
            try:
                if self._warehouse is None:
                    self._warehouse = self._open.enter_context(self._outputs.warehouse(self._give_up_after_s))
                yield self._warehouse
            except MissingObject:
                raise  # Snowflake understood the statement, so the session is still usable
            except Exception as error:
                if isinstance(error, NoAnswerError):
                    self._silent_at, self._silence = time.monotonic(), str(error)
                self.close()
                raise

    def close(self) -> None:
        with suppress(Exception):
            self._open.close()
        self._warehouse = None


class Keys:
    """The object keys that the console knows, for the latest thirty hours that have objects. Safe to use from
    any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hours: dict[datetime, set[int]] = {}

    def add(self, name: ObjectName) -> bool:
        """Add an object's key; return whether the key is new."""
        # A 64-bit hash. With 300,000 keys a day, less than one collision is expected in a hundred million days.
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
    """The settings, clients and state that all pollers share."""

    outputs: Outputs
    stage: str
    state: ConsoleState
    loop: asyncio.AbstractEventLoop
    aws: Clients
    pace: Pace
    keys: Keys
    kinds: Kinds
    rule: Callable[[], Rule]
    exclusive_tags: Collection[str]
    over: threading.Event

    def tell(self, what: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed, because the console is ending
            self.loop.call_soon_threadsafe(what, *args)

    def ask[T](self, what: Callable[[], T]) -> T:
        """Call `what` in the event loop's thread and return the result."""

        async def asked() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(asked(), self.loop).result(10)


class Poller(threading.Thread):
    """A thread that reads one source repeatedly. `look` reads the source once and returns the number of
    seconds until the next read.
    """

    source = ""
    # Whether the source is read even while no page is open.
    always = False

    def __init__(self, shared: Shared) -> None:
        super().__init__(name=f"console-{type(self).__name__.lower()}", daemon=True)
        self.shared = shared
        self.state = shared.state
        self.woken = threading.Event()
        self._began = 0.0
        self._failures = 0

    def look(self) -> float:
        raise NotImplementedError

    def run(self) -> None:
        while not self.shared.over.is_set():
            if not self.always and not self.state.is_watched:
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
            except Exception as fault:  # an error in one source must not affect the others
                if self.shared.over.is_set():
                    return
                if source_states.is_about_credentials(fault):
                    self.shared.aws.renew()
                self._say("down", source_states.reason_of(fault), source_states.cause_of(fault))
                self.failed()
                self._wait(RETRY_S[min(self._failures, len(RETRY_S) - 1)])
                self._failures += 1

    def failed(self) -> None:
        """Do nothing; a poller overrides this method if something must happen after a failed read."""

    def wake(self) -> None:
        self.woken.set()

    def _wait(self, seconds: float) -> None:
        self.woken.wait(seconds)
        self.woken.clear()

    def _say(
        self, state: source_states.State, reason: str | None = None, cause: source_states.Cause | None = None
    ) -> None:
        if self.source:
            self.shared.tell(self.state.sources.say, self.source, state, reason, cause)
