"""Test that a stack can be started, used and stopped although nearly every relevant environment variable has
a misleading value.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ops.stage_outputs import ROOT

NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens

HOSTILE = {
    # a company's proxy, without an exception for loopback
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE),
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "all_proxy": "socks5://127.0.0.1:9",
    # an incomplete AWS configuration
    "AWS_PROFILE": "no-such-profile",
    "AWS_DEFAULT_PROFILE": "no-such-profile",
    "AWS_ENDPOINT_URL_S3": NOWHERE,
    "AWS_ENDPOINT_URL_LAMBDA": NOWHERE,
    "AWS_CA_BUNDLE": "/no/such/bundle.pem",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_REGION": "mars-north-1",
    "AWS_SESSION_TOKEN": "expired",
    # someone else's Snowflake account
    "SNOWFLAKE_ACCOUNT": "production",
    "SNOWFLAKE_DEFAULT_CONNECTION_NAME": "no-such-connection",
    # Python
    "PYTHONWARNINGS": "error",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
    "PYTHONINSPECT": "1",
    "PYTHONOPTIMIZE": "2",
    "VIRTUAL_ENV": "/no/such/venv",
    "UV_OFFLINE": "1",
    "UV_PYTHON": "2.7",
    "UV_TARGET": "/no/such/folder",
    "PIP_NO_INDEX": "1",
    "PIP_TARGET": "/no/such/folder",
    "PYTEST_ADDOPTS": "--no-such-option",
    # Node
    "NODE_OPTIONS": "--require=/no/such/file.js",
    "NODE_ENV": "production",
    "NODE_PATH": "/no/such/folder",
    "npm_config_ignore_scripts": "true",
    "SLS_DEBUG": "*",
    "SERVERLESS_ACCESS_KEY": "expired",
    # LocalStack and dbt settings for another project
    "SERVICES": "sqs",
    "GATEWAY_LISTEN": "0.0.0.0:1",
    "LAMBDA_RUNTIME_EXECUTOR": "docker",
    "LOCALSTACK_AUTH_TOKEN": "expired",
    "PERSISTENCE": "1",
    "DOCKER_HOST": "tcp://127.0.0.1:9",
    "DBT_TARGET": "production",
    "DBT_PROFILE": "no_such_profile",
    "DBT_WARN_ERROR": "true",
    # the shell
    "GIT_DIR": "/no/such/repository",
    "CDPATH": "/tmp:/",
    "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C",
    "COLUMNS": "7",
    "FORCE_COLOR": "1",
}
HOME_FILES = {
    ".aws/config": "this is no configuration\n",
    ".aws/credentials": "[default]\naws_access_key_id = production\n",
    ".snowflake/connections.toml": "[default\n",
    ".npmrc": f"registry={NOWHERE}\n",
    ".serverlessrc": "not JSON",
    ".dbt/profiles.yml": "a: [",
    ".gitconfig": "[core\n",
}


@dataclass(frozen=True)
class Desk:
    """A developer's machine. Each command runs in the clone with all misleading environment variables and a
    umask of 077.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            umask=0o077,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-1000:])
        assert "Traceback" not in done.stderr, (command, done.stderr[-1000:])
        return done.stdout

    def python(self, *command: str) -> str:
        return self.run(".venv/bin/python", "-m", *command)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("hostile")
    for name, text in HOME_FILES.items():
        (folder / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "home" / name).write_text(text)
    for module in ("json", "typing_extensions", "rich", "boto3", "tools"):
        (folder / "modules" / module).mkdir(parents=True)
        (folder / "modules" / module / "__init__.py").write_text(f"raise RuntimeError('another {module}')\n")
    (folder / "at-start.sh").write_text("echo hello; exit 3\n")
    port = int(os.environ.get("MILKRUN_PORT", "4666")) + 250  # the other suites use the ports below and above
    desk = Desk(
        folder,
        HOSTILE
        | {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "SNOWFLAKE_HOME": str(folder / "home" / ".snowflake"),
            "AWS_CONFIG_FILE": str(folder / "home" / ".aws" / "config"),
            "PYTHONPATH": str(folder / "modules"),
            "BASH_ENV": str(folder / "at-start.sh"),
            "ENV": str(folder / "at-start.sh"),
            "MILKRUN_LOCAL": str(folder / "stack"),
            "MILKRUN_PORT": str(port),
        },
    )
    # Install the functions' packages now. The commands below cannot download them, because their proxy is unreachable.
    subprocess.run([ROOT / ".venv/bin/python", "-m", "ops.package", "local"], cwd=ROOT, check=True)
    try:
        desk.run("make", "-s", "up")
        yield desk
    finally:
        desk.run("make", "-s", "down")
    assert not (folder / "stack").exists()


@pytest.fixture(scope="module")
def demo(desk: Desk) -> dict[str, Any]:
    """Run the demo, and return its result."""
    result: dict[str, Any] = json.loads(desk.python("ops", "demo", "--trucks", "2", "--farms", "6", "--json"))
    return result


def test_demo_passes_all_checks_despite_misleading_environment_variables(demo: dict[str, Any]) -> None:
    assert [line["name"] for line in demo["lines"] if not line["equal"]] == []
    found = {line["name"]: line["found"] for line in demo["lines"]}
    assert found["archived"] == found["loaded"] == found["staged"] > 100
    assert found["visits: mart"] == found["visits: DynamoDB"] > 10
    assert demo["rows_queryable_after_s"]["p95"] < 30


@pytest.mark.parametrize(
    "command",
    [
        ("ops", "visits", "--device", "truck-1", "--json"),
        ("ops", "reconcile", "--settle", "0", "--json"),
        ("ops", "replay", "--from", "1 hour ago", "--dry-run", "--json"),
        ("tools.stack", "status", "--json"),
    ],
)
def test_command_reaches_the_local_stack_despite_misleading_environment_variables(
    desk: Desk, command: tuple[str, ...]
) -> None:
    json.loads(desk.python(*command))


@pytest.mark.usefixtures("demo")
def test_warehouse_commands_with_the_outputs_option_use_the_local_stack(desk: Desk) -> None:
    outputs = str(desk.folder / "stack" / "outputs.json")
    assert json.loads(desk.python("snowpipe", "status", "--json", "--outputs", outputs))
    count = json.loads(
        desk.python(
            "snowpipe", "query", "SELECT COUNT(*) AS n FROM RAW.EVENTS", "--json", "--outputs", outputs
        )
    )
    assert count[0]["n"] > 0


@pytest.mark.usefixtures("demo")
def test_values_of_misleading_environment_variables_do_not_appear_in_the_servers_logs(desk: Desk) -> None:
    logs = "".join(path.read_text() for path in (desk.folder / "stack" / "logs").glob("*.log"))
    for foreign in ("no-such-profile", "production", "mars-north-1", "no/such"):
        assert foreign not in logs
