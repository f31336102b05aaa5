"""A call with a deadline, for libraries that do not always keep their own timeouts."""

import queue
import threading
from collections.abc import Callable

from snowpipe.refusal import Refusal


class NoAnswerError(Refusal):
    """A store did not answer in time; the message names it."""


def within[T](seconds: float, call: Callable[[], T], what: str) -> T:
    """Return what `call` returns or raise what it raises. Raises NoAnswerError after so many seconds.

    The call continues in a daemon thread, which delays neither the answer nor the program's exit.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # raised to the caller
            answers.put((None, error))

    threading.Thread(target=run, daemon=True, name=f"within {seconds:g} s").start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise NoAnswerError(f"no answer from {what} within {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # None is what T allows then
