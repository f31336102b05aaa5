"""The plugin's entry point. Only this module reads the plugin's settings, which are environment variables."""

import os
from pathlib import Path
from typing import override

from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    """The plugin that registers the executor. It reads three environment variables.

    MILKRUN_LAMBDA_PYTHON is a Python interpreter with awslambdaric and the other packages of Lambda's runtime,
    but no additional packages. MILKRUN_LAMBDA_LOGS is a folder for the functions' logs. MILKRUN_LAMBDA_ENDPOINT
    (optional) is the AWS endpoint that the functions use, such as a proxy in front of LocalStack.
    """

    name = "process"

    @override
    def load(self, *args: object, **kwargs: object) -> object:
        from localstack_lambda_executor.executor import ProcessExecutor

        ProcessExecutor.python = Path(os.environ["MILKRUN_LAMBDA_PYTHON"])
        ProcessExecutor.log_folder = Path(os.environ["MILKRUN_LAMBDA_LOGS"])
        ProcessExecutor.aws_endpoint = os.environ.get("MILKRUN_LAMBDA_ENDPOINT", "")
        ProcessExecutor.log_folder.mkdir(parents=True, exist_ok=True)
        return ProcessExecutor
