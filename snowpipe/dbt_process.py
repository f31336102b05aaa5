"""Prevent a deadlock of snowflake-connector-python in multithreaded programs.

Run as a program, this file starts dbt with this protection, and ends dbt if Snowflake stops responding. It also sets
dbt's session parameters, for which dbt-snowflake has no setting.

When a process reads its first Arrow result, the connector (4.8.0, as in dbt's environment) creates its C++
logger inside `std::call_once` and meanwhile releases the global interpreter lock. A second thread with a result
then acquires the interpreter lock and waits for `call_once`, so the two threads wait for each other forever. dbt,
which lists its schemas in several threads at once, hung in this way. (A later pull request to the connector, "Enable
free-threaded (no-GIL) CPython support for the Arrow iterator", changes this code.)

This file also runs in dbt's environment, so it imports none of our modules.
"""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from typing import Any

SILENT_SECONDS = 30.0
ADDRESS = "MILKRUN_SNOWFLAKE_URL"
# The models convert times to text and back, but an account may set other formats. The formats here are Snowflake's
# defaults.
SESSION = {
    "TIMEZONE": "UTC",
    "DATE_INPUT_FORMAT": "AUTO",
    "DATE_OUTPUT_FORMAT": "YYYY-MM-DD",
    "TIMESTAMP_INPUT_FORMAT": "AUTO",
    "TIMESTAMP_NTZ_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3",
}
_LOCK = threading.Lock()


@cache
def make_loggers() -> None:
    """Create the connector's loggers in one thread, by reading an empty result.

    This function must be called before any result is read.
    """
    from snowflake.connector.errors import Error

    with _LOCK:
        try:
            from snowflake.connector.arrow_context import ArrowConverterContext
            from snowflake.connector.nanoarrow_arrow_iterator import PyArrowRowIterator
        except ImportError:  # a connector without the extension reads no Arrow results
            return
        # The empty result has no schema, which the connector would log as an error.
        logger = logging.getLogger("snowflake.connector.CArrowIterator")
        logger.disabled = True
        with suppress(Error):
            PyArrowRowIterator(None, b"", ArrowConverterContext(), False, False, False, False)
        logger.disabled = False


def end_if_silent(url: str) -> None:
    """End the process once Snowflake at this URL has not responded for SILENT_SECONDS.

    The connector would wait forever, and dbt passes it no timeout for statements. Any response counts, even
    an error.
    """
    import requests

    answered_at = time.monotonic()
    while time.monotonic() - answered_at < SILENT_SECONDS:
        try:
            requests.head(url, timeout=SILENT_SECONDS / 3)
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError):
            pass  # these errors are raised only after a server has answered
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(SILENT_SECONDS / 30)
            continue
        answered_at = time.monotonic()
        time.sleep(SILENT_SECONDS / 6)
    sys.stderr.write(f'No answer from Snowflake at {url}: see docs/runbook.md, "Snowflake unreachable"\n')
    sys.stderr.flush()
    os._exit(2)


def set_session(connector: Any) -> None:
    """Let every connection that `connector.connect` opens begin with the parameters in SESSION."""
    connect = connector.connect

    def with_session(*, session_parameters: dict[str, object], **given: Any) -> Any:
        return connect(session_parameters=SESSION | session_parameters, **given)

    connector.connect = with_session


def main() -> None:
    import snowflake.connector
    from dbt.cli.main import cli

    make_loggers()
    set_session(snowflake.connector)
    threading.Thread(target=end_if_silent, args=(os.environ[ADDRESS],), daemon=True).start()
    # dbt cancels its queries only after Ctrl-C (SIGINT). After a timeout, Airflow sends SIGTERM and then starts dbt
    # again, so SIGTERM must have the same effect.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cli(prog_name="dbt")


if __name__ == "__main__":
    main()
