"""Where a running stack is: what `make up` writes to `outputs.json`, read once and turned into clients."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from pydantic import BaseModel, ConfigDict


class NoStackError(Exception):
    """There is no stack to speak to; the message says what to do."""


class Snowflake(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    account: str
    user: str
    password: str
    database: str
    warehouse: str
    host: str | None = None
    port: int | None = None
    protocol: str | None = None


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
    snowflake: Snowflake

    @staticmethod
    def read(path: Path) -> "Outputs":
        try:
            return Outputs.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NoStackError(f"no stack is running here ({path} is missing): run `make up`") from None

    def aws(self, service: str) -> Any:
        """A boto3 client that gives up soon enough for somebody who waits at a terminal."""
        # LocalStack takes any credentials but wants some.
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"} if self.aws_endpoint_url else {}
        config = Config(
            connect_timeout=3,
            read_timeout=30,
            retries={"mode": "standard", "max_attempts": 5},
            max_pool_connections=32,
        )
        return boto3.client(  # type: ignore[call-overload]
            service, region_name=self.region, endpoint_url=self.aws_endpoint_url, config=config, **keys
        )

    @contextmanager
    def warehouse(self) -> Iterator[Any]:
        """A connection of the ordinary Snowflake connector."""
        import snowflake.connector

        connection = snowflake.connector.connect(**self.snowflake.model_dump(exclude_none=True))
        try:
            yield connection
        finally:
            connection.close()
