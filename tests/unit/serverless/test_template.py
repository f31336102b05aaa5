"""Test properties of the deployed resources, such as limits, retention periods and protection against data loss.

test_rights.py tests the access rights.
"""

import json
import re

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.unit.serverless.templates import EVERYTHING, STAGES, of_type, properties, resources
from tools.check import ROOT, VARIANTS, template
from tools.error_codes import GATEWAY_CODES

STATEFUL = {
    "AWS::S3::Bucket",
    "AWS::Kinesis::Stream",
    "AWS::DynamoDB::Table",
    "AWS::SQS::Queue",
}
ON_AWS = [stage for stage in STAGES if stage != "local"]


class CloudFormationTags(yaml.SafeLoader):
    """A YAML loader that replaces !Ref and similar tags with the text of their arguments."""


CloudFormationTags.add_multi_constructor("!", lambda _loader, _suffix, node: str(node.value))


def provider() -> dict:
    return yaml.load((ROOT / "serverless.yml").read_text(), CloudFormationTags)["provider"]


every_stage = pytest.mark.parametrize("stage", STAGES)


@every_stage
def test_stateful_resources_survive_the_removal_of_the_stack(stage):
    # With the policy Retain, a resource would also outlive a failed first deployment. The next one would then fail
    # with "already exists". (AWS CloudFormation User Guide: "DeletionPolicy attribute".)
    kept = {n: r for n, r in resources(stage).items() if r["Type"] in STATEFUL}
    zips = kept.pop("ServerlessDeploymentBucket")  # osls empties and deletes it; CI can build the zips again
    assert zips["Type"] == "AWS::S3::Bucket"
    assert len(kept) == 5
    for resource in kept.values():
        assert resource["DeletionPolicy"] == "RetainExceptOnCreate"
        assert resource["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_named_resource_is_retained_after_a_failed_creation(variant):
    plain = {n for n, r in resources(variant).items() if r.get("DeletionPolicy") == "Retain"}
    # Both serve the whole account and region, and have no name with which the next attempt could conflict.
    assert plain <= {"ApiGatewayAccount", "ApiGatewayLogsRole"}
    assert "RoleName" not in properties(variant, "ApiGatewayLogsRole")


@every_stage
def test_every_literal_output_is_a_string(stage):
    """CloudFormation may reject other values: "Every Value member must be a string" (cfn-lint's issue 3013)."""
    outputs = json.loads(template(stage).read_text())["Outputs"]
    assert {n: o["Value"] for n, o in outputs.items() if not isinstance(o["Value"], (dict, str))} == {}


@every_stage
def test_account_setting_of_api_gateway_is_created_after_the_api(stage):
    assert resources(stage)["ApiGatewayAccount"]["DependsOn"] == ["ApiGatewayRestApi"]


@every_stage
def test_every_function_has_limits_and_tracing_and_logs_json(stage):
    for function in of_type(stage, "AWS::Lambda::Function").values():
        assert function["Timeout"] <= 60
        assert function["MemorySize"] >= 256
        assert function["EphemeralStorage"] == {"Size": 512}
        assert function["ReservedConcurrentExecutions"] >= 1
        assert function["TracingConfig"] == {"Mode": "Active"}
        assert function["LoggingConfig"]["LogFormat"] == "JSON"
        assert function["Description"]


@every_stage
def test_ingest_function_times_out_before_the_gateway(stage):
    assert properties(stage, "IngestLambdaFunction")["Timeout"] < 29


@pytest.mark.parametrize("stage", ON_AWS)
def test_functions_on_aws_run_on_arm64(stage):
    for function in of_type(stage, "AWS::Lambda::Function").values():
        assert function["Architectures"] == ["arm64"]


def test_rule_for_failed_glue_runs_matches_only_the_jobs_of_its_stage():
    """A prefix such as `milkrun-prod-` would also match the jobs of a stage `prod-2`."""
    matched = properties(EVERYTHING, "GlueRunFailed")["EventPattern"]["detail"]["jobName"]
    assert matched == [{"Ref": name} for name in of_type(EVERYTHING, "AWS::Glue::Job")]


def test_rule_for_failed_glue_runs_targets_the_log_group_by_an_arn_without_a_wildcard():
    # GetAtt Arn of a log group ends with `:*`. EventBridge accepts such a target, but delivers nothing to it.
    (target,) = properties(EVERYTHING, "GlueRunFailed")["Targets"]
    arn = target["Arn"]
    assert isinstance(arn, dict), arn
    assert arn["Fn::Sub"].endswith(":log-group:${GlueFailuresLogGroup}"), arn


@every_stage
def test_every_log_group_has_a_retention_period(stage):
    groups = of_type(stage, "AWS::Logs::LogGroup")
    functions = of_type(stage, "AWS::Lambda::Function")
    expected = {f"/aws/lambda/{f['FunctionName']}" for f in functions.values()}
    assert {g["LogGroupName"] for g in groups.values()} == expected | {f"/aws/api-gateway/milkrun-{stage}"}
    assert {g["RetentionInDays"] for g in groups.values()} == {90 if stage == "prod" else 30}


@every_stage
def test_archive_is_private_encrypted_and_versioned_and_requires_tls(stage):
    bucket = properties(stage, "ArchiveBucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    tls, once = properties(stage, "ArchiveBucketPolicy")["PolicyDocument"]["Statement"]
    assert (tls["Effect"], tls["Principal"], tls["Action"]) == ("Deny", "*", "s3:*")
    assert tls["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert (once["Effect"], once["Principal"], once["Action"]) == ("Deny", "*", "s3:PutObject")
    assert once["Condition"]["Null"] == {"s3:if-none-match": "true"}


@every_stage
def test_archived_objects_expire_after_the_retention_period_of_their_prefix(stage):
    rules = properties(stage, "ArchiveBucket")["LifecycleConfiguration"]["Rules"]
    days = {r["Prefix"]: r["ExpirationInDays"] for r in rules if "ExpirationInDays" in r}
    assert days == {
        "events/": 400,
        "rejected/": 90,
        "set-aside/": 90,
        "resent/": 90,
        "aws/lambda/": 90,
        "compacted/": 400,
        "rebuilt/": 90,
        "streamed/": 90,
        "forget/": 90,
    }
    assert any("AbortIncompleteMultipartUpload" in r for r in rules)
    # Storage classes for infrequent access bill small objects like ours as 128 KB; Parquet files are large enough.
    assert [r["Prefix"] for r in rules if "Transitions" in r] == ["compacted/"]


@every_stage
def test_stream_retains_records_longer_than_the_consumer_retries_them(stage):
    stream = properties(stage, "GeofenceStream")
    assert stream["StreamEncryption"]["EncryptionType"] == "KMS"
    assert stream["RetentionPeriodHours"] == (168 if stage == "prod" else 24)
    [mapping] = [
        m for m in of_type(stage, "AWS::Lambda::EventSourceMapping").values() if "StartingPosition" in m
    ]
    assert mapping["MaximumRecordAgeInSeconds"] == 6 * 3600 < stream["RetentionPeriodHours"] * 3600


@every_stage
def test_consumer_reports_failed_records_and_discarded_batches_go_to_s3(stage):
    mapping = properties(stage, "ConsumeEventSourceMappingKinesisGeofenceStream")
    assert mapping["StartingPosition"] == "TRIM_HORIZON"
    assert 200 <= mapping["BatchSize"] <= 500
    assert mapping["MaximumBatchingWindowInSeconds"] == 1
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BisectBatchOnFunctionError"] is True
    assert mapping["MaximumRetryAttempts"] == -1
    assert mapping["MetricsConfig"] == {"Metrics": ["EventCount"]}
    assert mapping["DestinationConfig"] == {
        "OnFailure": {"Destination": {"Fn::GetAtt": ["ArchiveBucket", "Arn"]}}
    }


@every_stage
def test_visibility_timeout_of_the_redrive_queue_is_at_least_six_times_the_functions_timeout(stage):
    queue = properties(stage, "RedriveQueue")
    assert queue["VisibilityTimeout"] >= 6 * properties(stage, "RedriveLambdaFunction")["Timeout"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}
    for name in ("RedriveQueue", "DeadLetterQueue"):
        assert properties(stage, name)["SqsManagedSseEnabled"] is True
        assert properties(stage, name)["MessageRetentionPeriod"] == 14 * 86400


@every_stage
def test_concurrency_of_the_redrive_queue_does_not_exceed_the_reserved_concurrency(stage):
    # A receive counts towards maxReceiveCount even if the function has no free concurrency for the message.
    [mapping] = [
        m for m in of_type(stage, "AWS::Lambda::EventSourceMapping").values() if "ScalingConfig" in m
    ]
    concurrency = properties(stage, "RedriveLambdaFunction")["ReservedConcurrentExecutions"]
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["RedriveQueue", "Arn"]}
    assert mapping["ScalingConfig"]["MaximumConcurrency"] <= concurrency


@every_stage
def test_api_requires_a_key_and_limits_the_request_rate(stage):
    [method] = [m for m in of_type(stage, "AWS::ApiGateway::Method").values() if m["HttpMethod"] == "POST"]
    assert method["ApiKeyRequired"] is True
    [plan] = of_type(stage, "AWS::ApiGateway::UsagePlan").values()
    assert plan["Throttle"]["RateLimit"] == (500 if stage == "prod" else 50)
    assert plan["Quota"]["Period"] == "DAY"


@pytest.mark.parametrize(
    ("variant", "slots"), [("prod", {"1"}), (EVERYTHING, {"1", "2"}), ("dev-snowflake", {"2"})]
)
def test_each_active_api_key_has_a_separate_usage_plan(variant: str, slots: set[str]):
    keys = of_type(variant, "AWS::ApiGateway::ApiKey")
    assert set(keys) == {f"ApiGatewayApiKey{slot}" for slot in slots}
    links = of_type(variant, "AWS::ApiGateway::UsagePlanKey").values()
    assert {link["KeyId"]["Ref"] for link in links} == set(keys)
    plans = of_type(variant, "AWS::ApiGateway::UsagePlan")
    assert {link["UsagePlanId"]["Ref"] for link in links} == set(plans)
    assert len({str(key["Name"]) for key in keys.values()}) == len(plans) == len(slots)


@every_stage
def test_gateway_treats_every_request_body_as_binary(stage):
    assert properties(stage, "ApiGatewayRestApi")["BinaryMediaTypes"] == ["*/*"]


def test_access_log_is_json_without_personal_data():
    # osls configures access logs after the deployment, so they are not in the template; an end-to-end test checks them.
    log = provider()["logs"]["restApi"]
    assert log["accessLogging"] is True
    assert log["executionLogging"] is False
    # osls's default would log whole bodies if the log level were raised.
    assert log["fullExecutionData"] is False
    fields = json.loads(re.sub(r"\$context\.[\w.]+", "x", log["format"]))
    assert {"stage", "request_id", "status", "latency_ms"} <= fields.keys()
    assert "$context.identity" not in log["format"]
    assert "authorizer" not in log["format"]
    assert "$context.requestId" not in log["format"]  # clients can choose it


GATEWAY_ANSWERS = {
    "THROTTLED": 429,
    "QUOTA_EXCEEDED": 429,
    "INVALID_API_KEY": 403,
    "ACCESS_DENIED": 403,
    "MISSING_AUTHENTICATION_TOKEN": 403,
    "REQUEST_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "INTEGRATION_FAILURE": 504,
    "INTEGRATION_TIMEOUT": 504,
    "DEFAULT_5XX": 500,
    "DEFAULT_4XX": None,
}
DOCUMENT = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())


@every_stage
def test_error_responses_that_the_gateway_generates_are_problem_json(stage):
    answers = {a["ResponseType"]: a for a in of_type(stage, "AWS::ApiGateway::GatewayResponse").values()}
    assert answers.keys() == GATEWAY_ANSWERS.keys()
    for kind, answer in answers.items():
        status = GATEWAY_ANSWERS[kind]
        headers = answer["ResponseParameters"]
        assert headers["gatewayresponse.header.Content-Type"] == "'application/problem+json'"
        assert answer.get("StatusCode") == (None if status is None else str(status))
        problem = json.loads(answer["ResponseTemplates"]["application/json"])
        assert {"type", "title", "code", "detail", "request_id"} <= problem.keys()
        assert "received" not in problem  # otherwise, apps would take it for a receipt and delete the batch
        assert problem.get("status") == status
        assert problem["request_id"] == "$context.extendedRequestId"
        retryable = status in (429, 500, 504)
        assert ("gatewayresponse.header.Retry-After" in headers) == retryable


@every_stage
def test_error_responses_that_the_gateway_generates_are_in_the_openapi_document(stage):
    codes = {status: set() for status in GATEWAY_ANSWERS.values() if status}
    for answer in of_type(stage, "AWS::ApiGateway::GatewayResponse").values():
        if status := GATEWAY_ANSWERS[answer["ResponseType"]]:
            problem = json.loads(answer["ResponseTemplates"]["application/json"])
            response = DOCUMENT["paths"]["/v1/events"]["post"]["responses"][str(status)]
            schema = response["content"]["application/problem+json"]["schema"]
            with_parts = {**schema, "components": DOCUMENT["components"]}
            Draft202012Validator(with_parts).validate(problem)
            assert ("gatewayresponse.header.Retry-After" in answer["ResponseParameters"]) == (
                "Retry-After" in response.get("headers", {})
            )
            examples = response["content"]["application/problem+json"]["examples"]
            if status not in (413, 415):  # these examples are the handler's responses
                assert problem == examples[problem["code"]]["value"] | {"request_id": problem["request_id"]}
            codes[status].add(problem["code"])
    for status, found in codes.items():
        assert found == set(GATEWAY_CODES.get(status, found))


@pytest.mark.parametrize("variant", VARIANTS)
def test_api_deployment_depends_on_every_method_and_gateway_response(variant):
    """Otherwise, a change to a method or a gateway response takes effect only at the next deployment. (AWS
    CloudFormation Template Reference: "AWS::ApiGateway::Deployment".)
    """
    [deployment] = [r for r in resources(variant).values() if r["Type"] == "AWS::ApiGateway::Deployment"]
    copied = {
        name: resource
        for name, resource in resources(variant).items()
        if resource["Type"] in ("AWS::ApiGateway::GatewayResponse", "AWS::ApiGateway::Method")
    }
    assert set(deployment["DependsOn"]) == copied.keys()


def test_custom_domain_requires_tls_1_2_and_is_mapped_after_the_stage_is_deployed():
    domain = properties(EVERYTHING, "ApiDomain")
    assert domain["DomainName"] == "events.example.com"
    assert domain["SecurityPolicy"] == "TLS_1_2"
    assert domain["EndpointConfiguration"] == {"Types": ["REGIONAL"]}
    mapping = resources(EVERYTHING)["ApiDomainMapping"]
    deployments = [n for n, r in resources(EVERYTHING).items() if r["Type"] == "AWS::ApiGateway::Deployment"]
    assert mapping["DependsOn"] == deployments
    assert mapping["Properties"]["Stage"] == "prod"


@every_stage
def test_custom_domain_and_firewall_are_not_created_by_default(stage):
    assert resources(stage)["ApiDomain"]["Condition"] == "HasDomain"
    assert resources(stage)["ApiDomainMapping"]["Condition"] == "HasDomain"
    assert properties(stage, "ApiDomain")["DomainName"] == ""
    assert not of_type(stage, "AWS::WAFv2::WebACL")


CONTENT_LENGTHS = (0, 1, 1_048_576, 3_999_999, 4_000_000, 9_999_999, 10_000_000, 10_485_760, 123_456_789)


def test_firewall_blocks_exactly_the_bodies_of_4_mb_or_more_and_lambda_accepts_the_others():
    rule, _ = properties(EVERYTHING, "ApiFirewall")["Rules"]
    statement = rule["Statement"]["RegexMatchStatement"]
    assert statement["FieldToMatch"] == {"SingleHeader": {"Name": "content-length"}}
    blocked = [size for size in CONTENT_LENGTHS if re.search(statement["RegexString"], str(size))]
    assert blocked == [size for size in CONTENT_LENGTHS if size >= 4_000_000]
    # An invocation accepts 6 MB (AWS Lambda Developer Guide: "Lambda quotas"). The body is encoded as base64, and the
    # rest of the event needs space, too.
    assert 4 * 3_999_999 / 3 < 6 * 1024 * 1024 - 500_000


def test_firewall_blocks_an_address_that_sends_too_many_requests():
    _, rule = properties(EVERYTHING, "ApiFirewall")["Rules"]
    assert rule["Action"] == {"Block": {}}
    assert rule["Statement"] == {"RateBasedStatement": {"AggregateKeyType": "IP", "Limit": 2000}}


def test_firewall_response_is_in_the_openapi_document():
    firewall = properties(EVERYTHING, "ApiFirewall")
    rule, _ = firewall["Rules"]
    answer = rule["Action"]["Block"]["CustomResponse"]
    problem = json.loads(firewall["CustomResponseBodies"][answer["CustomResponseBodyKey"]]["Content"])
    assert answer["ResponseCode"] == problem["status"] == 413
    schema = {"$ref": "#/components/schemas/Refusal413", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(problem)


@every_stage
def test_every_function_is_tagged_with_service_and_stage(stage):
    for function in of_type(stage, "AWS::Lambda::Function").values():
        assert {t["Key"]: t["Value"] for t in function["Tags"]} == {"service": "milkrun", "stage": stage}


@every_stage
def test_visits_table_has_point_in_time_recovery_and_a_time_to_live(stage):
    table = properties(stage, "VisitsTable")
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    # True would use the AWS managed key, whose requests KMS bills; the table is encrypted in both cases.
    assert table["SSESpecification"] == {"SSEEnabled": False}


def test_snapstart_is_off_by_default_and_uses_an_alias_when_enabled():
    for stage in (*STAGES, EVERYTHING):
        function = properties(stage, "IngestLambdaFunction")
        aliases = of_type(stage, "AWS::Lambda::Alias")
        if stage == EVERYTHING:
            assert function["SnapStart"] == {"ApplyOn": "PublishedVersions"}
            [alias] = aliases.values()
            assert f'"{alias["Name"]}"' in json.dumps(properties(stage, "ApiGatewayMethodV1EventsPost"))
        else:
            assert "SnapStart" not in function
            assert not aliases


def test_kms_key_for_the_snowflake_login_can_only_sign_and_verify():
    key = properties("prod", "CheckKey")
    assert (key["KeySpec"], key["KeyUsage"]) == ("RSA_2048", "SIGN_VERIFY")


def test_prod_is_protected_from_removal_and_old_artifacts_are_deleted():
    assert provider()["deletionProtection"] == {"stages": ["prod"]}
    assert provider()["deploymentBucket"]["maxPreviousDeploymentArtifacts"] == 5


@every_stage
def test_schedule_of_the_pipe_check_is_five_minutes_and_that_of_the_load_check_one_hour(stage):
    rules = of_type(stage, "AWS::Events::Rule").values()
    inputs = {r["ScheduleExpression"]: r["Targets"][0].get("Input") for r in rules}
    assert inputs == {"rate(5 minutes)": None, "rate(1 hour)": '{"look_at":"loads"}'}
