"""Find existing resources with names that a stage's stack needs.

CloudFormation reports a name conflict only after it has created a part of the stack.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ops.stage_outputs import Client

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sns import SNSClient

type Clients = Callable[[str], Client]
"""A function that returns a boto3 client for a service."""


type Resources = Mapping[str, Mapping[str, Any]]
"""The resources of a CloudFormation template by logical id."""


@dataclass(frozen=True)
class Account:
    """The AWS account, region and partition of a stage."""

    number: str
    region: str
    partition: str


@dataclass(frozen=True)
class Named:
    """A resource of the template with a fixed name."""

    logical_id: str
    kind: str
    name: str


@dataclass(frozen=True)
class Lookup:
    """The call that looks up a resource by name; an error code in `free` means that no resource has this name."""

    name_property: str
    service: str
    ask: Callable[[Client, str, Account], object]
    free: tuple[str, ...] = ("ResourceNotFoundException",)


def _topic(sns: "SNSClient", name: str, account: Account) -> object:
    arn = f"arn:{account.partition}:sns:{account.region}:{account.number}:{name}"
    return sns.get_topic_attributes(TopicArn=arn)


def _log_group(logs: "CloudWatchLogsClient", name: str, _: Account) -> object:
    groups = logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    return [group for group in groups if group["logGroupName"] == name]


def _composite_alarm(cloudwatch: "CloudWatchClient", name: str, _: Account) -> object:
    return cloudwatch.describe_alarms(AlarmNames=[name], AlarmTypes=["CompositeAlarm"]).get("CompositeAlarms")


def _dashboard(cloudwatch: "CloudWatchClient", name: str, _: Account) -> object:
    known = cloudwatch.list_dashboards(DashboardNamePrefix=name)["DashboardEntries"]
    return [dashboard for dashboard in known if dashboard["DashboardName"] == name]


def _firewall(wafv2: Client, name: str, _: Account) -> object:
    known = wafv2.list_web_acls(Scope="REGIONAL", Limit=100)["WebACLs"]
    return [firewall for firewall in known if firewall["Name"] == name]


LOOKUPS: Mapping[str, Lookup] = {
    # 403 means that the bucket belongs to another account, because bucket names are unique across accounts.
    "AWS::S3::Bucket": Lookup("BucketName", "s3", lambda c, n, _: _taken_bucket(c, n), ("404",)),
    "AWS::Kinesis::Stream": Lookup(
        "Name", "kinesis", lambda c, n, _: c.describe_stream_summary(StreamName=n)
    ),
    "AWS::DynamoDB::Table": Lookup("TableName", "dynamodb", lambda c, n, _: c.describe_table(TableName=n)),
    "AWS::SQS::Queue": Lookup(
        "QueueName",
        "sqs",
        lambda c, n, _: c.get_queue_url(QueueName=n),
        ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"),
    ),
    "AWS::SNS::Topic": Lookup("TopicName", "sns", _topic, ("NotFound",)),
    "AWS::IAM::Role": Lookup("RoleName", "iam", lambda c, n, _: c.get_role(RoleName=n), ("NoSuchEntity",)),
    "AWS::Lambda::Function": Lookup(
        "FunctionName", "lambda", lambda c, n, _: c.get_function_configuration(FunctionName=n)
    ),
    "AWS::Logs::LogGroup": Lookup("LogGroupName", "logs", _log_group),
    "AWS::Events::EventBus": Lookup("Name", "events", lambda c, n, _: c.describe_event_bus(Name=n)),
    "AWS::Events::Rule": Lookup("Name", "events", lambda c, n, _: c.describe_rule(Name=n)),
    "AWS::CloudWatch::Alarm": Lookup(
        "AlarmName", "cloudwatch", lambda c, n, _: c.describe_alarms(AlarmNames=[n])["MetricAlarms"]
    ),
    "AWS::CloudWatch::CompositeAlarm": Lookup("AlarmName", "cloudwatch", _composite_alarm),
    "AWS::CloudWatch::Dashboard": Lookup("DashboardName", "cloudwatch", _dashboard),
    "AWS::ApiGateway::DomainName": Lookup(
        "DomainName",
        "apigateway",
        lambda c, n, _: n and c.get_domain_name(domainName=n),
        ("NotFoundException",),
    ),
    "AWS::WAFv2::WebACL": Lookup("Name", "wafv2", _firewall),
    "AWS::Glue::Job": Lookup(
        "Name", "glue", lambda c, n, _: c.get_job(JobName=n), ("EntityNotFoundException",)
    ),
    "AWS::Glue::Trigger": Lookup(
        "Name", "glue", lambda c, n, _: c.get_trigger(Name=n), ("EntityNotFoundException",)
    ),
}


def _taken_bucket(s3: "S3Client", name: str) -> object:
    try:
        return s3.head_bucket(Bucket=name)
    except ClientError as error:
        if code_of(error) == "403":
            return "another account's"
        raise


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code"))


def text_of(value: object, account: Account) -> str | None:
    """Return a value of the template as text; None if it is missing or known only after the deployment."""
    if isinstance(value, Mapping) and isinstance(value.get("Fn::Sub"), str):
        value = value["Fn::Sub"]
    if not isinstance(value, str):
        return None
    pseudo = {"AccountId": account.number, "Region": account.region, "Partition": account.partition}
    for name, known in pseudo.items():
        value = value.replace(f"${{AWS::{name}}}", known)
    return None if "${" in value else value


def named(resources: Resources, account: Account) -> Iterator[Named]:
    """Yield each resource of the template with a fixed name and a type in LOOKUPS."""
    for logical_id, resource in resources.items():
        if lookup := LOOKUPS.get(resource["Type"]):
            name = text_of(resource.get("Properties", {}).get(lookup.name_property), account)
            if name is not None:
                yield Named(logical_id, resource["Type"], name)


def leftovers(wanted: Iterable[Named], own: Sequence[str], clients: Clients, account: Account) -> list[Named]:
    """Return the wanted resources that already exist outside the stack; `own` lists the stack's logical ids."""
    return [one for one in wanted if one.logical_id not in own and _exists(one, clients, account)]


def _exists(one: Named, clients: Clients, account: Account) -> bool:
    lookup = LOOKUPS[one.kind]
    try:
        return bool(lookup.ask(clients(lookup.service), one.name, account))
    except ClientError as error:
        if code_of(error) in lookup.free:
            return False
        raise
