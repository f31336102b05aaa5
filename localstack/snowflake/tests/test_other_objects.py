"""Test integrations, stages, file formats and grants: stored, shown and applied, or accepted without effect."""

import pytest

from local_snowflake.testing import Warehouse

INTEGRATION = """STORAGE INTEGRATION {name} TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE
    STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::1:role/r' STORAGE_ALLOWED_LOCATIONS = ('s3://{bucket}/') {more}"""


@pytest.fixture
def integration(warehouse: Warehouse) -> str:
    name = f"I_{warehouse.database}"
    warehouse.run(f"CREATE {INTEGRATION.format(name=name, bucket=warehouse.bucket, more='')}")
    return name


def described(warehouse: Warehouse, name: str) -> dict[str, str]:
    return {r["property"]: r["property_value"] for r in warehouse.run(f"DESC STORAGE INTEGRATION {name}")}


def test_integration_keeps_a_given_external_id(warehouse: Warehouse, integration: str) -> None:
    made_up = described(warehouse, integration)["STORAGE_AWS_EXTERNAL_ID"]
    again = INTEGRATION.format(name=integration, bucket=warehouse.bucket, more="")
    warehouse.run(f"CREATE OR REPLACE {again}")
    assert described(warehouse, integration)["STORAGE_AWS_EXTERNAL_ID"] != made_up
    own = INTEGRATION.format(
        name=integration, bucket=warehouse.bucket, more="STORAGE_AWS_EXTERNAL_ID = 'ours'"
    )
    for _ in range(2):
        warehouse.run(f"CREATE OR REPLACE {own}")
        assert described(warehouse, integration)["STORAGE_AWS_EXTERNAL_ID"] == "ours"
    assert described(warehouse, integration)["STORAGE_AWS_IAM_USER_ARN"].startswith("arn:aws:iam::")


def test_replaced_integration_unlinks_its_stages(warehouse: Warehouse, integration: str) -> None:
    warehouse.table()
    warehouse.stage(extra=f"STORAGE_INTEGRATION = {integration}")
    warehouse.pipe()
    assert warehouse.status()["executionState"] == "RUNNING"
    again = INTEGRATION.format(name=integration, bucket=warehouse.bucket, more="")
    warehouse.run(f"CREATE OR REPLACE {again}")
    assert warehouse.status()["executionState"] == "STALLED_STAGE_PERMISSION_ERROR"
    warehouse.run(f"ALTER STAGE RAW.EVENTS_STAGE SET STORAGE_INTEGRATION = {integration}")
    assert warehouse.status()["executionState"] == "RUNNING"


def test_a_stage_outside_the_integrations_locations_is_refused(
    warehouse: Warehouse, integration: str
) -> None:
    message = warehouse.refused(
        f"CREATE STAGE RAW.S URL = 's3://elsewhere/' STORAGE_INTEGRATION = {integration}"
    )
    assert "not allowed by integration" in message


def test_stages_can_be_described_listed_altered_and_dropped(warehouse: Warehouse) -> None:
    warehouse.stage()
    key = warehouse.put("events/a", {"_id": 1})
    (listed,) = warehouse.run("LIST @RAW.EVENTS_STAGE")
    assert listed["name"] == f"s3://{warehouse.bucket}/{key}"
    warehouse.run(f"ALTER STAGE RAW.EVENTS_STAGE SET URL = 's3://{warehouse.bucket}/other/'")
    described = {
        row["property"]: row["property_value"] for row in warehouse.run("DESC STAGE RAW.EVENTS_STAGE")
    }
    assert described["URL"] == f'["s3://{warehouse.bucket}/other/"]'
    assert described["TYPE"] == "JSON"
    assert "already exists" in warehouse.refused("CREATE STAGE RAW.EVENTS_STAGE URL = 's3://x/'")
    warehouse.run("DROP STAGE RAW.EVENTS_STAGE")
    warehouse.run("DROP STAGE IF EXISTS RAW.EVENTS_STAGE")
    assert "does not exist" in warehouse.refused("DROP STAGE RAW.EVENTS_STAGE")


def test_named_file_format_of_a_stage_is_applied(warehouse: Warehouse) -> None:
    warehouse.table()
    warehouse.run("CREATE FILE FORMAT RAW.PLAIN TYPE = JSON COMPRESSION = NONE")
    warehouse.run(
        f"CREATE STAGE RAW.EVENTS_STAGE URL = 's3://{warehouse.bucket}/events/' FILE_FORMAT = RAW.PLAIN"
    )
    warehouse.pipe()
    warehouse.put("events/zipped", {"_id": 1})
    assert warehouse.fate("zipped")["STATUS"] == "Load failed"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE WAREHOUSE IF NOT EXISTS LOAD_WH WITH WAREHOUSE_SIZE = 'XSMALL' AUTO_SUSPEND = 60",
        "ALTER WAREHOUSE IF EXISTS LOAD_WH SET AUTO_SUSPEND = 30",
        "CREATE RESOURCE MONITOR IF NOT EXISTS M WITH CREDIT_QUOTA = 1 TRIGGERS ON 90 PERCENT DO SUSPEND",
        "CREATE NETWORK POLICY IF NOT EXISTS OFFICE ALLOWED_IP_LIST = ('192.0.2.0/24')",
    ],
)
def test_warehouses_monitors_and_policies_have_no_effect_and_this_is_logged(
    warehouse: Warehouse, sql: str
) -> None:
    before = len(warehouse.local.logged("statement_accepted_not_enforced"))
    warehouse.run(sql)
    assert len(warehouse.local.logged("statement_accepted_not_enforced")) == before + 1


def test_created_warehouse_is_listed(warehouse: Warehouse) -> None:
    name = f"WH_{warehouse.database}"
    assert warehouse.run(f"SHOW WAREHOUSES LIKE '{name}'") == []
    warehouse.run(f"CREATE WAREHOUSE {name} WITH WAREHOUSE_SIZE = 'XSMALL'")
    assert [row["name"] for row in warehouse.run(f"SHOW WAREHOUSES LIKE '{name}'")] == [name]


def test_warehouse_is_shown_with_its_last_settings(warehouse: Warehouse) -> None:
    name = f"WH_{warehouse.database}"
    warehouse.run(f"CREATE WAREHOUSE {name} WITH AUTO_SUSPEND = 60 STATEMENT_TIMEOUT_IN_SECONDS = 3600")
    warehouse.run(f"ALTER WAREHOUSE {name} SET AUTO_SUSPEND = 30 WAREHOUSE_SIZE = 'SMALL'")
    warehouse.run(f"ALTER WAREHOUSE {name} SUSPEND")
    (shown,) = warehouse.run(f"SHOW WAREHOUSES LIKE '{name}'")
    assert (shown["size"], shown["auto_suspend"], shown["auto_resume"]) == ("Small", 30, "true")
    parameters = {row["key"]: row["value"] for row in warehouse.run(f"SHOW PARAMETERS IN WAREHOUSE {name}")}
    assert parameters["STATEMENT_TIMEOUT_IN_SECONDS"] == "3600"
    assert parameters["STATEMENT_QUEUED_TIMEOUT_IN_SECONDS"] == "0"


def test_show_views_gives_the_statement_that_created_the_view(warehouse: Warehouse) -> None:
    def text() -> str:
        (view,) = warehouse.run("SHOW VIEWS IN SCHEMA RAW")
        return str(view["text"])

    create = "CREATE VIEW RAW.V COMMENT = 'kept' AS SELECT 1::INTEGER AS  a -- as it was written"
    warehouse.run(create)
    assert text() == create
    warehouse.run("CREATE VIEW IF NOT EXISTS RAW.V AS SELECT 2 AS a")
    assert text() == create
    warehouse.run("ALTER VIEW RAW.V RENAME TO RAW.W")
    assert text() == create
    warehouse.run("CREATE OR REPLACE VIEW RAW.W AS SELECT 3 AS a")
    assert text() == "CREATE OR REPLACE VIEW RAW.W AS SELECT 3 AS a"


def test_create_or_alter_changes_a_file_format_and_keeps_its_grants(warehouse: Warehouse) -> None:
    role, name = f"R_{warehouse.database}", "RAW.PLAIN"
    warehouse.run(f"CREATE ROLE {role}")
    warehouse.run(f"CREATE OR ALTER FILE FORMAT {name} TYPE = JSON COMPRESSION = NONE")
    warehouse.run(f"GRANT USAGE ON FILE FORMAT {name} TO ROLE {role}")
    warehouse.run(f"CREATE OR ALTER FILE FORMAT {name} TYPE = JSON COMPRESSION = GZIP")
    described = {row["property"]: row["property_value"] for row in warehouse.run(f"DESC FILE FORMAT {name}")}
    assert described["COMPRESSION"] == "GZIP"
    grantees = {row["grantee_name"] for row in warehouse.run(f"SHOW GRANTS ON FILE FORMAT {name}")}
    assert grantees == {role, "ACCOUNTADMIN"}
    assert "another TYPE" in warehouse.refused(f"CREATE OR ALTER FILE FORMAT {name} TYPE = CSV")
    assert "CREATE OR ALTER TABLE" in warehouse.refused("CREATE OR ALTER TABLE RAW.T (a INTEGER)")


def test_show_schemas_names_the_owner_and_managed_access(warehouse: Warehouse) -> None:
    warehouse.run("CREATE SCHEMA CLOSED WITH MANAGED ACCESS")
    shown = {row["name"]: row for row in warehouse.run(f"SHOW SCHEMAS IN DATABASE {warehouse.database}")}
    assert shown["CLOSED"]["options"] == "MANAGED ACCESS"
    assert shown["RAW"]["options"] == ""
    assert shown["RAW"]["owner"] == "ACCOUNTADMIN"


def test_role_can_be_created_only_once(warehouse: Warehouse) -> None:
    role = f"R_{warehouse.database}"
    warehouse.run(f"CREATE ROLE {role}")
    assert "already exists" in warehouse.refused(f"CREATE ROLE {role}")
    assert [row["name"] for row in warehouse.run(f"SHOW ROLES LIKE '{role}'")] == [role]
    warehouse.run(f"DROP ROLE {role}")
    assert "does not exist" in warehouse.refused(f"DROP ROLE {role}")


def test_a_new_database_has_the_schema_public(warehouse: Warehouse) -> None:
    """Snowflake: "CREATE DATABASE"."""
    warehouse.run(f"CREATE TABLE {warehouse.database}.PUBLIC.T (id INT)")
    shown = {row["name"]: row for row in warehouse.run(f"SHOW SCHEMAS IN DATABASE {warehouse.database}")}
    assert shown["PUBLIC"]["owner"] == "ACCOUNTADMIN"


def test_dropped_schema_public_stays_dropped(warehouse: Warehouse) -> None:
    warehouse.run(f"DROP SCHEMA {warehouse.database}.PUBLIC")
    warehouse.run(f"CREATE DATABASE IF NOT EXISTS {warehouse.database}")
    shown = {row["name"] for row in warehouse.run(f"SHOW SCHEMAS IN DATABASE {warehouse.database}")}
    assert "PUBLIC" not in shown


def test_information_schema_has_views_with_owner_and_text(warehouse: Warehouse) -> None:
    """Snowflake: "TABLES view", "VIEWS view"."""
    text = f"CREATE VIEW {warehouse.database}.RAW.V AS SELECT id AS n FROM {warehouse.database}.RAW.T"
    warehouse.run("CREATE TABLE RAW.T (id INT)")
    warehouse.run(text)
    listed = "table_name, table_type, table_owner, created FROM INFORMATION_SCHEMA.TABLES ORDER BY 1"
    assert [tuple(row.values()) for row in warehouse.run(f"SELECT {listed}")] == [
        ("T", "BASE TABLE", "ACCOUNTADMIN", None),
        ("V", "VIEW", "ACCOUNTADMIN", None),
    ]
    views = warehouse.run("SELECT table_owner, view_definition FROM INFORMATION_SCHEMA.VIEWS")
    assert [tuple(row.values()) for row in views] == [("ACCOUNTADMIN", text)]
