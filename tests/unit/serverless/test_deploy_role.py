"""Test that the role with which GitHub deploys a stage has the rights that the template needs, and no access
to users' data.
"""

import gzip
import json
import re
from fnmatch import fnmatchcase
from functools import cache

import boto3
import pytest
from cfnlint.decode.cfn_yaml import load
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from moto import mock_aws

from ops import preflight, smoke
from ops.existing_resources import Account
from ops.stage_outputs import Outputs
from tests.unit.ops.test_terminal import NOWHERE
from tests.unit.serverless.templates import EVERYTHING, many, resources
from tools.check import ROOT

ROLE = ROOT / ".github" / "aws" / "deploy-role.yml"
# The actions that CloudFormation calls to create, change and delete a resource of each type. The resource schemas list
# them as the handlers' permissions. (AWS CloudFormation User Guide for Extension Development: "Resource type schema".)
# Actions for properties that our template does not set are omitted.
NEEDS = {
    "AWS::ApiGateway::Account": "apigateway:GET apigateway:PATCH iam:PassRole",
    "AWS::ApiGateway::ApiKey": "apigateway:POST apigateway:GET apigateway:PATCH apigateway:DELETE",
    "AWS::ApiGateway::BasePathMapping": "apigateway:POST apigateway:GET apigateway:DELETE",
    "AWS::ApiGateway::Deployment": "apigateway:POST apigateway:GET apigateway:DELETE",
    "AWS::ApiGateway::DomainName": "apigateway:POST apigateway:GET apigateway:PATCH apigateway:DELETE",
    "AWS::ApiGateway::GatewayResponse": "apigateway:PUT apigateway:GET apigateway:DELETE",
    "AWS::ApiGateway::Method": "apigateway:PUT apigateway:GET apigateway:DELETE",
    "AWS::ApiGateway::Resource": "apigateway:POST apigateway:GET apigateway:PATCH apigateway:DELETE",
    # osls always sets the property Policy, if only to an empty string.
    "AWS::ApiGateway::RestApi": "apigateway:POST apigateway:GET apigateway:PATCH apigateway:DELETE"
    " apigateway:UpdateRestApiPolicy",
    "AWS::ApiGateway::UsagePlan": "apigateway:POST apigateway:GET apigateway:PATCH apigateway:DELETE",
    "AWS::ApiGateway::UsagePlanKey": "apigateway:POST apigateway:GET apigateway:DELETE",
    "AWS::CloudWatch::Alarm": "cloudwatch:PutMetricAlarm cloudwatch:DescribeAlarms cloudwatch:DeleteAlarms",
    "AWS::CloudWatch::CompositeAlarm": "cloudwatch:PutCompositeAlarm cloudwatch:DescribeAlarms"
    " cloudwatch:DeleteAlarms",
    "AWS::CloudWatch::Dashboard": "cloudwatch:PutDashboard cloudwatch:GetDashboard cloudwatch:DeleteDashboards",
    "AWS::DynamoDB::Table": "dynamodb:CreateTable dynamodb:DescribeTable dynamodb:DescribeTimeToLive"
    " dynamodb:UpdateTimeToLive dynamodb:UpdateContinuousBackups dynamodb:DescribeContinuousBackups"
    " dynamodb:UpdateTable dynamodb:DeleteTable dynamodb:TagResource dynamodb:ListTagsOfResource",
    "AWS::Events::EventBus": "events:CreateEventBus events:DescribeEventBus events:DeleteEventBus"
    " events:TagResource",
    "AWS::Events::Rule": "events:PutRule events:DescribeRule events:DeleteRule events:PutTargets"
    " events:RemoveTargets events:ListTargetsByRule",
    "AWS::Glue::Job": "glue:CreateJob glue:GetJob glue:UpdateJob glue:DeleteJob glue:TagResource iam:PassRole",
    "AWS::Glue::Trigger": "glue:CreateTrigger glue:GetTrigger glue:UpdateTrigger glue:DeleteTrigger"
    " glue:StartTrigger glue:StopTrigger",
    "AWS::IAM::Role": "iam:CreateRole iam:GetRole iam:PutRolePolicy iam:GetRolePolicy iam:DeleteRolePolicy"
    " iam:AttachRolePolicy iam:DetachRolePolicy iam:ListRolePolicies iam:ListAttachedRolePolicies"
    " iam:UpdateAssumeRolePolicy iam:UpdateRole iam:DeleteRole iam:TagRole",
    "AWS::KMS::Key": "kms:CreateKey kms:DescribeKey kms:GetKeyPolicy kms:PutKeyPolicy kms:ListResourceTags"
    " kms:ScheduleKeyDeletion kms:TagResource",
    "AWS::Kinesis::Stream": "kinesis:CreateStream kinesis:DescribeStreamSummary kinesis:DescribeStream"
    " kinesis:IncreaseStreamRetentionPeriod kinesis:DecreaseStreamRetentionPeriod kinesis:StartStreamEncryption"
    " kinesis:StopStreamEncryption kinesis:UpdateShardCount kinesis:UpdateStreamMode kinesis:AddTagsToStream"
    " kinesis:ListTagsForStream kinesis:DeleteStream",
    "AWS::Lambda::Alias": "lambda:CreateAlias lambda:GetAlias lambda:UpdateAlias lambda:DeleteAlias",
    "AWS::Lambda::EventSourceMapping": "lambda:CreateEventSourceMapping lambda:GetEventSourceMapping"
    " lambda:UpdateEventSourceMapping lambda:DeleteEventSourceMapping lambda:TagResource lambda:ListTags",
    "AWS::Lambda::Function": "lambda:CreateFunction lambda:GetFunction lambda:GetFunctionConfiguration"
    " lambda:UpdateFunctionCode lambda:UpdateFunctionConfiguration lambda:PutFunctionConcurrency"
    " lambda:DeleteFunctionConcurrency lambda:DeleteFunction lambda:TagResource lambda:ListTags iam:PassRole"
    " s3:GetObject",
    "AWS::Lambda::Permission": "lambda:AddPermission lambda:GetPolicy lambda:RemovePermission",
    "AWS::Lambda::Version": "lambda:PublishVersion lambda:ListVersionsByFunction lambda:DeleteFunction",
    "AWS::Logs::LogGroup": "logs:CreateLogGroup logs:DescribeLogGroups logs:PutRetentionPolicy"
    " logs:DeleteLogGroup logs:TagResource logs:ListTagsForResource",
    "AWS::Logs::MetricFilter": "logs:PutMetricFilter logs:DescribeMetricFilters logs:DeleteMetricFilter",
    "AWS::Logs::ResourcePolicy": "logs:PutResourcePolicy logs:DescribeResourcePolicies"
    " logs:DeleteResourcePolicy",
    "AWS::S3::Bucket": "s3:CreateBucket s3:PutBucketVersioning s3:PutBucketPublicAccessBlock"
    " s3:PutBucketOwnershipControls s3:PutEncryptionConfiguration s3:PutBucketNotification"
    " s3:PutLifecycleConfiguration s3:PutBucketTagging s3:ListBucket s3:GetBucketLocation s3:DeleteBucket",
    "AWS::S3::BucketPolicy": "s3:PutBucketPolicy s3:GetBucketPolicy s3:DeleteBucketPolicy",
    "AWS::SNS::Subscription": "sns:Subscribe sns:Unsubscribe sns:GetSubscriptionAttributes"
    " sns:ListSubscriptionsByTopic",
    "AWS::SNS::Topic": "sns:CreateTopic sns:GetTopicAttributes sns:SetTopicAttributes sns:DeleteTopic"
    " sns:TagResource sns:ListTagsForResource",
    "AWS::SNS::TopicPolicy": "sns:SetTopicAttributes",
    "AWS::SQS::Queue": "sqs:CreateQueue sqs:GetQueueUrl sqs:GetQueueAttributes sqs:SetQueueAttributes"
    " sqs:DeleteQueue sqs:TagQueue sqs:ListQueueTags",
    "AWS::WAFv2::WebACL": "wafv2:CreateWebACL wafv2:GetWebACL wafv2:UpdateWebACL wafv2:DeleteWebACL",
    "AWS::WAFv2::WebACLAssociation": "wafv2:AssociateWebACL wafv2:DisassociateWebACL"
    " wafv2:GetWebACLForResource apigateway:SetWebACL",
}
# Actions in CloudFormation's schemas that are needed only for encryption with a customer managed key, or for a web ACL
# that protects something other than an API.
UNUSED = {"kms:Decrypt"}
UNUSED_SERVICES = {
    "amplify",
    "apprunner",
    "appsync",
    "bedrock-agentcore",
    "cognito-idp",
    "ec2",
    "elasticloadbalancing",
}
# The actions that osls itself calls.
OSLS = (
    "cloudformation:CreateChangeSet cloudformation:ExecuteChangeSet cloudformation:DescribeStacks"
    " cloudformation:DescribeStackEvents cloudformation:DescribeStackResource cloudformation:ValidateTemplate"
    " cloudformation:CreateStack cloudformation:UpdateStack cloudformation:ListStackResources"
    " cloudformation:UpdateTerminationProtection"
    " s3:ListBucket s3:PutObject s3:GetObject s3:DeleteObject sts:GetCallerIdentity"
    " apigateway:GET apigateway:PATCH lambda:GetFunction"
)
# Actions that would give access to users' data, credentials or secrets.
NEVER = (
    "kinesis:GetRecords kinesis:PutRecords dynamodb:GetItem dynamodb:Scan dynamodb:PutItem"
    " dynamodb:BatchWriteItem dynamodb:DeleteItem sqs:ReceiveMessage sqs:SendMessage ssm:GetParameter"
    " ssm:PutParameter secretsmanager:GetSecretValue kms:Sign kms:Decrypt lambda:InvokeFunction logs:GetLogEvents"
    " logs:FilterLogEvents iam:CreateUser iam:CreateAccessKey iam:CreatePolicy organizations:LeaveOrganization"
)


@cache
def role() -> dict:
    """Return the properties of the deploy role."""
    return template()["Resources"]["DeployRole"]["Properties"]


@cache
def template() -> dict:
    return json.loads(json.dumps(load(str(ROLE))))


def statements() -> list[dict]:
    return role()["Policies"][0]["PolicyDocument"]["Statement"]


def allowed(action: str) -> bool:
    return any(fnmatchcase(action, pattern) for s in statements() for pattern in many(s["Action"]))


def allowed_on(action: str, resource: str) -> bool:
    """Return whether the deploy role of stage `dev` allows an action on a resource, regardless of conditions."""
    values = {"Partition": "aws", "Region": "us-east-1", "AccountId": "123456789012"}
    for statement in statements():
        if any(fnmatchcase(action, pattern) for pattern in many(statement["Action"])):
            for each in many(statement["Resource"]):
                text = each["Fn::Sub"] if isinstance(each, dict) else each
                for name, value in values.items():
                    text = text.replace(f"${{AWS::{name}}}", value)
                if fnmatchcase(resource, text.replace("${Stage}", "dev")):
                    return True
    return False


def test_required_rights_are_listed_for_every_resource_type_of_the_template():
    assert {resource["Type"] for resource in resources(EVERYTHING).values()} <= NEEDS.keys()


@pytest.mark.parametrize("kind", sorted(NEEDS))
def test_deploy_role_allows_the_calls_that_cloudformation_makes_for_each_resource_type(kind):
    assert not [action for action in NEEDS[kind].split() if not allowed(action)]


@pytest.mark.parametrize("kind", sorted(NEEDS))
def test_deploy_role_allows_the_calls_with_which_cloudformation_reads_and_tags_each_resource_type(kind):
    """CloudFormation's schemas, which cfn-lint contains, list these calls. Unlike the calls of the other handlers, they
    hardly depend on the properties that a template sets.
    """
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    handlers, tagging = schema.get("handlers", {}), schema.get("tagging", {})
    needed = {*handlers.get("read", {}).get("permissions", ()), *tagging.get("permissions", ())}
    assert not [
        action
        for action in sorted(needed)
        if not allowed(action) and action not in UNUSED and action.partition(":")[0] not in UNUSED_SERVICES
    ]


def test_deploy_role_allows_the_calls_that_osls_makes():
    assert not [action for action in OSLS.split() if not allowed(action)]


@pytest.mark.parametrize(
    "action",
    [
        # CloudWatch denies these two on resources narrower than `*`, although they support the resource type `alarm`.
        # (Amazon CloudWatch API Reference: "PutCompositeAlarm", "DescribeAlarms".)
        "cloudwatch:PutCompositeAlarm",
        "cloudwatch:DescribeAlarms",
        # SNS has no resource type for a subscription. (Service Authorization Reference: "Amazon SNS".)
        "sns:GetSubscriptionAttributes",
        "sns:Unsubscribe",
        # This action has no resource type. (Service Authorization Reference: "Amazon CloudWatch Logs".)
        "logs:DescribeIndexPolicies",
    ],
)
def test_actions_that_cannot_be_limited_to_a_resource_are_allowed_on_every_resource(action):
    assert [s for s in statements() if action in many(s["Action"]) and s["Resource"] == "*"]


def test_deploy_role_may_add_the_stacks_tags_to_event_source_mappings():
    """CloudFormation passes the stack's tags to each mapping, whose ARN does not contain the stage. (AWS CloudFormation
    Template Reference: "AWS::Lambda::EventSourceMapping", Tags.)
    """
    mapping = "arn:aws:lambda:us-east-1:123456789012:event-source-mapping:0b8b3b4e-6f0c-4c1e"
    assert allowed_on("lambda:TagResource", mapping)
    assert not allowed_on("lambda:TagResource", "arn:aws:lambda:us-east-1:123456789012:function:another")


@pytest.mark.parametrize(
    "resource",
    ["kinesis:us-east-1:123456789012:stream/milkrun-dev-geofence", "kms:us-east-1:123456789012:key/0b8b"],
)
def test_deploy_role_may_encrypt_the_stream_with_its_key(resource):
    # Both resource types are required. (Service Authorization Reference: "Amazon Kinesis Data Streams".)
    assert allowed_on("kinesis:StartStreamEncryption", f"arn:aws:{resource}")


@pytest.mark.parametrize(
    "action", ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListResourceTags"]
)
def test_deploy_role_may_read_a_new_key_before_its_tags_take_effect(action):
    """CloudFormation reads the key at once, but a condition on its tags may fail for five minutes. (AWS KMS Developer
    Guide: "Use tags to control access to KMS keys".)
    """
    assert [s for s in statements() if action in many(s["Action"]) and "Condition" not in s]


def test_deployment_by_the_role_passes_no_policy_for_the_new_key():
    """KMS rejects a new key's policy unless the caller may replace that policy later: "The new key policy will not
    allow you to update the key policy in the future". The role may replace it only after the key's tags took effect.
    """
    changing = [
        s
        for s in statements()
        if any(fnmatchcase("kms:PutKeyPolicy", pattern) for pattern in many(s["Action"]))
    ]
    assert changing
    assert all("aws:ResourceTag/stage" in str(s.get("Condition")) for s in changing)
    keys = [r for r in resources(EVERYTHING).values() if r["Type"] == "AWS::KMS::Key"]
    assert [key for key in keys if "KeyPolicy" in key["Properties"]] == []


def test_deploy_role_may_let_api_gateway_create_its_service_linked_role():
    """Without this right, the first API or domain of an account cannot be created. (Amazon API Gateway Developer
    Guide: "Using service-linked roles for API Gateway".)
    """
    roles = "arn:aws:iam::123456789012:role/aws-service-role"
    role_of_gateway = f"{roles}/ops.apigateway.amazonaws.com/AWSServiceRoleForAPIGateway"
    assert allowed_on("iam:CreateServiceLinkedRole", role_of_gateway)
    assert not allowed_on(
        "iam:CreateServiceLinkedRole", f"{roles}/support.amazonaws.com/AWSServiceRoleForSupport"
    )


def test_deploy_role_allows_the_calls_that_preflight_makes(monkeypatch):
    """GitHub's deploy job runs preflight with the deploy role, and preflight exits with 2 if a call is denied."""
    called = set()

    def client(service):
        made = boto3.client(service, region_name="us-east-1")
        made.meta.events.register("before-call", lambda model, **_: called.add(f"{service}:{model.name}"))
        return made

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    template = json.loads(json.dumps(resources(EVERYTHING)))
    template["IngestLambdaFunction"]["Properties"]["Environment"]["Variables"] |= {
        "SIGNATURE_SCHEME": "radar"
    }
    with mock_aws():
        client("sns").create_topic(Name="milkrun-prod-alarms")
        stack = {name: template[name] for name in ("AlarmTopic",)}
        client("cloudformation").create_stack(
            StackName="milkrun-prod", TemplateBody=json.dumps({"Resources": stack})
        )
        called.clear()
        account = Account("123456789012", "us-east-1", "aws")
        list(preflight.results(preflight.Place("prod", template, account, client, "us-east-1")))
    assert {"lambda:GetAccountSettings", "ssm:DescribeParameters"} <= called
    iam = {"s3:HeadBucket": "s3:ListBucket", "apigateway:GetDomainName": "apigateway:GET"}
    assert sorted(call for call in called if not allowed(iam.get(call, call))) == []


def test_deploy_role_allows_the_calls_that_smoke_makes(monkeypatch):
    """GitHub's deploy job ends with `make smoke`, which uses the deploy role, too."""
    called = set()

    def client(_, service, **__):
        made = boto3.client(service, region_name="us-east-1")
        made.meta.events.register("before-call", lambda model, **_: called.add(f"{service}:{model.name}"))
        return made

    key = "events/dt=2026-11-28/hh=13/4a4a.1.ndjson.gz"
    accepted = json.dumps({"object_key": key}).encode()
    monkeypatch.setattr(smoke, "poster", lambda _: lambda *_: (202, accepted))
    monkeypatch.setattr(smoke.reachable_stores, "with_or_without_warehouse", lambda *_: 1)
    monkeypatch.setattr(Outputs, "aws", client)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    assert allowed_on(
        "lambda:GetFunctionConfiguration", "arn:aws:lambda:us-east-1:123456789012:function:milkrun-dev-ingest"
    )
    sent, outputs = smoke.event("smoke-1"), NOWHERE.model_copy(update={"bucket": "archive"})
    with mock_aws():
        client(None, "s3").create_bucket(Bucket=outputs.bucket)
        body = gzip.compress(json.dumps(sent).encode())
        client(None, "s3").put_object(Bucket=outputs.bucket, Key=key, Body=body)
        client(None, "dynamodb").create_table(
            TableName=outputs.visits_table,
            AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")],
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        called.clear()
        smoke.reachable_stores.require(outputs, "S3", "DynamoDB")
        steps = list(smoke.follow(outputs, {}, "smoke-1", sent, 0))
    assert [step for step, seen, _ in steps if seen] == ["accepted", "archived", "loaded"]
    iam = {"s3:HeadBucket": "s3:ListBucket", "s3:ListObjectsV2": "s3:ListBucket"}
    assert sorted(call for call in called if not allowed(iam.get(call, call))) == []
    assert "s3:GetObject" not in called  # the role may read objects only in the deployment bucket


def test_deploy_role_cannot_access_users_data_or_secrets_or_create_iam_users():
    assert not [action for action in NEVER.split() if allowed(action)]


def test_deploy_role_can_read_only_the_visits_of_the_smoke_test():
    [statement] = [s for s in statements() if "dynamodb:Query" in many(s["Action"])]
    assert statement["Action"] == ["dynamodb:Query"]
    assert statement["Condition"] == {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["smoke-*"]}}


def test_deploy_role_can_read_objects_only_in_the_deployment_bucket():
    for statement in statements():
        if any(fnmatchcase("s3:GetObject", pattern) for pattern in many(statement["Action"])):
            for resource in many(statement["Resource"]):
                assert resource["Fn::Sub"].endswith(":milkrun-${Stage}-serverlessdeployment*/*")


def test_every_right_of_the_deploy_role_is_limited_to_the_stage_if_possible():
    unbound = [s["Sid"] for s in statements() if "*" in many(s["Resource"])]
    assert unbound == ["Mappings", "NewSigningKey", "Look"]
    for statement in statements():
        named = ["milkrun-${Stage}" in json.dumps(resource) for resource in many(statement["Resource"])]
        # The ids of APIs, event source mappings and KMS keys are random.
        assert all(named) or statement["Sid"] in (
            *unbound,
            "Api",
            "ApiGatewayRole",
            "MappingTags",
            "SigningKey",
            "StreamKey",
            "Firewall",
        )
        if statement["Sid"] in ("Mappings", "NewSigningKey", "SigningKey"):
            assert "Stage" in json.dumps(statement["Condition"])


def test_only_github_jobs_of_the_repository_for_the_stage_can_assume_the_deploy_role():
    [trust] = role()["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert trust["Principal"] == {"Federated": {"Ref": "ProviderArn"}}
    assert trust["Condition"] == {
        "StringEquals": {
            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
            "token.actions.githubusercontent.com:sub": {"Fn::Sub": "repo:${Repository}:environment:${Stage}"},
        }
    }


@pytest.mark.parametrize(
    ("repository", "accepted"),
    [
        ("octo-org/my.repo", True),
        # The name in the tokens of a repository that was created or renamed after 2026-07-15. (GitHub changelog:
        # "Immutable subject claims for GitHub Actions OIDC tokens".)
        ("octo-org@123456/my.repo@456789", True),
        ("octo-org/*", False),
        ("octo-org@*/my.repo@*", False),
        ("octo-org/my.repo:ref", False),
    ],
)
def test_deploy_role_accepts_only_repository_names_in_the_forms_that_githubs_tokens_contain(
    repository, accepted
):
    pattern = template()["Parameters"]["Repository"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, repository)) is accepted


def test_resources_of_the_deploy_role_name_their_service():
    """IAM rejects a policy with a wildcard in the service part of an ARN: "Resource vendor must be fully qualified and
    cannot contain regexes". (IAM User Guide: "IAM JSON policy elements: Resource".)
    """
    texts = [
        each["Fn::Sub"] if isinstance(each, dict) else each
        for statement in statements()
        for each in many(statement["Resource"])
    ]
    arns = [text.replace("${AWS::Partition}", "aws") for text in texts if text != "*"]
    assert [arn for arn in arns if not re.match(r"arn:aws:[a-z0-9-]+:", arn)] == []


def test_inline_policies_of_the_deploy_role_do_not_exceed_the_size_limit():
    """A role's inline policies may contain at most 10,240 characters, not counting white space. (IAM User Guide:
    "IAM and AWS STS quotas".) The values below are as long as those of a real deployment.
    """
    text = json.dumps(role()["Policies"][0]["PolicyDocument"], separators=(",", ":"))
    for reference, value in {
        "${AWS::Partition}": "aws",
        "${AWS::Region}": "ap-southeast-2",
        "${AWS::AccountId}": "123456789012",
        "${Stage}": "staging",
    }.items():
        text = text.replace(reference, value)
    assert len(text) < 10_240
