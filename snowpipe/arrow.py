"""Use snowflake-connector-python in several threads without its deadlock. As a program: start dbt that way.

When a process reads its first Arrow result, the connector (4.8.0) creates its C++ logger inside
`std::call_once` and meanwhile releases Python's global lock. A second thread with a result then takes that
lock and waits for `call_once`, so both wait forever. dbt lists its schemas in several threads at once and
hung in this way. (A later pull request of the connector, "Enable free-threaded (no-GIL) CPython support for
the Arrow iterator", changes this code.)

This file also runs in dbt's environment, so it imports none of our modules.
"""

import logging
import threading
from contextlib import suppress
from functools import cache

_LOCK = threading.Lock()


@cache
def make_loggers() -> None:
    """Create the loggers by reading an empty result, in one thread; call it before a process reads results."""
    from snowflake.connector.errors import Error

    with _LOCK:
        try:
            from snowflake.connector.arrow_context import ArrowConverterContext
            from snowflake.connector.nanoarrow_arrow_iterator import PyArrowRowIterator
        except ImportError:  # built without the extension: results are JSON
            return
        # The empty result has no schema, which the connector would log as an error.
        logger = logging.getLogger("snowflake.connector.CArrowIterator")
        logger.disabled = True
        with suppress(Error):
            PyArrowRowIterator(None, b"", ArrowConverterContext(), False, False, False, False)
        logger.disabled = False


def main() -> None:
    from dbt.cli.main import cli

    make_loggers()
    cli(prog_name="dbt")


if __name__ == "__main__":
    main()
