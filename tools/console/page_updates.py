"""The server-sent events that update the open pages. Each message, except a snapshot, is encoded once for all pages."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import uuid4

import msgspec

from tools.console.state import ConsoleState
from tools.console.update_intervals import PAGE_UPDATE_S, URGENT_UPDATE_S

PING_S = 15.0
# A page that is this many messages behind gets a new snapshot instead.
MAX_BEHIND = 60


def encode(value: object) -> bytes:
    return msgspec.json.encode(value)


class _Page:
    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.wants_snapshot = True
        self.woken = asyncio.Event()


class Hub:
    def __init__(self, state: ConsoleState) -> None:
        self._state = state
        self._pages: set[_Page] = set()
        self._boot = uuid4().hex[:8]
        self._n = 0
        self._pipeline = b""
        self._tick = 0
        self._over = False

    async def run(self) -> None:
        due = time.monotonic() + PAGE_UPDATE_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(due - time.monotonic()):
                    await self._state.urgent.wait()
            self._state.urgent.clear()
            self.flush()
            if time.monotonic() < due:
                await asyncio.sleep(URGENT_UPDATE_S)
                continue
            due = time.monotonic() + PAGE_UPDATE_S
            self._tick += 1
            if self._tick % 2 == 0:
                self._tell_of_pipeline()

    def flush(self) -> None:
        """Send the changes to all open pages. If no page is open, discard the changes, because the next
        snapshot will contain them.
        """
        if not self._pages:
            self._state.drop_news()
            return
        news = self._state.news()
        if any(name == "reset" for name, _ in news):
            self._send(self._message("reset", b"{}"))
            for page in self._pages:
                page.wants_snapshot = True
                page.woken.set()
            return
        for name, data in news:
            self._send(self._message(name, encode(data)))

    def _tell_of_pipeline(self) -> None:
        if not self._pages:
            if self._tick % 120 == 0:
                self._state.pipeline.row()  # removes counts that are older than the window
            return
        pipeline = encode(self._state.pipeline.row())
        if pipeline != self._pipeline:
            self._pipeline = pipeline
            self._send(self._message("pipeline", pipeline))

    def _message(self, name: str, data: bytes) -> bytes:
        self._n += 1
        return f"id: {self._boot}-{self._n}\nevent: {name}\ndata: ".encode() + data + b"\n\n"

    def _send(self, message: bytes) -> None:
        for page in self._pages:
            page.messages.append(message)
            if len(page.messages) > MAX_BEHIND:
                page.messages.clear()
                page.wants_snapshot = True
            page.woken.set()

    async def listen(self) -> AsyncIterator[bytes]:
        """Yield the messages for one page, starting with a snapshot. No change is lost between the
        subscription and the snapshot.
        """
        page = _Page()
        self.flush()
        self._pages.add(page)
        self._state.viewers += 1
        try:
            yield b"retry: 1000\n\n"
            while not self._over:
                if page.wants_snapshot:
                    # The snapshot includes all changes up to now, so the queued messages are discarded.
                    self.flush()
                    was_reset = any(b"\nevent: reset\n" in message for message in page.messages)
                    page.messages.clear()
                    page.wants_snapshot = False
                    snapshot = self._message("snapshot", encode(self._state.snapshot()))
                    if was_reset:
                        yield self._message("reset", b"{}")
                    yield snapshot
                while page.messages and not page.wants_snapshot:
                    yield page.messages.popleft()
                if page.wants_snapshot:
                    continue
                page.woken.clear()
                try:
                    async with asyncio.timeout(PING_S):
                        await page.woken.wait()
                except TimeoutError:
                    yield b": ping\n\n"
        finally:
            self._pages.discard(page)
            self._state.viewers -= 1

    def close(self) -> None:
        """End every stream. Pages reconnect automatically."""
        self._over = True
        for page in self._pages:
            page.woken.set()
