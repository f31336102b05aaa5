"""Follow the warehouse's part of docs/deploy.md word for word, as somebody with an empty Snowflake account would.

Each command that stands on lines of its own runs in one shell and in the order of the page, with `local` for `dev`,
against a local Snowflake that checks roles and grants, and moto. Commands that need a deployed stage are listed, each
with what runs it instead.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from local_snowflake.testing import LocalProcess
from ops.outputs import ROOT

PAGE = ROOT / "docs" / "deploy.md"
NOT_RUN = {
    "make check": "make test",
    "make package": "make check",
    "make preflight": "tests/e2e/test_production.py",
    "make deploy": "make up",
    "aws ": "the AWS CLI, which this environment does not have",
    "milkrun check-key": "tests/e2e/test_production.py",
    "milkrun smoke": "tests/e2e/test_production.py",
    "milkrun verify": "tests/e2e/test_verify.py",
    "npx osls": "by hand",
    "export AWS_ENDPOINT_URL=": "set by this test",
    "export SNOWFLAKE_ACCOUNT=myorg": "set by the lines for the local stack",
}
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
    """Yield the page's indented blocks line by line; what continues a line is part of it."""
    for block in re.findall(r"(?:^    .*\n)+", page, re.M):
        lines = [line[4:] for line in block.splitlines()]
        while lines:
            command = lines.pop(0)
            while lines and (lines[0].startswith(" ") or lines[0] == "done"):
                command += "\n" + lines.pop(0)
            yield command


def on_the_local_stack(command: str, port: int) -> str:
    """Change a command as the page says it for the local stack."""
    if found := re.match(r"export (\w+)=…\s+# (?:output )?(\w+)", command):
        return f"export {found[1]}={OUTPUTS[found[2]]}"
    command = re.sub(r"\bdev\b", "local", command).replace("MILKRUN_DEV", "MILKRUN_LOCAL")
    command = command.replace("SNOWFLAKE_PORT=4567", f"SNOWFLAKE_PORT={port}")
    if re.match(r"CREATE|GRANT", command):
        command = f'SNOWFLAKE_ROLE=ACCOUNTADMIN milkrun warehouse query "{command.rstrip(";")}"'
    return command.replace("warehouse bootstrap", "warehouse bootstrap --write")


@pytest.mark.timeout(900)
def test_commands_of_the_guide_make_a_warehouse_in_an_empty_account(endpoint: str, tmp_path: Path) -> None:
    page = PAGE.read_text()
    assert [name for name in NOT_RUN if name not in page] == [], "the page does not have these commands"
    local = LocalProcess(tmp_path / "snowflake", endpoint).start()
    script = ["set -euo pipefail", f'milkrun() {{ "{ROOT}/milkrun" "$@"; }}']
    for command in commands(page):
        if not command.startswith(tuple(NOT_RUN)):
            here = on_the_local_stack(command, local.port)
            script += [f"echo '+ {here.replace("'", "'\\''")}'", here]
    try:
        ran = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=ROOT,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("SNOWFLAKE_")},
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "MILKRUN_LOCAL": str(tmp_path / "stage"),
            },
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        local.stop()
    assert ran.returncode == 0, ran.stdout[-4000:]
