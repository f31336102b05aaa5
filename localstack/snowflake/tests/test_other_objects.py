"""Test objects other than pipes: integrations, stages, file formats, warehouses, databases, schemas, roles, tables,
views and sequences.
"""

import pytest

from local_snowflake.testing import Warehouse

INTEGRATION = """STORAGE INTEGRATION {name} TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE
    STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::1:role/r' STORAGE_ALLOWED_LOCATIONS = ('s3://{bucket}/') {more}"""

STAGE = "STAGE RAW.EVENTS_STAGE URL = 's3://x/' STORAGE_INTEGRATION = {}"


@pytest.fixture
def integration(warehouse: Warehouse) -> str:
    name = f"I_{warehouse.database}"
    warehouse.run(f"CREATE {INTEGRATION.format(name=name, bucket=warehouse.bucket, more='')}")
    return name


def described(warehouse: Warehouse, name: str) -> dict[str, str]:
    return {r["property"]: r["property_value"] for r in warehouse.run(f"DESC STORAGE INTEGRATION {name}")}


def test_replaced_integration_gets_a_new_external_id_unless_one_is_specified(
    warehouse: Warehouse, integration: str
) -> None:
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


def test_replacing_an_integration_unlinks_its_stages(warehouse: Warehouse, integration: str) -> None:
    warehouse.table()
    warehouse.stage(extra=f"STORAGE_INTEGRATION = {integration}")
    warehouse.pipe()
    assert warehouse.status()["executionState"] == "RUNNING"
    again = INTEGRATION.format(name=integration, bucket=warehouse.bucket, more="")
    warehouse.run(f"CREATE OR REPLACE {again}")
    assert warehouse.status()["executionState"] == "STALLED_STAGE_PERMISSION_ERROR"
    warehouse.run(f"ALTER STAGE RAW.EVENTS_STAGE SET STORAGE_INTEGRATION = {integration}")
    assert warehouse.status()["executionState"] == "RUNNING"


def test_copy_and_list_fail_if_the_stages_integration_is_disabled_or_dropped(
    warehouse: Warehouse, integration: str
) -> None:
    warehouse.table()
    warehouse.stage(extra=f"STORAGE_INTEGRATION = {integration}")
    warehouse.pipe()
    warehouse.run(f"ALTER STORAGE INTEGRATION {integration} SET ENABLED = FALSE")
    assert warehouse.status()["executionState"] == "STALLED_STAGE_PERMISSION_ERROR"
    for sql in (warehouse.copy(), "LIST @RAW.EVENTS_STAGE", "CREATE OR REPLACE " + STAGE.format(integration)):
        assert "is disabled" in warehouse.refused(sql)
    warehouse.run(f"ALTER STORAGE INTEGRATION {integration} SET ENABLED = TRUE")
    warehouse.run("LIST @RAW.EVENTS_STAGE")
    warehouse.run(f"DROP INTEGRATION {integration}")
    for sql in (warehouse.copy(), "LIST @RAW.EVENTS_STAGE"):
        assert "was dropped" in warehouse.refused(sql)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("STORAGE_BLOCKED_LOCATION = ('s3://x/')", "invalid property"),
        ("STORAGE_BLOCKED_LOCATIONS = 's3://x/'", "invalid value"),
        ("ENABLED = 'perhaps'", "invalid value"),
    ],
)
def test_invalid_option_of_an_integration_is_refused(
    warehouse: Warehouse, integration: str, option: str, error: str
) -> None:
    assert error in warehouse.refused(f"ALTER STORAGE INTEGRATION {integration} SET {option}")


def test_stage_outside_the_integrations_allowed_locations_is_refused(
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


@pytest.mark.parametrize("sql", ["STAGE {}", "STAGE {} URL = 's3://x/'", "FILE FORMAT {} TYPE = JSON"])
def test_object_cannot_be_created_in_a_schema_or_database_that_does_not_exist(
    warehouse: Warehouse, sql: str
) -> None:
    assert "Schema" in warehouse.refused("CREATE " + sql.format("NOWHERE.S"))
    assert "Database 'NOWHERE'" in warehouse.refused("CREATE " + sql.format("NOWHERE.RAW.S"))


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        (
            "CREATE FILE FORMAT RAW.F TYPE = JSON STRIP_OUTER_ARAY = TRUE",
            "invalid parameter 'STRIP_OUTER_ARAY'",
        ),
        (
            "CREATE STAGE RAW.S URL = 's3://x/' FILE_FORMAT = (TYPE = JSON STRIP = TRUE)",
            "invalid parameter 'STRIP'",
        ),
        ("CREATE STAGE RAW.S URL = 's3://'", "only URLs such as s3://"),
        ("CREATE STAGE RAW.S ULR = 's3://x/'", "invalid property 'ULR'"),
        (
            "CREATE STORAGE INTEGRATION I TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE "
            "STORAGE_ALLOWED_LOCATIONS = ('*')",
            "missing property 'STORAGE_AWS_ROLE_ARN'",
        ),
        ("CREATE WAREHOUSE W AUTO_SUPEND = 60", "invalid property 'AUTO_SUPEND'"),
        ("CREATE ROLE R DESCRIPTION = 'x'", "invalid property 'DESCRIPTION'"),
    ],
)
def test_invalid_or_missing_option_of_create_is_refused(warehouse: Warehouse, sql: str, error: str) -> None:
    assert error in warehouse.refused(sql)


def test_create_with_or_replace_and_if_not_exists_is_refused(warehouse: Warehouse) -> None:
    for kind in ("STAGE", "FILE FORMAT", "WAREHOUSE", "USER", "SCHEMA", "STORAGE INTEGRATION"):
        assert "incompatible" in warehouse.refused(f"CREATE OR REPLACE {kind} IF NOT EXISTS X")


def test_failed_create_stage_does_not_affect_the_existing_stage(loading: Warehouse) -> None:
    assert "already exists" in loading.refused("CREATE STAGE RAW.EVENTS_STAGE")
    loading.run("CREATE STAGE IF NOT EXISTS RAW.EVENTS_STAGE")
    assert loading.status()["executionState"] == "RUNNING"


@pytest.mark.parametrize("sql", ["DROP SCHEMA RAW RESTRICT", "DROP SCHEMA RAW, OTHER", "DROP SCHEMA RAW x"])
def test_failed_drop_schema_keeps_the_pipes_and_stages_of_the_schema(loading: Warehouse, sql: str) -> None:
    loading.refused(sql)
    assert loading.status()["executionState"] == "RUNNING"


def test_alter_stage_changes_only_the_given_properties(warehouse: Warehouse) -> None:
    warehouse.stage(extra="COMMENT = 'by hand'")
    (before,) = warehouse.run("SHOW STAGES")
    url = f"s3://{warehouse.bucket}/other/"
    warehouse.run(f"ALTER STAGE RAW.EVENTS_STAGE SET URL = '{url}'")
    assert warehouse.run("SHOW STAGES") == [{**before, "url": url}]
    warehouse.run("CREATE STAGE RAW.INTERNAL")
    assert "internal stage" in warehouse.refused("ALTER STAGE RAW.INTERNAL SET COMMENT = 'x'")


def test_alter_stage_that_sets_only_a_comment_does_not_link_the_replaced_integration(
    warehouse: Warehouse, integration: str
) -> None:
    warehouse.table()
    warehouse.stage(extra=f"STORAGE_INTEGRATION = {integration}")
    warehouse.pipe()
    again = INTEGRATION.format(name=integration, bucket=warehouse.bucket, more="")
    warehouse.run(f"CREATE OR REPLACE {again}")
    warehouse.run("ALTER STAGE RAW.EVENTS_STAGE SET COMMENT = 'x'")
    assert warehouse.status()["executionState"] == "STALLED_STAGE_PERMISSION_ERROR"


def test_list_of_a_path_adds_the_slash_that_the_stage_url_lacks(warehouse: Warehouse) -> None:
    warehouse.stage(path="events")
    key = warehouse.put("events/sub/a", {"_id": 1})
    warehouse.put("eventssub/b", {"_id": 2})
    (listed,) = warehouse.run("LIST @RAW.EVENTS_STAGE/sub")
    assert listed["name"] == f"s3://{warehouse.bucket}/{key}"


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
def test_statements_that_are_accepted_but_not_enforced_are_logged(warehouse: Warehouse, sql: str) -> None:
    before = len(warehouse.local.logged("statement_accepted_not_enforced"))
    warehouse.run(sql)
    assert len(warehouse.local.logged("statement_accepted_not_enforced")) == before + 1


def test_show_warehouses_lists_a_created_warehouse(warehouse: Warehouse) -> None:
    name = f"WH_{warehouse.database}"
    assert warehouse.run(f"SHOW WAREHOUSES LIKE '{name}'") == []
    warehouse.run(f"CREATE WAREHOUSE {name} WITH WAREHOUSE_SIZE = 'XSMALL'")
    assert [row["name"] for row in warehouse.run(f"SHOW WAREHOUSES LIKE '{name}'")] == [name]


def test_renaming_a_warehouse_is_refused(warehouse: Warehouse) -> None:
    name = f"{warehouse.database}_WH"
    warehouse.run(f"CREATE WAREHOUSE {name}")
    assert "RENAME" in warehouse.refused(f"ALTER WAREHOUSE {name} RENAME TO {name}_2")


def test_show_warehouses_shows_the_latest_settings(warehouse: Warehouse) -> None:
    name = f"WH_{warehouse.database}"
    warehouse.run(f"CREATE WAREHOUSE {name} WITH AUTO_SUSPEND = 60 STATEMENT_TIMEOUT_IN_SECONDS = 3600")
    warehouse.run(f"ALTER WAREHOUSE {name} SET AUTO_SUSPEND = 30 WAREHOUSE_SIZE = 'SMALL'")
    warehouse.run(f"ALTER WAREHOUSE {name} SUSPEND")
    (shown,) = warehouse.run(f"SHOW WAREHOUSES LIKE '{name}'")
    assert (shown["size"], shown["auto_suspend"], shown["auto_resume"]) == ("Small", 30, "true")
    parameters = {row["key"]: row["value"] for row in warehouse.run(f"SHOW PARAMETERS IN WAREHOUSE {name}")}
    assert parameters["STATEMENT_TIMEOUT_IN_SECONDS"] == "3600"
    assert parameters["STATEMENT_QUEUED_TIMEOUT_IN_SECONDS"] == "0"


def test_warehouse_with_an_unknown_size_or_a_missing_resource_monitor_is_refused(
    warehouse: Warehouse,
) -> None:
    name = f"WH_{warehouse.database}"
    assert "SMALLISH" in warehouse.refused(f"CREATE WAREHOUSE {name} WITH WAREHOUSE_SIZE = 'SMALLISH'")
    warehouse.run(f"CREATE WAREHOUSE {name} WITH WAREHOUSE_SIZE = XXLARGE")
    monitored = f"ALTER WAREHOUSE {name} SET RESOURCE_MONITOR = {name}_M"
    assert f"Resource monitor '{name}_M' does not exist" in warehouse.refused(monitored)
    warehouse.run(f"CREATE RESOURCE MONITOR {name}_M WITH CREDIT_QUOTA = 1")
    warehouse.run(monitored)
    (shown,) = warehouse.run(f"SHOW WAREHOUSES LIKE '{name}'")
    assert (shown["size"], shown["resource_monitor"]) == ("2X-Large", f"{name}_M")
    warehouse.run(f"ALTER WAREHOUSE {name} SET RESOURCE_MONITOR = NULL")


def test_show_views_returns_the_statement_that_created_the_view(warehouse: Warehouse) -> None:
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


@pytest.mark.parametrize(
    ("show", "names"),
    [
        ("SCHEMAS LIKE 'ra%'", ["RAW"]),
        ("SCHEMAS LIKE 'other%'", []),
        ("SEQUENCES LIKE 'a%' IN SCHEMA RAW", ["A_B"]),
        ("SEQUENCES LIKE 'a\\\\_b' IN SCHEMA RAW", ["A_B"]),
        ("COLUMNS LIKE 'x' IN TABLE RAW.T", ["X"]),
        ("DATABASES LIKE 'none%'", []),
    ],
)
def test_show_with_like_returns_only_matching_objects(
    warehouse: Warehouse, show: str, names: list[str]
) -> None:
    warehouse.run("CREATE SEQUENCE RAW.A_B")
    warehouse.run("CREATE SEQUENCE RAW.C")
    warehouse.run("CREATE TABLE RAW.T (x INTEGER, y INTEGER)")
    assert [row.get("column_name", row.get("name")) for row in warehouse.run(f"SHOW {show}")] == names


@pytest.mark.parametrize("show", ["PIPES", "TABLES", "STAGES LIKE 'x'", "FILE FORMATS", "SEQUENCES"])
def test_show_fails_if_the_schema_or_database_does_not_exist(warehouse: Warehouse, show: str) -> None:
    for container in ("SCHEMA NOWHERE", "DATABASE NOWHERE", "SCHEMA NOWHERE.RAW"):
        assert "Object does not exist" in warehouse.refused(f"SHOW {show} IN {container}")
    assert warehouse.run(f"SHOW {show} IN SCHEMA RAW") == []
    warehouse.run(f"SHOW {show} IN DATABASE {warehouse.database}")


def test_show_stages_applies_like_and_limit(warehouse: Warehouse) -> None:
    warehouse.stage("ONE")
    warehouse.stage("TWO")
    assert [row["name"] for row in warehouse.run("SHOW STAGES LIKE 't%' IN SCHEMA RAW")] == ["TWO"]
    assert len(warehouse.run("SHOW STAGES LIMIT 1")) == 1


@pytest.mark.parametrize("show", ["SCHEMAS", "SEQUENCES IN SCHEMA RAW", "COLUMNS IN TABLE RAW.T"])
def test_show_with_limit_returns_at_most_that_many_objects(warehouse: Warehouse, show: str) -> None:
    warehouse.run("CREATE SEQUENCE RAW.A")
    warehouse.run("CREATE SEQUENCE RAW.B")
    warehouse.run("CREATE TABLE RAW.T (x INTEGER, y INTEGER)")
    assert len(warehouse.run(f"SHOW {show} LIMIT 1")) == 1


def test_show_schemas_shows_the_owner_and_managed_access(warehouse: Warehouse) -> None:
    warehouse.run("CREATE SCHEMA CLOSED WITH MANAGED ACCESS")
    shown = {row["name"]: row for row in warehouse.run(f"SHOW SCHEMAS IN DATABASE {warehouse.database}")}
    assert shown["CLOSED"]["options"] == "MANAGED ACCESS"
    assert shown["RAW"]["options"] == ""
    assert shown["RAW"]["owner"] == "ACCOUNTADMIN"


def test_creating_or_dropping_a_role_twice_is_refused(warehouse: Warehouse) -> None:
    role = f"R_{warehouse.database}"
    warehouse.run(f"CREATE ROLE {role}")
    assert "already exists" in warehouse.refused(f"CREATE ROLE {role}")
    assert [row["name"] for row in warehouse.run(f"SHOW ROLES LIKE '{role}'")] == [role]
    warehouse.run(f"DROP ROLE {role}")
    assert "does not exist" in warehouse.refused(f"DROP ROLE {role}")


def test_a_new_database_has_the_schema_public(warehouse: Warehouse) -> None:
    """Source: Snowflake's page "CREATE DATABASE"."""
    warehouse.run(f"CREATE TABLE {warehouse.database}.PUBLIC.T (id INT)")
    shown = {row["name"]: row for row in warehouse.run(f"SHOW SCHEMAS IN DATABASE {warehouse.database}")}
    assert shown["PUBLIC"]["owner"] == "ACCOUNTADMIN"


def test_create_database_if_not_exists_does_not_recreate_the_dropped_schema_public(
    warehouse: Warehouse,
) -> None:
    warehouse.run(f"DROP SCHEMA {warehouse.database}.PUBLIC")
    warehouse.run(f"CREATE DATABASE IF NOT EXISTS {warehouse.database}")
    shown = {row["name"] for row in warehouse.run(f"SHOW SCHEMAS IN DATABASE {warehouse.database}")}
    assert "PUBLIC" not in shown


def test_information_schema_shows_owners_of_tables_and_views_and_definitions_of_views(
    warehouse: Warehouse,
) -> None:
    """Source: Snowflake's pages "TABLES view" and "VIEWS view"."""
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


def test_identity_columns_generate_values_and_are_shown_by_desc_table(warehouse: Warehouse) -> None:
    warehouse.run("CREATE TABLE RAW.I (a INT AUTOINCREMENT, b INT IDENTITY(5, -2), c INT)")
    warehouse.run("INSERT INTO RAW.I (c) VALUES (1), (2)")
    warehouse.run("INSERT INTO RAW.I VALUES (9, 9, 3)")
    assert warehouse.run("SELECT * FROM RAW.I ORDER BY c") == [
        {"A": 1, "B": 5, "C": 1},
        {"A": 2, "B": 3, "C": 2},
        {"A": 9, "B": 9, "C": 3},
    ]
    defaults = [row["default"] for row in warehouse.run("DESC TABLE RAW.I")]
    assert defaults == ["IDENTITY START 1 INCREMENT 1 NOORDER", "IDENTITY START 5 INCREMENT -2 NOORDER", None]
    assert "defaults" in warehouse.refused("CREATE TABLE RAW.J LIKE RAW.I")
    assert "defaults" in warehouse.refused("CREATE TABLE RAW.J CLONE RAW.I")


def test_clone_replaces_an_existing_table_only_with_or_replace(warehouse: Warehouse) -> None:
    warehouse.run("CREATE TABLE RAW.A AS SELECT 1 AS x")
    warehouse.run("CREATE TABLE RAW.B AS SELECT 2 AS x")
    warehouse.run("CREATE TABLE IF NOT EXISTS RAW.B CLONE RAW.A")
    assert warehouse.run("SELECT x FROM RAW.B") == [{"X": 2}]
    warehouse.run("CREATE OR REPLACE TABLE RAW.B CLONE RAW.A")
    assert warehouse.run("SELECT x FROM RAW.B") == [{"X": 1}]


def test_desc_describes_a_view_in_another_database(warehouse: Warehouse) -> None:
    with warehouse.local.connect() as connection, connection.cursor() as cursor:
        warehouse.run("CREATE VIEW RAW.V AS SELECT 1 AS x")
        (column,) = cursor.execute(f"DESC VIEW {warehouse.database}.RAW.V").fetchall()
        assert column[:2] == ("X", "NUMBER(38,0)")


def test_show_tables_shows_null_for_unknown_times_and_sizes(warehouse: Warehouse) -> None:
    warehouse.run("CREATE TABLE RAW.T (x INT)")
    (row,) = warehouse.run("SHOW TABLES LIKE 'T' IN SCHEMA RAW")
    assert (row["created_on"], row["rows"], row["bytes"]) == (None, None, None)


@pytest.mark.parametrize(
    "options",
    [
        "CHANGE_TRACKING = TRUE",
        "WITH TAG (a = 'b')",
        "WITH ROW ACCESS POLICY p ON (x)",
        "ENABLE_SCHEMA_EVOLUTION = TRUE",
    ],
)
def test_create_table_option_that_would_have_no_effect_is_refused(warehouse: Warehouse, options: str) -> None:
    assert "Not supported by the local Snowflake" in warehouse.refused(
        f"CREATE TABLE RAW.T (x INT) {options}"
    )


def test_row_with_a_duplicate_key_is_refused_although_snowflake_accepts_it(warehouse: Warehouse) -> None:
    warehouse.run("CREATE TABLE RAW.K (x INT PRIMARY KEY)")
    warehouse.run("INSERT INTO RAW.K VALUES (1)")
    assert "rows that violate a key" in warehouse.refused("INSERT INTO RAW.K VALUES (1)")
    assert warehouse.run("SHOW IMPORTED KEYS") == []


def test_dollar_sign_in_a_string_is_not_a_session_variable(warehouse: Warehouse) -> None:
    with warehouse.local.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET x = 5")
        assert cursor.execute("SELECT $x, '$x and $y'").fetchall() == [(5, "$x and $y")]


def test_syntax_error_names_the_unexpected_word(warehouse: Warehouse) -> None:
    assert "unexpected 'limit'" in warehouse.refused("SELECT 1 LIMIT 1 limit 1")


@pytest.mark.parametrize(
    "columns", ["id INT NOT NULL", "id INT PRIMARY KEY", "s VARCHAR(2)", "id INT, PRIMARY KEY (id)", "id"]
)
def test_create_table_as_select_is_refused_if_its_column_list_would_be_ignored(
    warehouse: Warehouse, columns: str
) -> None:
    assert "column list" in warehouse.refused(f"CREATE TABLE RAW.C ({columns}) AS SELECT 1")


def test_comment_keeps_its_quotes_and_is_removed_when_its_table_is_replaced(warehouse: Warehouse) -> None:
    asked = "SELECT COMMENT FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_NAME = 'C'"
    warehouse.run("CREATE TRANSIENT TABLE RAW.C (x INT)")
    assert warehouse.run(asked) == [{"COMMENT": None}]
    warehouse.run("""COMMENT ON TABLE RAW.C IS $$it's "quoted"$$""")
    assert warehouse.run(asked) == [{"COMMENT": """it's "quoted\""""}]
    (row,) = warehouse.run("SHOW TABLES LIKE 'C' IN SCHEMA RAW")
    assert row["comment"] == """it's "quoted\""""
    warehouse.run("CREATE OR REPLACE TABLE RAW.C (x INT)")
    assert warehouse.run(asked) == [{"COMMENT": None}]


def test_show_primary_keys_lists_only_keys_of_the_named_table(warehouse: Warehouse) -> None:
    warehouse.run("CREATE TABLE RAW.K (a INT, b INT, PRIMARY KEY (b, a))")
    warehouse.run("CREATE SCHEMA OTHER")
    warehouse.run("CREATE TABLE OTHER.K (c INT PRIMARY KEY)")
    found = warehouse.run("SHOW PRIMARY KEYS IN TABLE RAW.K")
    assert [(row["column_name"], row["key_sequence"]) for row in found] == [("B", 1), ("A", 2)]
    assert all(row["constraint_name"].startswith("SYS_CONSTRAINT_") for row in found)
    assert len(warehouse.run(f"SHOW PRIMARY KEYS IN DATABASE {warehouse.database}")) == 3


def test_desc_sequence_describes_the_sequence_or_fails_if_it_does_not_exist(warehouse: Warehouse) -> None:
    warehouse.run("CREATE SEQUENCE RAW.S START = 5 INCREMENT = 2")
    (row,) = warehouse.run("DESC SEQUENCE RAW.S")
    assert (row["name"], row["interval"]) == ("S", 2)
    assert "does not exist" in warehouse.refused("DESCRIBE SEQUENCE RAW.NONE")
