"""Follow docs/deploy.md word for word, with `local` for `dev`, in one shell and in the order of the page.

The warehouse's part runs against an empty local Snowflake that checks roles and grants, and moto. The rest runs against
a deployed stage on LocalStack, with the real AWS CLI. The page itself lists what is not run.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from local_snowflake.testing import LocalProcess
from ops.outputs import ROOT
from tools.stack.stack import Stack

PAGE = ROOT / "docs" / "deploy.md"
ON_A_STAGE = (
    "make package",
    "make preflight",
    "make deploy",
    "aws ",
    "milkrun check-key",
    "milkrun smoke",
    "npx osls deploy list",
)
NOT_RUN = (
    "make check",  # part of `make test`
    "milkrun verify",  # tests/e2e/test_verify.py
    "npx osls rollback",
    "npx osls remove",
    "aws apigateway get-usage ",
    "aws cloudformation create-change-set",
    "export AWS_ENDPOINT_URL=",
    "export SNOWFLAKE_ACCOUNT=milkrun",  # the test sets these and those of the next line
    "export SNOWFLAKE_PROTOCOL=",
    "export SNOWFLAKE_ACCOUNT=myorg",
)
AWS_CLI = "awscli==1.45.11"
"""The version that uvx installs if no `aws` is on PATH"""
ACCOUNT = "123456789012"
OUTPUTS = {
    "ArchiveBucketName": "milkrun-guide",
    "ArchiveTopicArn": f"arn:aws:sns:us-east-1:{ACCOUNT}:milkrun-guide",
    "SnowflakeRoleArn": f"arn:aws:iam::{ACCOUNT}:role/milkrun-guide",
    "AlarmTopicArn": f"arn:aws:sns:us-east-1:{ACCOUNT}:milkrun-guide-alarms",
    "SnowflakeErrorsRoleArn": f"arn:aws:iam::{ACCOUNT}:role/milkrun-guide-errors",
}


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Run moto with what a deployment makes: bucket, topics and roles."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    s3, sns, iam = (session.client(name, endpoint_url=url) for name in ("s3", "sns", "iam"))
    s3.create_bucket(Bucket=OUTPUTS["ArchiveBucketName"])
    for name in ("ArchiveTopicArn", "AlarmTopicArn"):
        sns.create_topic(Name=OUTPUTS[name].rpartition(":")[2])
    policy = {"Version": "2012-10-17", "Statement": []}
    for name in ("SnowflakeRoleArn", "SnowflakeErrorsRoleArn"):
        role = OUTPUTS[name].rpartition("/")[2]
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(policy))
    yield url
    server.stop()


def commands(page: str) -> Iterator[str]:
    """Yield the commands in the page's indented blocks; a continuation line belongs to the previous line."""
    for block in re.findall(r"(?:^    .*\n)+", page, re.M):
        lines = [line[4:] for line in block.splitlines()]
        while lines:
            command = lines.pop(0)
            while lines and (lines[0].startswith(" ") or lines[0] == "done"):
                command += "\n" + lines.pop(0)
            yield command


def inline_commands(page: str) -> Iterator[str]:
    return iter(re.findall(r"`(aws [^`]+)`", page))


def on_the_local_stack(command: str) -> str:
    """Return a command with the changes that the page names for the local stack."""
    if found := re.match(r"export (\w+)=…\s+# (?:output )?(\w+)", command):
        return f"export {found[1]}={OUTPUTS[found[2]]}"
    command = re.sub(r"\bdev\b", "local", command).replace("MILKRUN_DEV", "MILKRUN_LOCAL")
    command = command.replace("milkrun-prod", "milkrun-local").replace("…", "secret")
    command = command.replace("iam::ACCOUNT:", "iam::000000000000:")
    if re.match(r"CREATE|GRANT", command):
        command = f'SNOWFLAKE_ROLE=ACCOUNTADMIN milkrun warehouse query "{command.rstrip(";")}"'
    return command.replace("warehouse bootstrap", "warehouse bootstrap --write")


def run(commands: Sequence[str], environment: Mapping[str, str], *functions: str) -> None:
    script = ["set -euo pipefail", f'milkrun() {{ "{ROOT}/milkrun" "$@"; }}', *functions]
    for command in commands:
        script += [f"echo '+ {command.replace("'", "'\\''")}'", command]
    ran = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("SNOWFLAKE_")}
        | {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", **environment},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]


def aws_cli() -> str:
    """Return a shell function for the AWS CLI."""
    works = shutil.which("aws") and subprocess.run(["aws", "--version"], capture_output=True, check=False)
    if works and works.returncode == 0:
        return ""
    return f'aws() {{ "{ROOT}/.venv/bin/uvx" --quiet --from {AWS_CLI} aws "$@"; }}'


@pytest.mark.timeout(900)
def test_commands_of_the_guide_make_a_warehouse_in_an_empty_account(endpoint: str, tmp_path: Path) -> None:
    page = PAGE.read_text()
    local = LocalProcess(tmp_path / "snowflake", endpoint).start()
    sign_in = {"ACCOUNT": "milkrun", "USER": "milkrun", "PASSWORD": "milkrun"}
    sign_in |= {"PROTOCOL": "http", "HOST": "127.0.0.1", "PORT": str(local.port)}
    environment = {f"SNOWFLAKE_{name}": value for name, value in sign_in.items()}
    environment |= {"AWS_ENDPOINT_URL": endpoint, "MILKRUN_LOCAL": str(tmp_path / "stage")}
    wanted = [each for each in commands(page) if not each.startswith(ON_A_STAGE + NOT_RUN)]
    assert len(wanted) > 12
    # The line with the real account also names the database and the external id.
    named = "export SNOWFLAKE_DATABASE=MILKRUN_DEV SNOWFLAKE_EXTERNAL_ID=milkrun-dev"
    assert named in wanted
    try:
        run([on_the_local_stack(each) for each in wanted], environment)
    finally:
        local.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_commands_of_the_guide_work_on_a_deployed_stage() -> None:
    page = PAGE.read_text()
    found = [*commands(page), *inline_commands(page)]
    assert [name for name in ON_A_STAGE + NOT_RUN if not any(each.startswith(name) for each in found)] == []
    wanted = [each for each in found if each.startswith(ON_A_STAGE) and not each.startswith(NOT_RUN)]
    place = {"MILKRUN_LOCAL": ".local-guide", "MILKRUN_PORT": os.environ.get("MILKRUN_PORT", "5266")}
    with Stack.of({**os.environ, **place}) as stack:
        environment = {**place, "AWS_ENDPOINT_URL": stack.settings.endpoint_url}
        environment |= {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
        run([on_the_local_stack(each) for each in dict.fromkeys(wanted)], environment, aws_cli())
