"""Follow docs/deploy.md as a new user in a fresh clone, with stage dev on LocalStack and an empty local Snowflake.

The commands are taken from the page and run in the page's order, with only HOME, PATH and MILKRUN_PORT in the
environment.
PARAMETERS contains the settings that the page describes in words, and NOT_RUN the commands that are not run.
The page's section "Not tried" lists what this test does not cover.
"""

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from ops.stage_outputs import ROOT

NOT_RUN = (
    "make check",  # part of `make test`
    "milkrun verify",  # `make verify` runs it on the local stack
    "export SNOWFLAKE_ACCOUNT=myorg",  # the page has another command for the local stack
    "npx osls remove",
    "aws acm ",
    "aws apigateway get-usage ",
    "aws cloudformation create-change-set",
)
USER = "arn:aws:iam::000000000000:user/snowflake"
PARAMETERS: Mapping[str, Sequence[Mapping[str, object]]] = {
    "while read -r statement": [{"snowflakeAccount": "milkrun", "checkPipes": True}],
    'SNOWFLAKE_ROLE=ACCOUNTADMIN milkrun warehouse query "DESC': [
        {"snowflakeErrorsUserArn": USER, "snowflakeErrorsExternalId": "milkrun-dev", "checkLoads": False}
    ],
    "aws ssm put-parameter": [{"signatureScheme": "milkrun"}, {"signatureScheme": "off", "apiKeys": "1,2"}],
    "aws apigateway get-usage-plans": [{"apiKeys": "2"}],
}
"""The parameters that the page says to set after the command that begins with the key; each set is deployed."""
AWS_CLI = "awscli==1.45.11"
"""The version that uvx installs if no `aws` is on PATH"""
PORT = int(os.environ.get("MILKRUN_PORT", "5266"))


class Shell:
    """A new user's shell. Its environment contains HOME, PATH, and the exports and functions of earlier commands."""

    def __init__(self, clone: Path) -> None:
        self._clone = clone
        self._kept = [aws_cli(), f"export MILKRUN_PORT={PORT}"]

    def try_to(self, command: str) -> tuple[int, str]:
        ran = subprocess.run(
            ["bash", "-c", "\n".join(["set -eo pipefail", *self._kept, command])],
            cwd=self._clone,
            env={name: os.environ[name] for name in ("HOME", "PATH")},
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if re.match(r"export |unset |\w+\(\) ", command):
            self._kept.append(command)
        return ran.returncode, ran.stdout

    def run(self, command: str) -> str:
        status, output = self.try_to(command)
        assert status == 0, f"{command}\n{output[-4000:]}"
        return output

    def deploy(self, **parameters: object) -> None:
        self.set(**parameters)
        self.run("make deploy STAGE=dev")

    def set(self, **parameters: object) -> None:
        """Set the stage's parameters in serverless/stage_settings.yml."""
        file = self._clone / "serverless" / "stage_settings.yml"
        before, after = file.read_text().split("\ndev:\n")
        for name, value in parameters.items():
            others = re.sub(rf"\A((?:  .*\n)*?)  {name}: .*\n", r"\1", after)
            after = f"  {name}: {json.dumps(value)}\n{others}"
        file.write_text(f"{before}\ndev:\n{after}")


def commands(page: str) -> Iterator[str]:
    """Yield the commands in the page's indented blocks, each with its continuation lines, and the `aws` commands in
    the page's sentences.
    """
    for block, inline in re.findall(r"((?:^    .*\n)+)|`(aws [^`]+)`", page, re.M):
        lines = [line[4:] for line in block.splitlines()] or [inline]
        while lines:
            command = lines.pop(0)
            while lines and (lines[0].startswith(" ") or lines[0] == "done"):
                command += "\n" + lines.pop(0)
            yield command


def filled_in(command: str) -> str:
    """Return the command with this rehearsal's ports, and with the page's placeholders replaced with values."""
    for placeholder, value in {
        "4566": str(PORT),
        "4567": str(PORT + 1),
        "--value …": "--value secret",
        "iam::ACCOUNT:": "iam::000000000000:",
        "milkrun-prod": "milkrun-dev",
    }.items():
        command = command.replace(placeholder, value)
    return command


def aws_cli() -> str:
    """Return a shell function that runs the AWS CLI with uvx, like the page's; a no-op if the AWS CLI is installed."""
    works = shutil.which("aws") and subprocess.run(["aws", "--version"], capture_output=True, check=False)
    if works and works.returncode == 0:
        return ":"
    return f'aws() {{ .venv/bin/uvx --system-certs --quiet --from {AWS_CLI} aws "$@"; }}'


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "milkrun"
    subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    changes = subprocess.run(
        ["git", "diff", "--binary", "HEAD"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    if changes:
        subprocess.run(["git", "apply"], cwd=folder, input=changes, check=True)
    yield folder
    Shell(folder).try_to("make down")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_new_user_deploys_a_stage_with_the_commands_in_the_guide(clone: Path) -> None:
    shell, page = Shell(clone), (clone / "docs" / "deploy.md").read_text()
    found = list(commands(page))
    expected = (*NOT_RUN, *PARAMETERS)
    assert [name for name in expected if not any(each.startswith(name) for each in found)] == []
    deployed = ""
    for command in (each for each in found if not each.startswith(NOT_RUN)):
        match command.split():
            case ["make", "up"]:
                shell.run(command)
                shell.set(architecture=platform.machine().replace("aarch64", "arm64"))
            case ["milkrun", "warehouse", "bootstrap"]:
                bootstrap(shell)
            case ["npx", "osls", "rollback", *_]:
                previous = re.findall(r"Timestamp: (\d+)", deployed)[-2]
                shell.run(re.sub(r"\d+$", previous, command))
                shell.run("milkrun smoke --stage dev")
            case _:
                output = shell.run(filled_in(command))
                if "deploy list" in command:
                    deployed = output
        for start, settings in PARAMETERS.items():
            for parameters in settings if command.startswith(start) else ():
                assert all(f"`{name}" in page or name == "apiKeys" for name in parameters)
                shell.deploy(**parameters)


def bootstrap(shell: Shell) -> None:
    """Run `bootstrap`, set the parameters that it asks for, and deploy. After two rounds, `bootstrap` must succeed."""
    for wanted in ({"snowflakeUserArn", "snowflakeExternalId"}, {"snowflakeSnsUserArn"}):
        status, output = shell.try_to("milkrun warehouse bootstrap")
        named = dict(re.findall(r"(snowflake\w+): ([^\s,]+)", output))
        assert (status, set(named)) == (1, wanted), output
        shell.deploy(**named)
    shell.run("milkrun warehouse bootstrap")
