"""Test that every grant in the DDL is needed: if it is revoked, at least one of the project's statements fails.

No stack is needed. Each privilege in the GRANT statements of snowpipe/ddl is revoked separately. The tested
statements are those that the commands, dbt, the pipe check and readers run with their roles
(docs/warehouse.md, docs/deploy.md).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cli.refusal import Refusal
from local_snowflake.testing import Aws, LocalProcess
from snowpipe import settings, warehouse
from snowpipe.ddl_files import DDL
from snowpipe.pipe_check.metrics import failed_loads_sql
from snowpipe.warehouse import Row, Snowflake
from tests.unit.snowpipe.warehouse_stage import Stage

PIPES = ("EVENTS", "REJECTED")
COPY = """COPY INTO {{database}}.RAW.{name} (payload, file_name, file_row_number, file_modified_at, scanned_at)
FROM (SELECT $1, METADATA$FILENAME, METADATA$FILE_ROW_NUMBER, METADATA$FILE_LAST_MODIFIED,
    METADATA$START_SCAN_TIME FROM @{{database}}.RAW.{name}_STAGE)
FILE_FORMAT = (FORMAT_NAME = '{{database}}.RAW.NDJSON') ON_ERROR = SKIP_FILE"""
HISTORY = """SELECT FILE_NAME FROM TABLE({{database}}.INFORMATION_SCHEMA.COPY_HISTORY(
    TABLE_NAME => '{{database}}.RAW.{name}', START_TIME => DATEADD('hour', -1, CURRENT_TIMESTAMP())))"""


def for_both_pipes(*statements: str) -> tuple[str, ...]:
    return tuple(statement.format(name=name) for name in PIPES for statement in statements)


# The statements of each role, in order. A statement may begin with the name of another role that runs it.
STATEMENTS: dict[str, tuple[str, ...]] = {
    # `milkrun warehouse` status, pause, resume, refresh, backfill, history and reload
    "LOADER": (
        *for_both_pipes(
            "SELECT SYSTEM$PIPE_STATUS('{{database}}.RAW.{name}_PIPE') AS status",
            "ALTER PIPE {{database}}.RAW.{name}_PIPE SET PIPE_EXECUTION_PAUSED = TRUE",
            "ALTER PIPE {{database}}.RAW.{name}_PIPE SET PIPE_EXECUTION_PAUSED = FALSE",
            "ALTER PIPE {{database}}.RAW.{name}_PIPE REFRESH",
            COPY,
            HISTORY,
            "SELECT DISTINCT file_name FROM {{database}}.RAW.{name}",
            "DELETE FROM {{database}}.RAW.{name} WHERE file_name = 'none'",
        ),
        *(
            f"SELECT * FROM {{database}}.OPS.{view}"
            for view in ("LOADED_FILES", "LOAD_DELAYS", "LOAD_FAILURES")
        ),
    ),
    # dbt: tables (also of incremental models) and views, in the session's schema
    "TRANSFORMER": (
        "SELECT payload FROM {database}.RAW.EVENTS",
        "SELECT payload FROM {database}.RAW.REJECTED",
        *(
            statement.replace("HOME", schema)
            for schema in ("STAGING", "MARTS")
            for statement in (
                "USE SCHEMA {database}.HOME",
                "CREATE OR REPLACE TABLE {database}.HOME.A_TABLE AS SELECT file_name FROM {database}.RAW.EVENTS",
                "CREATE OR REPLACE VIEW {database}.HOME.A_VIEW AS SELECT * FROM {database}.HOME.A_TABLE",
            )
        ),
    ),
    # existing marts, and marts that dbt creates again
    "READER": (
        "SELECT * FROM {database}.MARTS.A_TABLE",
        "SELECT * FROM {database}.MARTS.A_VIEW",
        "TRANSFORMER: CREATE OR REPLACE TABLE {database}.MARTS.B_TABLE AS SELECT 1 AS a",
        "SELECT * FROM {database}.MARTS.B_TABLE",
        "TRANSFORMER: CREATE OR REPLACE VIEW {database}.MARTS.B_VIEW AS SELECT 1 AS a",
        "SELECT * FROM {database}.MARTS.B_VIEW",
    ),
    # `milkrun warehouse query`, and the commands outside `milkrun warehouse`
    "OPERATOR": (
        "SELECT COUNT(*) AS n FROM {database}.RAW.EVENTS",
        "SELECT * FROM {database}.MARTS.A_TABLE",
        "SELECT * FROM {database}.STAGING.A_TABLE",
        "SELECT * FROM {database}.STAGING.A_VIEW",
        "TRANSFORMER: CREATE OR REPLACE TABLE {database}.STAGING.B_TABLE AS SELECT 1 AS a",
        "SELECT * FROM {database}.STAGING.B_TABLE",
        "TRANSFORMER: CREATE OR REPLACE VIEW {database}.STAGING.B_VIEW AS SELECT 1 AS a",
        "SELECT * FROM {database}.STAGING.B_VIEW",
    ),
    # the scheduled check (snowpipe/pipe_check/main.py)
    "WATCHER": (
        *for_both_pipes("SELECT SYSTEM$PIPE_STATUS('{{database}}.RAW.{name}_PIPE') AS status"),
        failed_loads_sql("{database}"),
    ),
}
ROLES = tuple(STATEMENTS)


@dataclass(frozen=True)
class Grant:
    """A grant in the DDL: a privilege on an object, or another role, granted to `role`. Names may contain
    placeholders, such as `{database}`.
    """

    privilege: str
    on: str
    role: str

    def sql(self, verb: str, database: str) -> str:
        preposition = "TO" if verb == "GRANT" else "FROM"
        what = f"{self.privilege} ON {self.on}" if self.on else self.privilege
        return f"{verb} {what} {preposition} ROLE {self.role}".format(
            database=database, warehouse="MILKRUN_WH"
        )


def grants_of_the_ddl(folder: Path = DDL) -> list[Grant]:
    text = "\n".join(path.read_text() for path in sorted(folder.glob("*.sql")))
    found = []
    for privileges, on, role in re.findall(r"^GRANT (.+?)(?: ON (.+?))? TO ROLE (\S+);$", text, re.MULTILINE):
        found += [Grant(privilege.strip(), on, role) for privilege in privileges.split(",")]
    assert len(found) >= len(re.findall(r"^GRANT ", text, re.MULTILINE)), "a GRANT was not parsed"
    return found


GRANTS = grants_of_the_ddl()


@dataclass
class Roles:
    """A stage with one session per role, and an administrator's session with only SYSADMIN."""

    stage: Stage
    sessions: dict[str, Snowflake] = field(default_factory=dict)

    def run(self, role: str, statement: str) -> list[Row]:
        other, _, sql = statement.rpartition(": ")
        if other in ROLES:
            role, statement = other, sql
        return self.sessions[role].query(statement.format(database=self.stage.database))

    def refusals(self, role: str, statements: Sequence[str]) -> Iterator[str]:
        """Run the statements with this role, and yield the error message of each statement that is refused."""
        for statement in statements:
            try:
                self.run(role, statement)
            except Refusal as refusal:
                yield str(refusal)

    def can_be_used_by_an_administrator(self, role: str) -> bool:
        return not [*self.refusals("SYSADMIN", [f"USE ROLE {{database}}_{role}", "USE ROLE SYSADMIN"])]


@pytest.fixture(scope="module")
def roles(aws: Aws, local: LocalProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    with ExitStack() as stack:
        stage = Stage(tmp_path_factory.mktemp("grants") / "stage", local, aws)
        stack.callback(stage.close)
        stage.create_objects()
        stage.query("CREATE USER SYSTEMS DEFAULT_ROLE = SYSADMIN DEFAULT_SECONDARY_ROLES = ()")
        stage.query("GRANT ROLE SYSADMIN TO USER SYSTEMS")
        connection = settings.load(stage.environment).connection
        made = Roles(stage)
        for role in ROLES:
            named = connection.model_copy(update={"role": f"{stage.database}_{role}"})
            made.sessions[role] = stack.enter_context(warehouse.connect(named))
        systems = connection.model_copy(update={"user": "SYSTEMS", "role": "SYSADMIN"})
        made.sessions["SYSADMIN"] = stack.enter_context(warehouse.connect(systems))
        for role in ROLES:
            assert [*made.refusals(role, STATEMENTS[role])] == [], (
                "a statement is refused even with all grants"
            )
        yield made
        for role in ROLES:
            assert [*made.refusals(role, STATEMENTS[role])] == [], "a revoked privilege was not granted again"


def test_every_role_in_the_ddl_has_tested_statements_and_is_granted_to_sysadmin(roles: Roles) -> None:
    """Objects that dbt creates are owned by dbt's role. No administrator could read them if SYSADMIN had not
    been granted that role.
    """
    text = "\n".join(path.read_text() for path in DDL.glob("*.sql"))
    assert set(re.findall(r"CREATE ROLE IF NOT EXISTS {database}_(\w+)", text)) == set(ROLES)
    assert [role for role in ROLES if not roles.can_be_used_by_an_administrator(role)] == []


@pytest.mark.parametrize("grant", GRANTS, ids=lambda grant: grant.sql("GRANT", "DB").removeprefix("GRANT "))
def test_revoking_any_grant_makes_a_statement_fail(roles: Roles, grant: Grant) -> None:
    database = roles.stage.database
    role = grant.role.removeprefix("{database}_")
    roles.stage.query(grant.sql("REVOKE", database))
    try:
        if role == "SYSADMIN":
            assert not roles.can_be_used_by_an_administrator(grant.privilege.rpartition("_")[2])
        else:
            assert any(roles.refusals(role, STATEMENTS[role]))  # stops at the first refusal
    finally:
        roles.stage.query(grant.sql("GRANT", database))
