"""LocalStack in host mode: AWS services on loopback, with Lambda functions as processes on this machine."""

import contextlib
import json
import socket
import subprocess
import urllib.error
from pathlib import Path

import psutil

from ops.stage_outputs import ROOT
from tools.stack.errors import StackError
from tools.stack.processes import Process, Processes, descendants
from tools.stack.settings import LOOPBACK, WITHOUT_PROXY, Settings

NAME = "localstack"
KINESIS = "kinesis"
TITLE = "LocalStack"
READY_S = 120.0  # how long it may take to start
PYTHON = ROOT / ".venvs" / "localstack" / "bin" / "python"
LAMBDA_PYTHON = ROOT / ".venvs" / "lambda" / "bin" / "python"
PRELOAD = ROOT / "localstack/lambda_executor/src/localstack_lambda_executor/kinesis_mock_preload.cjs"
KINESIS_MOCK = Path("kinesis-local")
KINESIS_MOCK_VERSION = "0.5.2"  # the one that LocalStack 4.14 looks for; package.json pins it
OLDEST_NODE = 20


def environment(settings: Settings) -> dict[str, str]:
    ports = settings.external_ports
    return {
        **settings.environment,
        "GATEWAY_LISTEN": f"{LOOPBACK}:{settings.port}",
        "GATEWAY_SERVER": "twisted",  # uses a quarter less CPU per request than hypercorn; the plugin sets its address
        "MALLOC_ARENA_MAX": "2",  # otherwise each of LocalStack's hundred threads would have its own arena
        "LOCALSTACK_HOST": f"{LOOPBACK}:{settings.port}",
        "SQS_ENDPOINT_STRATEGY": "path",  # queue URLs whose host needs no name resolution
        "EXTERNAL_SERVICE_PORTS_START": str(ports.start),
        "EXTERNAL_SERVICE_PORTS_END": str(ports.stop),
        "DNS_ADDRESS": "0",
        "OVERRIDE_IN_DOCKER": "0",  # otherwise LocalStack would write to /var/lib/localstack if /.dockerenv exists
        "FILESYSTEM_ROOT": str(settings.localstack_folder),
        "TMPDIR": str(settings.localstack_folder / "tmp"),  # where functions are unpacked
        "PROVIDER_OVERRIDE_DYNAMODB": "moto",
        "LAMBDA_RUNTIME_EXECUTOR": "process",
        "LAMBDA_KEEPALIVE_MS": "60000",  # so that the processes of a burst, 60 MB each, end soon after it
        # Lambda polls each shard every second (AWS Lambda: "Process Amazon Kinesis Data Streams records with
        # Lambda"). LocalStack polls one of the two shards per interval. Its default pauses grow to 10 s after
        # empty polls and to 60 s after errors.
        "LAMBDA_EVENT_SOURCE_MAPPING_POLL_INTERVAL_SEC": "0.5",
        "LAMBDA_EVENT_SOURCE_MAPPING_MAX_BACKOFF_ON_EMPTY_POLL_SEC": "1",
        "LAMBDA_EVENT_SOURCE_MAPPING_MAX_BACKOFF_ON_ERROR_SEC": "5",
        "KINESIS_LATENCY": "0",
        "MILKRUN_LAMBDA_PYTHON": str(LAMBDA_PYTHON),
        "MILKRUN_LAMBDA_LOGS": str(settings.lambda_log_folder),
        "NODE_OPTIONS": f'--require="{PRELOAD}"',
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "LS_LOG": settings.environment.get("LS_LOG", "warning"),
        "PYTHONUNBUFFERED": "1",
    }


def kinesis_mock(process: Process) -> int | None:
    """Return the process id of LocalStack's Kinesis mock, which keeps the records only in memory; None if it
    is not running.
    """
    for child in descendants(process):
        with contextlib.suppress(psutil.Error, ValueError):  # a zombie has no command line
            program, *words = psutil.Process(child.pid).cmdline()
            if Path(program).name.startswith("node") and any(
                "kinesis" in Path(word).as_posix() for word in words
            ):
                return child.pid
    return None


def port(settings: Settings) -> int:
    return settings.port


def check_tools() -> None:
    if not PYTHON.exists() or not LAMBDA_PYTHON.exists():
        raise StackError("LocalStack is not installed here. Run: tools/setup.sh main localstack lambda")
    if not all((ROOT / "node_modules" / part).exists() for part in (KINESIS_MOCK / "main.js", ".bin/osls")):
        raise StackError("node_modules is not complete. Run: tools/setup.sh node")
    try:
        version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise StackError(
            f"LocalStack's Kinesis needs Node {OLDEST_NODE} or newer. Install it: apt install nodejs"
        ) from None
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        raise StackError(
            f"LocalStack's Kinesis needs Node {OLDEST_NODE} or newer; this is {version.strip()}."
        )


def launch(settings: Settings, processes: Processes) -> Process:
    (settings.localstack_folder / "tmp").mkdir(parents=True, exist_ok=True)
    (settings.folder / "home").mkdir(exist_ok=True)
    _lay_out_kinesis_mock(settings.localstack_folder)
    return processes.start(NAME, [PYTHON, "-m", "localstack.runtime.main"], environment(settings), ROOT)


def _lay_out_kinesis_mock(folder: Path) -> None:
    """Create a symbolic link to the Kinesis mock that `npm ci` installed. Otherwise LocalStack would download
    the mock for each new folder.
    """
    home = folder / "var/lib/localstack/lib" / KINESIS_MOCK / KINESIS_MOCK_VERSION
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "node_modules").is_symlink():
        (home / "node_modules").symlink_to(ROOT / "node_modules")


def is_ready(settings: Settings) -> bool:
    try:
        with WITHOUT_PROXY.open(f"{settings.endpoint_url}/_localstack/health", timeout=10) as answer:
            healthy = "services" in json.load(answer)
    except (urllib.error.URLError, OSError, ValueError):
        return False
    if is_reachable_from_the_network(settings.port):
        # Functions run as processes, so anybody who can reach the gateway can run code here.
        raise StackError(
            "LocalStack listens on the network because its plugin is outdated. Run: tools/setup.sh localstack"
        )
    return healthy


def is_reachable_from_the_network(port: int) -> bool:
    """Return whether this port accepts connections on any IPv4 address of this machine other than loopback."""
    addresses = [
        found.address
        for interface in psutil.net_if_addrs().values()
        for found in interface
        if found.family == socket.AF_INET and not found.address.startswith("127.")
    ]
    return any(_accepts(address, port) for address in addresses)


def _accepts(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0
