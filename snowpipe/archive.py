"""The stage's AWS side: its bucket, and what the bucket is wired to."""

from typing import TYPE_CHECKING

from pydantic import ValidationError

from snowpipe.refusal import Refusal
from snowpipe.settings import Settings
from snowpipe.template import Parameters

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def s3_client(settings: Settings) -> "S3Client":
    import boto3

    # A stack that names its endpoint is an emulator, which takes any credentials but wants some.
    emulator = settings.aws.aws_endpoint_url is not None
    session = boto3.Session(region_name=settings.aws.region)
    if emulator and session.get_credentials() is None:
        session = boto3.Session("test", "test", region_name=settings.aws.region)
    return session.client("s3", endpoint_url=settings.aws.aws_endpoint_url)


def topic_of(bucket: str, s3: "S3Client") -> str:
    """The SNS topic that the bucket tells of new objects."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        wiring = s3.get_bucket_notification_configuration(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise Refusal(f"could not ask {bucket} for its notifications: {error}") from None
    topics = {topic["TopicArn"] for topic in wiring.get("TopicConfigurations", [])}
    if len(topics) != 1:
        raise Refusal(
            f"{bucket} notifies {len(topics)} topics, not one: deploy first, or set MILKRUN_TOPIC_ARN"
        )
    return topics.pop()


def parameters(settings: Settings) -> Parameters:
    """The DDL's parameters: those that are named, and the rest by convention.

    The topic is the one that the bucket notifies. The role is `milkrun-<database>-snowflake` there.
    """
    aws, connection = settings.aws, settings.connection
    if aws.bucket is None:
        raise Refusal(f"{settings.source} names no bucket: set MILKRUN_BUCKET")
    topic = aws.topic_arn or topic_of(aws.bucket, s3_client(settings))
    name = f"milkrun-{connection.database.lower().replace('_', '-')}-snowflake"
    try:
        return Parameters(
            database=connection.database,
            warehouse=connection.warehouse,
            bucket=aws.bucket,
            topic_arn=topic,
            storage_role_arn=aws.storage_role_arn or f"arn:aws:iam::{topic.split(':')[4]}:role/{name}",
            external_id=aws.external_id or name,
        )
    except ValidationError as invalid:
        first = invalid.errors()[0]
        raise Refusal(
            f"{first['loc'][0]} cannot stand in SQL: {first['input']!r} ({first['msg'].lower()})"
        ) from None
