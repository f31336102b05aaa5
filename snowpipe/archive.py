"""The AWS resources that the warehouse commands use: the stage's bucket, and the SNS topic that it notifies."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cli.refusal import Refusal
from contract.archive_object import hour_of, is_content
from snowpipe.ddl_files import Parameters
from snowpipe.emulator_session import NO_PROXIES, emulator_session
from snowpipe.settings import Aws, Settings

if TYPE_CHECKING:
    from boto3 import Session
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Object:
    """An object in the archive. `modified_at` is the time, by S3's clock, at which S3 received the object."""

    key: str
    modified_at: datetime
    size: int


class Archive:
    """Read access to the archive bucket. Methods raise Refusal if S3 returns an error or does not respond."""

    def __init__(self, s3: "S3Client", bucket: str) -> None:
        self._s3 = s3
        self.bucket = bucket

    def objects(self, prefix: str) -> Iterator[Object]:
        return (found for found in self._listed(prefix) if isinstance(found, Object))

    def folders(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield, in key order, the folders directly under `prefix` whose keys sort after `after`."""
        listed = self._listed(prefix, Delimiter="/", StartAfter=after)
        return (found for found in listed if isinstance(found, str))

    def _listed(self, prefix: str, **options: str) -> Iterator[Object | str]:
        """List the objects with a prefix page by page; yield each page's objects, then its folders."""
        from botocore.exceptions import BotoCoreError, ClientError

        pages: Any = self._s3.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, **options):
                for found in page.get("Contents", []):
                    yield Object(found["Key"], found["LastModified"], found["Size"])
                yield from (found["Prefix"] for found in page.get("CommonPrefixes", []))
        except (BotoCoreError, ClientError) as error:
            raise Refusal(f"could not list s3://{self.bucket}/{prefix}: {error}") from None

    def received(self, prefix: str, start: datetime, end: datetime) -> Iterator[Object]:
        """Yield, in key order, the objects received from the hour of `start` through the hour of `end`.

        An object's hour is taken from its key (dt=/hh=), or from S3's LastModified if the key contains none.
        Empty uploads and folder markers are omitted, as in `is_content`.
        """
        strays = sorted(self._without_hour(prefix, start, end), key=_key)
        return heapq.merge(strays, self.in_hours(prefix, start, end), key=_key)

    def in_hours(self, prefix: str, start: datetime, end: datetime) -> Iterator[Object]:
        """Like `received`, but omit objects whose keys contain no hour, because finding them takes more requests."""
        hour = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        while hour <= end:
            # List each whole day at once, and the rest of the range hour by hour.
            day = hour.hour == 0 and hour + timedelta(days=1) <= end
            for found in self.objects(f"{prefix}dt={hour:%Y-%m-%d}/" + ("" if day else f"hh={hour:%H}/")):
                if is_content(found.key, found.size) and hour_of(found.key):
                    yield found
            hour += timedelta(days=1) if day else timedelta(hours=1)

    def _without_hour(self, prefix: str, start: datetime, end: datetime) -> Iterator[Object]:
        """Yield the objects whose keys contain no hour, received from the hour of `start` through the hour of `end`.

        Such objects are outside the day folders (dt=), or inside one of them but outside its hour folders (hh=).
        """
        first = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        days = (
            first.date() + timedelta(days=n)
            for n in range((end.astimezone(UTC).date() - first.date()).days + 1)
        )
        for folder in (prefix, *(f"{prefix}dt={day}/" for day in days)):
            for found in self._beside(folder):
                hour = found.modified_at.replace(minute=0, second=0, microsecond=0)
                if is_content(found.key, found.size) and hour_of(found.key) is None and first <= hour <= end:
                    yield found

    def _beside(self, folder: str) -> Iterator[Object]:
        """Yield the objects at any depth in a folder, except those in its subfolders of a day or an hour."""
        for found in self._listed(folder, Delimiter="/"):
            if isinstance(found, Object):
                yield found
            elif hour_of(found) is None and hour_of(f"{found}hh=00/") is None:
                yield from self.objects(found)

    def newest(self, prefix: str, after: datetime) -> Object | None:
        """Return the newest object in the folders of the current and the previous hour that was written after a time;
        None if there is none.
        """
        now = datetime.now(UTC)
        recent = (
            each for each in self.in_hours(prefix, now - timedelta(hours=1), now) if each.modified_at > after
        )
        return max(recent, key=lambda found: found.modified_at, default=None)

    def body(self, key: str) -> bytes | None:
        """Return the object's body as it is stored, which may be gzip; None if the object does not exist."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise Refusal(f"could not read s3://{self.bucket}/{key}: {error}") from None
        except BotoCoreError as error:
            raise Refusal(f"could not read s3://{self.bucket}/{key}: {error}") from None


def _key(found: Object) -> str:
    return found.key


def client(aws: Aws, service: str) -> Any:
    """Return a boto3 client for a service. If an endpoint URL is set, the client calls an emulator and ignores
    the user's AWS settings.
    """
    import boto3
    from botocore.config import Config

    if aws.aws_endpoint_url is None:
        return any_client(boto3.Session(region_name=aws.region))(service)
    make = any_client(emulator_session(aws.region))
    return make(service, endpoint_url=aws.aws_endpoint_url, config=Config(proxies=NO_PROXIES))


def any_client(session: "Session") -> Callable[..., Any]:
    """Return the session's `client` method, typed without its 400 overloads, which accept only literal service
    names.
    """
    return session.client


def bucket_of(settings: Settings) -> str:
    if settings.aws.bucket is None:
        raise Refusal(f"no bucket is configured in {settings.source}: set MILKRUN_BUCKET")
    return settings.aws.bucket


def s3_client(aws: Aws) -> "S3Client":
    found: S3Client = client(aws, "s3")
    return found


def topic_of(bucket: str, s3: "S3Client") -> str:
    """Return the ARN of the SNS topic that the bucket notifies of new objects.

    Raises Refusal unless the bucket notifies exactly one topic.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        wiring = s3.get_bucket_notification_configuration(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise Refusal(f"could not read the notification configuration of {bucket}: {error}") from None
    topics = {topic["TopicArn"] for topic in wiring.get("TopicConfigurations", [])}
    if len(topics) != 1:
        raise Refusal(
            f"{bucket} notifies {len(topics)} SNS topics instead of 1: deploy the stage, or set MILKRUN_TOPIC_ARN"
        )
    return topics.pop()


def parameters(settings: Settings) -> Parameters:
    """Return the DDL's parameters. Parameters that are not set are derived by convention.

    The topic is the one that the bucket notifies; its name is `<service>-<stage>-archive`. Snowflake assumes the role
    `<service>-<stage>-<region>-snowflake` with the external id `<service>-<stage>`.
    """
    aws, connection = settings.aws, settings.connection
    bucket = bucket_of(settings)
    topic = aws.topic_arn or topic_of(bucket, s3_client(settings.aws))
    _, partition, _, region, account, name = topic.split(":") if topic.count(":") == 5 else [""] * 6
    deployed = name.removesuffix("-archive")
    role = f"arn:{partition}:iam::{account}:role/{deployed}-{region}-snowflake"
    try:
        return Parameters(
            database=connection.database,
            warehouse=connection.warehouse,
            bucket=bucket,
            topic_arn=topic,
            storage_role_arn=aws.storage_role_arn or role,
            external_id=aws.external_id or deployed,
            credit_quota=aws.credit_quota,
            error_topic_arn=aws.error_topic_arn,
            error_role_arn=aws.error_role_arn,
        )
    except ValidationError as invalid:
        first = invalid.errors()[0]
        raise Refusal(
            f"parameter {first['loc'][0]} is not valid in SQL: {first['input']!r} ({first['msg']})"
        ) from None
