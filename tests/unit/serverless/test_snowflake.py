"""Test the packaged template against IAM policies and integration properties in the format that Snowflake documents."""

import json
from pathlib import Path

import pytest

from snowpipe.aws_policies import permissions, subscription, trust_policy, trusts, with_statement
from snowpipe.ddl_files import Parameters
from snowpipe.warehouse import Row
from tests.unit.serverless.templates import STAGES, properties

TOPIC = "arn:aws:sns:us-east-1:001234567890:milkrun-dev-archive"
STORAGE_USER = "arn:aws:iam::111122223333:user/storage"
SNS_USER = "arn:aws:iam::111122223333:user/notifications"
PARAMETERS = Parameters(
    database="MILKRUN_DEV",
    warehouse="MILKRUN_DEV_WH",
    bucket="milkrun-dev-archive",
    topic_arn=TOPIC,
    storage_role_arn="arn:aws:iam::001234567890:role/milkrun-dev-us-east-1-snowflake",
    external_id="milkrun-dev",
)


class DocumentedAnswers:
    """A fake Snowflake session whose results have the form documented in "SYSTEM$GET_AWS_SNS_IAM_POLICY" and
    "DESCRIBE INTEGRATION".
    """

    def query(self, sql: str, parameters: object = ()) -> list[Row]:
        if sql.startswith("DESC INTEGRATION"):
            values = {"STORAGE_AWS_IAM_USER_ARN": STORAGE_USER, "STORAGE_AWS_EXTERNAL_ID": "milkrun-dev"}
            return [{"property": name, "property_value": value} for name, value in values.items()]
        statement = {
            "Sid": "1",
            "Effect": "Allow",
            "Principal": {"AWS": SNS_USER},
            "Action": ["sns:Subscribe"],
            "Resource": [TOPIC],
        }
        return [{"policy": json.dumps({"Version": "2012-10-17", "Statement": [statement]})}]


def deployed(value: object) -> object:
    """Return a part of the template with its references resolved, as in the deployed stack."""
    match value:
        case {"Ref": "ArchiveTopic"}:
            return TOPIC
        case {"Fn::Sub": str(text)}:
            return text.replace("${AWS::Partition}", "aws").replace("${AWS::AccountId}", "001234567890")
        case {"Ref": "AWS::AccountId"}:
            return "001234567890"
        case dict():
            return {name: deployed(each) for name, each in value.items()}
        case list():
            return [deployed(each) for each in value]
    return value


def topic_policy(variant: str) -> object:
    return deployed(properties(variant, "ArchiveTopicPolicy")["PolicyDocument"])


def test_deployed_topic_policy_contains_snowflakes_statement() -> None:
    policy = topic_policy("dev-snowflake")
    assert with_statement(policy, subscription(DocumentedAnswers(), PARAMETERS)) is policy


def test_topic_policy_without_snowflakes_user_lacks_only_the_subscribe_statement() -> None:
    policy = topic_policy("dev")
    statement = subscription(DocumentedAnswers(), PARAMETERS)
    completed = with_statement(policy, statement)
    assert permissions(completed) - permissions(policy) == permissions({"Statement": [statement]})
    sids = [each["Sid"] for each in completed["Statement"]]
    assert sids == ["ArchiveAnnounces", "SnowflakeSubscribes"], "AWS rejects duplicate Sids"


def test_topic_statement_written_by_bootstrap_equals_the_deployed_one() -> None:
    statement = subscription(DocumentedAnswers(), PARAMETERS)
    [in_template] = [
        each for each in topic_policy("dev-snowflake")["Statement"] if each["Sid"] == "SnowflakeSubscribes"
    ]
    assert in_template == statement | {"Action": "sns:Subscribe", "Resource": TOPIC}


@pytest.mark.parametrize(
    "change",
    [
        {"Effect": "Deny"},
        {"Principal": {"AWS": STORAGE_USER}},
        {"Action": "sns:Publish"},
        {"Resource": TOPIC + "-2"},
    ],
)
def test_topic_policy_statement_that_differs_in_one_value_is_replaced(
    change: dict[str, object],
) -> None:
    policy = topic_policy("dev-snowflake")
    policy["Statement"][1] |= change
    wanted = subscription(DocumentedAnswers(), PARAMETERS)
    assert with_statement(policy, wanted)["Statement"] == [policy["Statement"][0], wanted]


def test_deployed_storage_role_trusts_snowflakes_user_only_with_the_external_id() -> None:
    wanted = trust_policy(DocumentedAnswers(), PARAMETERS)
    trust = deployed(properties("dev-snowflake", "SnowflakeRole")["AssumeRolePolicyDocument"])
    assert trusts(trust, wanted)
    assert not trusts(deployed(properties("dev", "SnowflakeRole")["AssumeRolePolicyDocument"]), wanted)
    trust["Statement"][0]["Condition"] = {"StringEquals": {"sts:ExternalId": "of-somebody-else"}}
    assert not trusts(trust, wanted)


def test_names_that_must_be_unique_per_account_contain_the_region() -> None:
    assert properties("dev", "SnowflakeRole")["RoleName"] == {
        "Fn::Sub": "milkrun-dev-${AWS::Region}-snowflake"
    }
    assert properties("dev", "Dashboard")["DashboardName"] == {"Fn::Sub": "milkrun-dev-${AWS::Region}"}


def test_each_stage_has_its_own_snowflake_database() -> None:
    names = [
        properties(stage, "CheckLambdaFunction")["Environment"]["Variables"]["SNOWFLAKE_DATABASE"]
        for stage in STAGES
    ]
    assert len(set(names)) == len(STAGES)


def test_ci_logs_in_to_snowflake_without_a_stored_secret() -> None:
    workflow = Path(".github/workflows/test-and-deploy.yml").read_text()
    assert "secrets." not in workflow
    assert "SNOWFLAKE_WORKLOAD_IDENTITY_PROVIDER: OIDC" in workflow
