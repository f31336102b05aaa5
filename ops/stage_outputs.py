"""The endpoints, resources and clients of a stage, according to the local stack's `outputs.json` or CloudFormation."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from pydantic import BaseModel, ConfigDict, ValidationError

from aws.access import Access
from aws.credentials import FixedCredentials, session_credentials
from cli.environment import LOOPBACK
from cli.refusal import Refusal
from ops.presence_rule import EXCLUSIVE_TAGS
from snowpipe.emulator_session import NO_PROXIES, emulator_session
from snowpipe.pipes import other_location
from snowpipe.roles import operator
from snowpipe.settings import Connection, load
from snowpipe.warehouse import Snowflake, connect

ROOT = Path(__file__).resolve().parents[1]
"""The root folder of the clone."""

type Client = Any
"""A boto3 client of any service, or one of Milkrun's own clients. boto3 creates the methods at run
time, so type checkers do not know them.
"""


class NoStackError(Refusal):
    """Raised if a stage cannot be used, for example because its stack does not exist or is incomplete."""


class TokenIssuer(BaseModel):
    """The identity provider of a local stack that requires tokens, with the file of its private key."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    issuer: str
    audience: str
    private_key_file: Path


class Outputs(BaseModel):
    """The endpoints and resources of a stage. `aws_endpoint_url` is None for a stage in AWS."""

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
    # If the stage requires tokens, operators invoke this function instead of calling the endpoint.
    ingest_function: str | None = None
    # Stage settings (serverless/stage_settings.yml). A truck cannot be at two places with an exclusive tag at the same
    # time. dbt runs every `freshness_minutes`. The fleet's days begin at midnight in `time_zone`.
    exclusive_tags: tuple[str, ...] = EXCLUSIVE_TAGS
    freshness_minutes: int = 60
    time_zone: str = "UTC"
    snowflake: Connection

    @staticmethod
    def find(stage: str, environment: Mapping[str, str]) -> "Outputs":
        """Return a stage's outputs.

        For `local`, they are read from this clone's outputs.json, otherwise from CloudFormation and the
        SNOWFLAKE_* variables.
        """
        if stage == "local":
            return Outputs.read(ROOT / (environment.get("MILKRUN_LOCAL") or ".local") / "outputs.json")
        return _deployed(stage, environment)

    @staticmethod
    def read(path: Path) -> "Outputs":
        try:
            return Outputs.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NoStackError(f"no stack is running here ({path} does not exist): run `make up`") from None
        except ValidationError as invalid:
            first = invalid.errors()[0]
            name = ".".join(map(str, first["loc"])) or "the file"
            raise NoStackError(
                f"{path} is not a valid outputs.json ({name}: {first['msg'].lower()})"
            ) from None

    def aws(self, service: str, *, attempts: int = 5) -> Client:
        """Return a boto3 client with short timeouts, because a person waits for the command."""
        config = Config(
            connect_timeout=3,
            read_timeout=30,
            retries={"mode": "standard", "max_attempts": attempts},
            max_pool_connections=32,
            proxies=NO_PROXIES if self.aws_endpoint_url else None,
        )
        session = emulator_session(self.region) if self.aws_endpoint_url else boto3.Session()
        client: Callable[..., Client] = session.client
        return client(service, region_name=self.region, endpoint_url=self.aws_endpoint_url, config=config)

    @property
    def aws_command(self) -> str:
        """Return the shell command `aws`, with keys, endpoint and region if the stage runs on an emulator."""
        if self.aws_endpoint_url is None:
            return "aws"
        keys = "AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test"
        return f"{keys} aws --endpoint-url {self.aws_endpoint_url} --region {self.region}"

    def access(self) -> Access:
        """Return Milkrun's own AWS clients for the stage, which need a tenth of boto3's CPU time per call."""
        if self.aws_endpoint_url:
            endpoints = {"AWS_ENDPOINT_URL": self.aws_endpoint_url}
            return Access(self.region, FixedCredentials("test", "test", None), endpoints)
        return Access(self.region, session_credentials(), {})

    @contextmanager
    def warehouse(self, give_up_after_s: int | None = None) -> Iterator[Snowflake]:
        """Open a Snowflake session with the operator's role. The first call takes seconds to import the connector.

        Raises NoStackError if the database loads the bucket of another stage, because SNOWFLAKE_DATABASE is wrong.
        """
        with connect(self.snowflake, give_up_after_s, role=operator) as session:
            if url := other_location(session, self.database, self.bucket):
                raise NoStackError(
                    f"the database {self.database} loads {url}, but the stage's bucket is {self.bucket}: set "
                    "SNOWFLAKE_DATABASE to the stage's database"
                )
            yield session

    @property
    def database(self) -> str:
        return self.snowflake.database


def tags_of(text: str | None) -> tuple[str, ...]:
    """Return the tags in a comma-separated setting, or EXCLUSIVE_TAGS if the stage lacks the setting."""
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
    """Return the environment variables with which a child process uses the stage's warehouse.

    Raises NoStackError if the stage is deployed and SNOWFLAKE_ACCOUNT is not set, because the child process would then
    use the local warehouse.
    """
    if stage == "local":
        return {name: value for name, value in environment.items() if not name.startswith("SNOWFLAKE_")}
    if not environment.get("SNOWFLAKE_ACCOUNT"):
        raise NoStackError(
            f"stage {stage} uses a Snowflake account: set SNOWFLAKE_ACCOUNT and the other SNOWFLAKE_* variables"
        )
    if environment.get("SNOWFLAKE_DATABASE"):
        return environment
    return {**environment, "SNOWFLAKE_DATABASE": f"MILKRUN_{stage.upper().replace('-', '_')}"}


def _deployed(stage: str, environment: Mapping[str, str]) -> Outputs:
    import botocore.exceptions

    # boto3 reads AWS_DEFAULT_REGION and profiles; osls and the AWS CLI also read AWS_REGION.
    session = boto3.Session(region_name=environment.get("AWS_REGION"))
    try:
        stacks = session.client("cloudformation").describe_stacks(StackName=f"milkrun-{stage}")["Stacks"]
        named = {o["OutputKey"]: o["OutputValue"] for o in stacks[0].get("Outputs", ())}
        named_so = session.client("apigateway").get_api_keys(
            nameQuery=f"milkrun-{stage}-app", includeValues=True
        )
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        if getattr(error, "response", {}).get("Error", {}).get("Code") != "ValidationError":
            raise NoStackError(f"stage {stage} could not be looked up: {error}") from None
        # CloudFormation also returns ValidationError for invalid names. This one is valid, so the stack does not exist.
        raise NoStackError(f"stage {stage} was not found: {error}{_deployed_stages(session)}") from None
    warehouse = load(environment_of(stage, environment)).connection
    # The query matches prefixes, so for a stage "dev" it also finds the keys of a stage "dev-app".
    names = [f"milkrun-{stage}-app{slot}" for slot in ("", "-2")]
    keys = {key["name"]: key["value"] for key in named_so["items"] if key["name"] in names}
    if not keys:
        raise NoStackError(f"stage {stage} has no API key named milkrun-{stage}-app")
    if missing := _NAMED - named.keys():
        raise NoStackError(
            f"stage {stage} is not completely deployed: its stack has no output {min(missing)}"
        )
    api, url = named["RestApiId"], environment.get("AWS_ENDPOINT_URL", "").rstrip("/")
    # To try docs/deploy.md, any stage can be deployed to LocalStack on this machine.
    local = url if urlsplit(url).hostname in LOOPBACK else None
    host = f"https://{api}.execute-api.{session.region_name}.amazonaws.com"
    if local:
        host = f"{local}/_aws/execute-api/{api}"
    return Outputs(
        endpoint=f"{host}/{stage}/v1/events",
        api_key=keys[min(keys)],
        aws_endpoint_url=local,
        region=session.region_name,
        bucket=named["ArchiveBucketName"],
        stream=named["GeofenceStreamName"],
        visits_table=named["VisitsTableName"],
        redrive_queue_url=named["RedriveQueueUrl"],
        dead_letter_queue_url=named["DeadLetterQueueUrl"],
        exclusive_tags=tags_of(named.get("ExclusiveTags")),
        freshness_minutes=int(named.get("FreshnessMinutes") or 60),
        time_zone=named.get("FleetTimeZone") or "UTC",
        ingest_function=f"milkrun-{stage}-ingest" if named.get("Identity") == "required" else None,
        snowflake=warehouse,
    )


def _deployed_stages(session: boto3.Session) -> str:
    """Return the end of an error message, which lists this account's stages in this region and the stage `local`.

    Return "" if the stages cannot be listed.
    """
    import botocore.exceptions

    try:
        pages = session.client("cloudformation").get_paginator("describe_stacks").paginate()
        # The other stacks of docs/deploy.md, such as milkrun-deploy-dev, do not have this output.
        names = [
            stack["StackName"]
            for page in pages
            for stack in page["Stacks"]
            if any(output["OutputKey"] == "RestApiId" for output in stack.get("Outputs", ()))
        ]
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
        return ""
    stages = sorted(name.removeprefix("milkrun-") for name in names if name.startswith("milkrun-"))
    return f". Stages in {session.region_name}: {', '.join(stages) or 'none'}; on this machine: local"
