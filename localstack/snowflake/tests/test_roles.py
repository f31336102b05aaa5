"""Test roles, users, and the privileges that can be granted. Sources: Snowflake's pages "Overview of Access
Control", "USE ROLE", "GRANT <privileges>", "GRANT OWNERSHIP", "CREATE USER".
"""

from collections.abc import Callable
from contextlib import closing

import pytest
from snowflake import connector

from local_snowflake.testing import Warehouse


@pytest.fixture
def role(warehouse: Warehouse) -> Callable[[str], str]:
    """Return a function that creates a role for this test and returns the role's full name."""

    def made(name: str) -> str:
        full = f"{warehouse.database}_{name}"
        warehouse.run(f"CREATE ROLE {full}")
        return full

    return made


def grants(warehouse: Warehouse, what: str) -> set[tuple[str, str]]:
    return {(row["privilege"], row["grantee_name"]) for row in warehouse.run(f"SHOW GRANTS ON {what}")}


def test_missing_role_cannot_be_used(warehouse: Warehouse) -> None:
    said = warehouse.refused("USE ROLE NOBODY_MADE_THIS")
    assert "002043" in said
    assert "Object does not exist, or operation cannot be performed" in said
    assert warehouse.connection.role == "ACCOUNTADMIN"


def test_a_role_that_is_not_granted_to_the_user_cannot_be_used(warehouse: Warehouse, role) -> None:
    lonely = role("LONELY")
    said = warehouse.refused(f"USE ROLE {lonely}")
    assert "003013" in said
    assert f"Requested role '{lonely}' is not assigned to the executing user" in said


def test_current_role_function_returns_the_role_in_use(warehouse: Warehouse, role) -> None:
    loader = role("LOADER")
    warehouse.run(f"GRANT ROLE {loader} TO ROLE SYSADMIN")  # ACCOUNTADMIN inherits SYSADMIN's roles
    assert warehouse.run("SELECT CURRENT_ROLE(), CURRENT_USER()") == [
        {"CURRENT_ROLE()": "ACCOUNTADMIN", "CURRENT_USER()": "MILKRUN"}
    ]
    warehouse.run(f"USE ROLE {loader}")
    assert warehouse.run("SELECT CURRENT_ROLE() AS R") == [{"R": loader}]
    assert warehouse.connection.role == loader
    assert [r["name"] for r in warehouse.run("SHOW ROLES") if r["is_current"] == "Y"] == [loader]


def test_show_roles_shows_the_default_role_and_the_roles_that_the_current_role_inherits(
    warehouse: Warehouse, role
) -> None:
    loader = role("LOADER")
    warehouse.run(f"GRANT ROLE {loader} TO ROLE SYSADMIN")

    def shown(flag: str) -> set[str]:
        return {row["name"] for row in warehouse.run("SHOW ROLES") if row[flag] == "Y"}

    assert {loader, "SYSADMIN", "PUBLIC"} <= shown("is_inherited")
    assert "ACCOUNTADMIN" not in shown("is_inherited")
    warehouse.run(f"USE ROLE {loader}")
    assert (shown("is_inherited"), shown("is_default")) == ({"PUBLIC"}, {"ACCOUNTADMIN"})


def test_current_role_in_a_view_is_refused_because_it_would_never_change(warehouse: Warehouse) -> None:
    assert "in a view" in warehouse.refused("CREATE VIEW RAW.V AS SELECT CURRENT_ROLE() AS R")


def test_connection_with_a_role_that_is_not_granted_is_refused(warehouse: Warehouse, role) -> None:
    loader, lonely = role("LOADER"), role("LONELY")
    warehouse.run(f"GRANT ROLE {loader} TO ROLE SYSADMIN")
    with closing(warehouse.local.connect(role=loader)) as connection:
        assert connection.role == loader
    for refused in (lonely, "NOBODY_MADE_THIS"):
        with pytest.raises(connector.errors.DatabaseError, match="does not exist or not authorized"):
            warehouse.local.connect(role=refused)


def test_created_user_may_use_only_granted_roles_and_public(warehouse: Warehouse, role) -> None:
    reader, user = role("READER"), f"{warehouse.database}_MAID"
    warehouse.run(f"CREATE USER {user} DEFAULT_ROLE = {reader} DEFAULT_SECONDARY_ROLES = ()")
    with pytest.raises(connector.errors.DatabaseError, match=r"default role .* is not granted"):
        warehouse.local.connect(user=user)
    warehouse.run(f"GRANT ROLE {reader} TO USER {user}")
    with closing(warehouse.local.connect(user=user)) as connection:
        assert connection.role == reader
        connection.cursor().execute("USE ROLE PUBLIC")
        with pytest.raises(connector.errors.ProgrammingError, match="not assigned"):
            connection.cursor().execute("USE ROLE SYSADMIN")
    assert [row["default_role"] for row in warehouse.run(f"SHOW USERS LIKE '{user}'")] == [reader]
    warehouse.run(f"DROP USER {user}")


def test_disabled_user_cannot_connect_and_a_replaced_user_has_no_roles(warehouse: Warehouse, role) -> None:
    reader, user = role("READER"), f"{warehouse.database}_MAID"
    warehouse.run(f"CREATE USER {user} DISABLED = TRUE")
    with pytest.raises(connector.errors.DatabaseError, match="User access disabled"):
        warehouse.local.connect(user=user)
    warehouse.run(f"GRANT ROLE {reader} TO USER {user}")
    warehouse.run(f"CREATE OR REPLACE USER {user}")
    assert warehouse.run(f"SHOW GRANTS TO USER {user}") == []
    warehouse.run(f"DROP USER {user}")


def test_use_secondary_roles_accepts_only_all_and_none(warehouse: Warehouse) -> None:
    warehouse.run("USE SECONDARY ROLES ALL")
    warehouse.run("USE SECONDARY ROLES NONE")
    assert "USE SECONDARY ROLES SYSADMIN" in warehouse.refused("USE SECONDARY ROLES SYSADMIN")


REFUSED_GRANTS = {
    "table": "GRANT SELECT ON TABLE RAW.NOT_THERE TO ROLE {role}",
    "view": "GRANT SELECT ON VIEW RAW.EVENTS TO ROLE {role}",
    "schema": "GRANT USAGE ON SCHEMA NOT_THERE TO ROLE {role}",
    "database": "GRANT USAGE ON DATABASE NOT_THERE TO ROLE {role}",
    "warehouse": "GRANT USAGE ON WAREHOUSE NOT_THERE TO ROLE {role}",
    "stage": "GRANT USAGE ON STAGE RAW.NOT_THERE TO ROLE {role}",
    "format": "GRANT USAGE ON FILE FORMAT RAW.NOT_THERE TO ROLE {role}",
    "relation": "GRANT SELECT ON RAW.NOT_THERE TO ROLE {role}",
    "pipe": "GRANT MONITOR ON PIPE RAW.NOT_THERE TO ROLE {role}",
    "integration": "GRANT USAGE ON INTEGRATION NOT_THERE TO ROLE {role}",
    "all tables": "GRANT SELECT ON ALL TABLES IN SCHEMA NOT_THERE TO ROLE {role}",
    "future tables": "GRANT SELECT ON FUTURE TABLES IN SCHEMA NOT_THERE TO ROLE {role}",
    "role to grant to": "GRANT SELECT ON TABLE RAW.EVENTS TO ROLE NOT_THERE",
    "role": "GRANT ROLE NOT_THERE TO ROLE {role}",
    "role to grant a role to": "GRANT ROLE {role} TO ROLE NOT_THERE",
    "user": "GRANT ROLE {role} TO USER NOT_THERE",
    "revoked": "REVOKE SELECT ON TABLE RAW.NOT_THERE FROM ROLE {role}",
    "shown": "SHOW GRANTS ON TABLE RAW.NOT_THERE",
    "shown to": "SHOW GRANTS TO ROLE NOT_THERE",
}


@pytest.mark.parametrize("sql", REFUSED_GRANTS.values(), ids=REFUSED_GRANTS)
def test_grant_revoke_or_show_grants_fails_if_an_object_or_role_is_missing(
    warehouse: Warehouse, role, sql
) -> None:
    warehouse.table()
    assert "does not exist or not authorized" in warehouse.refused(sql.format(role=role("R")))


REFUSED_PRIVILEGES = (
    "GRANT OPERATE ON TABLE RAW.EVENTS TO ROLE {role}",
    "GRANT SELECT ON PIPE RAW.EVENTS_PIPE TO ROLE {role}",
    "GRANT CREATE TABLES ON SCHEMA RAW TO ROLE {role}",
    "GRANT OWNERSHIP ON ACCOUNT TO ROLE {role}",
    "GRANT INSERT ON FUTURE VIEWS IN SCHEMA RAW TO ROLE {role}",
)


@pytest.mark.parametrize("sql", REFUSED_PRIVILEGES)
def test_grant_of_a_privilege_that_does_not_apply_to_the_object_is_refused(
    loading: Warehouse, role, sql
) -> None:
    assert "cannot be granted on a" in loading.refused(sql.format(role=role("R")))


def test_grant_of_an_unknown_privilege_is_a_syntax_error(loading: Warehouse, role) -> None:
    refusal = loading.refused(f"GRANT SELEKT ON TABLE RAW.EVENTS TO ROLE {role('R')}")
    assert "unexpected 'SELEKT'" in refusal


def test_grant_without_an_object_kind_applies_to_the_table_or_view_with_that_name(
    loading: Warehouse, role
) -> None:
    """dbt omits the kind of object, although Snowflake's page "GRANT <privileges> … TO ROLE" requires it."""
    reader = role("READER")
    loading.run("CREATE VIEW RAW.SEEN AS SELECT * FROM RAW.EVENTS")
    for kind, name in (("TABLE", "RAW.EVENTS"), ("VIEW", f"{loading.database}.RAW.SEEN")):
        loading.run(f"GRANT SELECT ON {name} TO {reader}")
        assert ("SELECT", reader) in grants(loading, f"{kind} {name}")
        assert grants(loading, name) == grants(loading, f"{kind} {name}")
        loading.run(f'REVOKE SELECT ON {name} FROM "{reader}"')
        assert ("SELECT", reader) not in grants(loading, f"{kind} {name}")


def test_unsupported_kind_of_grant_is_refused(warehouse: Warehouse, role) -> None:
    for sql in (
        "GRANT USAGE ON FUNCTION RAW.F TO ROLE {r}",
        "GRANT DATABASE ROLE D.R TO ROLE {r}",
        "GRANT SELECT ON TABLE RAW.EVENTS TO SHARE S",
    ):
        warehouse.run("CREATE TABLE IF NOT EXISTS RAW.EVENTS (a INT)")
        assert "Not supported" in warehouse.refused(sql.format(r=role(f"R{len(sql)}")))


def test_role_cannot_inherit_itself(warehouse: Warehouse, role) -> None:
    a, b = role("A"), role("B")
    warehouse.run(f"GRANT ROLE {a} TO ROLE {b}")
    assert "cannot inherit itself" in warehouse.refused(f"GRANT ROLE {b} TO ROLE {a}")


def test_object_is_owned_by_the_role_that_created_it(warehouse: Warehouse) -> None:
    warehouse.run("CREATE TABLE RAW.T (a INT)")
    assert grants(warehouse, "TABLE RAW.T") == {("OWNERSHIP", "ACCOUNTADMIN")}
    warehouse.run("USE ROLE SYSADMIN")
    name = f"{warehouse.database}_2"
    warehouse.run(f"CREATE DATABASE {name}")
    assert grants(warehouse, f"DATABASE {name}") == {("OWNERSHIP", "SYSADMIN")}
    warehouse.run(f"DROP DATABASE {name}")


def test_grant_all_privileges_grants_all_but_ownership(loading: Warehouse, role) -> None:
    loader = role("LOADER")
    loading.run(f"GRANT ALL PRIVILEGES ON PIPE RAW.EVENTS_PIPE TO ROLE {loader}")
    assert grants(loading, "PIPE RAW.EVENTS_PIPE") == {
        ("MONITOR", loader),
        ("OPERATE", loader),
        ("OWNERSHIP", "ACCOUNTADMIN"),
    }


def test_grants_last_until_they_are_revoked_or_their_object_is_replaced(loading: Warehouse, role) -> None:
    loader = role("LOADER")
    loading.run(f"GRANT OPERATE, MONITOR ON PIPE RAW.EVENTS_PIPE TO ROLE {loader}")
    assert {("MONITOR", loader), ("OPERATE", loader)} < grants(loading, "PIPE RAW.EVENTS_PIPE")
    loading.run(f"REVOKE OPERATE ON PIPE RAW.EVENTS_PIPE FROM ROLE {loader}")
    assert grants(loading, "PIPE RAW.EVENTS_PIPE") == {("MONITOR", loader), ("OWNERSHIP", "ACCOUNTADMIN")}
    loading.pipe(replace=True)
    assert grants(loading, "PIPE RAW.EVENTS_PIPE") == {("OWNERSHIP", "ACCOUNTADMIN")}


def test_replaced_table_keeps_its_grants_only_with_copy_grants(warehouse: Warehouse, role) -> None:
    reader = role("READER")
    warehouse.run("CREATE TABLE RAW.T (a INT)")
    warehouse.run(f"GRANT SELECT ON TABLE RAW.T TO ROLE {reader}")
    warehouse.run("CREATE OR REPLACE TABLE RAW.T COPY GRANTS AS SELECT 1 AS a")
    assert ("SELECT", reader) in grants(warehouse, "TABLE RAW.T")
    warehouse.run("CREATE OR REPLACE TABLE RAW.T AS SELECT 1 AS a")
    assert grants(warehouse, "TABLE RAW.T") == {("OWNERSHIP", "ACCOUNTADMIN")}


def test_grants_survive_renaming_a_table_but_not_dropping_it(warehouse: Warehouse, role) -> None:
    reader = role("READER")
    warehouse.run("CREATE TABLE RAW.T (a INT)")
    warehouse.run(f"GRANT SELECT ON TABLE RAW.T TO ROLE {reader}")
    warehouse.run("ALTER TABLE RAW.T RENAME TO RAW.U")
    assert ("SELECT", reader) in grants(warehouse, "TABLE RAW.U")
    warehouse.run("DROP TABLE RAW.U")
    warehouse.run("CREATE TABLE RAW.U (a INT)")
    assert grants(warehouse, "TABLE RAW.U") == {("OWNERSHIP", "ACCOUNTADMIN")}


def test_dropping_a_temporary_table_keeps_the_grants_of_the_table_that_it_hid(
    warehouse: Warehouse, role
) -> None:
    reader = role("READER")
    warehouse.run("USE SCHEMA RAW")
    warehouse.run("CREATE TABLE T (i INT)")
    warehouse.run(f"GRANT SELECT ON TABLE T TO ROLE {reader}")
    warehouse.run("CREATE TEMPORARY TABLE T (i INT)")
    warehouse.run("DROP TABLE T")
    assert {row["grantee_name"] for row in warehouse.run("SHOW GRANTS ON TABLE T")} == {
        reader,
        "ACCOUNTADMIN",
    }


def test_future_grants_of_a_schema_override_those_of_its_database(warehouse: Warehouse, role) -> None:
    near, far = role("NEAR"), role("FAR")
    warehouse.run(f"GRANT SELECT ON FUTURE TABLES IN DATABASE {warehouse.database} TO ROLE {far}")
    warehouse.run("CREATE TABLE RAW.ONE (a INT)")
    assert ("SELECT", far) in grants(warehouse, "TABLE RAW.ONE")
    warehouse.run(f"GRANT SELECT ON FUTURE TABLES IN SCHEMA {warehouse.database}.RAW TO ROLE {near}")
    warehouse.run("CREATE TABLE RAW.TWO (a INT)")
    assert grants(warehouse, "TABLE RAW.TWO") == {("OWNERSHIP", "ACCOUNTADMIN"), ("SELECT", near)}
    shown = warehouse.run(f"SHOW FUTURE GRANTS IN SCHEMA {warehouse.database}.RAW")
    on = f"{warehouse.database}.RAW.<TABLE>"
    assert [(r["privilege"], r["grant_on"], r["name"], r["grantee_name"]) for r in shown] == [
        ("SELECT", "TABLE", on, near)
    ]


def test_ownership_transfer_requires_copying_or_revoking_other_grants(warehouse: Warehouse, role) -> None:
    reader, owner = role("READER"), role("OWNER")
    warehouse.run("CREATE TABLE RAW.T (a INT)")
    warehouse.run(f"GRANT SELECT ON TABLE RAW.T TO ROLE {reader}")
    transfer = f"GRANT OWNERSHIP ON TABLE RAW.T TO ROLE {owner}"
    assert "Dependent grant of privilege 'SELECT'" in warehouse.refused(transfer)
    warehouse.run(f"{transfer} COPY CURRENT GRANTS")
    assert grants(warehouse, "TABLE RAW.T") == {("OWNERSHIP", owner), ("SELECT", reader)}
    warehouse.run("GRANT OWNERSHIP ON TABLE RAW.T TO ROLE ACCOUNTADMIN REVOKE CURRENT GRANTS")
    assert grants(warehouse, "TABLE RAW.T") == {("OWNERSHIP", "ACCOUNTADMIN")}


def test_owner_without_manage_grants_may_transfer_ownership_only_to_a_role_of_the_session(
    warehouse: Warehouse, role
) -> None:
    owner, heir = role("OWNER"), role("HEIR")
    warehouse.run(f"GRANT ROLE {owner} TO ROLE ACCOUNTADMIN")
    warehouse.run(f"GRANT USAGE ON DATABASE {warehouse.database} TO ROLE {owner}")
    warehouse.run(f"GRANT USAGE, CREATE TABLE ON SCHEMA {warehouse.database}.RAW TO ROLE {owner}")
    with warehouse.as_role(owner) as other:
        other.run("CREATE TABLE RAW.T (a INT)")
        transfer = f"GRANT OWNERSHIP ON TABLE RAW.T TO ROLE {heir}"
        assert "activated in the current session or by a role with" in other.refused(transfer)
        warehouse.run(f"GRANT ROLE {heir} TO ROLE {owner}")
        other.run(transfer)
    warehouse.run(f"GRANT OWNERSHIP ON TABLE RAW.T TO ROLE {owner}")


def test_unknown_user_option_and_password_of_a_service_user_are_refused(warehouse: Warehouse) -> None:
    user = f"{warehouse.database}_SERVICE"
    assert "DEFAULT_ROLES" in warehouse.refused(f"CREATE USER {user} DEFAULT_ROLES = PUBLIC")
    assert "PASSWORD" in warehouse.refused(f"CREATE USER {user} TYPE = SERVICE PASSWORD = 'x'")
    warehouse.run(f"CREATE USER {user} TYPE = SERVICE DEFAULT_ROLE = PUBLIC")
    assert "PASSWORD" in warehouse.refused(f"ALTER USER {user} SET PASSWORD = 'x'")
    warehouse.run(f"ALTER USER {user} SET RSA_PUBLIC_KEY = 'x'")
    warehouse.run(f"DROP USER {user}")


def test_show_grants_of_a_role_and_to_a_user_have_the_documented_columns(warehouse: Warehouse, role) -> None:
    reader, boss, user = role("READER"), role("BOSS"), f"{warehouse.database}_USER"
    warehouse.run(f"GRANT ROLE {reader} TO ROLE {boss}")
    warehouse.run(f"CREATE USER {user}")
    warehouse.run(f"GRANT ROLE {reader} TO USER {user}")
    of_role = warehouse.run(f"SHOW GRANTS OF ROLE {reader}")
    assert list(of_role[0]) == ["created_on", "role", "granted_to", "grantee_name", "granted_by"]
    assert [(row["role"], row["granted_to"], row["grantee_name"]) for row in of_role] == [
        (reader, "ROLE", boss),
        (reader, "USER", user),
    ]
    (to_user,) = warehouse.run(f"SHOW GRANTS TO USER {user}")
    assert list(to_user) == [
        "created_on", "privilege", "granted_on", "name", "role", "granted_to", "grantee_name", "grant_option",
        "granted_by",
    ]  # fmt: skip
    assert (to_user["privilege"], to_user["role"], to_user["grantee_name"]) == ("USAGE", reader, user)


def test_owner_of_a_schema_with_managed_access_has_manage_grants_on_it(warehouse: Warehouse) -> None:
    schema = f"{warehouse.database}.MANAGED"
    warehouse.run(f"CREATE SCHEMA {schema} WITH MANAGED ACCESS")
    warehouse.run(f"CREATE TABLE {schema}.T (a INT)")
    owner = {("OWNERSHIP", "ACCOUNTADMIN")}
    assert grants(warehouse, f"SCHEMA {schema}") == {*owner, ("MANAGE GRANTS", "ACCOUNTADMIN")}
    assert {row["grant_option"] for row in warehouse.run(f"SHOW GRANTS ON TABLE {schema}.T")} == {"false"}
    warehouse.run(f"ALTER SCHEMA {schema} DISABLE MANAGED ACCESS")
    assert grants(warehouse, f"SCHEMA {schema}") == owner


def test_grant_on_all_pipes_is_refused(loading: Warehouse, role) -> None:
    reader, schema = role("READER"), f"{loading.database}.RAW"
    for grant in ("GRANT MONITOR ON ALL PIPES", "GRANT OWNERSHIP ON ALL PIPES"):
        assert "not allowed" in loading.refused(f"{grant} IN SCHEMA {schema} TO ROLE {reader}")
    loading.run(f"GRANT MONITOR ON FUTURE PIPES IN SCHEMA {schema} TO ROLE {reader}")


def test_ownership_cannot_be_granted_together_with_another_privilege(warehouse: Warehouse, role) -> None:
    heir = role("HEIR")
    warehouse.run("CREATE TABLE RAW.T (i INT)")
    assert "OWNERSHIP" in warehouse.refused(f"GRANT OWNERSHIP, SELECT ON TABLE RAW.T TO ROLE {heir}")
    assert grants(warehouse, "TABLE RAW.T") == {("OWNERSHIP", "ACCOUNTADMIN")}


def test_objects_of_a_dropped_role_belong_to_the_role_that_dropped_it(warehouse: Warehouse, role) -> None:
    owner = role("OWNER")
    warehouse.run("CREATE TABLE RAW.T (a INT)")
    warehouse.run(f"GRANT OWNERSHIP ON TABLE RAW.T TO ROLE {owner}")
    warehouse.run(f"DROP ROLE {owner}")
    assert grants(warehouse, "TABLE RAW.T") == {("OWNERSHIP", "ACCOUNTADMIN")}


def test_system_roles_have_the_documented_hierarchy_and_cannot_be_dropped(warehouse: Warehouse) -> None:
    shown = {
        role: {
            row["name"] for row in warehouse.run(f"SHOW GRANTS TO ROLE {role}") if row["granted_on"] == "ROLE"
        }
        for role in ("ACCOUNTADMIN", "SECURITYADMIN")
    }
    assert {"SYSADMIN", "SECURITYADMIN"} <= shown["ACCOUNTADMIN"]
    assert "USERADMIN" in shown["SECURITYADMIN"]
    assert "Insufficient privileges" in warehouse.refused("DROP ROLE SYSADMIN")
