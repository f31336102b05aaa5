"""Log lines: one JSON object per line on stdout. The names of the lines that other code reads are defined
here.

No personal data: ids of requests, keys of objects and numbers; never a payload, a device, a user or a header.
"""

import logging
import traceback

import msgspec
import structlog

# handler: one for each request that got past key, signature, content type and size, whatever its answer:
#   status, the kind of credential, received, accepted, duplicates, rejected, conflicts,
#   other_user (events of another user than the token's), rejected_by_code, object_key, rejected_key,
#   events_per_device (the most of one device in this hour, as far as this execution environment received them),
#   published, queued, lateness_seconds (of the oldest accepted event), store_ms, publish_ms, total_ms
EVENTS_INGESTED = "events_ingested"
# handler: one for each request that got 401, 403, 413 or 415; nothing of it was stored.
#   Has status, code, refused = 1.
REQUEST_REFUSED = "request_refused"
# redrive: one for each invocation. messages, redriven, returned
RECORDS_REDRIVEN = "records_redriven"
# handler, redrive, consumer: something was put under set-aside/. set_aside_key, set_aside
RECORDS_SET_ASIDE = "records_set_aside"
# consumer: one for each batch.
RECORDS_CONSUMED = "records_consumed"
# check: one for each pipe. pipe, state, pipe_stopped, pipe_lag_seconds, pipe_deaf_seconds, pipe_pending_files
PIPE_CHECKED = "pipe_checked"
# check: one an hour. failed_loads: files that the pipes refused, wholly or in part, of late
LOADS_CHECKED = "loads_checked"


class LoggableError(Exception):
    """An error whose message quotes nothing that a client sent."""


def message_of(error: BaseException) -> str:
    """Return the error's message if it may be logged, otherwise the error's type."""
    return str(error) if isinstance(error, LoggableError) else type(error).__name__


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    """Return the frames and types of an exception and of its causes, because a message may quote an event."""
    error: BaseException | None = exc_info[1]
    lines: list[str] = []
    seen: list[BaseException] = []  # errors that cause each other would make an endless line
    while error and error not in seen:
        seen.append(error)
        message = f": {error}" if isinstance(error, LoggableError) else ""
        lines += [*traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}{message}\n"]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "".join(lines)


def configure(level: str = "INFO", *before_printing: structlog.typing.Processor) -> None:
    """Configure structlog; call it once, in an entry point. Values passed to `bind` are in every line until
    they are bound again.

    `before_printing` are processors that see the whole line, such as `contract.metrics.with_metrics(stage)`.
    """
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
    """Replace the context of the previous invocation, so that every line has the ids of this one."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)


def _dumps(line: object, **_: object) -> str:
    return msgspec.json.encode(line, enc_hook=str).decode()
