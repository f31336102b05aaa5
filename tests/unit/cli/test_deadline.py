"""Test that a call that hangs does not block the caller, and that the exception of a failed call reaches the caller."""

import threading
import time

import pytest

from cli.deadline import NoAnswerError, while_alive, within


def test_hanging_call_raises_an_error_at_its_deadline() -> None:
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"no answer from the store within 0\.1 s"):
        within(0.1, lambda: threading.Event().wait(30), "the store")
    assert time.monotonic() - began < 5


def test_result_or_exception_of_a_call_reaches_the_caller() -> None:
    assert within(5, lambda: 7, "it") == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0, "it")


def test_long_call_continues_as_long_as_the_service_responds() -> None:
    began, ended = time.monotonic(), threading.Event()

    def is_alive() -> bool:
        if time.monotonic() - began > 1.5:
            ended.set()
        return True

    assert while_alive(1, lambda: ended.wait(30), is_alive, "the store")


@pytest.mark.parametrize("hangs", [True, False])
def test_long_call_raises_an_error_if_the_service_stops_responding(hangs: bool) -> None:
    is_alive = (lambda: threading.Event().wait(30)) if hangs else (lambda: False)
    with pytest.raises(NoAnswerError, match=r"no answer from the store within 0\.1 s"):
        while_alive(0.1, lambda: threading.Event().wait(30), is_alive, "the store")
