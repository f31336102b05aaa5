"""Compare a pipe's status with the archive, and build the statement that counts failed loads."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

# The hours of COPY_HISTORY that each check reads, so that an hourly check also finds what two failed checks missed.
FAILED_LOADS_HOURS = 3


@dataclass(frozen=True, slots=True)
class PipeStatus:
    """The fields of SYSTEM$PIPE_STATUS that the check uses."""

    state: str
    pending_files: int
    oldest_pending_at: datetime | None
    last_heard_at: datetime | None


@dataclass(frozen=True, slots=True)
class Health:
    """A pipe's health as metrics for alarms.

    `lag_seconds` is the time that the oldest file in the pipe's queue has waited. `deaf_seconds` is the age of the
    oldest object that is newer than the pipe's last notification; 0 if there is no such object.
    """

    state: str
    pending_files: int
    lag_seconds: float
    deaf_seconds: float

    @property
    def stopped(self) -> bool:
        return self.state != "RUNNING"


def parse(text: str) -> PipeStatus:
    """Parse the result of SYSTEM$PIPE_STATUS, in which times that do not apply are missing, not null."""
    status = json.loads(text)

    def at(name: str) -> datetime | None:
        return datetime.fromisoformat(status[name]) if status.get(name) else None

    return PipeStatus(
        state=status["executionState"],
        pending_files=int(status.get("pendingFileCount", 0)),
        oldest_pending_at=at("oldestFileTimestamp"),
        last_heard_at=at("lastReceivedMessageTimestamp"),
    )


def failed_loads_sql(database: str) -> str:
    """Return the statement that counts the files that recently failed to load, completely or in part. No pipe retries
    them.

    The statement reads only the last FAILED_LOADS_HOURS of COPY_HISTORY; the view LOAD_FAILURES would read 14
    days.
    """
    tables = " UNION ALL ".join(
        f"SELECT status FROM TABLE({database}.INFORMATION_SCHEMA.COPY_HISTORY("
        f"TABLE_NAME => '{database}.RAW.{table}',"
        f" START_TIME => DATEADD('hour', -{FAILED_LOADS_HOURS}, CURRENT_TIMESTAMP())))"
        for table in ("EVENTS", "REJECTED")
    )
    statuses = "'Load failed', 'Partially loaded', 'Load skipped'"
    return f"SELECT COUNT(*) AS n FROM ({tables}) WHERE status IN ({statuses})"


def health(status: PipeStatus, archived_at: Iterable[datetime], now: datetime) -> Health:
    """Compute a pipe's health from its status and the archive.

    `archived_at` contains the write times of objects with the pipe's prefix; a sample is sufficient.
    """
    lag = (now - status.oldest_pending_at).total_seconds() if status.oldest_pending_at else 0.0
    heard_at = status.last_heard_at
    unheard = [at for at in archived_at if heard_at is None or at > heard_at]
    deaf = (now - min(unheard)).total_seconds() if unheard else 0.0
    return Health(status.state, status.pending_files, max(lag, 0.0), max(deaf, 0.0))
