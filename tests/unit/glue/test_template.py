"""Test the definitions of the Glue jobs, their requirements and their IAM permissions.

Jobs can read events, and can write only to their own prefixes and to set-aside/. Only `forget` can also rewrite and
delete archived data.
"""

import ast
import re
import sys
import zipfile
from datetime import timedelta
from fnmatch import fnmatchcase
from importlib import metadata
from io import BytesIO
from pathlib import PurePosixPath

import pytest
import yaml

from glue.compact import GRACE
from glue.jobs import exit_code
from glue.publish import JOBS, MODULES, ROOT, package, requirements


class Cfn(yaml.SafeLoader):
    """A YAML loader that accepts CloudFormation's short forms, such as !GetAtt, and returns their arguments as text."""


def function(loader: Cfn, _: str, node: yaml.Node) -> str:
    assert isinstance(node, yaml.ScalarNode)
    return str(loader.construct_scalar(node))


Cfn.add_multi_constructor("!", function)
GLUE: dict[object, object] = yaml.load((ROOT / "serverless/glue.yml").read_text(), Cfn)  # Cfn is a SafeLoader
RESOURCES: dict[str, dict[str, object]] = GLUE["true"]["Resources"]


def rights(role: str) -> dict[str, set[str]]:
    """Return the actions that a role allows, by resource: a prefix of the archive, the bucket, or another ARN."""
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


def test_stage_without_glue_has_no_glue_resources() -> None:
    assert GLUE["false"] == {}


def test_glue_jobs_can_read_events_and_write_only_to_their_own_prefixes_and_to_set_aside() -> None:
    assert rights("GlueRole") == EVERY_JOB | {
        "events/*": {"s3:GetObject"},
        "set-aside/*": {"s3:PutObject"},
        "compacted/*": OWN,
        "rebuilt/*": OWN,
        "streamed/*": OWN,
        "streamed_$folder$": OWN,
        "events": {"s3:GetObject"},
        "events_$folder$": {"s3:GetObject"},
        "streamed": {"s3:GetObject"},
    }


def test_streaming_job_may_look_up_and_mark_every_directory_that_spark_reads_or_creates() -> None:
    """Up to Glue 5.0, Spark accesses S3 through EMRFS, which marks each new directory, including parents, with an empty
    object `DIRECTORY_$folder$`. (AWS Glue User Guide: "Migrating AWS Glue for Spark jobs to AWS Glue version 5.1";
    repost.aws/knowledge-center/emr-s3-empty-files; Hadoop's `NativeS3FileSystem.mkdirs`.)
    """
    allowed = rights("GlueRole")

    def may(action: str, key: str) -> bool:
        return any(fnmatchcase(key, pattern) and action in actions for pattern, actions in allowed.items())

    arguments = RESOURCES["StreamJob"]["Properties"]["DefaultArguments"]
    checkpoint = PurePosixPath(arguments["--checkpoint"].removeprefix("s3://${ArchiveBucket}/"))
    for directory in map(str, [checkpoint, *checkpoint.parents[:-1]]):
        assert may("s3:GetObject", directory), directory
        assert may("s3:GetObject", f"{directory}_$folder$"), directory
        assert may("s3:PutObject", f"{directory}_$folder$"), directory
    assert may("s3:GetObject", "events")
    assert may("s3:GetObject", "events_$folder$")


def test_only_forget_can_delete_archived_data() -> None:
    prefixes = ("events", "rejected", "set-aside", "aws/lambda", "compacted", "forget")
    assert rights("GlueForgetRole") == EVERY_JOB | {f"{prefix}/*": OWN for prefix in prefixes}
    users = {n: r["Properties"]["Role"] for n, r in RESOURCES.items() if r["Type"] == "AWS::Glue::Job"}
    assert {name for name, role in users.items() if role == "GlueForgetRole.Arn"} == {"ForgetJob"}


@pytest.mark.parametrize("job", JOBS)
def test_each_glue_job_runs_its_script_with_at_most_one_concurrent_run(job: str) -> None:
    properties = RESOURCES[f"{job.capitalize()}Job"]["Properties"]
    assert properties["Command"]["ScriptLocation"] == f"s3://${{ArchiveBucket}}/glue/{job}.py"
    assert properties["ExecutionProperty"] == {"MaxConcurrentRuns": 1}
    assert properties["GlueVersion"] == "5.0"


@pytest.mark.parametrize("job", sorted({*JOBS} - {"stream"}))  # the streaming job reads no compacted files
def test_superseded_parquet_files_are_kept_longer_than_a_glue_job_may_run(job: str) -> None:
    assert timedelta(minutes=RESOURCES[f"{job.capitalize()}Job"]["Properties"]["Timeout"]) < GRACE


def test_streaming_job_has_no_timeout_so_that_glue_restarts_it_every_week() -> None:
    # Glue rejects a timeout of seven days or more, and does not restart a job with a shorter one. (AWS Glue User Guide:
    # "Maintenance windows for AWS Glue Streaming"; AWS Glue API Reference: "CreateJob", Timeout.)
    stream = RESOURCES["StreamJob"]["Properties"]
    assert stream["Command"]["Name"] == "gluestreaming"
    assert stream["Timeout"] == "AWS::NoValue"


@pytest.mark.parametrize("job", JOBS)
def test_glue_job_raises_system_exit_only_if_it_fails(job: str) -> None:
    """Users report that Glue treats any SystemExit as a failure of the run, even that of `sys.exit(0)`."""
    [*_, last] = ast.parse((ROOT / f"glue/{job}.py").read_text()).body
    script = compile(ast.Module([last], []), job, "exec")
    names = {"__name__": "__main__", "sys": sys, "exit_code": exit_code}
    exec(script, {**names, "main": lambda _: 0})
    with pytest.raises(SystemExit) as failed:
        exec(script, {**names, "main": lambda _: 1})
    assert failed.value.code == 1


@pytest.mark.parametrize("job", JOBS)
def test_each_glue_job_accepts_its_default_arguments(job: str) -> None:
    for_glue = {
        "--extra-py-files",
        "--additional-python-modules",
        "--python-modules-installer-option",
        "--TempDir",
        "--job-bookmark-option",
    }
    given = set(RESOURCES[f"{job.capitalize()}Job"]["Properties"]["DefaultArguments"]) - for_glue
    ours = {name for name in given if not name.startswith("--enable-")}
    source = (ROOT / f"glue/{job}.py").read_text() + (ROOT / "glue/jobs.py").read_text()
    assert ours <= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', source))


@pytest.mark.parametrize("job", JOBS)
def test_each_glue_job_installs_the_published_requirements(job: str) -> None:
    arguments = RESOURCES[f"{job.capitalize()}Job"]["Properties"]["DefaultArguments"]
    assert arguments["--additional-python-modules"] == "s3://${ArchiveBucket}/glue/requirements.txt"
    assert arguments["--python-modules-installer-option"] == "-r"


def test_glue_installs_the_tested_versions_as_hashed_wheels() -> None:
    """Each listed package has a hash, and Glue already contains all other dependencies, so pip installs nothing else.
    `--only-binary` prevents builds from source.
    """
    text = requirements().decode()
    assert text.startswith("--only-binary :all:\n")
    blocks = re.findall(r"^([\w-]+)==\S+((?:.*\n(?=    ))*.*)", text, re.MULTILINE)
    assert [name for name, _ in blocks] == list(MODULES)
    assert all("--hash=sha256:" in hashes for _, hashes in blocks)
    needs = {re.split(r"[^\w.-]", need)[0] for name in MODULES for need in required_by(name)}
    # Glue contains jmespath, python-dateutil and urllib3, because its own boto3 needs them.
    assert needs <= {*MODULES, "jmespath", "python-dateutil", "urllib3"}


def test_glue_installs_each_package_that_the_jobs_import_except_those_of_spark() -> None:
    """Glue 5.0 is from December 2024, so its pyarrow lacks `concat_batches` (19.0), and its boto3 may be older than
    conditional writes to S3 (1.35).
    """
    not_on_glue = {"glue/beam.py", "glue/dbt_sql.py"}
    with zipfile.ZipFile(BytesIO(package())) as archive:
        sources = [archive.read(name) for name in archive.namelist() if name not in not_on_glue]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    imported = {name.partition(".")[0] for name in names if not name.startswith("mypy_boto3")}
    others = {name for name in imported - sys.stdlib_module_names if not (ROOT / name).is_dir()}
    assert others - {"pandas", "pyspark"} <= set(MODULES)


def required_by(name: str) -> list[str]:
    """Return the requirements of an installed distribution, except those with an environment marker."""
    return [need for need in metadata.requires(name) or () if ";" not in need]
