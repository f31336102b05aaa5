"""Run osls, the fork of the Serverless Framework, for example with `python -m ops.osls package --stage dev`.

osls stores its files in .serverless, and two processes would overwrite each other's files. This command and a
`make up` that deploys therefore share a lock per clone, so that each waits for the other.
"""

import fcntl
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ops.existing_resources import Resources
from ops.stage_outputs import ROOT, NoStackError

OSLS = ROOT / "node_modules" / ".bin" / "osls"
DEFAULT_REGION = "us-east-1"
"""The region to which serverless.yml deploys if AWS_REGION is not set."""


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock on the folder .serverless, because two processes must not use the folder at the same time."""
    lock = ROOT / ".venvs" / ".deploying"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("Waiting for another command that deploys or packages from this clone …\n")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def packaged(stage: str, environment: Mapping[str, str]) -> Resources:
    """Return the resources of the CloudFormation template that `osls deploy` would deploy for `stage`.

    Packaging calls no AWS service, so osls is given invalid credentials. If packaging fails, raises NoStackError
    with osls's error.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    region = environment.get("AWS_REGION") or DEFAULT_REGION
    nobody = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobody", "AWS_REGION": region}
    with alone(), tempfile.TemporaryDirectory(dir=ROOT / ".venvs") as folder:
        target = Path(folder).relative_to(ROOT)
        command: list[str | Path] = [OSLS, "package", "--stage", stage, "--package", target]
        done = subprocess.run(
            command, cwd=ROOT, env=kept | nobody, check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise NoStackError(f"stage {stage} cannot be packaged: {error_in(done.stdout + done.stderr)}")
        template = Path(folder) / "cloudformation-template-update-stack.json"
        found: Resources = json.loads(template.read_text())["Resources"]
    return found


def error_in(output: str) -> str:
    """Return the first 500 characters of the error in osls's output, without the JavaScript stack trace after it."""
    _, is_one, error = output.partition("Error:\n")
    lines = (error if is_one else output).strip().splitlines()
    return "\n".join(line for line in lines if not line.startswith("    at "))[:500]


def concealed(arguments: list[str]) -> list[str]:
    """Add --conceal if osls would otherwise print the API key, because many people can read the logs of CI."""
    prints_key = arguments[:1] in (["deploy"], ["info"]) and (len(arguments) < 2 or arguments[1][0] == "-")
    return [arguments[0], "--conceal", *arguments[1:]] if prints_key else arguments


def main(arguments: list[str]) -> int:
    with alone():
        return subprocess.run([OSLS, *concealed(arguments)], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
