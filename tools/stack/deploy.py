"""Deploy the functions to LocalStack and the DDL to the local Snowflake, and determine the stack's outputs."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ops.osls import OSLS, alone
from ops.stage_outputs import ROOT, tags_of
from snowpipe.emulator_session import NO_PROXIES, emulator_session
from tools.stack import identity, private_files, snowflake
from tools.stack.errors import StackError
from tools.stack.processes import Processes
from tools.stack.settings import REGION, Settings

STAGE = "local"
STACK_NAME = f"milkrun-{STAGE}"
API_KEY = "AWS::ApiGateway::ApiKey"
FUNCTIONS = (
    "serverless.yml",
    "serverless",
    "contract",
    "aws",
    "handler",
    "consumer",
    "snowpipe/pipe_check",
    "requirements-lambda.txt",
)
FUNCTIONS_BUILD = ("ops/package.py", ".python-version", "package-lock.json")
WAREHOUSE = ("snowpipe/ddl",)


def fingerprint(names: Iterable[str]) -> str:
    """Return a hash that changes whenever any of the files or folders in `names` changes."""
    digest = hashlib.sha256()
    for name in names:
        top = ROOT / name
        for path in sorted(p for p in [top, *top.rglob("*")] if p.is_file() and "__pycache__" not in p.parts):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def wanted(auth: identity.Auth) -> dict[str, str]:
    """Return the current versions of the functions (the hash of their sources, and the kind of credential) and of
    the warehouse (the hash of its DDL). A stack with other versions is out of date.
    """
    functions = f"{fingerprint(FUNCTIONS + FUNCTIONS_BUILD)} {auth}"
    return {"functions": functions, "warehouse": fingerprint(WAREHOUSE)}


def deploy_functions(settings: Settings, processes: Processes, auth: identity.Auth) -> None:
    """Deploy the stage `local`. If `auth` is "jwt", the stage requires tokens from the stack's own identity
    provider.
    """
    parameters = {}
    if auth == "jwt":
        identity.publish_keys(settings, _client(settings, "s3"))
        parameters = identity.parameters(settings)
    with alone():
        # `osls deploy` would build the zips itself, but needs the package registry for that, which the stack's
        # environment cannot reach.
        package: list[str | Path] = [sys.executable, "-m", "ops.package", "local"]
        run("package", package, settings.installation_environment, processes)
        environment = settings.aws_environment | {
            "SLS_NOTIFICATIONS_MODE": "off",
            "SLS_AWS_MONITORING_FREQUENCY": "500",  # ms between polls; LocalStack has no rate limit
            "FORCE_COLOR": "0",
        }
        command: list[str | Path] = [OSLS, "deploy", "--conceal", "--stage", STAGE, "--region", REGION]
        command += [f"--param={name}={value}" for name, value in parameters.items()]
        run("deploy", command, environment, processes)
    if auth == "key":
        identity.issuer(settings).private_key_file.unlink(missing_ok=True)


def apply_ddl(settings: Settings, processes: Processes, outputs: Path) -> None:
    command: list[str | Path] = [sys.executable, "-m", "snowpipe", "apply", "--outputs", outputs]
    run("apply", command, settings.aws_environment, processes)


def run(name: str, command: list[str | Path], environment: Mapping[str, str], processes: Processes) -> None:
    process = processes.start(name, command, environment, ROOT)
    try:
        status = processes.wait(process)
    finally:
        processes.end(process)
    if status != 0:
        log = processes.log(name)
        raise StackError(f"{name} failed: {_last_words(log)} (complete log: {log})")


def _last_words(log: Path) -> str:
    """Return the last line in the log that looks like an error, otherwise the last line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|fail|refus|cannot|could not", line, re.IGNORECASE)]
    return (errors or lines or ["it printed nothing"])[-1][:300]


def _client(settings: Settings, service: str) -> Any:
    from botocore.config import Config

    client: Callable[..., Any] = emulator_session(REGION).client
    return client(service, endpoint_url=settings.endpoint_url, config=Config(proxies=NO_PROXIES))


def outputs(settings: Settings, auth: identity.Auth) -> dict[str, object]:
    """Return the content of `outputs.json`: the outputs of the deployed CloudFormation stack, the API key, and the
    settings with which clients connect to the local stack.
    """
    cloudformation = _client(settings, "cloudformation")
    [stack] = cloudformation.describe_stacks(StackName=STACK_NAME)["Stacks"]
    value = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    resources = cloudformation.describe_stack_resources(StackName=STACK_NAME)["StackResources"]
    keys = {
        r["LogicalResourceId"]: r["PhysicalResourceId"] for r in resources if r["ResourceType"] == API_KEY
    }
    return {
        "endpoint": f"{settings.endpoint_url}/_aws/execute-api/{value['RestApiId']}/{STAGE}/v1/events",
        "api_key": _client(settings, "apigateway").get_api_key(apiKey=keys[min(keys)], includeValue=True)[
            "value"
        ],
        "aws_endpoint_url": settings.endpoint_url,
        "region": REGION,
        "bucket": value["ArchiveBucketName"],
        "stream": value["GeofenceStreamName"],
        "visits_table": value["VisitsTableName"],
        "redrive_queue_url": value["RedriveQueueUrl"],
        "dead_letter_queue_url": value["DeadLetterQueueUrl"],
        "console_url": settings.console_url,
        "exclusive_tags": tags_of(value.get("ExclusiveTags")),
        "time_zone": value.get("FleetTimeZone", "UTC"),
        "snowflake": snowflake.connection(settings),
        "ingest_function": f"{STACK_NAME}-ingest" if value.get("Identity") == "required" else None,
        "token_issuer": identity.issuer(settings).model_dump(mode="json") if auth == "jwt" else None,
    }


def write(outputs: Mapping[str, object], file: Path) -> None:
    """Write the outputs as JSON to a file that only the user may read, because it contains an API key and a
    password.
    """
    private_files.write(file, json.dumps(outputs, indent=2, allow_nan=False) + "\n")
