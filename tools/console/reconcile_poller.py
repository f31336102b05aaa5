"""Run the comparison of `milkrun reconcile` on request and, while a page is open, every `--reconcile-every` seconds."""

import threading
import time
from datetime import UTC, datetime, timedelta

from tools.console import parse_object, source_states
from tools.console.pipeline import Reconciled
from tools.console.polling import Poller, Shared


class ReconcilePoller(Poller):
    """A poller that compares the events of the last two hours in all stores. Only one comparison runs at a time."""

    HOURS = 2
    SETTLE_S = 60

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._asked = threading.Event()
        self._began_at: float | None = None

    def ask(self) -> bool:
        """Start a comparison now and return True; return False if a comparison is already running."""
        if self.state.pipeline.reconciled.state == "running":
            return False
        self.state.pipeline.reconciled.state = "running"
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
        self.shared.tell(setattr, self.state.pipeline.reconciled, "state", "running")
        try:
            result = self._compared()
        except Exception as fault:  # show the error instead of a result; other pollers report failed sources
            problem = self.state.sources.without_secrets(source_states.reason_of(fault))
            result = Reconciled("failed", problem=problem)
        self.shared.tell(self._done, result, time.monotonic() - self._began_at)
        return 0.1

    def _compared(self) -> Reconciled:
        from ops.object_sets import MEANINGS
        from ops.reconcile import Reconciler

        to = datetime.now(UTC)
        start, settled_at = to - timedelta(hours=self.HOURS), to - timedelta(seconds=self.SETTLE_S)
        with self.shared.outputs.warehouse(max(60, self.shared.pace.give_up_after)) as warehouse:
            found = Reconciler(self.shared.outputs, self.shared.stage, warehouse).look(start, to, settled_at)
        crossings = found.crossings
        return Reconciled(
            "done",
            found.equal,
            differences=len(found.differences) + found.more,
            found={
                "from": parse_object.written(start),
                "to": parse_object.written(to),
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
        )

    def _done(self, result: Reconciled, seconds: float) -> None:
        result.at, result.seconds = self.state.now(), round(seconds, 1)
        self.state.pipeline.reconciled = result
