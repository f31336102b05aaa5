"""Test which privileges a statement requires. Sources: Snowflake's page "Access control privileges", and the
section "Access control requirements" of each command's page.
"""

from collections.abc import Callable

import pytest

from local_snowflake.testing import LocalProcess, Warehouse, eventually

ABSENT = "does not exist or not authorized"
INSUFFICIENT = "Insufficient privileges"


@pytest.fixture
def role(loading: Warehouse) -> Callable[..., str]:
    """Return a function that creates a role with given privileges. By default, the role also gets USAGE on the
    database and its schema RAW.
    """

    def made(*grants: str, enters: bool = True) -> str:
        name = f"{loading.database}_R{len(loading.run('SHOW ROLES'))}"
        loading.run(f"CREATE ROLE {name}")
        loading.run(f"GRANT ROLE {name} TO ROLE ACCOUNTADMIN")
        if enters:
            loading.run(f"GRANT USAGE ON DATABASE {loading.database} TO ROLE {name}")
            loading.run(f"GRANT USAGE ON SCHEMA {loading.database}.RAW TO ROLE {name}")
        for grant in grants:
            loading.run(f"GRANT {grant} TO ROLE {name}")
        return name

    return made


@pytest.fixture(autouse=True)
def objects(loading: Warehouse) -> None:
    loading.run("CREATE TABLE RAW.T (a INT)")
    loading.run("INSERT INTO RAW.T VALUES (1)")
    loading.run("CREATE TABLE RAW.U (a INT)")
    loading.run("CREATE VIEW RAW.V AS SELECT a FROM RAW.T")
    loading.run("CREATE FILE FORMAT RAW.F TYPE = JSON")


COPY = """COPY INTO RAW.EVENTS (payload, file_name, file_row_number, file_modified_at, scanned_at)
    FROM (SELECT $1, METADATA$FILENAME, METADATA$FILE_ROW_NUMBER, METADATA$FILE_LAST_MODIFIED,
                 METADATA$START_SCAN_TIME FROM @RAW.EVENTS_STAGE)"""
PIPE = "CREATE PIPE RAW.P AUTO_INGEST = FALSE AS " + COPY

NEEDS = {
    "SELECT a FROM RAW.T": ("SELECT ON TABLE RAW.T",),
    "SELECT a FROM RAW.V": ("SELECT ON VIEW RAW.V",),
    "SELECT 1 AS x WHERE EXISTS (SELECT 1 FROM RAW.T)": ("SELECT ON TABLE RAW.T",),
    "WITH t AS (SELECT a FROM RAW.T) SELECT a FROM t": ("SELECT ON TABLE RAW.T",),
    "INSERT INTO RAW.T VALUES (2)": ("INSERT ON TABLE RAW.T",),
    "INSERT INTO RAW.U SELECT a FROM RAW.T": ("INSERT ON TABLE RAW.U", "SELECT ON TABLE RAW.T"),
    "INSERT OVERWRITE INTO RAW.T VALUES (2)": ("INSERT ON TABLE RAW.T", "DELETE ON TABLE RAW.T"),
    "UPDATE RAW.T SET a = 2": ("UPDATE ON TABLE RAW.T",),
    "DELETE FROM RAW.T WHERE a = 1": ("DELETE ON TABLE RAW.T",),
    "TRUNCATE TABLE RAW.T": ("TRUNCATE ON TABLE RAW.T",),
    "MERGE INTO RAW.T USING RAW.U ON T.a = U.a WHEN MATCHED THEN UPDATE SET a = 1 "
    "WHEN NOT MATCHED THEN INSERT (a) VALUES (U.a)": (
        "SELECT ON TABLE RAW.T",
        "INSERT ON TABLE RAW.T",
        "UPDATE ON TABLE RAW.T",
        "SELECT ON TABLE RAW.U",
    ),
    "MERGE INTO RAW.T USING RAW.U ON T.a = U.a WHEN MATCHED THEN DELETE": (
        "SELECT ON TABLE RAW.T",
        "DELETE ON TABLE RAW.T",
        "SELECT ON TABLE RAW.U",
    ),
    "CREATE TABLE RAW.N (a INT)": ("CREATE TABLE ON SCHEMA RAW",),
    "CREATE TABLE RAW.N AS SELECT a FROM RAW.T": ("CREATE TABLE ON SCHEMA RAW", "SELECT ON TABLE RAW.T"),
    "CREATE VIEW RAW.N AS SELECT a FROM RAW.T": ("CREATE VIEW ON SCHEMA RAW", "SELECT ON TABLE RAW.T"),
    "CREATE SEQUENCE RAW.N": ("CREATE SEQUENCE ON SCHEMA RAW",),
    "CREATE FILE FORMAT RAW.N TYPE = JSON": ("CREATE FILE FORMAT ON SCHEMA RAW",),
    "CREATE STAGE RAW.N URL = 's3://{bucket}/n/'": ("CREATE STAGE ON SCHEMA RAW",),
    PIPE: (
        "CREATE PIPE ON SCHEMA RAW",
        "INSERT ON TABLE RAW.EVENTS",
        "SELECT ON TABLE RAW.EVENTS",
        "USAGE ON STAGE RAW.EVENTS_STAGE",
    ),
    COPY: ("INSERT ON TABLE RAW.EVENTS", "USAGE ON STAGE RAW.EVENTS_STAGE"),
    COPY + " FILE_FORMAT = (FORMAT_NAME = 'RAW.F')": (
        "INSERT ON TABLE RAW.EVENTS",
        "USAGE ON STAGE RAW.EVENTS_STAGE",
        "USAGE ON FILE FORMAT RAW.F",
    ),
    "LIST @RAW.EVENTS_STAGE": ("USAGE ON STAGE RAW.EVENTS_STAGE",),
    "ALTER PIPE RAW.EVENTS_PIPE SET PIPE_EXECUTION_PAUSED = TRUE": ("OPERATE ON PIPE RAW.EVENTS_PIPE",),
    "ALTER PIPE RAW.EVENTS_PIPE REFRESH": (
        "OPERATE ON PIPE RAW.EVENTS_PIPE",
        "INSERT ON TABLE RAW.EVENTS",
        "USAGE ON STAGE RAW.EVENTS_STAGE",
    ),
    "SELECT SYSTEM$PIPE_STATUS('RAW.EVENTS_PIPE') AS S": ("MONITOR ON PIPE RAW.EVENTS_PIPE",),
    "SELECT SYSTEM$PIPE_FORCE_RESUME('RAW.EVENTS_PIPE', 'staleness_check_override') AS S": (
        "OPERATE ON PIPE RAW.EVENTS_PIPE",
    ),
    "SELECT FILE_NAME FROM TABLE(INFORMATION_SCHEMA.COPY_HISTORY(TABLE_NAME => 'RAW.EVENTS', "
    "START_TIME => DATEADD(hours, -1, CURRENT_TIMESTAMP())))": ("REFERENCES ON TABLE RAW.EVENTS",),
    "DESC TABLE RAW.T": ("REFERENCES ON TABLE RAW.T",),
    "DESC PIPE RAW.EVENTS_PIPE": ("MONITOR ON PIPE RAW.EVENTS_PIPE",),
    "CREATE SCHEMA {database}.N": ("CREATE SCHEMA ON DATABASE {database}",),
    "CREATE DATABASE {database}_N": ("CREATE DATABASE ON ACCOUNT",),
    "CREATE ROLE {database}_N": ("CREATE ROLE ON ACCOUNT",),
    "CREATE USER {database}_N": ("CREATE USER ON ACCOUNT",),
    "CREATE WAREHOUSE {database}_N": ("CREATE WAREHOUSE ON ACCOUNT",),
}


@pytest.mark.parametrize("statement", NEEDS, ids=range(len(NEEDS)))
def test_statement_requires_exactly_the_documented_privileges(
    loading: Warehouse, role, statement: str
) -> None:
    names = {"bucket": loading.bucket, "database": loading.database}
    sql = statement.format(**names)
    grants = [grant.format(**names) for grant in NEEDS[statement]]
    reader = role(*grants)
    with loading.as_role(reader, schema="RAW") as other:
        for grant in grants:
            loading.run(f"REVOKE {grant} FROM ROLE {reader}")
            said = other.refused(sql)
            assert ABSENT in said or INSUFFICIENT in said, f"without {grant}: {said}"
            loading.run(f"GRANT {grant} TO ROLE {reader}")
        other.run(sql)
    for kind in ("DATABASE", "ROLE", "USER", "WAREHOUSE"):
        loading.run(f"GRANT ROLE {reader} TO ROLE ACCOUNTADMIN")
        loading.run(f"DROP {kind} IF EXISTS {loading.database}_N")


OWNERS_ONLY = (
    "DROP TABLE RAW.T",
    "DROP VIEW RAW.V",
    "DROP PIPE RAW.EVENTS_PIPE",
    "DROP STAGE RAW.EVENTS_STAGE",
    "DROP FILE FORMAT RAW.F",
    "DROP SCHEMA RAW",
    "ALTER TABLE RAW.T ADD COLUMN b INT",
    "ALTER TABLE RAW.T RENAME TO RAW.W",
    "CREATE OR REPLACE TABLE RAW.T (b INT)",
    "CREATE OR REPLACE VIEW RAW.V AS SELECT 1 AS a",
    "ALTER PIPE RAW.EVENTS_PIPE SET COMMENT = 'mine'",
    "ALTER STAGE RAW.EVENTS_STAGE SET COMMENT = 'mine'",
    "COMMENT ON TABLE RAW.T IS 'mine'",
    "COMMENT ON COLUMN RAW.T.a IS 'mine'",
)


@pytest.mark.parametrize("sql", OWNERS_ONLY)
def test_only_the_owner_may_change_or_drop_an_object(loading: Warehouse, role, sql: str) -> None:
    everything = role(
        "ALL ON SCHEMA RAW",
        *(f"ALL ON {each}" for each in ("TABLE RAW.T", "VIEW RAW.V", "PIPE RAW.EVENTS_PIPE")),
        "ALL ON STAGE RAW.EVENTS_STAGE",
        "ALL ON FILE FORMAT RAW.F",
    )
    with loading.as_role(everything, schema="RAW") as other:
        assert INSUFFICIENT in other.refused(sql)
    loading.run(sql)


def test_object_appears_not_to_exist_for_a_role_without_any_privilege_on_it(loading: Warehouse, role) -> None:
    with loading.as_role(role(), schema="RAW") as other:
        said = other.refused("SELECT * FROM RAW.T")
        assert "002003" in said
        assert ABSENT in said
        assert ABSENT in other.refused("DROP TABLE RAW.T")
    with loading.as_role(role("REFERENCES ON TABLE RAW.T"), schema="RAW") as other:
        said = other.refused("SELECT * FROM RAW.T")
        assert "003001" in said
        assert "Insufficient privileges to operate on table 'T'" in said


def test_access_to_an_object_also_requires_privileges_on_its_schema_and_database(
    loading: Warehouse, role
) -> None:
    reader = role("SELECT ON TABLE RAW.T", enters=False)
    with loading.as_role(reader) as other:
        query = f"SELECT a FROM {loading.database}.RAW.T"
        assert f"Database '{loading.database}' {ABSENT}" in other.refused(query)
        loading.run(f"GRANT MONITOR ON DATABASE {loading.database} TO ROLE {reader}")
        assert f"Schema '{loading.database}.RAW' {ABSENT}" in other.refused(query)
        loading.run(f"GRANT MONITOR ON SCHEMA {loading.database}.RAW TO ROLE {reader}")
        other.run(query)
        assert INSUFFICIENT in other.refused(f"USE SCHEMA {loading.database}.RAW"), (
            "USE SCHEMA requires the privilege USAGE"
        )


def test_session_has_no_current_database_if_its_role_may_not_use_it(loading: Warehouse, role) -> None:
    with loading.as_role(role(enters=False), schema="RAW") as other:
        assert "does not have a current database" in other.refused("SELECT a FROM RAW.T")


def test_privileges_are_inherited_through_roles(loading: Warehouse, role) -> None:
    reader, boss, top = role("SELECT ON TABLE RAW.T"), role(enters=False), role(enters=False)
    loading.run(f"GRANT ROLE {reader} TO ROLE {boss}")
    with loading.as_role(top, schema="RAW") as other:
        assert ABSENT in other.refused(f"SELECT a FROM {loading.database}.RAW.T")
        loading.run(f"GRANT ROLE {boss} TO ROLE {top}")
        other.run(f"SELECT a FROM {loading.database}.RAW.T")
        loading.run(f"REVOKE ROLE {reader} FROM ROLE {boss}")
        assert ABSENT in other.refused(f"SELECT a FROM {loading.database}.RAW.T")


def test_privileges_of_public_apply_to_every_role(loading: Warehouse, role) -> None:
    loading.run("GRANT SELECT ON TABLE RAW.T TO ROLE PUBLIC")
    with loading.as_role(role(), schema="RAW") as other:
        other.run("SELECT a FROM RAW.T")


def test_secondary_roles_may_read_but_not_create(loading: Warehouse, role) -> None:
    """Only the primary role authorizes CREATE statements. Source: Snowflake's page "USE SECONDARY ROLES"."""
    primary, _ = role(), role("SELECT, INSERT ON TABLE RAW.T", "CREATE TABLE ON SCHEMA RAW")
    with loading.as_role(primary, schema="RAW") as other:
        assert ABSENT in other.refused("SELECT a FROM RAW.T")
        other.run("USE SECONDARY ROLES ALL")
        other.run("SELECT a FROM RAW.T")
        assert INSUFFICIENT in other.refused("CREATE TABLE RAW.N (a INT)")
        other.run("USE SECONDARY ROLES NONE")
        assert ABSENT in other.refused("SELECT a FROM RAW.T")


def test_view_reads_tables_with_the_privileges_of_its_owner(loading: Warehouse, role) -> None:
    owner, reader = role("SELECT ON TABLE RAW.T", "CREATE VIEW ON SCHEMA RAW"), role()
    with loading.as_role(owner, schema="RAW") as other:
        other.run("CREATE VIEW RAW.OWN AS WITH t AS (SELECT a FROM RAW.T) SELECT a FROM t")
        other.run(f"GRANT SELECT ON VIEW RAW.OWN TO ROLE {reader}")
    with loading.as_role(reader, schema="RAW") as other:
        assert other.run("SELECT a FROM RAW.OWN") == [{"A": 1}]
        assert ABSENT in other.refused("SELECT a FROM RAW.T")
        loading.run(f"REVOKE SELECT ON TABLE RAW.T FROM ROLE {owner}")
        assert "Failure during expansion of view 'OWN'" in other.refused("SELECT a FROM RAW.OWN")


def test_copy_history_in_a_view_requires_the_readers_privileges(loading: Warehouse, role) -> None:
    """A function of the information schema requires privileges of the current role, not of the view's owner."""
    loading.run(
        """CREATE VIEW RAW.LOADS AS SELECT FILE_NAME FROM TABLE(INFORMATION_SCHEMA.COPY_HISTORY(
        TABLE_NAME => 'RAW.EVENTS', START_TIME => DATEADD(hours, -1, CURRENT_TIMESTAMP())))"""
    )
    reader = role("SELECT ON VIEW RAW.LOADS")
    with loading.as_role(reader, schema="RAW") as other:
        assert ABSENT in other.refused("SELECT * FROM RAW.LOADS")
        loading.run(f"GRANT REFERENCES ON TABLE RAW.EVENTS TO ROLE {reader}")
        assert other.run("SELECT * FROM RAW.LOADS") == []


def test_select_privilege_survives_recreating_a_view_with_copy_grants(loading: Warehouse, role) -> None:
    reader = role("SELECT ON VIEW RAW.V")
    with loading.as_role(reader, schema="RAW") as other:
        assert other.run("SELECT a FROM RAW.V") == [{"A": 1}]
        loading.run("GRANT OWNERSHIP ON TABLE RAW.U TO ROLE SECURITYADMIN")
        loading.run("GRANT OWNERSHIP ON TABLE RAW.U TO ROLE ACCOUNTADMIN")
        loading.run("CREATE OR REPLACE VIEW RAW.V COPY GRANTS AS SELECT a FROM RAW.U")
        assert other.run("SELECT a FROM RAW.V") == []


def test_temporary_table_requires_no_create_privilege(loading: Warehouse, role) -> None:
    with loading.as_role(role(), schema="RAW") as other:
        other.run("CREATE TEMPORARY TABLE RAW.MINE (a INT)")
        other.run("INSERT INTO RAW.MINE VALUES (1)")
        assert other.run("SELECT a FROM RAW.MINE") == [{"A": 1}]
        other.run("DROP TABLE RAW.MINE")


def test_show_lists_only_objects_on_which_the_role_has_a_privilege(loading: Warehouse, role) -> None:
    reader = role("SELECT ON TABLE RAW.T", "MONITOR ON PIPE RAW.EVENTS_PIPE")
    stranger = role(enters=False)
    schema = f"{loading.database}.RAW"
    with loading.as_role(reader) as other:
        tables = other.run(f"SHOW TABLES IN SCHEMA {schema}")
        assert [(row["name"], row["owner"]) for row in tables] == [("T", "ACCOUNTADMIN")]
        assert [row["name"] for row in other.run(f"SHOW TERSE OBJECTS IN SCHEMA {schema}")] == ["T"]
        assert {row["table_name"] for row in other.run(f"SHOW COLUMNS IN SCHEMA {schema}")} == {"T"}
        pipes = other.run(f"SHOW PIPES IN SCHEMA {schema}")
        assert [(row["name"], row["owner"]) for row in pipes] == [("EVENTS_PIPE", "ACCOUNTADMIN")]
        assert other.run(f"SHOW STAGES IN SCHEMA {schema}") == []
        assert other.run(f"SHOW FILE FORMATS IN SCHEMA {schema}") == []
        assert "RAW" in {r["name"] for r in other.run(f"SHOW SCHEMAS IN DATABASE {loading.database}")}
    with loading.as_role(stranger) as other:
        assert loading.database not in {row["name"] for row in other.run("SHOW DATABASES")}
        assert other.run(f"SHOW PIPES IN SCHEMA {schema}") == []


def test_show_grants_on_an_object_requires_a_privilege_on_it_or_manage_grants(
    loading: Warehouse, role
) -> None:
    show = f"SHOW GRANTS ON TABLE {loading.database}.RAW.T"
    with loading.as_role(role()) as other:
        assert ABSENT in other.refused(show)
        other.run(f"SHOW GRANTS ON SCHEMA {loading.database}.RAW")
    for allowed in (role("REFERENCES ON TABLE RAW.T"), "SECURITYADMIN"):
        with loading.as_role(allowed) as other:
            assert other.run(show)[0]["privilege"] == "OWNERSHIP"


def test_show_with_limit_returns_the_first_visible_objects_by_name(loading: Warehouse, role) -> None:
    with loading.as_role(role("SELECT ON TABLE RAW.U", "SELECT ON TABLE RAW.T"), schema="RAW") as other:
        for show in ("TABLES", "OBJECTS"):
            assert [row["name"] for row in other.run(f"SHOW {show} LIMIT 1")] == ["T"]


def test_managed_access_lets_the_schema_owner_but_not_the_object_owner_grant_privileges(
    loading: Warehouse, role
) -> None:
    owner, reader = role(), role()
    for name, managed in (("OPEN", ""), ("MANAGED", "WITH MANAGED ACCESS")):
        loading.run(f"CREATE SCHEMA {loading.database}.{name} {managed}")
        loading.run(f"GRANT USAGE, CREATE TABLE ON SCHEMA {loading.database}.{name} TO ROLE {owner}")
    with loading.as_role(owner) as other:
        for name in ("OPEN", "MANAGED"):
            other.run(f"CREATE TABLE {loading.database}.{name}.T (a INT)")
        other.run(f"GRANT SELECT ON TABLE {loading.database}.OPEN.T TO ROLE {reader}")
        grant = f"GRANT SELECT ON TABLE {loading.database}.MANAGED.T TO ROLE {reader}"
        assert INSUFFICIENT in other.refused(grant)
    loading.run(grant)
    loading.run(f"ALTER SCHEMA {loading.database}.OPEN ENABLE MANAGED ACCESS")
    with loading.as_role(owner) as other:
        assert INSUFFICIENT in other.refused(
            f"GRANT INSERT ON TABLE {loading.database}.OPEN.T TO ROLE {reader}"
        )


def test_grant_requires_ownership_or_grant_option_or_manage_grants(loading: Warehouse, role) -> None:
    holder, reader = role("SELECT ON TABLE RAW.T"), role()
    grant = f"GRANT SELECT ON TABLE RAW.T TO ROLE {reader}"
    with loading.as_role(holder, schema="RAW") as other:
        assert INSUFFICIENT in other.refused(grant)
        assert INSUFFICIENT in other.refused(f"REVOKE SELECT ON TABLE RAW.T FROM ROLE {holder}")
        assert INSUFFICIENT in other.refused(f"GRANT ROLE {reader} TO ROLE {holder}")
        loading.run(f"GRANT SELECT ON TABLE RAW.T TO ROLE {holder} WITH GRANT OPTION")
        other.run(grant)
    loading.run(f"REVOKE SELECT ON TABLE RAW.T FROM ROLE {reader}")
    with loading.as_role("SECURITYADMIN") as other:
        other.run(f"GRANT SELECT ON TABLE {loading.database}.RAW.T TO ROLE {reader}")


def test_revoke_fails_or_with_cascade_also_revokes_the_dependent_grants(loading: Warehouse, role) -> None:
    first = role("SELECT ON TABLE RAW.EVENTS")
    second = role()
    loading.run(f"GRANT SELECT ON TABLE RAW.EVENTS TO ROLE {first} WITH GRANT OPTION")
    loading.run(f"GRANT SELECT ON TABLE RAW.EVENTS TO ROLE {first}")  # does not remove the grant option
    with loading.as_role(first) as granting:
        granting.run(f"GRANT SELECT ON TABLE RAW.EVENTS TO ROLE {second}")
    for revoke in ("REVOKE", "REVOKE GRANT OPTION FOR"):
        statement = f"{revoke} SELECT ON TABLE RAW.EVENTS FROM ROLE {first}"
        assert f"to role '{second}' exists" in loading.refused(statement)
    loading.run(f"REVOKE GRANT OPTION FOR SELECT ON TABLE RAW.EVENTS FROM ROLE {first} CASCADE")
    grants = {
        row["grantee_name"]: row["grant_option"] for row in loading.run("SHOW GRANTS ON TABLE RAW.EVENTS")
    }
    assert second not in grants
    assert grants[first] == "false"
    loading.run(f"REVOKE SELECT ON TABLE RAW.EVENTS FROM ROLE {first}")


def test_revoking_the_grant_option_of_a_role_is_refused(loading: Warehouse, role) -> None:
    first, second = role(), role()
    loading.run(f"GRANT ROLE {first} TO ROLE {second}")
    assert "grant option of a role" in loading.refused(
        f"REVOKE GRANT OPTION FOR ROLE {first} FROM ROLE {second}"
    )


def test_query_fails_if_the_sessions_warehouse_does_not_exist_or_is_not_granted(
    loading: Warehouse, role
) -> None:
    reader, warehouse = role("SELECT ON TABLE RAW.T"), f"{loading.database}_WH"
    with loading.as_role(reader, schema="RAW", warehouse=warehouse) as other:
        assert "000606" in other.refused("SELECT a FROM RAW.T")
        loading.run(f"CREATE WAREHOUSE {warehouse}")
        assert "No active warehouse selected" in other.refused("SELECT a FROM RAW.T")
        history = """SELECT FILE_NAME FROM TABLE(INFORMATION_SCHEMA.COPY_HISTORY(TABLE_NAME => 'RAW.T',
            START_TIME => DATEADD(hours, -1, CURRENT_TIMESTAMP())))"""
        assert "No active warehouse selected" in other.refused(history)
        other.run("SELECT 1 AS a")
        other.run("SHOW TABLES")
        assert ABSENT in other.refused(f"USE WAREHOUSE {warehouse}")
        loading.run(f"GRANT USAGE ON WAREHOUSE {warehouse} TO ROLE {reader}")
        other.run("SELECT a FROM RAW.T")
        other.run(f"USE WAREHOUSE {warehouse}")
        assert other.run("SELECT CURRENT_WAREHOUSE() AS W") == [{"W": warehouse}]
    loading.run(f"DROP WAREHOUSE {warehouse}")


def test_create_stage_requires_usage_on_its_storage_integration(loading: Warehouse, role) -> None:
    name = f"{loading.database}_I"
    loading.run(
        f"""CREATE STORAGE INTEGRATION {name} TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE
            STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::1:role/r' STORAGE_ALLOWED_LOCATIONS = ('*')"""
    )
    maker = role("CREATE STAGE ON SCHEMA RAW")
    with loading.as_role(maker, schema="RAW") as other:
        stage = f"CREATE STAGE RAW.S URL = 's3://{loading.bucket}/s/' STORAGE_INTEGRATION = {name}"
        assert ABSENT in other.refused(stage)
        assert INSUFFICIENT in other.refused(f"CREATE STORAGE INTEGRATION {name}_2 TYPE = EXTERNAL_STAGE")
        loading.run(f"GRANT USAGE ON INTEGRATION {name} TO ROLE {maker}")
        other.run(stage)
    loading.run(f"DROP INTEGRATION {name}")


def test_pipe_stalls_while_its_owner_lacks_the_insert_privilege(loading: Warehouse, role) -> None:
    owner = role(
        "CREATE PIPE ON SCHEMA RAW",
        "INSERT, SELECT ON TABLE RAW.EVENTS",
        "USAGE ON STAGE RAW.EVENTS_STAGE",
    )
    loading.run("DROP PIPE RAW.EVENTS_PIPE")
    with loading.as_role(owner, schema="RAW") as other:
        other.pipe()
    loading.run(f"REVOKE INSERT ON TABLE RAW.EVENTS FROM ROLE {owner}")
    loading.put("events/a", {"_id": 1})
    loading.has_waiting(1)
    status = loading.status()
    assert status["executionState"] == "STALLED_COMPILATION_ERROR"
    assert INSUFFICIENT in status["error"]
    loading.run(f"GRANT INSERT ON TABLE RAW.EVENTS TO ROLE {owner}")
    loading.has_rows(1)


def test_every_role_may_do_everything_if_privileges_are_not_enforced(own_local: LocalProcess, aws) -> None:
    warehouse = Warehouse(own_local.start("--no-privileges"), aws).with_pipe()
    warehouse.run("CREATE ROLE R")
    warehouse.run("GRANT ROLE R TO ROLE ACCOUNTADMIN")
    warehouse.put("events/a", {"_id": 1})
    with warehouse.as_role("R", warehouse="NO_SUCH") as other:
        assert eventually(other.count) == 1
        other.run("DROP TABLE RAW.EVENTS")
    assert "does not exist" in warehouse.refused("USE ROLE NOBODY_MADE_THIS")
    assert "does not exist" in warehouse.refused("GRANT SELECT ON TABLE RAW.EVENTS TO ROLE R")


@pytest.mark.parametrize("prefix", ["EXPLAIN", "EXPLAIN ANALYZE"])
def test_explain_is_refused_because_it_could_bypass_privileges(
    loading: Warehouse, role: Callable[..., str], prefix: str
) -> None:
    with loading.as_role(role()) as other:
        for statement in (
            "DELETE FROM RAW.T",
            "SELECT * FROM RAW.T",
            "CREATE TABLE RAW.W AS SELECT * FROM RAW.T",
        ):
            assert "Not supported by the local Snowflake" in other.refused(f"{prefix} {statement}")
    assert loading.count("T") == 1


def test_create_table_like_requires_a_privilege_on_the_source_table(
    loading: Warehouse, role: Callable[..., str]
) -> None:
    with loading.as_role(role("CREATE TABLE ON SCHEMA RAW")) as other:
        assert "does not exist or not authorized" in other.refused("CREATE TABLE RAW.W LIKE RAW.T")
    with loading.as_role(role("CREATE TABLE ON SCHEMA RAW", "SELECT ON TABLE RAW.T")) as other:
        other.run("CREATE TABLE RAW.W LIKE RAW.T")
