"""The Lambda function that checks Snowflake and writes the results as canonical log lines with metrics.

It checks the pipes every five minutes, which needs no running warehouse, and looks for failed loads every
hour, which needs one.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import boto3
import structlog
import urllib3
from botocore.config import Config
from pydantic import BaseModel, ConfigDict, Field

from contract import logs
from contract.invocation import Context
from contract.metrics import Wanted, with_metrics
from snowpipe.pipe_check.metrics import Health, failed_loads_sql, health, parse
from snowpipe.pipe_check.sqlapi import Signer, SqlApi, host_of, log_in_token

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DATABASE_NAME = r"^\w+$"
PIPES = {"EVENTS_PIPE": "events", "REJECTED_PIPE": "rejected"}

log = structlog.get_logger()


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    stage: str = Field(alias="STAGE")
    log_level: str = Field(alias="LOG_LEVEL", default="INFO")
    metrics: Wanted = Field(alias="METRICS", default="all")
    bucket: str = Field(alias="ARCHIVE_BUCKET", min_length=1)
    signing_key_id: str = Field(alias="SIGNING_KEY_ID", min_length=1)
    account: str = Field(alias="SNOWFLAKE_ACCOUNT", min_length=1)
    user: str = Field(alias="SNOWFLAKE_USER", min_length=1)
    database: str = Field(alias="SNOWFLAKE_DATABASE", pattern=DATABASE_NAME)
    url: str = Field(alias="SNOWFLAKE_URL", default="")

    @property
    def api_url(self) -> str:
        return self.url or f"https://{host_of(self.account)}"


@dataclass(frozen=True)
class Parts:
    settings: Settings
    s3: "S3Client"
    signer: Signer


@cache
def parts() -> Parts:
    settings = Settings.model_validate(dict(os.environ))
    logs.configure(settings.log_level, with_metrics(settings.stage, settings.metrics))
    config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3})
    return Parts(
        settings=settings,
        s3=boto3.client("s3", config=config),
        signer=Signer(boto3.client("kms", config=config), settings.signing_key_id),
    )


def check(event: Mapping[str, object], context: Context) -> None:
    """Count failed loads if the event is `{"look_at": "loads"}`; otherwise check the pipes.

    Errors propagate, so that a check that could not be completed triggers an alarm.
    """
    known = parts()
    logs.bind(request_id=context.aws_request_id)
    now = datetime.now(UTC)
    snowflake = signed_in(known, now)
    if event.get("look_at") == "loads":
        failed = int(snowflake.value(failed_loads_sql(known.settings.database)))
        log.info(logs.LOADS_CHECKED, failed_loads=failed)
        return
    for pipe, found in look(known, snowflake, now):
        log.info(
            logs.PIPE_CHECKED,
            pipe=pipe,
            state=found.state,
            pipe_stopped=int(found.stopped),
            pipe_lag_seconds=found.lag_seconds,
            pipe_deaf_seconds=found.deaf_seconds,
            pipe_pending_files=found.pending_files,
        )


def signed_in(known: Parts, now: datetime) -> SqlApi:
    settings = known.settings
    token = log_in_token(settings.account, settings.user, known.signer, now)
    # Lambda purges idle connections, and a request on one fails, so each check opens its own. (AWS Lambda Developer
    # Guide: "Best practices for working with AWS Lambda functions")
    http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=3, read=25), retries=False)
    return SqlApi(settings.api_url, token, http)


def look(known: Parts, snowflake: SqlApi, now: datetime) -> Iterator[tuple[str, Health]]:
    settings = known.settings
    for pipe, prefix in PIPES.items():
        name = f"{settings.database}.RAW.{pipe}"
        status = parse(snowflake.value(f"SELECT SYSTEM$PIPE_STATUS('{name}')"))
        yield name, health(status, newest_archived_at(known.s3, settings.bucket, prefix, now), now)


def newest_archived_at(s3: "S3Client", bucket: str, prefix: str, now: datetime) -> list[datetime]:
    """Return the write times of up to a thousand objects per hour, for the current and the previous hour.

    The names in an hour's folder are hashes, so the first thousand are a random sample. The sample is too small to
    find a missing object (`reconcile` does that), but it shows whether the pipe receives notifications.
    """
    hours = (now - timedelta(hours=1), now)
    pages = (s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/dt={h:%Y-%m-%d}/hh={h:%H}/") for h in hours)
    return [entry["LastModified"] for page in pages for entry in page.get("Contents", [])]
