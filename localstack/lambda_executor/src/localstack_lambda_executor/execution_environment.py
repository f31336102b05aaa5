"""One Lambda execution environment: one process that handles one request at a time and is replaced when it ends.

The environment enforces the function's timeout and memory size. Differences from Lambda: a process is not
frozen between invocations, its memory is checked every 50 ms instead of being limited by the kernel, and it
can access the machine's file system.
"""

import json
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from localstack_lambda_executor import lambda_errors
from localstack_lambda_executor.invocation_log import InvocationLog, timeout_line
from localstack_lambda_executor.process import Function, Process
from localstack_lambda_executor.runtime_api import MAX_RESPONSE_BYTES, Request

INIT_TIMEOUT_S = 10.0  # as long as Lambda's init phase
TICK_S = 0.05


@dataclass(frozen=True)
class Outcome:
    body: bytes
    is_error: bool
    log: InvocationLog


@dataclass(frozen=True)
class _Ending:
    """How an invocation ended. `status` and `error_type` are written to the REPORT line; both are None on success."""

    body: bytes
    status: str | None = None
    error_type: str | None = None
    fault: str | None = None  # the line that Lambda adds to the log
    process_survives: bool = False


class ExecutionEnvironment:
    """One execution environment of a function. `invoke` returns an outcome for every request, even if the
    process dies. `stop` is thread-safe.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self._folder = Path(tempfile.mkdtemp(prefix="execution-environment-"))
        self._process: Process | None = None
        self._init_ms: float | None = None  # for the next REPORT line
        self._earlier_output = ""  # output of a process that failed before its first request
        self._stopped = False
        self._busy = threading.Lock()

    def start(self) -> None:
        """Run the init phase. A failure or a timeout is not raised. The next request runs the init phase again, within
        the function's timeout, and returns the error of a second failure. Source: AWS Lambda Developer Guide,
        "Understanding the Lambda execution environment lifecycle".
        """
        with self._busy:
            process = self._ready_process(time.monotonic() + INIT_TIMEOUT_S)
            if process.api.is_ready:
                self._init_ms = (time.monotonic() - process.started_at) * 1000
            else:
                process.kill()

    def stop(self) -> None:
        self._stopped = True
        if process := self._process:
            process.kill()  # a waiting `invoke` notices this and returns
        with self._busy:
            self._drop_process()
            shutil.rmtree(self._folder, ignore_errors=True)

    def invoke(self, request_id: str, function_arn: str, payload: bytes, trace_id: str) -> Outcome:
        with self._busy:
            if self._stopped:
                return self._outcome(request_id, 0.0, 0, "", self._killed(request_id))
            started_at = time.monotonic()
            until = started_at + self.function.timeout_s
            deadline_ms = int((time.time() + self.function.timeout_s) * 1000)
            process = self._ready_process(until)
            request = Request(request_id, function_arn, payload, trace_id, deadline_ms)
            process.api.offer(request)
            ending = self._await_ending(process, request_id, until)
            if ending is None:  # the process died between two requests, before it received this one
                process = self._ready_process(until)
                process.api.offer(request)
                ending = self._await_ending(process, request_id, until) or self._killed(request_id)
            duration_ms = (time.monotonic() - started_at) * 1000
            used_mb = process.peak_memory_mb()
            if not ending.process_survives:
                process.kill()
            outcome = self._outcome(request_id, duration_ms, used_mb, process.take_output(), ending)
            if not ending.process_survives:
                self._drop_process()
            return outcome

    def _ready_process(self, until: float) -> Process:
        """Return the running process, or start one and wait until its init phase ends, at most until `until`. `invoke`
        handles a failed init phase.
        """
        process = self._process
        if process is not None:
            if process.exit_status() is None:
                return process
            self._earlier_output += process.take_output()
            self._drop_process()
        self._folder.mkdir(exist_ok=True)  # a cleaner of /tmp may have deleted it
        self._process = process = Process(self.function, self._folder)
        if self._stopped:
            process.kill()
        api = process.api
        with api.changed:
            while not api.is_ready and api.init_error is None and process.exit_status() is None:
                if (left_s := until - time.monotonic()) <= 0:
                    break
                api.changed.wait(min(TICK_S, left_s))
        return process

    def _await_ending(self, process: Process, request_id: str, until: float) -> _Ending | None:
        """Wait until the request ends and return how it ended. Returns None if the process had initialized
        successfully but exited before it received the request.
        """
        api, function = process.api, self.function
        with api.changed:
            while True:
                # Read the status before the answer. Otherwise, a process that responds and exits between the two reads
                # would count as exited without a response.
                status = process.exit_status()
                if answer := api.answer():
                    return self._answered(answer.body, answer.size, answer.is_error)
                if api.init_error is not None:
                    return _Ending(api.init_error, "error", _error_type(api.init_error))
                if status is not None:
                    if api.is_ready and api.taken is None:
                        return None
                    body = lambda_errors.exited(request_id, status)
                    return _Ending(
                        body, "error", _error_type(body), lambda_errors.exit_line(request_id, status)
                    )
                if (left_s := until - time.monotonic()) <= 0:
                    return _Ending(
                        lambda_errors.timed_out(request_id, function.timeout_s),
                        "timeout",
                        fault=timeout_line(request_id, function.timeout_s),
                    )
                if process.memory_mb() > function.memory_mb:
                    body = lambda_errors.out_of_memory(request_id)
                    return _Ending(body, "error", _error_type(body), lambda_errors.exit_line(request_id, -9))
                process.bound_output()
                api.changed.wait(min(TICK_S, left_s))

    def _answered(self, body: bytes, size: int, is_error: bool) -> _Ending:
        if size > MAX_RESPONSE_BYTES:
            body = lambda_errors.too_large(size, MAX_RESPONSE_BYTES)
            return _Ending(body, "error", _error_type(body), process_survives=True)
        if is_error:
            return _Ending(body, "error", _error_type(body), process_survives=True)
        return _Ending(body, process_survives=True)

    def _killed(self, request_id: str) -> _Ending:
        body = lambda_errors.exited(request_id, -9)
        return _Ending(body, "error", _error_type(body), lambda_errors.exit_line(request_id, -9))

    def _outcome(
        self, request_id: str, duration_ms: float, used_mb: int, output: str, ending: _Ending
    ) -> Outcome:
        log = InvocationLog(
            request_id=request_id,
            version=self.function.version,
            earlier_output=self._earlier_output,
            output=output,
            fault=ending.fault,
            duration_ms=duration_ms,
            init_ms=self._init_ms,
            memory_mb=self.function.memory_mb,
            used_mb=used_mb,
            status=ending.status,
            error_type=ending.error_type,
        )
        self._init_ms, self._earlier_output = None, ""
        return Outcome(ending.body, ending.status is not None, log)

    def _drop_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


def _error_type(body: bytes) -> str | None:
    try:
        error_type = json.loads(body).get("errorType")
    except (ValueError, AttributeError):
        return None
    return error_type if isinstance(error_type, str) else None
