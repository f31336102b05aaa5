"""The diagnosis of a pipe's status, for `milkrun status` and `milkrun warehouse status`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cli.counts import count
from snowpipe.pipes import Pipe, Status
from snowpipe.warehouse import Row

# After this time an object that is not loaded counts as a problem. Snowpipe typically needs less than one minute.
LOAD_DELAY = timedelta(minutes=5)

# SYSTEM$PIPE_STATUS, "executionState".
_STATES: Mapping[str, str] = {
    "STOPPED_CLONED": "the pipe is in a clone of a database or schema: run `recreate`",
    "STOPPED_FEATURE_DISABLED": "Snowflake has disabled pipes for this account",
    "STOPPED_STAGE_ALTERED": "its stage's location has changed: run `recreate`",
    "STOPPED_STAGE_DROPPED": "its stage was dropped or replaced: run `apply`, then `recreate`",
    "STOPPED_FILE_FORMAT_DROPPED": "its file format was dropped: run `apply`",
    "STOPPED_MISSING_PIPE": "the pipe does not exist: run `apply`",
    "STOPPED_MISSING_TABLE": "its table does not exist: run `apply`, then `backfill`",
    "STALLED_COMPILATION_ERROR": "its COPY no longer compiles: see `error`, then run `recreate`",
    "STALLED_INITIALIZATION_ERROR": "Snowflake could not start the pipe: see `error`",
    "STALLED_EXECUTION_ERROR": "its COPY fails: see `error` and `history --failed`",
    "STALLED_INTERNAL_ERROR": "Snowflake had an internal error: contact Snowflake's support",
    "PAUSED_BY_SNOWFLAKE_ADMIN": "Snowflake has paused the pipe: contact Snowflake's support",
    "PAUSED_BY_ACCOUNT_ADMIN": "pipes are paused for the schema or the account: unset PIPE_EXECUTION_PAUSED there",
    "STALLED_STAGE_PERMISSION_ERROR": "S3 denies access to Snowflake's role: see `trust-policy`",
}
NEED_RECREATE = frozenset(state for state, words in _STATES.items() if "recreate" in words)
"""The states for which the advice includes `recreate`; `milkrun warehouse recreate` selects pipes in these states."""


@dataclass(frozen=True, slots=True)
class Triage:
    healthy: bool
    words: str


def triage(  # noqa: PLR0911 - one per cause
    status: Status, newest_object_at: datetime | None, now: datetime | None = None
) -> Triage:
    """Diagnose a pipe's status: return the first problem on the way from the bucket to the table, if there is one.

    `newest_object_at` is the time at which S3 received the newest object with the pipe's prefix; None if there is no
    recent object, or if S3 did not answer or returned an error.
    """
    now = now or datetime.now(UTC)
    if status.state == "PAUSED":
        return Triage(
            False,
            f"paused with {count(status.pending, 'file')} waiting: run `resume`, which also repairs a pipe that was "
            "paused for over 14 days",
        )
    if status.state != "RUNNING":
        words = _STATES.get(status.state, "see SYSTEM$PIPE_STATUS in Snowflake's documentation")
        return Triage(False, f"{status.state}: {words}")
    if status.channel_error:
        return Triage(False, f"Snowflake cannot read the pipe's queue: {status.channel_error}")
    if status.pending and status.oldest_pending_at and now - status.oldest_pending_at > LOAD_DELAY:
        age = span(now - status.oldest_pending_at)
        return Triage(False, f"stuck: {count(status.pending, 'file')} pending, the oldest for {age}")
    if status.pending:
        return Triage(True, f"loading: {count(status.pending, 'file')} pending")
    newest = newest_object_at
    if newest and now - newest > LOAD_DELAY and before(status.ingested_at, newest):
        if before(status.received_at, newest):
            return Triage(
                False,
                "Snowflake received no notification for the newest object: check the bucket's notification "
                "configuration, the topic's policy (`sns-policy` prints it) and the subscription (`recreate --all` "
                "repairs it); if notifications were lost, run `refresh`",
            )
        if before(status.forwarded_at, newest):
            return Triage(
                False,
                "notifications arrive, but no object key matches the pipe's path: compare the URL of the pipe's "
                "stage with the keys",
            )
        return Triage(
            False,
            "Snowflake received the notification of the newest object, but did not load the object: see "
            "`history --failed`",
        )
    if status.ingested_at is None:
        return Triage(True, "running; nothing loaded yet")
    return Triage(True, f"running; loaded its newest file {span(now - status.ingested_at)} ago")


def before(seen_at: datetime | None, object_at: datetime) -> bool:
    # An object's time is truncated to seconds.
    return seen_at is None or seen_at < object_at


def span(delta: timedelta) -> str:
    seconds = max(0, round(delta.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def row(pipe: Pipe, status: Status, verdict: Triage) -> Row:
    return {
        "pipe": pipe.name,
        "state": status.state,
        "pending": status.pending,
        "received_at": status.received_at,
        "loaded_at": status.ingested_at,
        "healthy": verdict.healthy,
        "meaning": verdict.words,
        "error": status.error or status.channel_error,
    }
