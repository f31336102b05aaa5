"""Connect LocalStack to execution environments. LocalStack's assignment service creates one executor per
concurrent request.
"""

import contextlib
import threading
from pathlib import Path
from typing import ClassVar, override

from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

from localstack_lambda_executor.execution_environment import ExecutionEnvironment
from localstack_lambda_executor.process import Function

RUNTIME = "python3.13"
MAX_LOG_FILE_BYTES = 8 * 1024 * 1024

# Variables (or their prefixes) that LocalStack adds and that are not passed to functions.
LOCALSTACK_VARIABLES = (
    "LOCALSTACK_",
    "EDGE_PORT",
    "LAMBDA_RUNTIME_DIR",
    "AWS_LAMBDA_FUNCTION_TIMEOUT",
    "_AWS_XRAY_",
)


class ProcessExecutor(RuntimeExecutor):
    python: ClassVar[Path]
    log_folder: ClassVar[Path]
    aws_endpoint: ClassVar[str] = ""
    _writing: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, id: str, function_version: FunctionVersion) -> None:
        super().__init__(id, function_version)
        self._execution_environment: ExecutionEnvironment | None = None
        self._last_logs = ""

    @override
    def start(self, env_vars: dict[str, str]) -> None:
        config = self.function_version.config
        environment = {
            name: str(value) for name, value in env_vars.items() if not name.startswith(LOCALSTACK_VARIABLES)
        }
        if level := environment.get("AWS_LAMBDA_LOG_LEVEL"):
            environment["AWS_LAMBDA_LOG_LEVEL"] = level.upper()  # LocalStack uses Info where Lambda uses INFO
        if self.aws_endpoint:
            environment["AWS_ENDPOINT_URL"] = self.aws_endpoint
        self._execution_environment = ExecutionEnvironment(
            Function(
                handler=config.handler,
                code=config.code.get_unzipped_code_location(),
                timeout_s=config.timeout,
                memory_mb=config.memory_size,
                version=self.function_version.id.qualifier,
                environment=environment | {"AWS_EXECUTION_ENV": f"AWS_Lambda_{RUNTIME}"},
                python=self.python,
            )
        )
        self._execution_environment.start()

    @override
    def stop(self) -> None:
        if self._execution_environment is not None:
            self._execution_environment.stop()

    @override
    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        assert self._execution_environment is not None
        request_id = payload["invoke-id"]
        outcome = self._execution_environment.invoke(
            request_id, payload["invoked-function-arn"], payload["payload"].encode(), payload["trace-id"]
        )
        self._last_logs = outcome.log.as_text()
        self._append_to_log_file(self._last_logs)
        logging = self.function_version.config.logging_config
        is_json = logging.get("LogFormat") == "JSON"
        logs = outcome.log.as_json(logging.get("SystemLogLevel", "INFO")) if is_json else self._last_logs
        return InvocationResult(request_id, outcome.body, is_error=outcome.is_error, logs=logs or "\n")

    def _append_to_log_file(self, logs: str) -> None:
        """Append an invocation's log to the function's log file, which outlives LocalStack's CloudWatch Logs."""
        path = self.log_folder / f"{self.function_version.id.function_name}.log"
        # The invocation has ended, so a full disk must not replace its result with an error.
        with self._writing, contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)  # the folder may have been deleted
            if path.exists() and path.stat().st_size > MAX_LOG_FILE_BYTES:
                path.replace(path.with_suffix(".1.log"))
            with path.open("a", encoding="utf-8") as file:
                file.write(logs)

    @override
    def get_address(self) -> str:
        return "127.0.0.1"

    @override
    def get_endpoint_from_executor(self) -> str:
        return "127.0.0.1"  # boto3 uses path-style bucket URLs for an IP address, but not for a host name

    @override
    def get_runtime_endpoint(self) -> str:
        return ""  # only for LocalStack's init program, which is not used here

    @override
    def get_logs(self) -> str:
        return self._last_logs

    @classmethod
    @override
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        config = function_version.config
        if config.runtime != RUNTIME:
            raise ValueError(
                f"Functions run as local processes, which support only the runtime {RUNTIME}, not {config.runtime}."
            )
        if config.layers:
            raise ValueError("Functions run as local processes, which do not support layers.")
        config.code.prepare_for_execution()

    @classmethod
    @override
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Do nothing, because LocalStack itself deletes the code once no version uses it."""
