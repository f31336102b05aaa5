"""Measure the time from a POST until the rows of its events can be queried, using a separate Snowflake session."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Self

from contract.archive_object import object_name
from ops.read_stores import NAMES_PER_QUERY
from snowpipe.warehouse import Warehouse

LAST_LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class _Expected:
    table: str
    rows: int
    posted_at: datetime


class Watch:
    """A context manager that polls for expected rows. `expect` may be called from any thread. `latencies`
    contains, for each row that was loaded after its POST, the seconds from the POST until the row could be queried.
    """

    def __init__(
        self, connect: Callable[[], AbstractContextManager[Warehouse]], database: str, every_s: float = 0.2
    ) -> None:
        self._connect = connect
        self._database = database
        self._every_s = every_s
        self._lock = threading.Lock()
        self._pending: dict[str, _Expected] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.rows = {"EVENTS": 0, "REJECTED": 0}
        self.latencies: list[float] = []
        self.fault: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(LAST_LOOK_S)  # with a timeout, because Snowflake may hang

    def expect(self, key: str, posted_at: datetime) -> None:
        """Start waiting for the rows of a new object in `events/` or `rejected/`."""
        name = object_name(key)
        if name is None:
            raise ValueError(f"{key} is not the key of an archived object")
        table = "EVENTS" if name.prefix == "events" else "REJECTED"
        with self._lock:
            self._pending[key] = _Expected(table, name.lines, posted_at)

    @property
    def pending(self) -> int:
        return len(self._pending)

    def _run(self) -> None:
        try:
            with self._connect() as warehouse:
                while not self._over.wait(self._every_s):
                    for table in ("EVENTS", "REJECTED"):
                        self._look(warehouse, table)
        except Exception as error:
            self.fault = error

    def _look(self, warehouse: Warehouse, table: str) -> None:
        with self._lock:
            wanted = islice((key for key, e in self._pending.items() if e.table == table), NAMES_PER_QUERY)
            some = list(wanted)
        if not some:
            return
        marks = ", ".join(["%s"] * len(some))
        found = warehouse.query(
            "SELECT file_name, COUNT(*) AS n, MIN(scanned_at) AS scanned_at"
            f" FROM {self._database}.RAW.{table} WHERE file_name IN ({marks}) GROUP BY file_name",
            some,
        )
        seen_at = datetime.now(UTC)
        for row in found:
            expected = self._pending[row["file_name"]]
            if row["n"] < expected.rows:
                continue
            with self._lock:
                del self._pending[row["file_name"]]
            self.rows[table] += expected.rows
            # Rows loaded before the POST, because the same batch had been sent earlier, have no latency. Allow for
            # a difference of one second between Snowflake's clock and ours.
            if row["scanned_at"] > expected.posted_at - timedelta(seconds=1):
                waited = (seen_at - expected.posted_at).total_seconds()
                self.latencies.extend([waited] * expected.rows)
