"""Logging: one JSON object per line on stdout, and the names of the log events that other code reads.

Log lines contain request ids, object keys and numbers, but no personal data: no payload, device, user or header.
"""

import logging
import traceback

import msgspec
import structlog

# handler: one per request that was not refused (REQUEST_REFUSED), whatever the response. Fields: status, error,
#   credential (its kind), body_bytes, object_key, rejected_key, set_aside_key, published, queued, set_aside, store_ms,
#   publish_ms, publish_error (of the last failed call to Kinesis), total_ms. Unless the status is 503: received,
#   accepted, duplicates, rejected, conflicts, other_user (events of a user other than the token's), rejected_by_code,
#   lateness_seconds (of the oldest accepted event), events_per_device (this hour, in this execution environment)
EVENTS_INGESTED = "events_ingested"
# handler: one per request that got 401, 403, 413 or 415 and was not stored. Fields: status, code, refused = 1
REQUEST_REFUSED = "request_refused"
# redrive: one per invocation. Fields: messages, redriven, returned
RECORDS_REDRIVEN = "records_redriven"
# handler, redrive, consumer: records were quarantined. Fields: set_aside_key, set_aside; consumer also: codes, lines
RECORDS_SET_ASIDE = "records_set_aside"
# consumer: one per batch. Fields: see consumer/batch_log.py
RECORDS_CONSUMED = "records_consumed"
# check: one per pipe. Fields: pipe, state, pipe_stopped, pipe_lag_seconds, pipe_deaf_seconds, pipe_pending_files
PIPE_CHECKED = "pipe_checked"
# check: one per hour. Field: failed_loads (files of which the pipes recently rejected at least a part)
LOADS_CHECKED = "loads_checked"


class LoggableError(Exception):
    """An error whose message contains nothing that a client sent."""


def message_of(error: BaseException) -> str:
    """Return the error's message if it may be logged, otherwise the name of the error's type."""
    return str(error) if isinstance(error, LoggableError) else type(error).__name__


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    """Return the stack frames and types of an exception and its causes, without messages that may quote an event."""
    error: BaseException | None = exc_info[1]
    lines: list[str] = []
    seen: list[BaseException] = []  # without it, a cycle of causes would make the loop endless
    while error and error not in seen:
        seen.append(error)
        message = f": {error}" if isinstance(error, LoggableError) else ""
        lines += [*traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}{message}\n"]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "".join(lines)


def configure(level: str = "INFO", *before_printing: structlog.typing.Processor) -> None:
    """Configure structlog, once per entry point. The processors in `before_printing` receive the complete line."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(_traceback),
            structlog.processors.EventRenamer("event"),
            *before_printing,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )


def bind(**context: str | int | None) -> None:
    """Add `context` to every log line of this invocation, and remove the context of the previous invocation."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)


def _dumps(line: object, **_: object) -> str:
    return msgspec.json.encode(line, enc_hook=str).decode()
