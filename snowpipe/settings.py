"""The settings of the warehouse and the archive, from the environment or from a stack's outputs.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, StringConstraints, ValidationError, model_validator

from cli.refusal import Refusal
from snowpipe.roles import Role

# Names are unquoted in statements, so only safe characters are allowed.
Database = Annotated[str, StringConstraints(to_upper=True, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class Connection(BaseModel):
    """The settings of a connection to Snowflake, with exactly one of four ways to sign in.

    The four ways are a key pair (`private_key_file`); a programmatic access token (`token` or
    `token_file_path`); workload identity federation (`workload_identity_provider`, such as AWS, or OIDC with
    a token), which needs no stored secret; and a password, which Snowflake accepts only with a second factor, except
    in trial accounts. The fields are named like the environment variables of Snowflake CLI.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    account: str
    user: str = ""  # workload identity federation needs no user name
    password: SecretStr | None = None
    private_key_file: Path | None = None
    private_key_file_pwd: SecretStr | None = None
    token: SecretStr | None = None
    token_file_path: Path | None = None
    workload_identity_provider: str | None = None
    host: str | None = None
    port: int = 443
    protocol: str = "https"
    database: Database = "MILKRUN"
    warehouse: str = ""  # default: <database>_WH, so that no two stages share a warehouse
    role: str | None = None

    @model_validator(mode="after")
    def _one_way_to_sign_in(self) -> "Connection":
        ways = {
            "PASSWORD": self.password,
            "PRIVATE_KEY_FILE": self.private_key_file,
            "TOKEN or TOKEN_FILE_PATH": self.token or self.token_file_path,
            "WORKLOAD_IDENTITY_PROVIDER": self.workload_identity_provider,
        }
        chosen = [name for name, value in ways.items() if value]
        if self.workload_identity_provider and "TOKEN or TOKEN_FILE_PATH" in chosen:
            chosen.remove("TOKEN or TOKEN_FILE_PATH")  # the token is part of the OIDC method
        if len(chosen) != 1:
            raise ValueError(
                f"to sign in, set exactly one of {', '.join(ways)} (each with the prefix SNOWFLAKE_); "
                f"currently set: {', '.join(chosen) or 'none'}"
            )
        if not self.user and not self.workload_identity_provider:
            raise ValueError("SNOWFLAKE_USER is not set")
        return self

    @model_validator(mode="after")
    def _name_warehouse(self) -> "Connection":
        if not self.warehouse:
            object.__setattr__(self, "warehouse", f"{self.database}_WH")
        return self

    def using(self, role: Role) -> "Connection":
        """Return the connection settings with a command's role, or unchanged settings if SNOWFLAKE_ROLE is set."""
        return self if self.role else self.model_copy(update={"role": role(self.database)})


class Aws(BaseModel):
    """The settings of the stage's AWS resources.

    The topic, the role and the external id are derived if they are None. The resource monitor and the error
    notifications are created only if their settings are given.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    region: str | None = None
    aws_endpoint_url: str | None = None
    bucket: str | None = None
    topic_arn: str | None = None
    storage_role_arn: str | None = None
    external_id: str | None = None
    credit_quota: str | None = None
    error_topic_arn: str | None = None
    error_role_arn: str | None = None

    @property
    def is_emulated(self) -> bool:
        """Return whether AWS is emulated by LocalStack or moto, that is, whether the endpoint is outside AWS's domains.

        AWS's own endpoints, including those in a VPC, are in these domains.
        """
        host = urlsplit(self.aws_endpoint_url or "").hostname
        return host is not None and not host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    connection: Connection
    aws: Aws
    folder: Path  # where the commands keep their files: dbt's target folder, the progress of `recreate`
    source: str  # where the settings come from, for messages


def load_aws(environment: Mapping[str, str], outputs: Path | None = None) -> Aws:
    """Return only the AWS settings, from the stack's outputs.json if it exists, otherwise from the environment."""
    path = outputs or Path(environment.get("MILKRUN_LOCAL") or ".local") / "outputs.json"
    if outputs or path.exists():
        return load(environment, path).aws
    return Aws(**_from_environment(environment)["aws"])


def load(environment: Mapping[str, str], outputs: Path | None = None) -> Settings:
    """Return the settings.

    They come from `outputs` if it is given, otherwise from the environment if it contains SNOWFLAKE_ACCOUNT,
    and otherwise from the local stack.
    """
    folder = Path(environment.get("MILKRUN_LOCAL") or ".local")
    if outputs is None and "SNOWFLAKE_ACCOUNT" in environment:
        # Names of databases and warehouses are unique per Snowflake account, and stages may share an account.
        if not environment.get("SNOWFLAKE_DATABASE"):
            raise Refusal(
                "SNOWFLAKE_DATABASE is not set: set it to the stage's database, such as MILKRUN_DEV"
            )
        return _settings(_from_environment(environment), folder, "the environment")
    path = outputs or folder / "outputs.json"
    try:
        found = json.loads(path.read_text())
        connection = found.pop("snowflake")
    except FileNotFoundError:
        raise Refusal(
            f"{path} does not exist: run make up, or set SNOWFLAKE_ACCOUNT and the other SNOWFLAKE_* "
            "variables"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise Refusal(f"{path} is not a valid outputs.json: {problem!r}") from None
    return _settings({"connection": connection, "aws": found}, path.parent, str(path))


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    def named(prefix: str, *names: str) -> dict[str, str]:
        return {
            n: environment[f"{prefix}{n.upper()}"] for n in names if environment.get(f"{prefix}{n.upper()}")
        }

    aws = named("", "aws_endpoint_url") | named(
        "SNOWFLAKE_", "storage_role_arn", "external_id", "credit_quota", "error_role_arn"
    )
    aws |= named("MILKRUN_", "bucket", "topic_arn", "error_topic_arn")
    if region := environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"):
        aws["region"] = region
    return {"connection": named("SNOWFLAKE_", *Connection.model_fields), "aws": aws}


def _settings(found: dict[str, object], folder: Path, source: str) -> Settings:
    try:
        return Settings(**found, folder=folder, source=source)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise Refusal(f"{source}: {name}: {first['msg']}") from None
