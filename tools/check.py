"""`python -m tools.check`: run the static checks other than those of Python code.

Every direct dependency must be pinned, and no tracked file may contain the host name of a package registry.
Every stage and variant in VARIANTS is packaged with dummy credentials. cfn-lint checks all the resulting templates
and the deploy role, and checkov the templates of dev, prod and prod-glue. yamllint checks the YAML files, and sqlfluff
the DDL. Each of these four checks is skipped if its inputs have not changed since it last passed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import pins

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("local", "dev", "staging", "prod")
# The stage and parameters of each variant: every stage of stage_settings.yml without parameters, prod with all optional
# features, dev with Snowflake's users as `milkrun warehouse bootstrap` prints them, and dev and prod with the
# parameters set at launch.
VARIANTS: Mapping[str, tuple[str, tuple[str, ...]]] = {stage: (stage, ()) for stage in STAGES} | {
    "prod-glue": (
        "prod",
        (
            "glue=true",
            "apiKeys=1,2",
            "waf=true",
            "snapStart=true",
            "domainName=events.example.com",
            "domainCertificateArn=arn:aws:acm:us-east-1:123456789012:certificate/12345678-1234-1234-1234-123456789012",
        ),
    ),
    "dev-snowflake": (
        "dev",
        (
            "snowflakeUserArn=arn:aws:iam::111122223333:user/storage",
            "snowflakeSnsUserArn=arn:aws:iam::111122223333:user/notifications",
            "snowflakeErrorsUserArn=arn:aws:iam::111122223333:user/errors",
            "checkPipes=true",
            "checkLoads=false",
            "apiKeys=2",
        ),
    ),
    "prod-launched": ("prod", ("expectTraffic=true", "checkPipes=true")),
    "small": ("small", ()),
    "dev-launched": ("dev", ("expectTraffic=true", "checkPipes=true")),
}
TEMPLATES = ROOT / "dist" / "templates"
BIN = ROOT / ".venv" / "bin"
CHECKOV = ROOT / ".venvs" / "checkov" / "bin" / "checkov"
# The inputs of a template. They do not include the functions' code, because a template only refers to the zip files.
TEMPLATE_INPUTS = ("serverless.yml", "serverless", "package-lock.json", "tools/check.py")
YAML = (
    "serverless.yml",
    "serverless",
    "ops/prices.yml",
    ".github",
    ".yamllint.yml",
    ".checkov.yml",
    ".pre-commit-config.yaml",
)


class CheckError(Exception):
    """A check failed or cannot run. The message is the output of the check, or the reason."""


def files_of(names: Iterable[str]) -> list[Path]:
    tops = [ROOT / name for name in names]
    found = [p for top in tops for p in ([top] if top.is_file() else sorted(top.rglob("*")))]
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts]


def fingerprint(names: Iterable[str]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in files_of(names):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the file lock `name`, so that two processes never build the same template or run the same check at once."""
    TEMPLATES.mkdir(parents=True, exist_ok=True)
    with (TEMPLATES / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command: str | Path, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise CheckError(f"{Path(str(command[0])).name}: {done.stdout}{done.stderr}".rstrip())
    return done.stdout


def template(variant: str) -> Path:
    """Return the path of the CloudFormation template that `osls deploy` would send for `variant`, a key of
    VARIANTS. The template is cached until its inputs change.
    """
    made = TEMPLATES / f"{variant}.json"
    stamp = TEMPLATES / f"{variant}.hash"
    with alone(variant):
        wanted = fingerprint(TEMPLATE_INPUTS)
        if not (made.exists() and stamp.exists() and stamp.read_text() == wanted):
            _package(*VARIANTS[variant], made)
            stamp.write_text(wanted)
    return made


def _package(stage: str, parameters: Iterable[str], target: Path) -> None:
    # osls writes to .serverless beside serverless.yml. A concurrent deployment may use that folder, so use another one.
    with tempfile.TemporaryDirectory() as temporary:
        service = Path(temporary)
        shutil.copy(ROOT / "serverless.yml", service)
        shutil.copytree(ROOT / "serverless", service / "serverless")
        (ROOT / "dist").mkdir(exist_ok=True)
        for name in ("node_modules", ".venv", "dist", "ops", "package.json"):
            (service / name).symlink_to(ROOT / name)
        osls = service / "node_modules" / ".bin" / "osls"
        given = [f"--param={parameter}" for parameter in parameters]
        command: list[str | Path] = [osls, "package", "--stage", stage, "--package", "out", *given]
        run(*command, cwd=service, environment=dummy_environment())
        shutil.copy(service / "out" / "cloudformation-template-update-stack.json", target)


def dummy_environment() -> dict[str, str]:
    """Return this process's environment with invalid AWS credentials, so that no real account can be reached
    by mistake.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SLS_"))}
    return kept | {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nobody",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SLS_NOTIFICATIONS_MODE": "off",
        "FORCE_COLOR": "0",
    }


def resources(variant: str) -> dict[str, Any]:
    """Return the resources in a variant's template, keyed by logical id."""
    found: dict[str, object] = json.loads(template(variant).read_text())["Resources"]
    return found


def lint_templates() -> None:
    written = ROOT / ".github" / "aws" / "deploy-role.yml"
    run(BIN / "cfn-lint", "--config-file", ROOT / ".cfnlintrc.yml", "--", written, *map(template, VARIANTS))


def scan_templates() -> None:
    if not CHECKOV.exists():
        raise CheckError("checkov is not installed. Run `tools/setup.sh checkov`.")
    # Stage `local` is not scanned, because it is never deployed to AWS.
    scanned = map(template, ("dev", "prod", "prod-glue"))
    configuration = ROOT / ".checkov.yml"
    run(CHECKOV, "--config-file", configuration, "--file", *scanned, environment=dummy_environment())


def lint_yaml() -> None:
    run(BIN / "yamllint", "--strict", *(p for p in files_of(YAML) if p.suffix in {".yml", ".yaml"}))


def lint_sql() -> None:
    run(BIN / "sqlfluff", "lint", "--disable-progress-bar", "snowpipe/ddl")


def check_pins() -> None:
    if found := list(pins.problems(ROOT)):
        raise CheckError("\n".join(found))


def find_registry_hosts() -> None:
    if found := list(pins.registry_hosts(ROOT)):
        raise CheckError("\n".join(found))


@dataclass(frozen=True)
class Check:
    title: str
    inputs: tuple[str, ...]  # if empty, the check depends on all files, so it always runs
    run: Callable[[], None]

    def passes(self) -> bool:
        """Run the check and return True; return False if the check is skipped because it has already passed
        with the same inputs.

        Raises CheckError if the check fails.
        """
        stamp = TEMPLATES / f"{self.run.__name__}.passed"
        with alone(self.run.__name__):
            wanted = fingerprint(("tools/check.py", *self.inputs))
            if self.inputs and stamp.exists() and stamp.read_text() == wanted:
                return False
            self.run()
            stamp.write_text(wanted)
        return True


CHECKS = (
    Check("every direct dependency is pinned", (), check_pins),
    Check("no tracked file contains a package registry's host name", (), find_registry_hosts),
    Check(
        "cfn-lint of all stages, all variants and the deploy role",
        (*TEMPLATE_INPUTS, ".github/aws", "requirements-check.txt", ".cfnlintrc.yml"),
        lint_templates,
    ),
    Check(
        "checkov of dev, prod, and prod with all optional features",
        (*TEMPLATE_INPUTS, "requirements-checkov.txt", ".checkov.yml"),
        scan_templates,
    ),
    Check("yamllint", YAML, lint_yaml),
    Check("sqlfluff of the DDL", ("snowpipe/ddl", ".sqlfluff", "requirements-check.txt"), lint_sql),
)


def main() -> int:
    failed = False
    for check in CHECKS:
        try:
            result = "passed" if check.passes() else "skipped, because it already passed with the same inputs"
        except CheckError as error:
            failed, result = True, f"FAILED\n{error}"
        sys.stdout.write(f"{check.title}: {result}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
