"""The policies that let Snowflake use AWS: the storage role's trust policy and permissions, and the topic's policy."""

import json
from typing import Any

from cli.refusal import Refusal
from snowpipe.ddl_files import Parameters
from snowpipe.warehouse import Warehouse

type Policy = dict[str, Any]

# The Sid, in serverless/storage.yml, of the statement that lets Snowflake subscribe to the topic. Snowflake's function
# SYSTEM$GET_AWS_SNS_IAM_POLICY returns this statement with the Sid "1".
SUBSCRIBES = "SnowflakeSubscribes"


def integration(warehouse: Warehouse, parameters: Parameters) -> dict[str, str]:
    """Return the storage integration's properties, from DESC INTEGRATION, as a mapping of names to values."""
    rows = warehouse.query(f"DESC INTEGRATION {parameters.database}_S3")
    return {row["property"]: row["property_value"] for row in rows}


def trust_policy(warehouse: Warehouse, parameters: Parameters) -> Policy:
    """Return the storage role's trust policy.

    Only the Snowflake account's IAM user may assume the role, and only with our external id.
    """
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
    """Return the storage role's permissions: read access to the two prefixes that have Snowflake stages."""
    bucket = f"arn:{parameters.partition}:s3:::{parameters.bucket}"
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


def subscription(warehouse: Warehouse, parameters: Parameters) -> Policy:
    """Return the statement that the topic's policy needs so that Snowflake's IAM user may subscribe a queue.

    (Snowflake: "SYSTEM$GET_AWS_SNS_IAM_POLICY".) We add a condition on the protocol (AWS: "Amazon SNS API
    permissions", service-specific keys). The endpoint is not restricted, because Snowflake documents its
    queue names only in examples.
    """
    (row,) = warehouse.query("SELECT SYSTEM$GET_AWS_SNS_IAM_POLICY(%s) AS POLICY", [parameters.topic_arn])
    (statement,) = json.loads(next(iter(row.values())))["Statement"]
    return {**statement, "Sid": SUBSCRIBES, "Condition": {"StringEquals": {"sns:Protocol": "sqs"}}}


def principal_of(statement: Policy) -> str:
    """Return the ARN of a statement's single AWS principal."""
    (principal,) = _many(statement["Principal"]["AWS"])
    return str(principal)


def with_statement(policy: Policy, wanted: Policy) -> Policy:
    """Return `policy` itself if it grants all that the statement `wanted` grants; otherwise a copy with `wanted`.

    In the copy, `wanted` replaces a statement with the same Sid.
    """
    if permissions(policy) >= permissions({"Statement": [wanted]}):
        return policy
    kept = [s for s in policy.get("Statement", []) if s.get("Sid") != wanted["Sid"]]
    return {**policy, "Statement": [*kept, wanted]}


def permissions(policy: Policy) -> set[tuple[str, ...]]:
    """Return each combination of effect, principal, action and resource of a policy.

    Sids, order and conditions are ignored, and a list with one value equals that value, because AWS and the
    template write the same permission differently from Snowflake.
    """
    return {
        (statement["Effect"], kind, principal, action.lower(), resource)
        for statement in policy.get("Statement", [])
        for kind, principals in _principals(statement).items()
        for principal in _many(principals)
        for action in _many(statement.get("Action", []))
        for resource in _many(statement.get("Resource", ""))
    }


def trusts(policy: Policy, wanted: Policy) -> bool:
    """Return whether `policy` lets the principal of `wanted` assume the role with the external id of `wanted`."""

    def named(found: Policy) -> set[tuple[str, ...]]:
        return {
            (*permission, external_id)
            for statement in found.get("Statement", [])
            for permission in permissions({"Statement": [statement]})
            for external_id in _many(
                statement.get("Condition", {}).get("StringEquals", {}).get("sts:ExternalId", [])
            )
        }

    return named(policy) >= named(wanted)


def _principals(statement: Policy) -> Policy:
    principal = statement.get("Principal", {})
    return principal if isinstance(principal, dict) else {"": principal}


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Topic:
    """The SNS topic of the archive, with methods that read and write its policy."""

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
            TopicArn=self._arn, AttributeName="Policy", AttributeValue=json.dumps(policy, allow_nan=False)
        )


class Role:
    """The storage role, with methods that read its trust policy and write its policies."""

    def __init__(self, iam: Any, arn: str) -> None:
        self._iam = iam
        self.name = arn.rsplit("/", 1)[1]

    def trust(self) -> Policy | None:
        """Return the role's trust policy; None if the role does not exist."""
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
                AssumeRolePolicyDocument=json.dumps(trust, allow_nan=False),
                Description="Milkrun: Snowflake reads events/ and rejected/",
            )
        else:
            self._iam.update_assume_role_policy(
                RoleName=self.name, PolicyDocument=json.dumps(trust, allow_nan=False)
            )
        self._iam.put_role_policy(
            RoleName=self.name, PolicyName="read-archive", PolicyDocument=json.dumps(access, allow_nan=False)
        )
