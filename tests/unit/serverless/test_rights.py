"""Test the exact rights of each IAM role in every stage, so that no right is added unnoticed."""

import pytest

from tests.unit.serverless.templates import EVERYTHING, STAGES, many, of_type, spelled
from tools.check import VARIANTS

TRACES = {("xray:PutTraceSegments", "*"), ("xray:PutTelemetryRecords", "*")}


def log_of(function: str) -> set[tuple[str, str]]:
    return {("logs:CreateLogStream", f"{function}LogGroup"), ("logs:PutLogEvents", f"{function}LogGroup")}


RIGHTS = {
    "IngestRole": TRACES
    | log_of("Ingest")
    | {
        ("s3:PutObject", "ArchiveBucket/events/*"),
        ("s3:PutObject", "ArchiveBucket/rejected/*"),
        ("s3:PutObject", "ArchiveBucket/set-aside/*"),
        ("kinesis:PutRecords", "GeofenceStream"),
        ("sqs:SendMessage", "RedriveQueue"),
        ("ssm:GetParameter", "/milkrun/STAGE/signature-secrets"),
    },
    "RedriveRole": TRACES
    | log_of("Redrive")
    | {
        ("sqs:ReceiveMessage", "RedriveQueue"),
        ("sqs:DeleteMessage", "RedriveQueue"),
        ("sqs:GetQueueAttributes", "RedriveQueue"),
        ("sqs:ChangeMessageVisibility", "RedriveQueue"),
        ("s3:GetObject", "ArchiveBucket/events/*"),
        ("s3:PutObject", "ArchiveBucket/set-aside/*"),
        ("kinesis:PutRecords", "GeofenceStream"),
    },
    "ConsumeRole": TRACES
    | log_of("Consume")
    | {
        ("kinesis:DescribeStream", "GeofenceStream"),
        ("kinesis:DescribeStreamSummary", "GeofenceStream"),
        ("kinesis:GetRecords", "GeofenceStream"),
        ("kinesis:GetShardIterator", "GeofenceStream"),
        ("kinesis:ListShards", "GeofenceStream"),
        ("dynamodb:BatchGetItem", "VisitsTable"),
        ("dynamodb:PutItem", "VisitsTable"),
        ("dynamodb:Query", "VisitsTable"),
        ("events:PutEvents", "VisitsBus"),
        ("s3:PutObject", "ArchiveBucket/set-aside/*"),
        # With this role, Lambda itself stores the batches that reached the maximum record age.
        ("s3:PutObject", "ArchiveBucket/aws/lambda/*"),
        ("s3:ListBucket", "ArchiveBucket"),
    },
    "CheckRole": TRACES
    | log_of("Check")
    | {
        ("kms:GetPublicKey", "CheckKey"),
        ("kms:Sign", "CheckKey"),
        ("s3:ListBucket", "ArchiveBucket"),
    },
    "SnowflakeRole": {
        ("s3:GetObject", "ArchiveBucket/events/*"),
        ("s3:GetObject", "ArchiveBucket/rejected/*"),
        ("s3:GetObjectVersion", "ArchiveBucket/events/*"),
        ("s3:GetObjectVersion", "ArchiveBucket/rejected/*"),
        ("s3:ListBucket", "ArchiveBucket"),
        ("s3:GetBucketLocation", "ArchiveBucket"),
    },
    "SnowflakeErrorsRole": {("sns:Publish", "AlarmTopic")},
    "ApiGatewayLogsRole": set(),  # uses a managed policy of AWS
}


OWN_OBJECTS = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:AbortMultipartUpload",
)
GLUE_LOGS = "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:/aws-glue/*"
EVERY_GLUE_JOB = {
    ("logs:CreateLogGroup", GLUE_LOGS),
    ("logs:CreateLogStream", GLUE_LOGS),
    ("logs:PutLogEvents", GLUE_LOGS),
    ("cloudwatch:PutMetricData", "*"),
    ("s3:ListBucket", "ArchiveBucket"),
    ("s3:ListBucketVersions", "ArchiveBucket"),
    ("s3:GetBucketLocation", "ArchiveBucket"),
    ("s3:GetObject", "ArchiveBucket/glue/*"),
}


def own(*prefixes: str) -> set[tuple[str, str]]:
    return {(action, f"ArchiveBucket/{prefix}/*") for action in OWN_OBJECTS for prefix in prefixes}


GLUE_RIGHTS = {
    "GlueRole": EVERY_GLUE_JOB
    | own("compacted", "rebuilt", "streamed", "glue/tmp")
    | {("s3:GetObject", "ArchiveBucket/events/*"), ("s3:PutObject", "ArchiveBucket/set-aside/*")}
    # Spark creates markers for directories and looks directories up (tests/unit/glue/test_template.py).
    | {(action, "ArchiveBucket/streamed_$folder$") for action in OWN_OBJECTS}
    | {("s3:GetObject", f"ArchiveBucket/{each}") for each in ("events", "events_$folder$", "streamed")},
    # Only this role may delete received events and records, because users have a right to erasure.
    "GlueForgetRole": EVERY_GLUE_JOB
    | own("events", "rejected", "set-aside", "aws/lambda", "compacted", "forget", "glue/tmp"),
}


def statements(role: dict) -> list[dict]:
    return [s for policy in role.get("Policies", []) for s in policy["PolicyDocument"]["Statement"]]


def granted(variant: str) -> dict[str, set[tuple[str, str]]]:
    stage, _ = VARIANTS[variant]
    return {
        name: {
            (action, spelled(resource).replace(f"/milkrun/{stage}/", "/milkrun/STAGE/"))
            for statement in statements(role)
            for action in many(statement["Action"])
            for resource in many(statement["Resource"])
        }
        for name, role in of_type(variant, "AWS::IAM::Role").items()
    }


@pytest.mark.parametrize("stage", STAGES)
def test_each_iam_role_has_exactly_the_listed_rights(stage):
    assert granted(stage) == RIGHTS


def test_enabling_glue_adds_exactly_the_listed_rights():
    assert granted(EVERYTHING) == RIGHTS | GLUE_RIGHTS
    roles = of_type(EVERYTHING, "AWS::IAM::Role")
    for name in GLUE_RIGHTS:
        [trust] = roles[name]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Principal"] == {"Service": "glue.amazonaws.com"}
        assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
        [metrics] = [s for s in statements(roles[name]) if s["Resource"] == "*"]
        assert metrics["Condition"] == {"StringEquals": {"cloudwatch:namespace": "Glue"}}


@pytest.mark.parametrize("stage", VARIANTS)
def test_no_role_has_a_wildcard_action_or_a_deny_statement(stage):
    for role in of_type(stage, "AWS::IAM::Role").values():
        for statement in statements(role):
            assert not any("*" in action for action in many(statement["Action"]))
            assert statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"}
            assert statement["Effect"] == "Allow"


@pytest.mark.parametrize("stage", STAGES)
def test_each_function_has_its_own_role_that_only_lambda_can_assume(stage):
    roles = [spelled(f["Role"]) for f in of_type(stage, "AWS::Lambda::Function").values()]
    assert sorted(roles) == ["CheckRole", "ConsumeRole", "IngestRole", "RedriveRole"]
    for name in roles:
        [trust] = of_type(stage, "AWS::IAM::Role")[name]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Principal"] == {"Service": "lambda.amazonaws.com"}


@pytest.mark.parametrize("stage", STAGES)
def test_snowflake_and_check_roles_can_list_only_the_prefixes_that_snowflake_loads(stage):
    roles = of_type(stage, "AWS::IAM::Role")
    for name in ("SnowflakeRole", "CheckRole"):
        [listing] = [s for s in statements(roles[name]) if "s3:ListBucket" in many(s["Action"])]
        assert listing["Condition"] == {"StringLike": {"s3:prefix": ["events/*", "rejected/*"]}}


@pytest.mark.parametrize("stage", STAGES)
def test_snowflake_can_assume_its_roles_only_with_the_external_id(stage):
    for name in ("SnowflakeRole", "SnowflakeErrorsRole"):
        [trust] = of_type(stage, "AWS::IAM::Role")[name]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Condition"] == {"StringEquals": {"sts:ExternalId": f"milkrun-{stage}"}}


@pytest.mark.parametrize("stage", STAGES)
def test_each_statement_of_a_topics_policy_names_only_that_topic(stage):
    """SNS rejects other statements: "Policy statement must apply to a single resource!" (Amazon SNS Developer Guide:
    "Amazon SNS API permissions: Actions and resources reference".)
    """
    policies = of_type(stage, "AWS::SNS::TopicPolicy").values()
    covered = [topic for policy in policies for topic in policy["Topics"]]
    assert {topic["Ref"] for topic in covered} == of_type(stage, "AWS::SNS::Topic").keys()
    for policy in policies:
        [topic] = policy["Topics"]
        assert [s["Resource"] for s in policy["PolicyDocument"]["Statement"] if s["Resource"] != topic] == []


@pytest.mark.parametrize("stage", STAGES)
def test_topic_and_bucket_policies_allow_no_wildcard_principal(stage):
    """A topic policy allows an AWS service only on behalf of this account (`aws:SourceAccount`)."""
    policies = of_type(stage, "AWS::SNS::TopicPolicy")
    for policy in policies.values():
        for statement in policy["PolicyDocument"]["Statement"]:
            assert "*" not in principals(statement)
            if "Service" in statement["Principal"]:
                account = statement["Condition"]["StringEquals"]["aws:SourceAccount"]
                assert account == {"Ref": "AWS::AccountId"}
    for policy in of_type(stage, "AWS::S3::BucketPolicy").values():
        for statement in policy["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Deny" or "*" not in principals(statement)


def principals(statement):
    """Return the principals of a statement. `{"AWS": "*"}` means the same as `"*"`. (IAM User Guide: "AWS JSON policy
    elements: Principal".)
    """
    match statement["Principal"]:
        case dict(kinds):
            return [each for kind in kinds.values() for each in many(kind)]
        case text:
            return [text]
