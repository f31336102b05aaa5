"""The stage that a command works on, and the options that the commands share."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.deadline import NoAnswerError, within
from cli.refusal import Refusal
from snowpipe import archive, ddl_files, pipes, warehouse
from snowpipe.archive import Archive
from snowpipe.ddl_files import Definition, Parameters
from snowpipe.pipes import Kind, Pipe
from snowpipe.roles import Role
from snowpipe.settings import Settings, load
from snowpipe.warehouse import Snowflake

Outputs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The outputs.json of a local stack. Default: the SNOWFLAKE_* variables, or else the running stack.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Which = Annotated[Kind | None, typer.Option("--pipe", help="Select only this pipe. Default: both pipes.")]
Since = Annotated[str, typer.Option(metavar="TIME", help="Include only loads at this time or later.")]


@dataclass
class Stage:
    """The stage that a command works on; its resources are looked up on first use."""

    settings: Settings

    @cached_property
    def parameters(self) -> Parameters:
        if self.settings.aws.topic_arn is None:
            self._require_s3()
        return archive.parameters(self.settings)

    @cached_property
    def ddl(self) -> list[Definition]:
        return ddl_files.definitions(self.parameters)

    @cached_property
    def archive(self) -> Archive:
        self._require_s3()
        return Archive(archive.s3_client(self.settings.aws), archive.bucket_of(self.settings))

    def _require_s3(self) -> None:
        """Raise NoAnswerError if S3 does not respond within ANSWER_SECONDS.

        boto3 alone would make five attempts of a minute each.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # imported here, because it takes 0.2 s

        s3, bucket = archive.s3_client(self.settings.aws), archive.bucket_of(self.settings)
        with suppress(BotoCoreError, ClientError):  # the call that follows reports it
            try:
                within(warehouse.ANSWER_SECONDS, lambda: s3.head_bucket(Bucket=bucket), "S3")
            except NoAnswerError as error:
                raise NoAnswerError(f'{error}, see docs/runbook.md, "S3 unreachable"') from None

    @contextmanager
    def warehouse(self, role: Role) -> Iterator[Snowflake]:
        with warehouse.connect(self.settings.connection, role=role) as session:
            yield session

    @contextmanager
    def checked_warehouse(self, role: Role) -> Iterator[Snowflake]:
        """Like `warehouse`, but raise Refusal if the database loads from a bucket other than the configured one."""
        with self.warehouse(role) as session:
            database, bucket = self.settings.connection.database, self.settings.aws.bucket
            if bucket and (url := pipes.other_location(session, database, bucket)):
                raise Refusal(
                    f"the database {database} loads {url}, but the configured bucket is {bucket}: correct "
                    "SNOWFLAKE_DATABASE or MILKRUN_BUCKET"
                )
            yield session

    def pipes(self, kind: Kind | None = None) -> list[Pipe]:
        return pipes.pipes(self.settings.connection.database, kind)

    def definition(self, pipe: Pipe) -> Definition:
        return next(d for d in self.ddl if d.is_pipe and d.pipe == pipe.name)

    def refuse_to_change_aws(self) -> None:
        if not self.settings.aws.is_emulated:
            raise Refusal(
                "--write is refused: CloudFormation owns the role and the topic's policy of a "
                "deployed stage, and its next deployment would undo the change. Run milkrun warehouse "
                "bootstrap without --write: it prints the settings to change in serverless/stage_settings.yml."
            )

    def aws(self, service: str) -> Any:
        return archive.client(self.settings.aws, service)


def stage_of(context: typer.Context, outputs: Path | None) -> Stage:
    """Return the stage that the command works on; `context.obj` contains the process's environment variables."""
    return Stage(load(context.obj, outputs))
