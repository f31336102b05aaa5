"""Test that `milkrun preflight` finds problems before a deployment, with moto and the packaged templates."""

import json
from collections import Counter
from contextlib import contextmanager

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from moto import mock_aws

from cli.refusal import Refusal
from ops import preflight
from ops.existing_resources import LOOKUPS, Account, named
from ops.preflight import Place
from snowpipe.settings import Connection
from tests.unit.serverless.templates import EVERYTHING, resources

REGION = "us-east-1"
ACCOUNT = Account("123456789012", REGION, "aws")
# Preflight does not look up these types: their names may occur twice in an account, or lie within another resource.
SHARED_NAMES = {
    "AWS::ApiGateway::RestApi",
    "AWS::ApiGateway::ApiKey",
    "AWS::ApiGateway::UsagePlan",
    "AWS::Lambda::Alias",
}


@pytest.fixture
def aws(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield lambda service: boto3.client(service, region_name=REGION)


def place(clients, stage="dev", account=ACCOUNT, deployed_to=REGION, template=None):
    return Place(stage, template or resources(stage), account, clients, deployed_to)


def codes(check, *arguments, **options):
    return [(f.level, f.code, f.subject) for f in check(place(*arguments, **options))]


def changed(stage, logical_id, **properties):
    """Return the resources of the stage's template, with some properties of one resource changed."""
    template = json.loads(json.dumps(resources(stage)))
    template[logical_id]["Properties"].update(properties)
    return template


def account_with(limit, unreserved, reserved=None):
    """Return a fake Lambda client with these account limits and this reserved concurrency per function."""
    client = boto3.client("lambda", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
    stub = Stubber(client)
    limits = {"ConcurrentExecutions": limit, "UnreservedConcurrentExecutions": unreserved}
    stub.add_response("get_account_settings", {"AccountLimit": limits}, {})
    for function, count in (reserved or {}).items():
        found = {"ReservedConcurrentExecutions": count}
        stub.add_response("get_function_concurrency", found, {"FunctionName": function})
    stub.activate()
    return client


def stack_of(aws, template, name="milkrun-dev"):
    aws("cloudformation").create_stack(
        StackName=name,
        TemplateBody=json.dumps({"Resources": template}),
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )


@pytest.mark.parametrize(
    ("limit", "unreserved", "found"),
    [(10, 10, True), (172, 172, True), (173, 173, False), (1000, 1000, False), (1000, 150, True)],
)
def test_stage_dev_can_be_deployed_only_if_173_concurrent_executions_are_unreserved(
    aws, limit, unreserved, found
):
    client = account_with(limit, unreserved)
    expected = [("blocks", "concurrency_too_low", str(limit))] if found else []
    assert codes(preflight.concurrency, lambda s: client if s == "lambda" else aws(s)) == expected


def test_concurrency_finding_names_the_limit_to_request(aws):
    client = account_with(10, 10)
    [finding] = preflight.concurrency(place(lambda s: client if s == "lambda" else aws(s)))
    assert "ask for a limit of 173" in finding.detail


def test_concurrency_reserved_by_the_deployed_stage_counts_as_free(aws):
    functions = {name: r for name, r in resources("dev").items() if r["Type"] == "AWS::Lambda::Function"}
    stack_of(aws, {name: {"Type": "AWS::SNS::Topic"} for name in functions})
    reserved = {
        f["Properties"]["FunctionName"]: n for f, n in zip(functions.values(), (50, 2, 20, 1), strict=True)
    }
    client = account_with(173, 100, reserved)
    assert codes(preflight.concurrency, lambda s: client if s == "lambda" else aws(s)) == []


def test_checks_of_names_stack_and_region_find_no_problem_in_an_empty_account(aws):
    assert codes(preflight.names, aws) == []
    assert codes(preflight.stack, aws) == []
    assert codes(preflight.region, aws) == []


def test_every_resource_left_behind_by_a_removed_stage_is_reported(aws):
    bucket = f"milkrun-dev-archive-{ACCOUNT.number}-{REGION}"
    aws("s3").create_bucket(Bucket=bucket)
    aws("kinesis").create_stream(StreamName="milkrun-dev-geofence", ShardCount=1)
    aws("dynamodb").create_table(
        TableName="milkrun-dev-visits",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    for queue in ("redrive", "dead-letters"):
        aws("sqs").create_queue(QueueName=f"milkrun-dev-{queue}")
    aws("logs").create_log_group(logGroupName="/aws/lambda/milkrun-dev-ingest")
    aws("logs").create_log_group(logGroupName="/aws/lambda/milkrun-dev-check-of-somebody-else")
    aws("sns").create_topic(Name="milkrun-dev-alarms")
    aws("events").create_event_bus(Name="milkrun-dev-visits")
    aws("iam").create_role(RoleName=f"milkrun-dev-{REGION}-snowflake", AssumeRolePolicyDocument="{}")
    aws("cloudwatch").put_metric_alarm(
        AlarmName="milkrun-dev-dead-letters", ComparisonOperator="GreaterThanThreshold", EvaluationPeriods=1
    )
    aws("cloudwatch").put_dashboard(DashboardName=f"milkrun-dev-{REGION}", DashboardBody='{"widgets": []}')
    assert Counter(subject for _, _, subject in codes(preflight.names, aws)) == {
        bucket: 1,
        "milkrun-dev-geofence": 1,
        "milkrun-dev-visits": 2,  # the table and the event bus
        "milkrun-dev-redrive": 1,
        "milkrun-dev-dead-letters": 2,  # the queue and the alarm
        "/aws/lambda/milkrun-dev-ingest": 1,
        "milkrun-dev-alarms": 1,
        f"milkrun-dev-{REGION}-snowflake": 1,
        f"milkrun-dev-{REGION}": 1,
    }
    assert {(level, code) for level, code, _ in codes(preflight.names, aws)} == {("blocks", "name_taken")}


def test_bucket_name_taken_by_another_account_blocks_the_deployment(aws):
    client = aws("s3")
    stub = Stubber(client)
    stub.add_client_error("head_bucket", service_error_code="403", http_status_code=403)
    stub.activate()
    bucket = {"ArchiveBucket": resources("dev")["ArchiveBucket"]}
    assert codes(preflight.names, lambda s: client if s == "s3" else aws(s), template=bucket) == [
        ("blocks", "name_taken", f"milkrun-dev-archive-{ACCOUNT.number}-{REGION}")
    ]


def test_resources_of_the_stages_own_stack_do_not_block_the_deployment(aws):
    queue = {
        "DeadLetterQueue": {
            "Type": "AWS::SQS::Queue",
            "Properties": {"QueueName": "milkrun-dev-dead-letters"},
        }
    }
    stack_of(aws, queue)
    aws("sqs").create_queue(QueueName="milkrun-dev-redrive")
    assert codes(preflight.names, aws) == [("blocks", "name_taken", "milkrun-dev-redrive")]


def test_new_domain_that_exists_outside_the_stack_blocks_the_deployment(aws):
    aws("apigateway").create_domain_name(domainName="new.example.com")
    template = {"ApiDomain": changed("dev", "ApiDomain", DomainName="new.example.com")["ApiDomain"]}
    here = place(aws, template=template)
    for present, expected in (("old.example.com", ["new.example.com"]), ("new.example.com", [])):
        here.__dict__["own"] = {"ApiDomain": present}
        assert [finding.subject for finding in preflight.names(here)] == expected


@pytest.mark.parametrize(
    ("stage", "region", "found"),
    [
        ("Dev", REGION, True),
        ("a" * 19, "ap-southeast-2", False),
        ("a" * 20, "ap-southeast-2", True),
    ],
)
def test_stage_name_that_makes_the_bucket_name_invalid_blocks_the_deployment(aws, stage, region, found):
    client = aws("s3")
    stub = Stubber(client)
    if found:
        stub.add_client_error("head_bucket", service_error_code="400", http_status_code=400)
        stub.activate()
    bucket = {
        "Type": "AWS::S3::Bucket",
        "Properties": {"BucketName": f"milkrun-{stage}-archive-{ACCOUNT.number}-{region}"},
    }
    expected = [("blocks", "bucket_name_invalid", bucket["Properties"]["BucketName"])] if found else []
    template = {"ArchiveBucket": bucket}
    assert codes(preflight.names, lambda s: client if s == "s3" else aws(s), template=template) == expected


def test_every_resource_with_a_fixed_name_is_looked_up():
    template = resources(EVERYTHING)
    looked_up = {one.logical_id for one in named(template, ACCOUNT)}
    for logical_id, resource in template.items():
        kind, properties = resource["Type"], resource.get("Properties", {})
        suffix = kind.rsplit("::", 1)[1] + "Name"
        has_name = any(isinstance(properties.get(key), str) for key in ("Name", suffix, f"{kind[5:]}Name"))
        if has_name and kind not in SHARED_NAMES:
            assert kind in LOOKUPS, kind
            assert logical_id in looked_up


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("CREATE_COMPLETE", None),
        ("UPDATE_COMPLETE", None),
        ("UPDATE_ROLLBACK_COMPLETE", None),
        ("UPDATE_IN_PROGRESS", "stack_busy"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "stack_busy"),
        ("IMPORT_ROLLBACK_COMPLETE", None),
        ("UPDATE_ROLLBACK_FAILED", "stack_stuck"),
        ("UPDATE_FAILED", "stack_stuck"),
        ("IMPORT_ROLLBACK_FAILED", "stack_stuck"),
        ("ROLLBACK_COMPLETE", "stack_dead"),
        ("ROLLBACK_FAILED", "stack_dead"),
        ("DELETE_FAILED", "stack_dead"),
        ("REVIEW_IN_PROGRESS", "stack_dead"),
    ],
)
def test_only_a_stack_that_cannot_be_updated_blocks_the_deployment(aws, state, code):
    client = aws("cloudformation")
    stub = Stubber(client)
    stack = {"StackName": "milkrun-dev", "StackStatus": state, "CreationTime": "2026-11-28T00:00:00Z"}
    stub.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": "milkrun-dev"})
    stub.activate()
    expected = [("blocks", code, "milkrun-dev")] if code else []
    here = place(lambda _: client)
    found = list(preflight.stack(here))
    assert [(f.level, f.code, f.subject) for f in found] == expected
    # Only for an unusable stack may the finding recommend delete-stack, because a new stack's API has another address.
    assert any("delete-stack" in f.detail for f in found) == (code == "stack_dead")


@pytest.mark.parametrize(
    ("present", "wanted", "found"),
    [(2, 4, False), (2, 5, True), (3, 2, False), (4, 1, True)],
)
def test_number_of_shards_out_of_reach_of_one_update_blocks_the_deployment(aws, present, wanted, found):
    """One update can at most double or halve the number of shards. A stream created on demand has at least four."""
    template = changed("dev", "GeofenceStream", StreamModeDetails={"StreamMode": "PROVISIONED"})
    stream = template["GeofenceStream"]["Properties"]
    stream["ShardCount"]["Fn::If"][1], name = wanted, stream["Name"]
    assert codes(preflight.shards, aws, template=template) == []  # the stream does not exist yet
    aws("kinesis").create_stream(StreamName=name, ShardCount=present)
    here = place(aws, template=template)
    here.__dict__["own"] = {"GeofenceStream": name}
    expected = [("blocks", "shards_out_of_reach", name)] if found else []
    assert [(f.level, f.code, f.subject) for f in preflight.shards(here)] == expected


def test_enabled_alarms_without_an_address_block_the_deployment(aws):
    assert codes(preflight.alarms, aws, stage="staging") == [
        ("blocks", "alarm_without_address", "AlarmTopic"),
        ("blocks", "alarm_without_address", "PageTopic"),
    ]
    assert codes(preflight.alarms, aws, stage="dev") == []


def test_preflight_of_prod_warns_about_the_alarm_that_is_disabled_until_launch(aws):
    reminder = ("warns", "silence_unwatched", "no-traffic")
    assert reminder in codes(preflight.alarms, aws, stage="prod")
    launched = resources("prod-launched")
    assert reminder not in codes(preflight.alarms, aws, stage="prod", template=launched)


def test_unconfirmed_alarm_subscription_is_reported(aws):
    topic = aws("sns").create_topic(Name="milkrun-staging-alarms")["TopicArn"]
    client = aws("sns")
    stub = Stubber(client)
    subscription = {
        "SubscriptionArn": "PendingConfirmation",
        "Endpoint": "ops@example.test",
        "TopicArn": topic,
    }
    stub.add_response("list_subscriptions_by_topic", {"Subscriptions": [subscription]}, {"TopicArn": topic})
    stub.activate()
    template = changed("staging", "AlarmEmail", Endpoint="ops@example.test")
    template["PageEmail"]["Properties"]["Endpoint"] = "pager@example.test"
    here = place(lambda s: client if s == "sns" else aws(s), "staging", template=template)
    here.__dict__["own"] = {"AlarmTopic": topic}
    assert [(f.level, f.code, f.subject) for f in preflight.alarms(here)] == [
        ("warns", "address_not_confirmed", "ops@example.test")
    ]


@pytest.mark.parametrize(
    ("function", "variable", "value"),
    [
        ("IngestLambdaFunction", "IDENTITY", "requred"),
        ("IngestLambdaFunction", "MAX_CLOCK_AHEAD_SECONDS", "86401"),
        ("IngestLambdaFunction", "METRICS", "alarm"),
        ("ConsumeLambdaFunction", "GEOFENCE_KINDS", '{"user.entered_geofence": "entry"}'),
        ("ConsumeLambdaFunction", "NOTIFICATIONS", "arrival"),
    ],
)
def test_setting_that_would_make_a_function_fail_blocks_the_deployment(aws, function, variable, value):
    environment = resources("dev")[function]["Properties"]["Environment"]["Variables"]
    template = changed("dev", function, Environment={"Variables": environment | {variable: value}})
    assert codes(preflight.settings, aws) == []
    assert codes(preflight.settings, aws, template=template) == [("blocks", "setting_invalid", function)]
    [finding] = preflight.settings(place(aws, template=template))
    assert variable in finding.detail


def test_tokens_without_a_claim_that_names_the_device_block_the_deployment(aws):
    """An empty jwtDeviceClaim does not select the default claim, so every request with a token would get 401."""
    variables = resources("dev")["IngestLambdaFunction"]["Properties"]["Environment"]["Variables"]
    with_tokens = {
        "IDENTITY": "required",
        "JWT_ISSUER": "https://id.example.com",
        "JWT_AUDIENCE": "milkrun",
        "JWT_JWKS_URL": "https://id.example.com/jwks",
    }
    for claim, expected in (
        ("device_id", []),
        ("", [("blocks", "setting_invalid", "IngestLambdaFunction")]),
    ):
        environment = {"Variables": variables | with_tokens | {"JWT_DEVICE_CLAIM": claim}}
        template = changed("dev", "IngestLambdaFunction", Environment=environment)
        assert codes(preflight.settings, aws, template=template) == expected


def test_required_signatures_without_an_encrypted_secret_block_the_deployment(aws):
    environment = resources("dev")["IngestLambdaFunction"]["Properties"]["Environment"]["Variables"]
    signing = {"Variables": environment | {"SIGNATURE_SCHEME": "milkrun"}}
    template = changed("dev", "IngestLambdaFunction", Environment=signing)
    name = "/milkrun/dev/signature-secrets"
    assert codes(preflight.parameters, aws) == []
    assert codes(preflight.parameters, aws, template=template) == [
        ("blocks", "signature_secret_missing", name)
    ]
    aws("ssm").put_parameter(Name=name, Value="x", Type="String")
    assert codes(preflight.parameters, aws, template=template) == [
        ("blocks", "signature_secret_readable", name)
    ]
    aws("ssm").put_parameter(Name=name, Value="x", Type="SecureString", Overwrite=True)
    assert codes(preflight.parameters, aws, template=template) == []


def test_domain_needs_an_issued_certificate_for_its_name(aws):
    arn = aws("acm").request_certificate(DomainName="events.example.com")["CertificateArn"]

    def found(name, certificate, status="ISSUED"):
        client = aws("acm")
        client.meta.events.register(
            "after-call.acm.DescribeCertificate",
            lambda parsed, **_: parsed.get("Certificate", {}).update(Status=status),
        )
        template = changed("dev", "ApiDomain", DomainName=name, RegionalCertificateArn=certificate)
        return [code for _, code, _ in codes(preflight.domain, lambda _: client, template=template)]

    assert found("", "") == []
    assert found("events.example.com", arn) == []
    assert found("events.example.com", arn, "PENDING_VALIDATION") == ["certificate_not_issued"]
    assert found("other.example.com", arn) == ["certificate_of_another_name"]
    missing = arn[:-12] + "000000000000"
    assert found("events.example.com", missing) == ["certificate_missing"]
    assert found("events.example.com", "") == ["certificate_missing"]  # boto3 does not send an empty ARN


def test_pipe_check_without_a_snowflake_account_blocks_the_deployment(aws):
    missing = ("blocks", "snowflake_account_missing", "snowflakeAccount")
    assert missing not in codes(preflight.snowflake_parameters, aws)
    template = changed("dev", "CheckEventsRuleSchedule1", State="ENABLED")
    assert missing in codes(preflight.snowflake_parameters, aws, template=template)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://a.privatelink.snowflakecomputing.com", False),
        ("a.snowflakecomputing.com", True),
        ("http://a.snowflakecomputing.com", True),
        ("https://a/", True),
    ],
)
def test_url_of_snowflake_without_https_or_with_a_path_blocks_the_deployment(aws, url, found):
    """With http://, the pipe check would send its token unencrypted."""
    template = changed("dev", "CheckEventsRuleSchedule1", State="ENABLED")
    template["CheckLambdaFunction"]["Properties"]["Environment"]["Variables"]["SNOWFLAKE_URL"] = url
    codes_found = codes(preflight.snowflake_parameters, aws, template=template)
    assert (("blocks", "snowflake_url_invalid", "snowflakeUrl") in codes_found) is found


def test_invalid_arn_of_the_user_that_reports_failed_loads_blocks_the_deployment(aws):
    """IAM rejects a role whose trust policy has an invalid principal, so the deployment would be rolled back."""
    template = json.loads(json.dumps(resources("dev-snowflake")))
    invalid = ("blocks", "snowflake_user_invalid", "snowflakeErrorsUserArn")
    assert invalid not in codes(preflight.snowflake_parameters, aws, template=template)
    trust = template["SnowflakeErrorsRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]
    trust["Principal"] = {"AWS": {"Fn::Sub": "milkrun-dev"}}
    assert invalid in codes(preflight.snowflake_parameters, aws, template=template)


def test_database_name_with_a_hyphen_blocks_the_deployment_if_pipes_are_checked(aws):
    """By default, the pipe check of the stage `perf-2` would use the database MILKRUN_perf-2. That name is invalid, and
    the commands use MILKRUN_PERF_2.
    """
    template = changed("dev", "CheckEventsRuleSchedule1", State="ENABLED")
    variables = template["CheckLambdaFunction"]["Properties"]["Environment"]["Variables"]
    invalid = ("blocks", "snowflake_database_invalid", "snowflakeDatabase")
    assert invalid not in codes(preflight.snowflake_parameters, aws, template=template)
    variables["SNOWFLAKE_DATABASE"] = "MILKRUN_perf-2"
    assert invalid in codes(preflight.snowflake_parameters, aws, template=template)


def test_missing_snowflake_principals_cause_warnings_and_invalid_ones_block_the_deployment(aws):
    def found(reads, subscribes):
        template = json.loads(json.dumps(resources("dev")))
        trust = template["SnowflakeRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]
        trust["Principal"] = {"AWS": {"Fn::Sub": reads}}
        policy = template["ArchiveTopicPolicy"]["Properties"]["PolicyDocument"]
        kept = [each for each in policy["Statement"] if each.get("Sid") != "SnowflakeSubscribes"]
        if subscribes:
            kept.append({"Sid": "SnowflakeSubscribes", "Principal": {"AWS": {"Fn::Sub": subscribes}}})
        policy["Statement"] = kept
        return {
            (level, code) for level, code, _ in codes(preflight.snowflake_parameters, aws, template=template)
        }

    nobody, user = "arn:${AWS::Partition}:iam::${AWS::AccountId}:root", "arn:aws:iam::123456789012:user/abc-s"
    not_trusted, not_subscribing = ("warns", "snowflake_not_trusted"), ("warns", "snowflake_not_subscribing")
    assert found(user, user) == set()
    assert found(user, "") == {not_subscribing}
    assert found(nobody, "") == {not_trusted, not_subscribing}
    assert found(user, "MILKRUN") == {("blocks", "snowflake_user_invalid")}
    assert found("arn:aws:iam::123456789012:role/x", user) == {("blocks", "snowflake_user_invalid")}


def test_deployment_is_blocked_if_osls_uses_another_region_or_the_partition_is_not_aws(aws):
    assert codes(preflight.region, aws, deployed_to="eu-west-1") == [("blocks", "region_differs", REGION)]
    china = Account("123456789012", "cn-north-1", "aws-cn")
    assert codes(preflight.region, aws, account=china, deployed_to="cn-north-1") == [
        ("blocks", "partition_unsupported", "aws-cn")
    ]


def test_failed_preflight_check_does_not_stop_the_other_checks(aws):
    def denied(service):
        client = aws(service)
        if service == "sns":
            stub = Stubber(client)
            stub.add_client_error("get_topic_attributes", service_error_code="AuthorizationError")
            stub.activate()
        return client

    found = dict(preflight.results(place(denied)))
    assert (found["names"].level, found["names"].code) == ("unknown", "not_checked")
    assert found["parameters"].level == "ok"
    assert found.keys() == preflight.CHECKS.keys()


def test_preflight_creates_and_changes_nothing(aws):
    called = []

    def watched(service):
        client = aws(service)
        client.meta.events.register("before-call", lambda model, **_: called.append(model.name))
        return client

    list(preflight.results(place(watched, "staging")))
    assert called
    assert all(name.startswith(("Describe", "Get", "List", "Head")) for name in called)


@pytest.mark.parametrize(
    ("levels", "code"),
    [(["ok"], 0), (["ok", "warns"], 0), (["ok", "unknown"], 2), (["unknown", "blocks"], 1)],
    ids=str,
)
def test_preflight_exit_code_is_1_if_a_finding_blocks_otherwise_2_if_a_check_did_not_finish(levels, code):
    assert preflight.exit_code(levels) == code


def test_unreachable_snowflake_blocks_the_deployment():
    @contextmanager
    def refuses():
        raise Refusal("no connection to Snowflake at https://nobody.test:443")
        yield

    assert preflight.snowflake_session(refuses).code == "snowflake_unreachable"


def test_missing_snowflake_settings_cause_a_warning_and_incomplete_ones_block_the_deployment():
    without = preflight.snowflake_connection("dev", {})
    assert (without.level, without.code) == ("warns", "snowflake_not_configured")
    half = preflight.snowflake_connection("dev", {"SNOWFLAKE_ACCOUNT": "org-account"})
    assert (half.level, half.code) == ("blocks", "snowflake_not_configured")
    settings = {"SNOWFLAKE_ACCOUNT": "org-account", "SNOWFLAKE_USER": "me", "SNOWFLAKE_PASSWORD": "p"}
    assert isinstance(preflight.snowflake_connection("dev", settings), Connection)


def test_access_denied_is_not_treated_as_a_missing_stack(aws):
    client = aws("cloudformation")
    stub = Stubber(client)
    stub.add_client_error("describe_stacks", service_error_code="AccessDenied")
    stub.activate()
    with pytest.raises(ClientError):
        _ = place(lambda _: client).stack
