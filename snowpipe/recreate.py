"""Replace a pipe with one that has the DDL's COPY statement, without losing files or loading them twice.

CREATE OR REPLACE PIPE drops the pipe's load history. The steps are those of Snowflake's documentation
("Manage Snowpipe", recreating pipes). The time at which the old pipe is paused divides the files between
the two pipes, and a final check loads the files that neither of them loaded. Each completed step is recorded, so
that a run after an interruption continues with the next step.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import batched
from pathlib import Path

from pydantic import BaseModel

from cli.refusal import Refusal
from snowpipe import pipes
from snowpipe.archive import Archive, Object
from snowpipe.ddl_files import Definition
from snowpipe.history import Narrow, failed_files, history
from snowpipe.loading import MAX_FILES, OBJECTS_A_QUERY, copy_files, received_with_repaired, unloaded
from snowpipe.pipes import Pipe
from snowpipe.quoting import identifier, quoted
from snowpipe.warehouse import Row, Warehouse

# In these states a pipe loads nothing from its queue ("SYSTEM$PIPE_STATUS", executionState).
_CANNOT_LOAD = ("STALLED_", "STOPPED_")


class Progress(BaseModel):
    """The progress of a recreation.

    `border`, the time of the pause, divides the old pipe's files from the new pipe's. If the old pipe could not
    load the files in its queue, `unloaded_since` is set, and COPY loads the files received since then.
    """

    copy_statement: str
    done: list[str] = []
    border: datetime | None = None
    unloaded_since: datetime | None = None
    grants: list[str] = []
    error_integration: str | None = None
    failed: list[str] = []


@dataclass
class Recreation:
    warehouse: Warehouse
    pipe: Pipe
    definition: Definition
    archive: Archive
    state: Path  # the file that contains the progress
    announce: Callable[[str], None]
    timeout: timedelta = timedelta(minutes=10)
    settling: timedelta = timedelta(seconds=30)
    grace: timedelta = timedelta(minutes=2)
    failed: list[Row] = field(default_factory=list)  # the results of the objects that COPY could not load

    def run(self) -> int:
        """Run the remaining steps in order; return the number of objects that had to be loaded with COPY.

        `failed` then holds the results of the objects that COPY could not load.
        """
        self.progress = self._remembered()
        if self._was_resumed():
            self.progress.done = []
        for step in (
            self.rest,
            self.keep_grants,
            self.replace,
            self.pause_new,
            self.grant,
            self.resume,
            self.refresh,
        ):
            name = step.__name__
            if name not in self.progress.done:
                assert step.__doc__
                self.announce(step.__doc__)
                step()
                self.progress.done.append(name)
                self._remember()
        self.announce("Check that the old or the new pipe has loaded each object.")
        repaired = self.check()
        self.state.unlink()
        return repaired

    def _was_resumed(self) -> bool:
        """Return whether somebody resumed the old pipe after an interruption, so that it has loaded files since the
        pause, which the new pipe would load again.
        """
        if "rest" not in self.progress.done or "replace" in self.progress.done:
            return False
        replaced = pipes.created_at(self.warehouse, self.pipe) > self._border()
        return not replaced and pipes.status(self.warehouse, self.pipe).state == "RUNNING"

    def rest(self) -> None:
        """Pause the pipe and wait until its queued files are loaded."""
        deadline = time.monotonic() + self.timeout.total_seconds()
        was_paused = pipes.status(self.warehouse, self.pipe).state == "PAUSED"
        self._remember()  # so that the next run continues if this one ends while the pipe is paused
        if was_paused:
            pipes.set_paused(self.warehouse, self.pipe, False)
        if (broken := pipes.status(self.warehouse, self.pipe)).state.startswith(_CANNOT_LOAD):
            self._leave_queue(broken)
        else:
            if was_paused:
                # Somebody else paused the pipe, or a run was interrupted. The queued files must be loaded first,
                # because the new pipe gets only the files that arrive after this pause.
                self._let_load(deadline)
            self._drain(deadline)
        # Record the failed files before the history is lost, because `check` must not count them as missing.
        since = self._border() - pipes.HISTORY_REACH
        self.progress.failed = [row["key"] for row in failed_files(self.warehouse, self.pipe, since)]

    def _drain(self, deadline: float) -> None:
        while not self._pauses_and_drains():
            if time.monotonic() > deadline:
                pipes.set_paused(self.warehouse, self.pipe, False)
                raise self._not_loaded()
            # A notification of an earlier file arrived during the pause and would be lost with the old pipe.
            self._let_load(deadline)

    def _leave_queue(self, broken: pipes.Status) -> None:
        """Pause a pipe that cannot load its queue, and record the time since which its files have not been loaded."""
        pipes.set_paused(self.warehouse, self.pipe, True)
        self.progress.border = pipes.server_time(self.warehouse)
        if broken.oldest_pending_at:
            self.progress.unloaded_since = broken.oldest_pending_at - pipes.MESSAGE_DELAY

    def _pauses_and_drains(self) -> bool:
        """Pause the pipe; return whether its queued files are loaded within the settling time.

        A paused pipe still loads the files queued before the pause, but no later ones (Snowflake:
        "SYSTEM$PIPE_STATUS", pendingFileCount). Without the pause, the queue might never become empty.
        """
        began_at = pipes.server_time(self.warehouse)
        pipes.set_paused(self.warehouse, self.pipe, True)
        self.progress.border = pipes.server_time(self.warehouse)
        settled = time.monotonic() + self.settling.total_seconds()
        return pipes.drained(self.warehouse, self.pipe, began_at, settled)

    def _let_load(self, deadline: float) -> None:
        """Resume the pipe, and wait until all files queued by now are loaded. Raises Refusal at the deadline."""
        pipes.set_paused(self.warehouse, self.pipe, False)
        self._wait(deadline)

    def _wait(self, deadline: float) -> None:
        if not pipes.drained(self.warehouse, self.pipe, pipes.server_time(self.warehouse), deadline):
            raise self._not_loaded()

    def _not_loaded(self) -> Refusal:
        return Refusal(
            f"{self.pipe.name} has not loaded its queued files in time; see `milkrun warehouse status`", 1
        )

    def keep_grants(self) -> None:
        """Record the pipe's grants and error notifications."""
        rows = self.warehouse.query(f"SHOW GRANTS ON PIPE {self.pipe.name}")
        self.progress.grants = [
            f"GRANT {row['privilege']} ON PIPE {self.pipe.name} TO ROLE {identifier(row['grantee_name'])}"
            for row in rows
            if row["privilege"] != "OWNERSHIP"
        ]
        (live,) = self.warehouse.query(f"DESC PIPE {self.pipe.name}")
        self.progress.error_integration = live["error_integration"] or None

    def replace(self) -> None:
        """Replace the pipe with one that has the DDL's COPY statement."""
        if pipes.created_at(self.warehouse, self.pipe) > self._border():
            return  # the step ran, but its completion was not recorded
        (create,) = self.definition.statements
        self.warehouse.query(create.replace("CREATE PIPE IF NOT EXISTS", "CREATE OR REPLACE PIPE", 1))

    def pause_new(self) -> None:
        """Pause the new pipe."""
        pipes.set_paused(self.warehouse, self.pipe, True)

    def grant(self) -> None:
        """Restore the grants and the error notifications on the new pipe."""
        for statement in self.progress.grants:
            self.warehouse.query(statement)
        if self.progress.error_integration:
            self.warehouse.query(
                f"ALTER PIPE {self.pipe.name} SET ERROR_INTEGRATION = {self.progress.error_integration}"
            )

    def resume(self) -> None:
        """Resume the new pipe."""
        pipes.set_paused(self.warehouse, self.pipe, False)

    def refresh(self) -> None:
        """Queue the files that arrived since the pause."""
        after = ""
        if self._border() > self._reach():  # an earlier MODIFIED_AFTER is invalid (Snowflake: "ALTER PIPE")
            after = f" MODIFIED_AFTER = {quoted(self._border().isoformat())}"
        self.warehouse.query(f"ALTER PIPE {self.pipe.name} REFRESH{after}")

    def check(self) -> int:
        """Use COPY to load the objects that neither the old nor the new pipe has loaded; return the number loaded."""
        self._wait(time.monotonic() + self.timeout.total_seconds())
        while missing := self._missing():
            # The notification may still be on its way to the new pipe.
            if pipes.server_time(self.warehouse) - self._border() > self.grace:
                loaded = 0
                for keys in batched(missing, MAX_FILES, strict=False):
                    copied = copy_files(self.warehouse, self.pipe, self.definition.copy_statement, keys)
                    failed = [row for row in copied if row["status"] != "LOADED"]
                    loaded += len(copied) - len(failed)
                    self.failed += failed
                return loaded
            time.sleep(1)
        return 0

    def _missing(self) -> list[str]:
        """Return the keys of the objects that neither the old nor the new pipe has loaded.

        The search begins at `unloaded_since` if it is set, otherwise shortly before the pause. REFRESH has queued the
        objects received after the pause, so the search ends there; if the pause was more than 7 days ago, it ends where
        REFRESH begins.
        """
        start = self.progress.unloaded_since or self._border() - pipes.MESSAGE_DELAY
        end = max(self._border(), self._reach())
        received = received_with_repaired(self.archive, self.pipe, self.progress.failed, start, end)
        found = (each for each in received if start <= each.modified_at <= end)
        return [
            each.key
            for some in batched(found, OBJECTS_A_QUERY, strict=False)
            for each in self._in_neither(some, start)
        ]

    def _in_neither(self, objects: Sequence[Object], start: datetime) -> list[Object]:
        """Return the objects that neither the old nor the new pipe has loaded or tried to load."""
        missing = list(unloaded(self.warehouse, self.pipe, objects))
        if not missing:
            return []
        narrow = Narrow(keys=(missing[0].key, missing[-1].key))
        tried = {row["key"] for row in history(self.warehouse, self.pipe, start, narrow)}
        tried.update(self.progress.failed)
        return [each for each in missing if each.key not in tried]

    def _reach(self) -> datetime:
        return pipes.server_time(self.warehouse) - pipes.REFRESH_REACH

    def _border(self) -> datetime:
        assert self.progress.border
        return self.progress.border

    def _remembered(self) -> Progress:
        try:
            progress = Progress.model_validate_json(self.state.read_text())
        except FileNotFoundError:
            return Progress(copy_statement=self.definition.copy_statement)
        if progress.copy_statement != self.definition.copy_statement and "replace" in progress.done:
            raise Refusal(
                f"{self.state} belongs to an unfinished recreation with another COPY statement. Finish that "
                "recreation with the earlier DDL, or delete the file",
                1,
            )
        progress.copy_statement = self.definition.copy_statement
        return progress

    def _remember(self) -> None:
        self.state.parent.mkdir(parents=True, exist_ok=True)
        written = self.state.with_suffix(".new")
        written.write_text(json.dumps(self.progress.model_dump(mode="json"), indent=2, allow_nan=False))
        written.replace(self.state)
