"""What serverless.yml promises beyond rights: nothing stateful is lost, nothing runs without a limit."""

import json
import re

import pytest
import yaml
from jsonschema import Draft202012Validator

from handler.codes import GATEWAY_CODES
from tests.unit.serverless.templates import EVERYTHING, STAGES, of_type, properties, resources
from tools.check import ROOT, VARIANTS

STATEFUL = {
    "AWS::S3::Bucket",
    "AWS::Kinesis::Stream",
    "AWS::DynamoDB::Table",
    "AWS::SQS::Queue",
}
ON_AWS = [stage for stage in STAGES if stage != "local"]


class CloudFormationTags(yaml.SafeLoader):
    """Reads !Ref and its kin as plain text."""


CloudFormationTags.add_multi_constructor("!", lambda _loader, _suffix, node: str(node.value))


def provider() -> dict:
    return yaml.load((ROOT / "serverless.yml").read_text(), CloudFormationTags)["provider"]


every_stage = pytest.mark.parametrize("stage", STAGES)


@every_stage
def test_stateful_resources_survive_removal_but_not_the_rollback_of_their_first_deployment(stage):
    # A resource that survives a rollback keeps its name, and the next deployment fails with "already exists"
    # (AWS CloudFormation User Guide: "DeletionPolicy attribute").
    kept = {n: r for n, r in resources(stage).items() if r["Type"] in STATEFUL}
    zips = kept.pop("ServerlessDeploymentBucket")  # osls empties and removes it; CI can build the zips again
    assert zips["Type"] == "AWS::S3::Bucket"
    assert len(kept) == 5
    for resource in kept.values():
        assert resource["DeletionPolicy"] == "RetainExceptOnCreate"
        assert resource["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_named_resource_survives_the_rollback_of_its_creation(variant):
    plain = {n for n, r in resources(variant).items() if r.get("DeletionPolicy") == "Retain"}
    # Both belong to the whole account and region, and neither has a name that a second try would meet.
    assert plain <= {"ApiGatewayAccount", "ApiGatewayLogsRole"}
    assert "RoleName" not in properties(variant, "ApiGatewayLogsRole")


@every_stage
def test_every_function_has_its_own_limits(stage):
    for function in of_type(stage, "AWS::Lambda::Function").values():
        assert function["Timeout"] <= 60
        assert function["MemorySize"] >= 256
        assert function["EphemeralStorage"] == {"Size": 512}
        assert function["ReservedConcurrentExecutions"] >= 1
        assert function["TracingConfig"] == {"Mode": "Active"}
        assert function["LoggingConfig"]["LogFormat"] == "JSON"
        assert "→" in function["Description"]


@every_stage
def test_ingest_gives_up_before_the_gateway_does(stage):
    assert properties(stage, "IngestLambdaFunction")["Timeout"] < 29


@pytest.mark.parametrize("stage", ON_AWS)
def test_functions_run_on_arm64_on_aws(stage):
    for function in of_type(stage, "AWS::Lambda::Function").values():
        assert function["Architectures"] == ["arm64"]


@every_stage
def test_every_log_group_forgets(stage):
    groups = of_type(stage, "AWS::Logs::LogGroup")
    functions = of_type(stage, "AWS::Lambda::Function")
    expected = {f"/aws/lambda/{f['FunctionName']}" for f in functions.values()}
    assert {g["LogGroupName"] for g in groups.values()} == expected | {f"/aws/api-gateway/milkrun-{stage}"}
    assert {g["RetentionInDays"] for g in groups.values()} == {90 if stage == "prod" else 30}


@every_stage
def test_the_archive_is_private_encrypted_versioned_and_tls_only(stage):
    bucket = properties(stage, "ArchiveBucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    [tls] = properties(stage, "ArchiveBucketPolicy")["PolicyDocument"]["Statement"]
    assert (tls["Effect"], tls["Principal"], tls["Action"]) == ("Deny", "*", "s3:*")
    assert tls["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@every_stage
def test_the_archive_keeps_each_prefix_as_long_as_promised(stage):
    rules = properties(stage, "ArchiveBucket")["LifecycleConfiguration"]["Rules"]
    days = {r["Prefix"]: r["ExpirationInDays"] for r in rules if "ExpirationInDays" in r}
    assert days == {
        "events/": 400,
        "rejected/": 90,
        "set-aside/": 90,
        "aws/lambda/": 90,
        "compacted/": 400,
        "rebuilt/": 90,
    }
    assert any("AbortIncompleteMultipartUpload" in r for r in rules)
    # A class for rarely read objects bills each of ours, which are small, as 128 KB; Parquet files are large.
    assert [r["Prefix"] for r in rules if "Transitions" in r] == ["compacted/"]


@every_stage
def test_the_stream_is_encrypted_and_keeps_records_longer_than_they_are_retried(stage):
    stream = properties(stage, "GeofenceStream")
    assert stream["StreamEncryption"]["EncryptionType"] == "KMS"
    assert stream["RetentionPeriodHours"] == (168 if stage == "prod" else 24)
    [mapping] = [
        m for m in of_type(stage, "AWS::Lambda::EventSourceMapping").values() if "StartingPosition" in m
    ]
    assert mapping["MaximumRecordAgeInSeconds"] == 6 * 3600 < stream["RetentionPeriodHours"] * 3600


@every_stage
def test_the_consumer_reads_in_batches_that_can_fail_in_part_and_end_up_whole_in_s3(stage):
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
def test_a_claim_check_is_hidden_for_six_times_as_long_as_its_function_may_take(stage):
    queue = properties(stage, "RedriveQueue")
    assert queue["VisibilityTimeout"] >= 6 * properties(stage, "RedriveLambdaFunction")["Timeout"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}
    for name in ("RedriveQueue", "DeadLetterQueue"):
        assert properties(stage, name)["SqsManagedSseEnabled"] is True
        assert properties(stage, name)["MessageRetentionPeriod"] == 14 * 86400


@every_stage
def test_no_more_claim_checks_are_received_than_there_are_places_for(stage):
    # A message that Lambda received and found no place for has used up one of its tries.
    [mapping] = [
        m for m in of_type(stage, "AWS::Lambda::EventSourceMapping").values() if "ScalingConfig" in m
    ]
    places = properties(stage, "RedriveLambdaFunction")["ReservedConcurrentExecutions"]
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["RedriveQueue", "Arn"]}
    assert mapping["ScalingConfig"]["MaximumConcurrency"] <= places


@every_stage
def test_the_api_wants_a_key_and_limits_each(stage):
    [method] = [m for m in of_type(stage, "AWS::ApiGateway::Method").values() if m["HttpMethod"] == "POST"]
    assert method["ApiKeyRequired"] is True
    plan = properties(stage, "ApiGatewayUsagePlan")
    assert plan["Throttle"]["RateLimit"] == (500 if stage == "prod" else 50)
    assert plan["Quota"]["Period"] == "DAY"


@every_stage
def test_every_body_reaches_the_function_as_it_was_sent(stage):
    assert properties(stage, "ApiGatewayRestApi")["BinaryMediaTypes"] == ["*/*"]


def test_the_access_log_is_json_and_names_nobody():
    # osls sets it on the stage after the deployment, so no template has it; an end-to-end test sees it there.
    log = provider()["logs"]["restApi"]
    assert log["accessLogging"] is True
    assert log["executionLogging"] is False
    assert (
        log["fullExecutionData"] is False
    )  # osls's default would log whole bodies once somebody raises the level
    fields = json.loads(re.sub(r"\$context\.[\w.]+", "x", log["format"]))
    assert {"stage", "request_id", "status", "latency_ms"} <= fields.keys()
    assert "$context.identity" not in log["format"]
    assert "authorizer" not in log["format"]
    assert "$context.requestId" not in log["format"]  # a client can choose it


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
def test_what_the_gateway_itself_answers_is_problem_json(stage):
    answers = {a["ResponseType"]: a for a in of_type(stage, "AWS::ApiGateway::GatewayResponse").values()}
    assert answers.keys() == GATEWAY_ANSWERS.keys()
    for kind, answer in answers.items():
        status = GATEWAY_ANSWERS[kind]
        headers = answer["ResponseParameters"]
        assert headers["gatewayresponse.header.Content-Type"] == "'application/problem+json'"
        assert answer.get("StatusCode") == (None if status is None else str(status))
        problem = json.loads(answer["ResponseTemplates"]["application/json"])
        assert {"type", "title", "code", "detail", "request_id"} <= problem.keys()
        assert problem.get("status") == status
        assert problem["request_id"] == "$context.extendedRequestId"
        again = status in (429, 500, 504)
        assert ("gatewayresponse.header.Retry-After" in headers) == again


@every_stage
def test_what_the_gateway_itself_answers_is_in_the_document(stage):
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
            codes[status].add(problem["code"])
    for status, told in codes.items():
        assert told == set(GATEWAY_CODES.get(status, told))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_deployment_of_the_api_is_made_after_everything_that_it_copies(variant):
    """Made before, it lacks what is changed with it until the next deployment (AWS CloudFormation Template
    Reference: "AWS::ApiGateway::Deployment")."""
    [deployment] = [r for r in resources(variant).values() if r["Type"] == "AWS::ApiGateway::Deployment"]
    copied = {
        name: resource
        for name, resource in resources(variant).items()
        if resource["Type"] in ("AWS::ApiGateway::GatewayResponse", "AWS::ApiGateway::Method")
    }
    assert set(deployment["DependsOn"]) == copied.keys()


def test_a_domain_of_our_own_wants_tls_1_2_and_is_mapped_once_the_stage_exists():
    domain = properties(EVERYTHING, "ApiDomain")
    assert domain["DomainName"] == "events.example.com"
    assert domain["SecurityPolicy"] == "TLS_1_2"
    assert domain["EndpointConfiguration"] == {"Types": ["REGIONAL"]}
    mapping = resources(EVERYTHING)["ApiDomainMapping"]
    deployments = [n for n, r in resources(EVERYTHING).items() if r["Type"] == "AWS::ApiGateway::Deployment"]
    assert mapping["DependsOn"] == deployments
    assert mapping["Properties"]["Stage"] == "prod"


@every_stage
def test_a_stage_without_a_domain_or_firewall_of_its_own_has_none(stage):
    assert resources(stage)["ApiDomain"]["Condition"] == "HasDomain"
    assert resources(stage)["ApiDomainMapping"]["Condition"] == "HasDomain"
    assert properties(stage, "ApiDomain")["DomainName"] == ""
    assert not of_type(stage, "AWS::WAFv2::WebACL")


CONTENT_LENGTHS = (0, 1, 1_048_576, 3_999_999, 4_000_000, 9_999_999, 10_000_000, 10_485_760, 123_456_789)


def test_the_firewall_refuses_every_body_that_does_not_fit_an_invocation_and_no_other():
    [rule] = properties(EVERYTHING, "ApiFirewall")["Rules"]
    statement = rule["Statement"]["RegexMatchStatement"]
    assert statement["FieldToMatch"] == {"SingleHeader": {"Name": "content-length"}}
    refused = [size for size in CONTENT_LENGTHS if re.search(statement["RegexString"], str(size))]
    assert refused == [size for size in CONTENT_LENGTHS if size >= 4_000_000]
    # An invocation takes 6 MB (AWS Lambda Developer Guide: "Lambda quotas"); a body becomes base64, and the
    # rest of the event needs some room.
    assert 4 * 3_999_999 / 3 < 6 * 1024 * 1024 - 500_000


def test_the_firewalls_answer_is_the_one_of_the_document():
    firewall = properties(EVERYTHING, "ApiFirewall")
    [rule] = firewall["Rules"]
    answer = rule["Action"]["Block"]["CustomResponse"]
    problem = json.loads(firewall["CustomResponseBodies"][answer["CustomResponseBodyKey"]]["Content"])
    assert answer["ResponseCode"] == problem["status"] == 413
    schema = {"$ref": "#/components/schemas/Refusal413", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(problem)


@every_stage
def test_everything_that_can_be_tagged_says_whose_it_is(stage):
    for function in of_type(stage, "AWS::Lambda::Function").values():
        assert {t["Key"]: t["Value"] for t in function["Tags"]} == {"service": "milkrun", "stage": stage}


@every_stage
def test_the_visits_can_be_restored_to_a_point_in_time_and_forget_by_themselves(stage):
    table = properties(stage, "VisitsTable")
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    # True would be the account's managed key, whose requests KMS bills; the table is encrypted either way.
    assert table["SSESpecification"] == {"SSEEnabled": False}


def test_no_stage_starts_from_a_snapshot_by_default_and_one_that_does_is_called_by_alias():
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


def test_the_key_that_signs_in_to_snowflake_can_do_nothing_else():
    key = properties("prod", "CheckKey")
    assert (key["KeySpec"], key["KeyUsage"]) == ("RSA_2048", "SIGN_VERIFY")


def test_prod_is_protected_from_removal_and_old_artifacts_are_pruned():
    assert provider()["deletionProtection"] == {"stages": ["prod"]}
    assert provider()["deploymentBucket"]["maxPreviousDeploymentArtifacts"] == 5


@every_stage
def test_the_pipes_are_looked_at_every_five_minutes_and_failed_loads_every_hour(stage):
    rules = of_type(stage, "AWS::Events::Rule").values()
    asked = {r["ScheduleExpression"]: r["Targets"][0].get("Input") for r in rules}
    assert asked == {"rate(5 minutes)": None, "rate(1 hour)": '{"look_at":"loads"}'}
