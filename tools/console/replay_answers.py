"""Responses to requests for replays. Only one replay is read at a time, and the latest replay is cached."""

import asyncio
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from consumer.visits import Rule
from snowpipe.archive import Archive
from tools.console import parse_object, replay
from tools.console.responses import Problem, encode
from tools.console.store_queries import Ask


class ReplayAnswers:
    def __init__(
        self,
        archive: Callable[[], Archive],
        kinds: replay.Kinds,
        rule: Callable[[], Rule],
        exclusive_tags: Collection[str],
        ask: Ask,
    ) -> None:
        self._archive = archive
        self._kinds = kinds
        self._rule = rule
        self._exclusive_tags = exclusive_tags
        self._ask = ask
        self._reading = asyncio.Lock()
        self._latest: tuple[tuple[str, str], float, bytes] | None = None
        # The range that is being read. A second request for this range waits and gets the same response.
        self._wanted = ("", "")

    async def range(self, first: float | None, last: float | None) -> dict[str, object]:
        """Return the days with archived events, and a suggested time range that ends at the time of the
        latest known position (None if no position is known).
        """
        days = await self._ask("archive", lambda: replay.days(self._archive(), datetime.now(UTC)))
        suggested = None
        if first is not None and last is not None:
            # Users usually want to see the most recent hours first.
            first = max(first, last - replay.LONGEST.total_seconds())
            suggested = {
                name: parse_object.written(datetime.fromtimestamp(at, UTC))
                for name, at in (("from", first), ("to", last))
            }
        return {"days": days, "suggested": suggested}

    async def read(self, start: datetime, end: datetime) -> bytes:
        """Return the replay of a time range as JSON. Raises Problem if the range is invalid, another replay is
        being read, or the archive does not answer.
        """
        if not timedelta(0) < end - start <= replay.LONGEST:
            raise Problem(400, "`to` must be after `from`, and at most 24 hours later.")
        if start > datetime.now(UTC):
            raise Problem(400, "`from` is in the future.")
        wanted = (parse_object.written(start), parse_object.written(end))
        if self._reading.locked() and wanted != self._wanted:
            raise Problem(409, "Another replay is being read. Try again in a few seconds.")
        async with self._reading:
            self._wanted = wanted
            latest, now = self._latest, datetime.now(UTC)
            # A range that ended more than an hour ago rarely changes.
            fresh_s = 300.0 if end < now - timedelta(hours=1) else 5.0
            if latest is None or latest[0] != wanted or time.monotonic() - latest[1] > fresh_s:
                found = await self._ask("archive", lambda: self._encoded(start, end, now))
                latest = self._latest = (wanted, time.monotonic(), found)
            return latest[2]

    def _encoded(self, start: datetime, end: datetime, now: datetime) -> bytes:
        return encode(
            replay.replay(self._archive(), start, end, now, self._kinds, self._rule(), self._exclusive_tags)
        )
