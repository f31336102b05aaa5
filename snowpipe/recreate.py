"""Make a pipe again with the DDL's COPY: nothing lost and nothing loaded twice.

CREATE OR REPLACE PIPE drops the pipe's load history, and with it the knowledge of what is loaded. Hence the
order of Snowflake's documentation ("Managing Snowpipe", recreating pipes), with the time of the pause as the
border between the two pipes' files, and a look afterwards at what neither has. Each step done is written
down, so that a run that was broken off goes on where it was.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel

from snowpipe import pipes
from snowpipe.archive import Archive
from snowpipe.history import FAILED, history, latest
from snowpipe.loading import copy_files, loaded_keys
from snowpipe.pipes import Pipe
from snowpipe.refusal import Refusal
from snowpipe.template import Definition
from snowpipe.warehouse import Row, Warehouse, quoted


class Progress(BaseModel):
    """What is done. `border` divides what the old pipe has loaded from what the new one will."""

    copy_statement: str
    done: list[str] = []
    border: datetime | None = None
    grants: list[str] = []
    failed: list[str] = []


@dataclass
class Recreation:
    warehouse: Warehouse
    pipe: Pipe
    definition: Definition
    archive: Archive
    state: Path  # the file that remembers
    told: Callable[[str], None]
    patience: timedelta = timedelta(minutes=10)
    settling: timedelta = timedelta(seconds=30)
    grace: timedelta = timedelta(minutes=2)

    def run(self) -> list[Row]:
        """Every step that is not done yet, in order; the objects that had to be loaded by hand at the end."""
        self.progress = self._remembered()
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
                self.told(step.__doc__)
                step()
                self.progress.done.append(name)
                self._remember()
        self.told("checking the bucket against the table")
        repaired = self.check()
        self.state.unlink()
        return repaired

    def rest(self) -> None:
        """bringing the pipe to rest and pausing it"""
        deadline = time.monotonic() + self.patience.total_seconds()
        while True:
            pipes.set_paused(self.warehouse, self.pipe, False)
            self._wait(lambda status: status.pending == 0, "the pipe does not come to rest: see status")
            # Known before the history goes: a file that failed is no file that is missing.
            past = latest(history(self.warehouse, self.pipe, datetime.now(UTC) - pipes.HISTORY_REACH))
            self.progress.failed = [key for key, row in past.items() if row["status"] in FAILED]
            pipes.set_paused(self.warehouse, self.pipe, True)
            (row,) = self.warehouse.query("SELECT CURRENT_TIMESTAMP() AS NOW")
            self.progress.border = row["now"].astimezone(UTC)
            if self._settles():
                return
            # A file slipped in between: it waits in the paused pipe and would be lost with it. Once more.
            if time.monotonic() > deadline:
                raise Refusal(f"{self.pipe.name}: files keep coming too fast to pause between them", 1)

    def _settles(self) -> bool:
        """Whether all that came before the border gets loaded, soon enough for files that were under way."""
        until = time.monotonic() + self.settling.total_seconds()
        while True:
            status = pipes.status(self.warehouse, self.pipe)
            if not status.pending or (
                status.oldest_pending_at is not None and status.oldest_pending_at >= self._border()
            ):
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.5)

    def keep_grants(self) -> None:
        """noting the pipe's grants"""
        rows = self.warehouse.query(f"SHOW GRANTS ON PIPE {self.pipe.name}")
        self.progress.grants = [
            f"GRANT {row['privilege']} ON PIPE {self.pipe.name} TO ROLE {row['grantee_name']}"
            for row in rows
            if row["privilege"] != "OWNERSHIP"
        ]

    def replace(self) -> None:
        """replacing the pipe"""
        (live,) = self.warehouse.query(f"DESC PIPE {self.pipe.name}")
        if live["created_on"] > self._border():
            return  # done, but the run was broken off before it could be written down
        (create,) = self.definition.statements
        self.warehouse.query(create.replace("CREATE PIPE IF NOT EXISTS", "CREATE OR REPLACE PIPE", 1))

    def pause_new(self) -> None:
        """pausing the new pipe"""
        pipes.set_paused(self.warehouse, self.pipe, True)

    def grant(self) -> None:
        """granting as before"""
        for statement in self.progress.grants:
            self.warehouse.query(statement)

    def resume(self) -> None:
        """resuming"""
        pipes.set_paused(self.warehouse, self.pipe, False)

    def refresh(self) -> None:
        """queueing what came since the pause"""
        after = quoted(self._border().isoformat())
        self.warehouse.query(f"ALTER PIPE {self.pipe.name} REFRESH MODIFIED_AFTER = {after}")

    def check(self) -> list[Row]:
        """Load by hand what the bucket has of the time around the pause and neither pipe took."""
        self._wait(lambda status: status.pending == 0, "the new pipe does not come to rest: see status")
        while missing := self._missing():
            # Its message may still be under way to the new pipe.
            if datetime.now(UTC) - self._border() > self.grace:
                return copy_files(self.warehouse, self.pipe, self.definition.copy_statement, missing)
            time.sleep(1)
        return []

    def _missing(self) -> list[str]:
        """Keys from just before the border that are in neither pipe. What is newer, REFRESH has queued."""
        border = self._border()
        found = [
            each
            for each in self.archive.received(self.pipe.prefix, border - pipes.MESSAGE_DELAY, border)
            if border - pipes.MESSAGE_DELAY <= each.modified_at <= border
        ]
        known = loaded_keys(self.warehouse, self.pipe, found) | set(self.progress.failed)
        known |= {row["key"] for row in history(self.warehouse, self.pipe, border - pipes.MESSAGE_DELAY)}
        return [each.key for each in found if each.key not in known]

    def _border(self) -> datetime:
        assert self.progress.border
        return self.progress.border

    def _wait(self, rested: Callable[[pipes.Status], bool], refusal: str) -> None:
        deadline = time.monotonic() + self.patience.total_seconds()
        while not rested(pipes.status(self.warehouse, self.pipe)):
            if time.monotonic() > deadline:
                raise Refusal(f"{self.pipe.name}: {refusal}", 1)
            time.sleep(1)

    def _remembered(self) -> Progress:
        try:
            progress = Progress.model_validate_json(self.state.read_text())
        except FileNotFoundError:
            return Progress(copy_statement=self.definition.copy_statement)
        if progress.copy_statement != self.definition.copy_statement and "replace" in progress.done:
            raise Refusal(
                f"{self.state} is of a recreate with another COPY: finish that one, or delete it",
                1,
            )
        progress.copy_statement = self.definition.copy_statement
        return progress

    def _remember(self) -> None:
        self.state.parent.mkdir(parents=True, exist_ok=True)
        written = self.state.with_suffix(".new")
        written.write_text(json.dumps(self.progress.model_dump(mode="json"), indent=2, allow_nan=False))
        written.replace(self.state)
