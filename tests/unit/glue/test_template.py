"""What the Glue jobs may touch: read events, write only their own; and only `forget` may delete what was archived."""

import re
from importlib import metadata
from typing import Any

import pytest
import yaml

from glue.publish import JOBS, MODULES, ROOT, requirements


class Cfn(yaml.SafeLoader):
    """Short forms of CloudFormation's functions as the text that they hold."""


def function(loader: Cfn, _: str, node: yaml.Node) -> str:
    assert isinstance(node, yaml.ScalarNode)
    return str(loader.construct_scalar(node))


Cfn.add_multi_constructor("!", function)
GLUE: dict[Any, Any] = yaml.load((ROOT / "serverless/glue.yml").read_text(), Cfn)  # a SafeLoader
RESOURCES: dict[str, dict[str, Any]] = GLUE["true"]["Resources"]


def rights(role: str) -> dict[str, set[str]]:
    """Actions by what they may be done to: a prefix of the archive, the bucket, or a service's own."""
    [policy] = RESOURCES[role]["Properties"]["Policies"]
    found: dict[str, set[str]] = {}
    for statement in policy["PolicyDocument"]["Statement"]:
        resources = statement["Resource"]
        for resource in resources if isinstance(resources, list) else [resources]:
            found.setdefault(resource.replace("${ArchiveBucket.Arn}/", ""), set()).update(statement["Action"])
    return found


OWN = {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:AbortMultipartUpload"}
LOGS = "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:/aws-glue/*"
EVERY_JOB = {
    "ArchiveBucket.Arn": {"s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketLocation"},
    LOGS: {"logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"},
    "*": {"cloudwatch:PutMetricData"},
    "glue/*": {"s3:GetObject"},
    "glue/tmp/*": OWN,
}


def test_a_stage_without_glue_has_nothing_of_it() -> None:
    assert GLUE["false"] == {}


def test_jobs_read_events_and_write_only_what_is_theirs() -> None:
    assert rights("GlueRole") == EVERY_JOB | {
        "events/*": {"s3:GetObject"},
        "set-aside/*": {"s3:PutObject"},
        "compacted/*": OWN,
        "rebuilt/*": OWN,
        "streamed/*": OWN,
    }


def test_only_forget_may_delete_what_was_archived() -> None:
    prefixes = ("events", "rejected", "set-aside", "aws/lambda", "compacted", "forget")
    assert rights("GlueForgetRole") == EVERY_JOB | {f"{prefix}/*": OWN for prefix in prefixes}
    users = {n: r["Properties"]["Role"] for n, r in RESOURCES.items() if r["Type"] == "AWS::Glue::Job"}
    assert {name for name, role in users.items() if role == "GlueForgetRole.Arn"} == {"ForgetJob"}


@pytest.mark.parametrize("job", JOBS)
def test_each_job_runs_a_script_that_is_published_once_at_a_time(job: str) -> None:
    properties = RESOURCES[f"{job.capitalize()}Job"]["Properties"]
    assert properties["Command"]["ScriptLocation"] == f"s3://${{ArchiveBucket}}/glue/{job}.py"
    assert properties["ExecutionProperty"] == {"MaxConcurrentRuns": 1}
    assert properties["GlueVersion"] == "5.0"


@pytest.mark.parametrize("job", JOBS)
def test_each_argument_of_ours_is_one_that_the_job_knows(job: str) -> None:
    of_glue = {
        "--extra-py-files",
        "--additional-python-modules",
        "--python-modules-installer-option",
        "--TempDir",
        "--job-bookmark-option",
    }
    given = set(RESOURCES[f"{job.capitalize()}Job"]["Properties"]["DefaultArguments"]) - of_glue
    ours = {name for name in given if not name.startswith("--enable-")}
    source = (ROOT / f"glue/{job}.py").read_text() + (ROOT / "glue/jobs.py").read_text()
    assert ours <= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', source))


@pytest.mark.parametrize("job", JOBS)
def test_each_job_installs_the_published_requirements(job: str) -> None:
    arguments = RESOURCES[f"{job.capitalize()}Job"]["Properties"]["DefaultArguments"]
    assert arguments["--additional-python-modules"] == "s3://${ArchiveBucket}/glue/requirements.txt"
    assert arguments["--python-modules-installer-option"] == "-r"


def test_glue_installs_hashed_wheels_of_the_versions_that_are_tested_here() -> None:
    """A hash for every requirement, those of requirements too: pip then takes nothing else, and builds nothing."""
    asked = requirements().decode()
    assert asked.startswith("--only-binary :all:\n")
    blocks = re.findall(r"^([\w-]+)==\S+((?:.*\n(?=    ))*.*)", asked, re.MULTILINE)
    assert [name for name, _ in blocks] == list(MODULES)
    assert all("--hash=sha256:" in hashes for _, hashes in blocks)
    needs = {re.split(r"[^\w.-]", need)[0] for name in MODULES for need in required_by(name)}
    assert needs <= set(MODULES)


def required_by(name: str) -> list[str]:
    """Unconditional requirements of an installed distribution."""
    return [need for need in metadata.requires(name) or () if ";" not in need]
