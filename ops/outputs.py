"""Where a running stack is: what `make up` writes to `outputs.json`, read once and turned into clients."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from pydantic import BaseModel, ConfigDict, ValidationError

from aws.access import Access
from aws.credentials import FixedCredentials, session_credentials
from aws.emulator import NO_PROXIES, emulator_session
from ops.presence import EXCLUSIVE_TAGS
from snowpipe.refusal import Refusal
from snowpipe.roles import operator
from snowpipe.settings import Connection, load
from snowpipe.warehouse import Snowflake, connect

ROOT = Path(__file__).resolve().parents[1]
"""The clone."""


class NoStackError(Refusal):
    """There is no stack to speak to; the message says what to do."""


class TokenIssuer(BaseModel):
    """The identity provider of a local stack that requires tokens: whoever reads the key can sign them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str
    audience: str
    private_key_file: Path


class Outputs(BaseModel):
    """`aws_endpoint_url` is None for a deployed stage: boto3 then uses the caller's credentials."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    endpoint: str
    api_key: str
    region: str
    bucket: str
    stream: str
    visits_table: str
    redrive_queue_url: str
    dead_letter_queue_url: str
    aws_endpoint_url: str | None = None
    console_url: str | None = None
    token_issuer: TokenIssuer | None = None
    ingest_function: str | None = (
        None  # where the stage requires tokens: its operators invoke the function itself
    )
    # Stage settings (serverless/params.yml): places with these tags cannot hold one truck at the same time, and
    # the fleet's days end at midnight of this zone.
    exclusive_tags: tuple[str, ...] = EXCLUSIVE_TAGS
    time_zone: str = "UTC"
    snowflake: Connection

    @staticmethod
    def find(stage: str, environment: Mapping[str, str]) -> "Outputs":
        """This checkout's stack for `local`, else what CloudFormation and SNOWFLAKE_* say of the stage."""
        if stage == "local":
            return Outputs.read(ROOT / (environment.get("MILKRUN_LOCAL") or ".local") / "outputs.json")
        return _deployed(stage, environment)

    @staticmethod
    def read(path: Path) -> "Outputs":
        try:
            return Outputs.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NoStackError(f"no stack is running here ({path} is missing): run `make up`") from None
        except ValidationError as invalid:
            first = invalid.errors()[0]
            name = ".".join(map(str, first["loc"])) or "it"
            raise NoStackError(f"{path} is not a stack's outputs: {name}: {first['msg'].lower()}") from None

    def aws(self, service: str, *, attempts: int = 5) -> Any:
        """A boto3 client that gives up soon enough for somebody who waits at a terminal."""
        config = Config(
            connect_timeout=3,
            read_timeout=30,
            retries={"mode": "standard", "max_attempts": attempts},
            max_pool_connections=32,
            proxies=NO_PROXIES if self.aws_endpoint_url else None,
        )
        session = emulator_session(self.region) if self.aws_endpoint_url else boto3.Session()
        client: Callable[..., Any] = session.client
        return client(service, region_name=self.region, endpoint_url=self.aws_endpoint_url, config=config)

    def access(self) -> Access:
        """Return our own signing clients for the stage: a tenth of the CPU of boto3's, for many calls."""
        if self.aws_endpoint_url:
            endpoints = {"AWS_ENDPOINT_URL": self.aws_endpoint_url}
            return Access(self.region, FixedCredentials("test", "test", None), endpoints)
        return Access(self.region, session_credentials(), {})

    def warehouse(self, give_up_after_s: int | None = None) -> AbstractContextManager[Snowflake]:
        """A session of the ordinary Snowflake connector, as the operator; importing it takes seconds."""
        return connect(self.snowflake, give_up_after_s, role=operator)

    @property
    def database(self) -> str:
        return self.snowflake.database


def tags_of(text: str | None) -> tuple[str, ...]:
    """Return the tags of a comma-separated setting; a stage deployed before the setting existed has the default."""
    if text is None:
        return EXCLUSIVE_TAGS
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())


_NAMED = {
    "RestApiId",
    "ArchiveBucketName",
    "GeofenceStreamName",
    "VisitsTableName",
    "RedriveQueueUrl",
    "DeadLetterQueueUrl",
}


def environment_of(stage: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """For what finds its warehouse by SNOWFLAKE_* or else by outputs.json: it must be the stage's own.

    Raises NoStackError where it would be the local one for a deployed stage.
    """
    if stage == "local":
        return {name: value for name, value in environment.items() if not name.startswith("SNOWFLAKE_")}
    if not environment.get("SNOWFLAKE_ACCOUNT"):
        raise NoStackError(f"stage {stage} has a Snowflake of its own: set SNOWFLAKE_ACCOUNT and its kin")
    if environment.get("SNOWFLAKE_DATABASE"):
        return environment
    return {**environment, "SNOWFLAKE_DATABASE": f"MILKRUN_{stage.upper().replace('-', '_')}"}


def _deployed(stage: str, environment: Mapping[str, str]) -> Outputs:
    import botocore.exceptions

    warehouse = load(environment_of(stage, environment)).connection
    # boto3 knows AWS_DEFAULT_REGION and profiles; AWS_REGION is what osls and the CLI read.
    session = boto3.Session(region_name=environment.get("AWS_REGION"))
    try:
        stacks = session.client("cloudformation").describe_stacks(StackName=f"milkrun-{stage}")["Stacks"]
        named = {o["OutputKey"]: o["OutputValue"] for o in stacks[0].get("Outputs", ())}
        keys = session.client("apigateway").get_api_keys(nameQuery=f"milkrun-{stage}-app", includeValues=True)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        answered = isinstance(error, botocore.exceptions.ClientError)
        others = _there_are(session) if answered else ""
        raise NoStackError(f"stage {stage} cannot be looked up: {error}{others}") from None
    if not keys["items"]:
        raise NoStackError(f"stage {stage} has no API key milkrun-{stage}-app")
    if missing := _NAMED - named.keys():
        raise NoStackError(f"stage {stage} is not deployed whole: its stack does not name {min(missing)}")
    host = f"{named['RestApiId']}.execute-api.{session.region_name}.amazonaws.com"
    return Outputs(
        endpoint=f"https://{host}/{stage}/v1/events",
        api_key=keys["items"][0]["value"],
        region=session.region_name,
        bucket=named["ArchiveBucketName"],
        stream=named["GeofenceStreamName"],
        visits_table=named["VisitsTableName"],
        redrive_queue_url=named["RedriveQueueUrl"],
        dead_letter_queue_url=named["DeadLetterQueueUrl"],
        exclusive_tags=tags_of(named.get("ExclusiveTags")),
        time_zone=named.get("FleetTimeZone") or "UTC",
        ingest_function=f"milkrun-{stage}-ingest" if named.get("Identity") == "required" else None,
        snowflake=warehouse,
    )


def _there_are(session: boto3.Session) -> str:
    """Name the stages that are deployed in this account and region, for whoever mistyped one; "" if that is unknown."""
    import botocore.exceptions

    try:
        pages = session.client("cloudformation").get_paginator("describe_stacks").paginate()
        names = [stack["StackName"] for page in pages for stack in page["Stacks"]]
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
        return ""
    stages = sorted(name.removeprefix("milkrun-") for name in names if name.startswith("milkrun-"))
    return f". Deployed in {session.region_name}: {', '.join(stages) or 'none'}, and local"
