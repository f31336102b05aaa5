"""Entry point of the executor: the only place here that reads the environment."""

import os
from pathlib import Path
from typing import Any, override

from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    """MILKRUN_LAMBDA_PYTHON: an interpreter with awslambdaric and what Lambda has besides, and nothing else.
    MILKRUN_LAMBDA_LOGS: a folder for the functions' logs. MILKRUN_LAMBDA_ENDPOINT, if there is one: where the
    functions find AWS, such as a proxy in front of LocalStack."""

    name = "process"

    @override
    def load(self, *args: Any, **kwargs: Any) -> Any:
        from localstack_lambda_executor.executor import ProcessExecutor

        ProcessExecutor.python = Path(os.environ["MILKRUN_LAMBDA_PYTHON"])
        ProcessExecutor.log_folder = Path(os.environ["MILKRUN_LAMBDA_LOGS"])
        ProcessExecutor.aws_endpoint = os.environ.get("MILKRUN_LAMBDA_ENDPOINT", "")
        ProcessExecutor.log_folder.mkdir(parents=True, exist_ok=True)
        return ProcessExecutor
