"""Calls with a deadline, for libraries that do not always honour their own timeouts.

A call that hangs continues in a daemon thread, which delays neither the caller nor the program's exit.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from time import monotonic

from cli.refusal import Refusal


class NoAnswerError(Refusal):
    """A service, such as Snowflake or S3, did not respond in time, or refused the connection or the credentials.

    The message names the service.
    """


def within[T](seconds: float, call: Callable[[], T], what: str) -> T:
    """Return the result of `call`, or raise its exception. Raises NoAnswerError if `call` exceeds the deadline."""
    running = started(call)
    if wait([running], seconds).not_done:
        raise NoAnswerError(f"no answer from {what} within {seconds:g} s")
    return running.result()


def while_alive[T](seconds: float, call: Callable[[], T], is_alive: Callable[[], bool], what: str) -> T:
    """Like `within`, but extend the deadline as long as `is_alive` returns True.

    `is_alive` sends the same service a trivial request. A call may therefore take any length of time as long as
    the service responds to such requests.
    """
    running, probe = started(call), None
    deadline = monotonic() + seconds
    while wait([running], max(0, min(seconds / 5, deadline - monotonic()))).not_done:
        if monotonic() >= deadline:
            raise NoAnswerError(f"no answer from {what} within {seconds:g} s")
        if probe is None:
            probe = started(is_alive)
        elif probe.done():
            if not probe.exception() and probe.result():
                deadline = monotonic() + seconds
            probe = None
    return running.result()


def started[T](call: Callable[[], T]) -> Future[T]:
    """Start a call in a daemon thread; return the future of its result."""
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # Future.result raises it in the caller's thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="within").start()
    return future
