"""A separate stage on a local Snowflake for each warehouse test, and a function that runs commands on it."""

import contextlib
import io
import json
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from contract.archive_object import Prefix, lines_object
from local_snowflake.testing import Aws, LocalProcess, eventually
from snowpipe import apply, archive, settings, warehouse
from snowpipe.cli import main
from snowpipe.ddl_files import definitions


@dataclass(frozen=True)
class CommandResult:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> object:
        return json.loads(self.out)


def command(environment: dict[str, str], *arguments: str) -> CommandResult:
    """Run `milkrun warehouse …` in this process; return its exit code and output."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments, environment)
    return CommandResult(code, out.getvalue(), err.getvalue())


@dataclass
class Stage:
    """A stage for one test: a bucket, a topic, a database, and the outputs.json that the commands read."""

    folder: Path
    local: LocalProcess
    aws: Aws
    database: str = field(default_factory=lambda: f"WH_{uuid.uuid4().hex[:8].upper()}")

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bucket, self.topic = self.aws.bucket()
        self.outputs = {
            "aws_endpoint_url": self.aws.endpoint,
            "region": "us-east-1",
            "bucket": self.bucket,
            "snowflake": {
                "account": "local",
                "host": "127.0.0.1",
                "port": self.local.port,
                "protocol": "http",
                "user": "milkrun",
                "password": "milkrun",
                "database": self.database,
                "warehouse": "MILKRUN_WH",
            },
        }
        (self.folder / "outputs.json").write_text(json.dumps(self.outputs))
        self.environment = {"MILKRUN_LOCAL": str(self.folder), "PATH": "/usr/bin:/bin"}
        self.session = warehouse.connect(settings.load(self.environment).connection)
        self.warehouse = self.session.__enter__()
        self.lines = 0

    def close(self) -> None:
        self.session.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *arguments: str) -> CommandResult:
        return command(self.environment, *arguments)

    def done(self, *arguments: str) -> CommandResult:
        said = self.run(*arguments)
        assert said.code == 0, said
        return said

    def put(
        self, events: Iterable[object], prefix: Prefix = "events", received_at: datetime | None = None
    ) -> str:
        """Write the events to the archive as one object, as the handler does; return the object's key."""
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in events]
        made = lines_object(prefix, lines, received_at or datetime.now(UTC))
        self.aws.s3.put_object(Bucket=self.bucket, Key=made.key, Body=made.body)
        return made.key

    def create_objects(self) -> None:
        """Run the DDL without the comparison that `apply` makes afterwards, which takes longer than the DDL."""
        known = archive.parameters(settings.load(self.environment))
        apply.run(self.warehouse, definitions(known))

    def query(self, sql: str) -> list[dict[str, object]]:
        return self.warehouse.query(sql)

    def one(self, sql: str) -> str:
        (row,) = self.query(sql)
        (value,) = row.values()
        return str(value)

    def count(self, table: str = "RAW.EVENTS") -> int:
        return int(self.one(f"SELECT COUNT(*) FROM {self.database}.{table}"))

    def loaded(self, keys: Sequence[str], table: str = "RAW.EVENTS") -> None:
        """Wait until the table contains rows from each of these objects."""
        quoted = ", ".join(f"'{key}'" for key in keys)
        sql = f"SELECT COUNT(DISTINCT FILE_NAME) FROM {self.database}.{table} WHERE FILE_NAME IN ({quoted})"
        eventually(lambda: int(self.one(sql)), lambda found: found == len(set(keys)))

    def rows_of(self, key: str) -> int:
        return int(self.one(f"SELECT COUNT(*) FROM {self.database}.RAW.EVENTS WHERE FILE_NAME = '{key}'"))
