"""A stack's folder and ports, and the settings derived from them."""

import hashlib
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.environment import for_installation, for_programs, has_writable_home
from ops.stage_outputs import ROOT
from tools.stack.errors import StackError

REGION = "us-east-1"
ACCOUNT = "000000000000"
LOOPBACK = "127.0.0.1"
# Ignore ~/.aws, because it may name another endpoint or a profile that requires a login, or may not be readable.
WITHOUT_AWS_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
# Variables that a developer may set for the stack: LocalStack's log level, output without colours, the functions'
# architecture, and the functions' AWS endpoint.
PASSED_ON = ("LS_LOG", "NO_COLOR", "MILKRUN_ARCHITECTURE", "MILKRUN_LAMBDA_ENDPOINT")
WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Settings:
    """A stack's folder, ports and environments.

    The stack's programs inherit `environment`, which contains only the caller's basic variables, such as PATH
    and HOME, and those in PASSED_ON. Package installers get `installation_environment`, because they may need
    a proxy or another package index.
    """

    folder: Path
    port: int
    environment: Mapping[str, str]
    installation_environment: Mapping[str, str]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Settings":
        port = environment.get("MILKRUN_PORT", "4566")
        if not port.isdigit() or not 1024 <= int(port) <= 65535 - 50:
            raise StackError(f"MILKRUN_PORT is {port!r}: choose a number from 1024 to {65535 - 50}.")
        folder = (ROOT / (environment.get("MILKRUN_LOCAL") or ".local")).resolve()
        return cls(
            folder=folder,
            port=int(port),
            environment=for_programs(environment)
            # LocalStack fails if it cannot write its caches.
            | ({} if has_writable_home(environment) else {"HOME": str(folder / "home")})
            | WITHOUT_AWS_FILES
            | {name: environment[name] for name in PASSED_ON if name in environment},
            installation_environment=for_installation(environment),
        )

    @property
    def snowflake_port(self) -> int:
        return self.port + 1

    @property
    def console_port(self) -> int:
        return self.port + 2

    @property
    def console_url(self) -> str:
        return f"http://{LOOPBACK}:{self.console_port}"

    @property
    def external_ports(self) -> range:
        """Return the range of ports for the processes that LocalStack starts in addition to its gateway."""
        return range(self.port + 10, self.port + 50)

    @property
    def endpoint_url(self) -> str:
        # An IP address instead of a host name makes S3 clients put the bucket name into the path.
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def aws_environment(self) -> dict[str, str]:
        """Return the environment variables that make boto3, osls and the Snowflake loader use only this stack."""
        return {
            **self.environment,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "MILKRUN_LOCAL": str(self.folder),
            "MILKRUN_PORT": str(self.port),
            # Constant per folder, so that a recreated stack keeps its endpoint and key.
            "MILKRUN_API_ID": self._of_folder("api")[:10],
            "MILKRUN_API_KEY": self._of_folder("key")[:40],
        }

    def _of_folder(self, purpose: str) -> str:
        return hashlib.sha256(f"{purpose} {self.folder}".encode()).hexdigest()

    @property
    def run_folder(self) -> Path:
        return self.folder / "run"

    @property
    def log_folder(self) -> Path:
        return self.folder / "logs"

    @property
    def lambda_log_folder(self) -> Path:
        return self.log_folder / "lambda"

    @property
    def localstack_folder(self) -> Path:
        return self.folder / "localstack"

    @property
    def snowflake_folder(self) -> Path:
        return self.folder / "snowflake"

    @property
    def outputs_file(self) -> Path:
        return self.folder / "outputs.json"
