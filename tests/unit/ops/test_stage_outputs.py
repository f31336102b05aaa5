"""Test that the outputs of a stage are read from the local stack's file or from CloudFormation."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws

from ops.stage_outputs import NoStackError, Outputs, environment_of

FILE = {
    "endpoint": "http://127.0.0.1:4566/x",
    "api_key": "k",
    "aws_endpoint_url": "http://127.0.0.1:4566",
    "region": "us-east-1",
    "bucket": "b",
    "stream": "s",
    "visits_table": "t",
    "redrive_queue_url": "q",
    "dead_letter_queue_url": "d",
    "snowflake": {
        "account": "a",
        "host": "127.0.0.1",
        "port": 4567,
        "protocol": "http",
        "user": "u",
        "password": "p",
    },
}
SNOWFLAKE = {"SNOWFLAKE_ACCOUNT": "acme-prod", "SNOWFLAKE_USER": "u", "SNOWFLAKE_PASSWORD": "p"}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


def deploy(stage: str) -> str:
    names = {
        "ArchiveBucketName": "bucket",
        "GeofenceStreamName": "stream",
        "VisitsTableName": "table",
        "RedriveQueueUrl": "redrive",
        "DeadLetterQueueUrl": "dead",
        "RestApiId": "api123",
    }
    template = {
        "Resources": {"Nothing": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {name: {"Value": value} for name, value in names.items()},
    }
    boto3.client("cloudformation").create_stack(
        StackName=f"milkrun-{stage}", TemplateBody=json.dumps(template)
    )
    key = boto3.client("apigateway").create_api_key(name=f"milkrun-{stage}-app", enabled=True)
    return str(key["value"])


def test_outputs_of_the_local_stack_are_read_from_outputs_json(tmp_path: Path) -> None:
    (tmp_path / "outputs.json").write_text(json.dumps(FILE))
    outputs = Outputs.find("local", {"MILKRUN_LOCAL": str(tmp_path)})
    assert (outputs.bucket, outputs.database, outputs.console_url) == ("b", "MILKRUN", None)
    assert outputs.aws("s3").meta.endpoint_url == "http://127.0.0.1:4566"


def test_missing_stack_is_reported_with_the_command_that_starts_one(tmp_path: Path) -> None:
    with pytest.raises(NoStackError, match="make up"):
        Outputs.find("local", {"MILKRUN_LOCAL": str(tmp_path)})


@pytest.mark.usefixtures("aws")
def test_outputs_of_a_deployed_stage_are_read_from_cloudformation_and_the_environment() -> None:
    key = deploy("dev")
    outputs = Outputs.find("dev", SNOWFLAKE)
    assert outputs.endpoint == "https://api123.execute-api.eu-west-1.amazonaws.com/dev/v1/events"
    assert (outputs.api_key, outputs.bucket, outputs.visits_table) == (key, "bucket", "table")
    assert outputs.aws_endpoint_url is None
    assert outputs.snowflake.account == "acme-prod"
    assert (outputs.database, outputs.snowflake.warehouse) == ("MILKRUN_DEV", "MILKRUN_DEV_WH")
    assert outputs.aws("kinesis").meta.endpoint_url == "https://kinesis.eu-west-1.amazonaws.com"


@pytest.mark.usefixtures("aws")
def test_stage_deployed_to_localstack_uses_localstacks_endpoint() -> None:
    deploy("dev")
    here = "http://127.0.0.1:4566"
    outputs = Outputs.find("dev", SNOWFLAKE | {"AWS_ENDPOINT_URL": here})
    assert outputs.endpoint == f"{here}/_aws/execute-api/api123/dev/v1/events"
    assert outputs.aws("kinesis").meta.endpoint_url == here
    elsewhere = Outputs.find("dev", SNOWFLAKE | {"AWS_ENDPOINT_URL": "https://vpce-1.example.com"})
    assert elsewhere.endpoint.startswith("https://api123.execute-api.eu-west-1.amazonaws.com/")


@pytest.mark.usefixtures("aws")
def test_api_key_of_the_stage_is_found_even_after_a_rotation() -> None:
    deploy("dev-app")
    first = deploy("dev")
    api = boto3.client("apigateway")
    second = str(api.create_api_key(name="milkrun-dev-app-2", enabled=True)["value"])
    assert Outputs.find("dev", SNOWFLAKE).api_key == first
    [old] = [key for key in api.get_api_keys()["items"] if key["name"] == "milkrun-dev-app"]
    api.delete_api_key(apiKey=old["id"])
    assert Outputs.find("dev", SNOWFLAKE).api_key == second


@pytest.mark.usefixtures("aws")
def test_list_of_deployed_stages_omits_the_stack_of_a_deploy_role() -> None:
    deploy("prod")
    boto3.client("cloudformation").create_stack(
        StackName="milkrun-deploy-dev",
        TemplateBody=json.dumps({"Resources": {"Nothing": {"Type": "AWS::SNS::Topic"}}}),
    )
    with pytest.raises(
        NoStackError, match=r"stage dev was not found.*\. Stages in eu-west-1: prod; on this machine: local$"
    ):
        Outputs.find("dev", SNOWFLAKE)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("operation", ["DescribeStacks", "GetApiKeys"])
def test_missing_permission_is_not_reported_as_a_missing_stage(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_client: BaseClient, name: str, _parameters: dict[str, object]) -> object:
        if name == operation:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not authorized"}}, name)
        return {"Stacks": [{}]}

    monkeypatch.setattr(BaseClient, "_make_api_call", denied)
    with pytest.raises(NoStackError, match=rf"stage dev could not be looked up: .*{operation}.*authorized$"):
        Outputs.find("dev", SNOWFLAKE)


def test_stage_is_looked_up_in_the_region_set_in_the_environment(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    deploy("dev")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert Outputs.find("dev", SNOWFLAKE | {"AWS_REGION": "us-east-2"}).region == "us-east-2"
    with pytest.raises(NoStackError, match="region"):
        Outputs.find("dev", SNOWFLAKE)


@pytest.mark.usefixtures("aws")
def test_deployed_stage_never_uses_the_local_warehouse(tmp_path: Path) -> None:
    deploy("dev")
    (tmp_path / "outputs.json").write_text(json.dumps(FILE))
    with pytest.raises(NoStackError, match="SNOWFLAKE_ACCOUNT"):
        Outputs.find("dev", {"MILKRUN_LOCAL": str(tmp_path)})


def test_child_process_gets_only_the_warehouse_settings_of_its_stage() -> None:
    environment = SNOWFLAKE | {"PATH": "/bin"}
    assert environment_of("local", environment) == {"PATH": "/bin"}
    assert environment_of("dev", environment) == environment | {"SNOWFLAKE_DATABASE": "MILKRUN_DEV"}
    named = environment | {"SNOWFLAKE_DATABASE": "MILKRUN_EU"}
    assert environment_of("dev", named) == named
    with pytest.raises(NoStackError, match="SNOWFLAKE_ACCOUNT"):
        environment_of("dev", {"PATH": "/bin"})


@pytest.mark.usefixtures("aws")
def test_incomplete_stack_is_reported() -> None:
    boto3.client("cloudformation").create_stack(
        StackName="milkrun-dev",
        TemplateBody=json.dumps({"Resources": {"Nothing": {"Type": "AWS::SNS::Topic"}}}),
    )
    boto3.client("apigateway").create_api_key(name="milkrun-dev-app", enabled=True)
    with pytest.raises(NoStackError, match="not completely deployed"):
        Outputs.find("dev", SNOWFLAKE)


def test_unknown_stage_is_reported_with_the_deployed_stages(aws: None) -> None:
    deploy("staging")
    deploy("prod")
    with pytest.raises(NoStackError, match="Stages in eu-west-1: prod, staging; on this machine: local"):
        Outputs.find("prd", {})  # even if SNOWFLAKE_* is not set


@pytest.mark.parametrize(("url", "is_right"), [("s3://b/events/", True), ("s3://dev-bucket/events/", False)])
def test_only_a_database_that_loads_the_stages_bucket_is_accepted(
    url: str, is_right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Mock()
    session.query.return_value = [{"name": "EVENTS1STAGE", "url": "x"}, {"name": "EVENTS_STAGE", "url": url}]
    monkeypatch.setattr("ops.stage_outputs.connect", lambda *_, **__: nullcontext(session))
    opening = Outputs.model_validate(FILE).warehouse()
    if is_right:
        with opening as opened:
            assert opened is session
    else:
        with (
            pytest.raises(NoStackError, match=r"MILKRUN loads s3://dev-bucket/events/, but .* is b: set"),
            opening,
        ):
            pass
