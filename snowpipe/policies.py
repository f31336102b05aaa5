"""The two round trips between Snowflake and AWS: whom our role trusts, and who may subscribe to our topic."""

import json
from collections.abc import Iterable
from typing import Any

from snowpipe.refusal import Refusal
from snowpipe.template import Parameters
from snowpipe.warehouse import Warehouse

type Policy = dict[str, Any]


def integration(warehouse: Warehouse, parameters: Parameters) -> dict[str, str]:
    """DESC INTEGRATION, by property."""
    rows = warehouse.query(f"DESC INTEGRATION {parameters.database}_S3")
    return {row["property"]: row["property_value"] for row in rows}


def trust_policy(warehouse: Warehouse, parameters: Parameters) -> Policy:
    """Who may assume the storage role: Snowflake's one IAM user of the account, with our external id."""
    found = integration(warehouse, parameters)
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": found["STORAGE_AWS_IAM_USER_ARN"]},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": found["STORAGE_AWS_EXTERNAL_ID"]}},
            }
        ],
    }


def access_policy(parameters: Parameters) -> Policy:
    """What the storage role may do: read the two prefixes that have stages, and nothing else."""
    bucket = f"arn:aws:s3:::{parameters.bucket}"
    prefixes = ("events/", "rejected/")
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:GetObjectVersion"],
                "Resource": [f"{bucket}/{prefix}*" for prefix in prefixes],
            },
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
                "Resource": bucket,
                "Condition": {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in prefixes]}},
            },
        ],
    }


def subscription(warehouse: Warehouse, parameters: Parameters) -> list[Policy]:
    """What the topic's policy must allow: Snowflake's user to subscribe its queue."""
    (row,) = warehouse.query("SELECT SYSTEM$GET_AWS_SNS_IAM_POLICY(%s) AS POLICY", [parameters.topic_arn])
    statements: list[Policy] = json.loads(next(iter(row.values())))["Statement"]
    return statements


def with_statements(policy: Policy, wanted: Iterable[Policy]) -> Policy:
    """The policy with the statements it lacks, one of the same Sid replaced; equal when it lacks none."""
    sids = {statement["Sid"]: statement for statement in wanted}
    kept = [s for s in policy.get("Statement", []) if s.get("Sid") not in sids]
    merged = {**policy, "Statement": [*kept, *sids.values()]}
    return policy if grants(policy) >= grants(merged) else merged


def grants(policy: Policy) -> set[str]:
    """The policy's statements in one order of words, so that a text by AWS compares with ours."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, list):
            items = [plain(each) for each in value]
            return items[0] if len(items) == 1 else sorted(items, key=str)
        return value

    return {json.dumps(plain(statement), sort_keys=True) for statement in policy.get("Statement", [])}


class Topic:
    """The SNS topic's policy, read and written through a boto3 SNS client."""

    def __init__(self, sns: Any, arn: str) -> None:
        self._sns = sns
        self._arn = arn

    def policy(self) -> Policy:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            attributes = self._sns.get_topic_attributes(TopicArn=self._arn)["Attributes"]
        except (BotoCoreError, ClientError) as error:
            raise Refusal(f"could not read the policy of {self._arn}: {error}") from None
        found: Policy = json.loads(attributes.get("Policy") or "{}")
        return found or {"Version": "2012-10-17", "Statement": []}

    def write(self, policy: Policy) -> None:
        self._sns.set_topic_attributes(
            TopicArn=self._arn, AttributeName="Policy", AttributeValue=json.dumps(policy)
        )


class Role:
    """The storage role, read and written through a boto3 IAM client."""

    def __init__(self, iam: Any, arn: str) -> None:
        self._iam = iam
        self.name = arn.rsplit("/", 1)[1]

    def trust(self) -> Policy | None:
        """None while there is no such role."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            role = self._iam.get_role(RoleName=self.name)["Role"]
        except self._iam.exceptions.NoSuchEntityException:
            return None
        except (BotoCoreError, ClientError) as error:
            raise Refusal(f"could not read the role {self.name}: {error}") from None
        document = role["AssumeRolePolicyDocument"]
        found: Policy = json.loads(document) if isinstance(document, str) else document
        return found

    def write(self, trust: Policy, access: Policy) -> None:
        if self.trust() is None:
            self._iam.create_role(
                RoleName=self.name,
                AssumeRolePolicyDocument=json.dumps(trust),
                Description="Milkrun: Snowflake reads events/ and rejected/",
            )
        else:
            self._iam.update_assume_role_policy(RoleName=self.name, PolicyDocument=json.dumps(trust))
        self._iam.put_role_policy(
            RoleName=self.name, PolicyName="read-archive", PolicyDocument=json.dumps(access)
        )
