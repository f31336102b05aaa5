"""`milkrun preflight STAGE`: find reasons why the deployment of a stage would fail, without creating anything.

The command packages the stage with osls, so it checks the names and numbers that would be deployed.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import boto3
import typer
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from cli.counts import count
from cli.refusal import Refusal
from consumer.settings import Settings as ConsumerSettings
from contract.settings import SettingsError
from handler.settings import Settings as IngestSettings
from ops import osls, terminal
from ops.existing_resources import Account, Clients, Resources, code_of, leftovers, named
from ops.stage_outputs import Client, NoStackError, Outputs, environment_of
from snowpipe.aws_policies import SUBSCRIBES
from snowpipe.pipe_check.main import DATABASE_NAME
from snowpipe.settings import Connection, load
from snowpipe.warehouse import Warehouse, connect

UNRESERVED_MINIMUM = 100
"""Lambda keeps this much of the account's concurrency for functions without a reservation
(AWS Lambda Developer Guide: "Configuring reserved concurrency for a function")."""
BUCKET_NAME = "[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"
"""(Amazon S3 User Guide: "General purpose bucket naming rules".)"""
READY = frozenset(
    {
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_ROLLBACK_COMPLETE",
        "IMPORT_COMPLETE",
        "IMPORT_ROLLBACK_COMPLETE",
    }
)
"""The states in which CloudFormation can update a stack."""
STUCK = {
    "UPDATE_ROLLBACK_FAILED": "continue-update-rollback",
    "UPDATE_FAILED": "rollback-stack",
    "IMPORT_ROLLBACK_FAILED": "describe-stack-events",
}
"""The states of a stack that works but cannot be updated, each with the next command of `aws cloudformation`."""

type Level = Literal["ok", "warns", "blocks", "unknown"]
type OpenWarehouse = Callable[[], AbstractContextManager[Warehouse]]


@dataclass(frozen=True)
class Finding:
    """The result of a check: `code` identifies the problem for programs, and `detail` explains it to the operator."""

    level: Level
    code: str
    subject: str
    detail: str


@dataclass(frozen=True)
class Place:
    """The stage to deploy, the resources of its template, and the account and region that the commands use."""

    stage: str
    resources: Resources
    account: Account
    clients: Clients
    deployed_to: str
    """The region to which osls deploys. osls ignores the region of an AWS profile."""

    @cached_property
    def stack(self) -> str | None:
        """Return the state of the stage's stack; None if it does not exist."""
        try:
            found = self.clients("cloudformation").describe_stacks(StackName=f"milkrun-{self.stage}")
        except ClientError as error:
            if code_of(error) == "ValidationError":  # the name is valid, so the stack does not exist
                return None
            raise
        return str(found["Stacks"][0]["StackStatus"])

    @cached_property
    def own(self) -> Mapping[str, str]:
        """Return the physical ids of the resources in the existing stack, by logical id."""
        if self.stack is None:
            return {}
        pages = self.clients("cloudformation").get_paginator("list_stack_resources")
        found = [
            summary
            for page in pages.paginate(StackName=f"milkrun-{self.stage}")
            for summary in page["StackResourceSummaries"]
        ]
        alive = [s for s in found if not s["ResourceStatus"].startswith("DELETE_COMPLETE")]
        return {s["LogicalResourceId"]: s.get("PhysicalResourceId", "") for s in alive}

    def of_type(self, kind: str) -> dict[str, Mapping[str, Any]]:
        return {n: r.get("Properties", {}) for n, r in self.resources.items() if r["Type"] == kind}


def region(place: Place) -> Iterator[Finding]:
    """Check that osls and the other commands use the same region, and that it is in the partition `aws`."""
    if place.account.region != place.deployed_to:
        detail = (
            f"osls deploys to {place.deployed_to}, but the other commands use this region: set AWS_REGION"
        )
        yield Finding("blocks", "region_differs", place.account.region, detail)
    if place.account.partition != "aws":
        detail = "only the partition aws is supported (docs/deploy.md, Deploy)"
        yield Finding("blocks", "partition_unsupported", place.account.partition, detail)


def stack(place: Place) -> Iterator[Finding]:
    """Check that CloudFormation can update the stack in its current state."""
    name, state = f"milkrun-{place.stage}", place.stack
    if state is None or state in READY:
        return
    if state.endswith("_IN_PROGRESS") and state != "REVIEW_IN_PROGRESS":
        yield Finding("blocks", "stack_busy", name, f"{state}: wait until this operation ends")
    elif state in STUCK:
        detail = f"{state}: run aws cloudformation {STUCK[state]} --stack-name {name}"
        yield Finding("blocks", "stack_stuck", name, detail)
    else:
        detail = f"{state}: run aws cloudformation delete-stack --stack-name {name}"
        yield Finding("blocks", "stack_dead", name, detail)


def concurrency(place: Place) -> Iterator[Finding]:
    """Check that the account's concurrency limit allows the functions' reserved concurrency."""
    functions = place.of_type("AWS::Lambda::Function")
    wanted = sum(int(f.get("ReservedConcurrentExecutions", 0)) for f in functions.values())
    client = place.clients("lambda")
    limit = client.get_account_settings()["AccountLimit"]
    mine = sum(
        client.get_function_concurrency(FunctionName=function["FunctionName"]).get(
            "ReservedConcurrentExecutions", 0
        )
        for logical_id, function in functions.items()
        if logical_id in place.own
    )
    free = limit["UnreservedConcurrentExecutions"] + mine
    if free - wanted < UNRESERVED_MINIMUM:
        detail = (
            f"the stage reserves {count(wanted, 'concurrent execution')}, but {free} are available to it, of which "
            f"{UNRESERVED_MINIMUM} must stay unreserved: ask for a limit of "
            f"{limit['ConcurrentExecutions'] + wanted + UNRESERVED_MINIMUM - free} "
            "(Service Quotas, Concurrent executions), or lower ingestConcurrency and consumeConcurrency in "
            "serverless/stage_settings.yml"
        )
        yield Finding("blocks", "concurrency_too_low", str(limit["ConcurrentExecutions"]), detail)


def names(place: Place) -> Iterator[Finding]:
    """Check that no resource outside the stage's stack has a name that the stack needs, and that S3 accepts the
    bucket's name.
    """
    wanted = list(named(place.resources, place.account))
    invalid = [w for w in wanted if w.kind == "AWS::S3::Bucket" and not re.fullmatch(BUCKET_NAME, w.name)]
    for one in invalid:
        detail = "S3 allows at most 63 lowercase letters, digits and hyphens: rename the stage"
        yield Finding("blocks", "bucket_name_invalid", one.name, detail)
    # Do not look up invalid bucket names, because HeadBucket may respond to them with 400.
    wanted = [one for one in wanted if one not in invalid]
    # Resources that the stack already has are not looked up, because their names do not change. Only the name of the
    # domain can change; the physical id of ApiDomain is its present name.
    texts = {one.name for one in wanted}
    own = [name for name, physical in place.own.items() if name != "ApiDomain" or physical in texts]
    for one in leftovers(wanted, own, place.clients, place.account):
        detail = f"{one.kind} exists outside the stack: delete or import it (docs/deploy.md, Remove)"
        yield Finding("blocks", "name_taken", one.name, detail)


def shards(place: Place) -> Iterator[Finding]:
    """Check that one update can change the stream to the wanted number of shards. It can at most halve or double the
    present number (Amazon Kinesis Data Streams API Reference: "UpdateShardCount").
    """
    stream = place.resources["GeofenceStream"]["Properties"]
    if stream["StreamModeDetails"]["StreamMode"] != "PROVISIONED" or "GeofenceStream" not in place.own:
        return
    found = place.clients("kinesis").describe_stream_summary(StreamName=stream["Name"])
    present = found["StreamDescriptionSummary"]["OpenShardCount"]
    wanted = int(stream["ShardCount"]["Fn::If"][1])
    if not present <= 2 * wanted <= 4 * present:
        detail = (
            f"has {count(present, 'shard')}, and one deployment can set this number to between {(present + 1) // 2} "
            f"and {2 * present}, not to {wanted}: deploy several times, each time with another streamShards in "
            "serverless/stage_settings.yml"
        )
        yield Finding("blocks", "shards_out_of_reach", stream["Name"], detail)


def alarms(place: Place) -> Iterator[Finding]:
    """Check that each alarm topic has a subscriber, that each subscriber has confirmed the subscription, and that
    prod's no-traffic alarm is enabled.
    """
    kinds = ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")
    known = [alarm for kind in kinds for alarm in place.of_type(kind).values()]
    ringing = [alarm for alarm in known if "AlarmActions" in alarm and alarm.get("ActionsEnabled", True)]
    topics = sorted({action["Ref"] for alarm in ringing for action in alarm["AlarmActions"]})
    if (
        place.stage == "prod"
        and not place.of_type("AWS::CloudWatch::Alarm")["NoTrafficAlarm"]["ActionsEnabled"]
    ):
        detail = (
            "is disabled: set expectTraffic: true in serverless/stage_settings.yml on the day of the launch"
        )
        yield Finding("warns", "silence_unwatched", "no-traffic", detail)
    subscriptions = place.of_type("AWS::SNS::Subscription").values()
    for topic in topics:
        addresses = [
            s["Endpoint"] for s in subscriptions if s["TopicArn"] == {"Ref": topic} and s["Endpoint"]
        ]
        if not addresses:
            detail = "alarms notify nobody: set alarmEmail and pageEmail in serverless/stage_settings.yml"
            yield Finding("blocks", "alarm_without_address", topic, detail)
        elif topic in place.own:
            yield from _unconfirmed(place, place.own[topic])


def _unconfirmed(place: Place, topic_arn: str) -> Iterator[Finding]:
    pages = place.clients("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic_arn)
    for subscription in (s for page in pages for s in page["Subscriptions"]):
        if subscription["SubscriptionArn"] == "PendingConfirmation":
            detail = (
                "has not confirmed the subscription in the e-mail from SNS, and receives no alarms until then"
            )
            yield Finding("warns", "address_not_confirmed", subscription["Endpoint"], detail)


def settings(place: Place) -> Iterator[Finding]:
    """Check that ingest and consume accept their environment variables, and that a stage that checks tokens names their
    device claim. Otherwise, every invocation or every request with a token would fail.
    """
    for function, accepted in (
        ("IngestLambdaFunction", IngestSettings),
        ("ConsumeLambdaFunction", ConsumerSettings),
    ):
        variables = place.resources[function]["Properties"]["Environment"]["Variables"]
        try:
            accepted.of({n: "a resource" if isinstance(v, dict) else str(v) for n, v in variables.items()})
        except SettingsError as error:
            detail = f"the function would fail: {error}. Correct serverless/stage_settings.yml"
            yield Finding("blocks", "setting_invalid", function, detail)
    variables = place.resources["IngestLambdaFunction"]["Properties"]["Environment"]["Variables"]
    if variables["IDENTITY"] != "off" and not variables["JWT_DEVICE_CLAIM"]:
        detail = "jwtDeviceClaim is empty, so every request with a token would get 401"
        yield Finding("blocks", "setting_invalid", "IngestLambdaFunction", detail)


def parameters(place: Place) -> Iterator[Finding]:
    """If the stage requires signatures and stores their secret in SSM, check that this secret exists and is
    encrypted.
    """
    variables = place.resources["IngestLambdaFunction"]["Properties"]["Environment"]["Variables"]
    kind, _, name = variables["SIGNATURE_SECRETS"].partition(":")
    if variables["SIGNATURE_SCHEME"] == "off" or kind != "ssm":
        return
    # The deployment role may list parameters, but not read their values. Any page, not only the last one, may be empty
    # (AWS Systems Manager API Reference: "DescribeParameters").
    wanted = [{"Key": "Name", "Option": "Equals", "Values": [name]}]
    pages = place.clients("ssm").get_paginator("describe_parameters").paginate(ParameterFilters=wanted)
    found = [parameter for page in pages for parameter in page["Parameters"]]
    if not found:
        detail = "signatures are required, but their secret does not exist (docs/deploy.md, Signatures)"
        yield Finding("blocks", "signature_secret_missing", name, detail)
    elif found[0]["Type"] != "SecureString":
        detail = f"is a {found[0]['Type']}: store it again with aws ssm put-parameter --type SecureString --overwrite"
        yield Finding("blocks", "signature_secret_readable", name, detail)


def domain(place: Place) -> Iterator[Finding]:
    """Check that the certificate of the stage's domain is issued for this domain in the stage's region."""
    wanted = place.resources["ApiDomain"]["Properties"]
    name, arn = wanted["DomainName"], wanted["RegionalCertificateArn"]
    if not name:
        return
    try:
        certificate = place.clients("acm").describe_certificate(CertificateArn=arn)["Certificate"]
    except (ClientError, ParamValidationError) as error:
        malformed = ("ResourceNotFoundException", "ValidationException", "InvalidArnException")
        if isinstance(error, ClientError) and code_of(error) not in malformed:
            raise
        detail = (
            f"domainCertificateArn is not a certificate in {place.account.region} (docs/deploy.md, Domain)"
        )
        yield Finding("blocks", "certificate_missing", arn or "(empty)", detail)
        return
    covered = certificate.get("SubjectAlternativeNames") or [certificate["DomainName"]]
    if certificate["Status"] != "ISSUED":
        detail = f"is {certificate['Status']}: complete its validation in ACM"
        yield Finding("blocks", "certificate_not_issued", arn, detail)
    elif not {name, "*." + name.partition(".")[2]} & set(covered):
        yield Finding(
            "blocks", "certificate_of_another_name", arn, f"covers {', '.join(covered)}, not {name}"
        )


def snowflake_parameters(place: Place) -> Iterator[Finding]:
    """Check the account, URL and database for the pipe check, and the IAM users of Snowflake."""
    variables = place.resources["CheckLambdaFunction"]["Properties"]["Environment"]["Variables"]
    checked = any(rule.get("State") == "ENABLED" for rule in place.of_type("AWS::Events::Rule").values())
    if checked and not variables["SNOWFLAKE_ACCOUNT"]:
        detail = "checkPipes or checkLoads is on, but snowflakeAccount is empty, so every check would fail"
        yield Finding("blocks", "snowflake_account_missing", "snowflakeAccount", detail)
    database = variables["SNOWFLAKE_DATABASE"]
    if checked and not re.fullmatch(DATABASE_NAME, database):
        detail = f"{database!r} is not a valid name, so every check would fail: set the database's name"
        yield Finding("blocks", "snowflake_database_invalid", "snowflakeDatabase", detail)
    url = variables["SNOWFLAKE_URL"]
    if checked and url and not re.fullmatch(r"https://[^/]+", url):
        detail = f"{url} is not of the form https://HOST, so every check would fail"
        yield Finding("blocks", "snowflake_url_invalid", "snowflakeUrl", detail)
    reads, reports = (
        _user_of(place.resources[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"][0])
        for role in ("SnowflakeRole", "SnowflakeErrorsRole")
    )
    yield from _user("snowflakeUserArn", reads)
    yield from _user("snowflakeErrorsUserArn", reports)
    if not reads:
        detail = (
            "Snowflake is not allowed to read the archive yet. After this deployment, follow the section "
            "Snowflake of docs/deploy.md"
        )
        yield Finding("warns", "snowflake_not_trusted", "snowflakeUserArn", detail)
    statements = [
        statement
        for properties in place.of_type("AWS::SNS::TopicPolicy").values()
        for statement in properties["PolicyDocument"]["Statement"]
        if statement.get("Sid") == SUBSCRIBES
    ]
    subscribes = _user_of(statements[0]) if statements else ""
    yield from _user("snowflakeSnsUserArn", subscribes)
    if not subscribes:
        detail = (
            "the topic's policy does not allow Snowflake to subscribe"
            + (", and this deployment removes an earlier permission, if there is one" if reads else " yet")
            + ": set the ARN that `milkrun warehouse sns-policy` prints (docs/deploy.md, Snowflake)"
        )
        yield Finding("warns", "snowflake_not_subscribing", "snowflakeSnsUserArn", detail)


def _user_of(statement: Mapping[str, Any]) -> str:
    """Return the ARN of a policy statement's principal; "" if the principal is the account itself."""
    principal = statement["Principal"].get("AWS", "")
    arn = str(principal["Fn::Sub"] if isinstance(principal, dict) else principal)
    return "" if arn.endswith(":root") else arn


def _user(parameter: str, arn: str) -> Iterator[Finding]:
    # IAM and SNS reject a policy whose principal is not an ARN, or is a user that does not exist.
    if arn and not re.fullmatch(r"arn:aws[a-z-]*:iam::[0-9]{12}:user/[\w+=,.@/-]+", arn):
        yield Finding("blocks", "snowflake_user_invalid", parameter, f"{arn} is not the ARN of an IAM user")


CHECKS: Mapping[str, Callable[[Place], Iterator[Finding]]] = {
    "region": region,
    "stack": stack,
    "concurrency": concurrency,
    "names": names,
    "shards": shards,
    "alarms": alarms,
    "settings": settings,
    "parameters": parameters,
    "domain": domain,
    "snowflake parameters": snowflake_parameters,
}


def results(place: Place) -> Iterator[tuple[str, Finding]]:
    """Yield each finding with the title of its check. A check that fails with an AWS error yields the finding
    `not_checked`, and the other checks still run.
    """
    for title, check in CHECKS.items():
        try:
            found = list(check(place))
        except (BotoCoreError, ClientError) as error:
            found = [Finding("unknown", "not_checked", title, str(error))]
        for finding in found or [Finding("ok", "", title, "")]:
            yield title, finding


def snowflake_session(open_warehouse: OpenWarehouse) -> Finding:
    """Check that the commands can sign in to Snowflake with the current settings."""
    try:
        with open_warehouse() as warehouse:
            [row] = warehouse.query("SELECT CURRENT_ROLE() AS role")
    except Refusal as problem:
        return Finding("blocks", "snowflake_unreachable", "SNOWFLAKE_*", str(problem))
    return Finding("ok", "", "SNOWFLAKE_*", f"the commands can sign in, with role {row['role']}")


def snowflake_connection(stage: str, environment: Mapping[str, str]) -> Connection | Finding:
    if stage == "local":
        return Outputs.find(stage, environment).snowflake
    try:
        return load(environment_of(stage, environment)).connection
    except NoStackError as problem:
        return Finding("warns", "snowflake_not_configured", "SNOWFLAKE_ACCOUNT", str(problem))
    except Refusal as problem:
        return Finding("blocks", "snowflake_not_configured", "SNOWFLAKE_*", str(problem))


def exit_code(levels: Sequence[Level]) -> int:
    """Return 1 if something blocks the deployment, 2 if something could not be checked, otherwise 0."""
    if "blocks" in levels:
        return 1
    return 2 if "unknown" in levels else 0


def clients_of(stage: str, environment: Mapping[str, str]) -> Clients:
    if stage == "local":
        return Outputs.find(stage, environment).aws
    session = boto3.Session(region_name=environment.get("AWS_REGION"))
    config = Config(connect_timeout=3, read_timeout=30, retries={"mode": "standard", "max_attempts": 3})
    client: Callable[..., Client] = session.client
    return lambda service: client(service, config=config)


def look(stage: str, environment: Mapping[str, str]) -> Place:
    clients = clients_of(stage, environment)
    sts = clients("sts")
    identity = sts.get_caller_identity()
    account = Account(identity["Account"], sts.meta.region_name, sts.meta.partition)
    resources = osls.packaged(stage, environment)
    deployed_to = account.region if stage == "local" else environment.get("AWS_REGION") or osls.DEFAULT_REGION
    return Place(stage, resources, account, clients, deployed_to)


def command(
    context: typer.Context,
    stage: Annotated[
        str,
        typer.Argument(parser=terminal.stage_name, metavar="stage", help="Name of the stage to be deployed."),
    ],
    *,
    as_json: terminal.AsJson = False,
) -> None:
    """Find reasons why the deployment of a stage would fail, without creating anything.

    The exit code is 1 if something blocks the deployment, otherwise 2 if something could not be checked, and
    otherwise 0.
    """
    environment: Mapping[str, str] = context.obj
    found = list(terminal.counted(results(look(stage, environment)), "checks made"))
    connection = snowflake_connection(stage, environment)
    if isinstance(connection, Connection):
        session = snowflake_session(lambda: connect(connection, give_up_after_s=15))
        found.append(("snowflake session", session))
    else:
        found.append(("snowflake session", connection))
    rows = [{"check": title, **asdict(finding)} for title, finding in found]
    terminal.show_rows(rows, as_json, title=f"stage {stage}")
    if code := exit_code([finding.level for _, finding in found]):
        raise typer.Exit(code)
