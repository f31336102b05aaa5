"""The numbered DDL files, with their parameters filled in.

A placeholder `{name}` stands for an identifier, a number, or part of a string literal. Values contain no
quote, backslash, space or semicolon, so they cannot change a statement's structure.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from sqlglot import Token, TokenType

DDL = Path(__file__).parent / "ddl"


def _plain(word: str) -> str:
    # Reserved words (TRUE, TABLE) are not valid as unquoted names.
    if [token.token_type for token in tokens(word)] != [TokenType.VAR]:
        raise ValueError(f"{word} is a reserved word in SQL")
    return word


Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,127}$"), AfterValidator(_plain)]
Bucket = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Arn = Annotated[
    str, StringConstraints(pattern=r"^arn:aws[a-z-]*:(sns|iam):[a-z0-9-]*:[0-9]{12}:[A-Za-z0-9_+=,.@/-]+$")
]
# The external ids that STS accepts (AssumeRole, parameter ExternalId).
ExternalId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+=,.@:/-]{2,1224}$")]
# Credits per month (CREATE RESOURCE MONITOR, CREDIT_QUOTA).
CreditQuota = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,6}$")]


class Parameters(BaseModel):
    """The parameters of the DDL, which differ from stage to stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: Identifier
    warehouse: Identifier
    bucket: Bucket
    topic_arn: Arn
    storage_role_arn: Arn
    external_id: ExternalId
    credit_quota: CreditQuota | None = None
    error_topic_arn: Arn | None = None
    error_role_arn: Arn | None = None

    @property
    def partition(self) -> str:
        """Return the AWS partition, such as `aws` or `aws-cn`."""
        return self.topic_arn.split(":")[1]


@dataclass(frozen=True)
class Definition:
    """One DDL file, with its parameters filled in."""

    path: Path
    sql: str

    @property
    def number(self) -> str:
        return self.path.name[:2]

    @property
    def is_pipe(self) -> bool:
        return "_pipe_" in self.path.name

    @cached_property
    def statements(self) -> tuple[str, ...]:
        return tuple(statements(self.sql))

    @property
    def pipe(self) -> str:
        """Return the pipe's fully qualified name, such as MILKRUN.RAW.EVENTS_PIPE."""
        found = re.search(r"^CREATE PIPE IF NOT EXISTS ([\w.]+)$", self.sql, re.MULTILINE)
        assert found, f"{self.path.name} defines no pipe"
        return found[1]

    @property
    def copy_statement(self) -> str:
        """Return the pipe's COPY statement as SHOW PIPES shows it in the column `definition`."""
        (create,) = self.statements
        return create[create.index("\nCOPY INTO") + 1 :]


def fill(sql: str, parameters: Parameters) -> str:
    """Replace every `{name}` in the SQL text with the parameter's value. Raises KeyError for an unknown name."""
    values = parameters.model_dump()
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], sql)


def definitions(parameters: Parameters, folder: Path = DDL) -> list[Definition]:
    """Return the DDL files in numerical order, except those that use a parameter that is not set."""
    unset = {f"{{{name}}}" for name, value in parameters if value is None}
    files = [(path, path.read_text()) for path in sorted(folder.glob("[0-9]*.sql"))]
    return [
        Definition(path, fill(sql, parameters))
        for path, sql in files
        if not any(name in sql for name in unset)
    ]


def tokens(sql: str) -> list[Token]:
    from sqlglot.dialects.snowflake import Snowflake

    return Snowflake().tokenize(sql)


def statements(sql: str) -> Iterator[str]:
    """Yield the statements of a SQL script, with their comments but without semicolons."""
    start = 0
    for token in tokens(sql):
        if token.token_type is TokenType.SEMICOLON:
            yield sql[start : token.start].strip()
            start = token.end + 1
    if tokens(sql[start:]):
        yield sql[start:].strip()


def same_statement(one: str, other: str) -> bool:
    """Return whether two statements are equal apart from whitespace, comments, and the case of unquoted words."""

    def words(sql: str) -> list[tuple[bool, str]]:
        quoted = (TokenType.STRING, TokenType.IDENTIFIER)
        return [
            (t.token_type in quoted, t.text if t.token_type in quoted else t.text.upper())
            for t in tokens(sql)
            if t.token_type is not TokenType.SEMICOLON
        ]

    return words(one) == words(other)
