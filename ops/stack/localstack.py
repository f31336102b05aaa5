"""LocalStack in host mode: AWS on loopback, Lambda functions as processes of this machine."""

import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

from ops.stack.faults import StackError
from ops.stack.processes import Process, start
from ops.stack.settings import LOOPBACK, ROOT, Settings

NAME = "localstack"
PYTHON = ROOT / ".venvs" / "localstack" / "bin" / "python"
LAMBDA_PYTHON = ROOT / ".venvs" / "lambda" / "bin" / "python"
KINESIS_MOCK = "kinesis-local"
KINESIS_MOCK_VERSION = "0.5.2"  # the one that LocalStack 4.14 looks for; package.json pins it
PRELOAD = ROOT / "localstack" / "plugin" / "milkrun_localstack" / "kinesis_mock.cjs"
READY_S = 90


def environment(settings: Settings) -> dict[str, str]:
    ports = settings.external_ports
    return {
        **settings.environment,
        "GATEWAY_LISTEN": f"{LOOPBACK}:{settings.port}",
        "GATEWAY_SERVER": "hypercorn",  # the default one listens on every interface, whatever GATEWAY_LISTEN says
        "LOCALSTACK_HOST": f"{LOOPBACK}:{settings.port}",
        "EXTERNAL_SERVICE_PORTS_START": str(ports.start),
        "EXTERNAL_SERVICE_PORTS_END": str(ports.stop),
        "OVERRIDE_IN_DOCKER": "0",  # a /.dockerenv would make it write to /var/lib/localstack
        "FILESYSTEM_ROOT": str(settings.localstack_folder),
        "TMPDIR": str(_made(settings.localstack_folder / "tmp")),  # where functions are unpacked
        "PROVIDER_OVERRIDE_DYNAMODB": "moto",
        "LAMBDA_RUNTIME_EXECUTOR": "process",
        "LAMBDA_KEEPALIVE_MS": "300000",  # an idle function process goes after five minutes
        "MILKRUN_LAMBDA_PYTHON": str(LAMBDA_PYTHON),
        "MILKRUN_LAMBDA_LOGS": str(settings.lambda_log_folder),
        "NODE_OPTIONS": f"--require={PRELOAD}",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "LS_LOG": settings.environment.get("LS_LOG", "warning"),
        "PYTHONUNBUFFERED": "1",
    }


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lay_out_kinesis_mock(settings: Settings) -> None:
    """LocalStack fetches the mock at its first use, each time its folder is new; npm ci has brought it already."""
    modules = settings.localstack_folder / f"var/lib/localstack/lib/{KINESIS_MOCK}/{KINESIS_MOCK_VERSION}"
    if not (ROOT / "node_modules" / KINESIS_MOCK / "main.js").exists():
        raise StackError("node_modules is not complete. Run: ops/setup.sh node")
    modules.mkdir(parents=True, exist_ok=True)
    link = modules / "node_modules"
    if not link.is_symlink():
        link.symlink_to(ROOT / "node_modules")


def launch(settings: Settings) -> Process:
    if not PYTHON.exists() or not LAMBDA_PYTHON.exists():
        raise StackError("LocalStack is not installed. Run: ops/setup.sh localstack lambda")
    lay_out_kinesis_mock(settings)
    return start(
        NAME,
        [PYTHON, "-m", "localstack.runtime.main"],
        environment(settings),
        settings.log_folder / "localstack.log",
        settings.run_folder,
    )


def is_healthy(settings: Settings) -> bool:
    try:
        with urllib.request.urlopen(f"{settings.endpoint_url}/_localstack/health", timeout=5) as answer:  # noqa: S310
            return "services" in json.load(answer)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def await_ready(settings: Settings, process: Process) -> None:
    deadline = time.monotonic() + READY_S
    while not is_healthy(settings):
        if not process.is_alive():
            raise StackError(
                f"LocalStack ended while it started; its log: {settings.log_folder}/localstack.log"
            )
        if time.monotonic() > deadline:
            raise StackError(
                f"LocalStack was not ready after {READY_S} s; its log: {settings.log_folder}/localstack.log"
            )
        time.sleep(0.1)


def wipe(settings: Settings) -> None:
    shutil.rmtree(settings.localstack_folder, ignore_errors=True)
