"""Lambda's own words: what a caller and a log read when a function ends otherwise than by an answer."""

import json
import math
import signal
from datetime import UTC, datetime


def error_body(error_type: str, message: str) -> bytes:
    return json.dumps({"errorType": error_type, "errorMessage": message}).encode()


def timed_out(request_id: str, timeout_s: float) -> bytes:
    return error_body(
        "Sandbox.Timedout", f"RequestId: {request_id} Error: Task timed out after {timeout_s:.2f} seconds"
    )


def exited(request_id: str, status: int) -> bytes:
    """`status` as subprocess has it: negative for a signal."""
    return error_body("Runtime.ExitError", f"RequestId: {request_id} Error: {exit_reason(status)}")


def exit_reason(status: int) -> str:
    if status == 0:
        return "Runtime exited without providing a reason"
    if status < 0:
        return f"Runtime exited with error: signal: {signal_text(-status)}"
    return f"Runtime exited with error: exit status {status}"


def signal_text(number: int) -> str:
    """As Go names them, in which Lambda's supervisor is written: `killed`, `segmentation fault`."""
    return (signal.strsignal(number) or f"signal {number}").lower()


def out_of_memory(request_id: str) -> bytes:
    return error_body(
        "Runtime.OutOfMemory", f"RequestId: {request_id} Error: Runtime exited with error: signal: killed"
    )


def too_large(size: int, limit: int) -> bytes:
    return error_body(
        "Function.ResponseSizeTooLarge",
        f"Response payload size ({size} bytes) exceeded maximum allowed payload size ({limit} bytes).",
    )


def start_line(request_id: str, version: str) -> str:
    return f"START RequestId: {request_id} Version: {version}"


def end_line(request_id: str) -> str:
    return f"END RequestId: {request_id}"


def timeout_line(request_id: str, timeout_s: float) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{now} {request_id} Task timed out after {timeout_s:.2f} seconds"


def exit_line(request_id: str, status: int) -> str:
    return f"RequestId: {request_id} Error: {exit_reason(status)}"


def report_line(
    request_id: str,
    *,
    duration_ms: float,
    init_ms: float | None,
    memory_mb: int,
    used_mb: int,
    status: str | None,
    error_type: str | None = None,
) -> str:
    billed_ms = math.ceil(duration_ms + (init_ms or 0))  # INIT is billed
    fields = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {duration_ms:.2f} ms",
        f"Billed Duration: {billed_ms} ms",
        f"Memory Size: {memory_mb} MB",
        f"Max Memory Used: {used_mb} MB",
    ]
    if init_ms is not None:
        fields.append(f"Init Duration: {init_ms:.2f} ms")
    if status is not None:
        fields.append(f"Status: {status}")
    if error_type is not None:
        fields.append(f"Error Type: {error_type}")
    return "\t".join(fields)
