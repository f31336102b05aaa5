"""The two Snowpipe pipes: their names and their status."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from snowpipe.warehouse import MissingObject, Warehouse

REFRESH_REACH = timedelta(days=7)
HISTORY_REACH = timedelta(days=14)
# The notification of an object can arrive this much later than the object.
MESSAGE_DELAY = timedelta(minutes=15)


class Kind(StrEnum):
    events = "events"
    rejected = "rejected"


@dataclass(frozen=True, slots=True)
class Pipe:
    """The pipe that loads the objects under `kind`/ in the bucket."""

    database: str
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.table}_PIPE"

    @property
    def stage(self) -> str:
        return f"{self.table}_STAGE"

    @property
    def table(self) -> str:
        return f"{self.database}.RAW.{self.kind.upper()}"

    @property
    def prefix(self) -> str:
        return f"{self.kind}/"

    def staged(self, key: str) -> str:
        """Return an object's key relative to the Snowflake stage's location, as COPY and COPY_HISTORY return it."""
        return key.removeprefix(self.prefix)


def pipes(database: str, kind: Kind | None = None) -> list[Pipe]:
    return [Pipe(database, k) for k in Kind if kind in (None, k)]


class Status(BaseModel):
    """The result of SYSTEM$PIPE_STATUS. A missing time or text is None, and a missing count is 0."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: str = Field(alias="executionState")
    pending: int = Field(0, alias="pendingFileCount")
    oldest_pending_at: datetime | None = Field(None, alias="oldestFileTimestamp")
    received_at: datetime | None = Field(None, alias="lastReceivedMessageTimestamp")
    forwarded_at: datetime | None = Field(None, alias="lastForwardedMessageTimestamp")
    ingested_at: datetime | None = Field(None, alias="lastIngestedTimestamp")
    ingested_path: str | None = Field(None, alias="lastIngestedFilePath")
    channel: str | None = Field(None, alias="notificationChannelName")
    error: str | None = None
    channel_error: str | None = Field(None, alias="channelErrorMessage")


def status(warehouse: Warehouse, pipe: Pipe) -> Status:
    (row,) = warehouse.query("SELECT SYSTEM$PIPE_STATUS(%s) AS STATUS", [pipe.name])
    return Status.model_validate(json.loads(next(iter(row.values()))))


def created_at(warehouse: Warehouse, pipe: Pipe) -> datetime:
    """Return the time at which the pipe was created or replaced. It knows nothing of earlier objects."""
    (described,) = warehouse.query(f"DESC PIPE {pipe.name}")
    found: datetime = described["created_on"]
    return found


def drained(warehouse: Warehouse, pipe: Pipe, queued_before: datetime, deadline: float) -> bool:
    """Wait until the pipe has loaded all files queued before a time; return False at the deadline (monotonic clock).

    The queue of a busy pipe may never be empty.
    """
    while True:
        found = status(warehouse, pipe)
        oldest = found.oldest_pending_at
        if not found.pending or (oldest is not None and oldest >= queued_before):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)


def other_location(warehouse: Warehouse, database: str, bucket: str) -> str | None:
    """Return the URL from which the database loads events if it is in another bucket.

    Return None otherwise, and if the Snowflake stage does not exist or is hidden from the role.
    """
    try:
        rows = warehouse.query(f"SHOW STAGES LIKE 'EVENTS_STAGE' IN SCHEMA {database}.RAW")
    except MissingObject:
        return None
    urls = (row["url"] for row in rows if row.get("name") == "EVENTS_STAGE")
    return next((url for url in urls if not url.startswith(f"s3://{bucket}/")), None)


def set_paused(warehouse: Warehouse, pipe: Pipe, paused: bool) -> None:
    warehouse.query(f"ALTER PIPE {pipe.name} SET PIPE_EXECUTION_PAUSED = {str(paused).upper()}")


def force_resume(warehouse: Warehouse, pipe: Pipe) -> None:
    """Resume a stale pipe (paused for longer than Snowflake keeps its notifications), or one with a new owner.

    The session's role needs OWNERSHIP or OPERATE on the pipe. Notifications older than 14 days may be lost.
    (Snowflake: "SYSTEM$PIPE_FORCE_RESUME")
    """
    warehouse.query(
        "SELECT SYSTEM$PIPE_FORCE_RESUME(%s, 'staleness_check_override, ownership_transfer_check_override')",
        [pipe.name],
    )


def server_time(warehouse: Warehouse) -> datetime:
    """Return Snowflake's current time.

    Snowflake measures by its own clock how far REFRESH (7 days) and COPY_HISTORY (14 days) reach back.
    """
    (row,) = warehouse.query("SELECT CURRENT_TIMESTAMP() AS NOW")
    now: datetime = row["now"]
    return now.astimezone(UTC)
