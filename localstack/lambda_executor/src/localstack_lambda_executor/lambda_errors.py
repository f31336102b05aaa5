"""The errors that Lambda returns instead of a function's response, in Lambda's exact words."""

import json
import signal


def error_body(error_type: str, message: str) -> bytes:
    return json.dumps({"errorType": error_type, "errorMessage": message}, allow_nan=False).encode()


def timed_out(request_id: str, timeout_s: float) -> bytes:
    message = f"RequestId: {request_id} Error: Task timed out after {timeout_s:.2f} seconds"
    return error_body("Sandbox.Timedout", message)


def exited(request_id: str, status: int) -> bytes:
    """Return the error for a process that exited. `status` is its exit status, negative if a signal ended it."""
    return error_body("Runtime.ExitError", exit_line(request_id, status))


def out_of_memory(request_id: str) -> bytes:
    return error_body("Runtime.OutOfMemory", exit_line(request_id, -signal.SIGKILL))


def exit_line(request_id: str, status: int) -> str:
    return f"RequestId: {request_id} Error: {exit_reason(status)}"


def exit_reason(status: int) -> str:
    if status == 0:
        return "Runtime exited without providing a reason"
    if status < 0:
        return f"Runtime exited with error: signal: {signal_text(-status)}"
    return f"Runtime exited with error: exit status {status}"


def signal_text(number: int) -> str:
    """Return the signal's name as Go spells it (`killed`, `segmentation fault`), because Lambda's supervisor
    is written in Go.
    """
    return (signal.strsignal(number) or f"signal {number}").lower()


def too_large(size: int, limit: int) -> bytes:
    message = f"Response payload size ({size} bytes) exceeded maximum allowed payload size ({limit} bytes)."
    return error_body("Function.ResponseSizeTooLarge", message)
