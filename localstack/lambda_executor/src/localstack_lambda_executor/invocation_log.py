"""The log of one invocation in Lambda's text and JSON formats."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class InvocationLog:
    """The log of one invocation. `status` is None on success, otherwise `error` or `timeout`. `fault` is the
    line that Lambda adds if the function times out or its process exits.
    """

    request_id: str
    version: str
    earlier_output: str  # output of a process that failed before its first request
    output: str
    fault: str | None
    duration_ms: float
    init_ms: float | None  # None if the process was already running
    memory_mb: int
    used_mb: int
    status: str | None
    error_type: str | None

    @property
    def _billed_ms(self) -> int:
        return math.ceil(self.duration_ms + (self.init_ms or 0))

    def as_text(self) -> str:
        report = [
            f"REPORT RequestId: {self.request_id}",
            f"Duration: {self.duration_ms:.2f} ms",
            f"Billed Duration: {self._billed_ms} ms",
            f"Memory Size: {self.memory_mb} MB",
            f"Max Memory Used: {self.used_mb} MB",
            None if self.init_ms is None else f"Init Duration: {self.init_ms:.2f} ms",
            None if self.status is None else f"Status: {self.status}",
            None if self.error_type is None else f"Error Type: {self.error_type}",
        ]
        return _lines(
            self.earlier_output,
            f"START RequestId: {self.request_id} Version: {self.version}",
            self.output,
            self.fault,
            f"END RequestId: {self.request_id}",
            "\t".join(field for field in report if field),
        )

    def as_json(self, system_level: str) -> str:
        """Return the log in JSON format. Lambda's own lines are included only if their level is at least
        `system_level`.

        Unlike the text format, the JSON format has no END line. Source: AWS Lambda Developer Guide,
        "System log level event mapping".
        """
        start = {"requestId": self.request_id, "version": self.version}
        metrics: dict[str, object] = {
            "durationMs": round(self.duration_ms, 3),
            "billedDurationMs": self._billed_ms,
            "memorySizeMB": self.memory_mb,
            "maxMemoryUsedMB": self.used_mb,
        }
        if self.init_ms is not None:
            metrics["initDurationMs"] = round(self.init_ms, 3)
        report: dict[str, object] = {"requestId": self.request_id, "metrics": metrics}
        report["status"] = self.status or "success"
        if self.error_type is not None:
            report["errorType"] = self.error_type
        with_info = system_level in ("DEBUG", "INFO")
        return _lines(
            self.earlier_output,
            _platform("start", start) if with_info else None,
            self.output,
            self.fault,
            _platform("report", report) if with_info or self.status else None,
        )


def _lines(*parts: str | None) -> str:
    return "".join(part if part.endswith("\n") else f"{part}\n" for part in parts if part)


def _platform(kind: str, record: dict[str, object] | dict[str, str]) -> str:
    return json.dumps({"time": timestamp(), "type": f"platform.{kind}", "record": record}, allow_nan=False)


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timeout_line(request_id: str, timeout_s: float) -> str:
    return f"{timestamp()} {request_id} Task timed out after {timeout_s:.2f} seconds"
