"""The views TABLES, VIEWS, SCHEMATA and DATABASES of INFORMATION_SCHEMA, with owners and the text of each
view.

fakesnow's TABLES omits views and shows 0 as every size, and all four views show SYSADMIN as the owner and 1970 as
every time. Here an unknown value is NULL. (Snowflake: "TABLES view", "VIEWS view", "SCHEMATA view",
"DATABASES view")
"""

from local_snowflake.sql import OURS, hidden

OWNER = """(SELECT grantee FROM {ours}.grants WHERE privilege = 'OWNERSHIP' AND granted_on = '{kind}'
    AND name = r.database_name || '.' || r.schema_name || '.' || r.{name})"""

TABLES = """
CREATE OR REPLACE VIEW {hidden}._fs_tables AS
WITH relations AS (
    SELECT r.database_name, r.schema_name, r.table_name, {table_owner} AS owner, 'BASE TABLE' AS kind
    FROM duckdb_tables() AS r
    UNION ALL
    SELECT r.database_name, r.schema_name, r.view_name, {view_owner}, 'VIEW'
    FROM duckdb_views() AS r WHERE NOT internal
)
SELECT
    r.database_name AS "TABLE_CATALOG", r.schema_name AS "TABLE_SCHEMA", r.table_name AS "TABLE_NAME",
    r.owner AS "TABLE_OWNER", r.kind AS "TABLE_TYPE", NULL::VARCHAR AS "IS_TRANSIENT",
    NULL::VARCHAR AS "CLUSTERING_KEY", NULL::BIGINT AS "ROW_COUNT", NULL::BIGINT AS "BYTES",
    CASE WHEN r.kind = 'BASE TABLE' THEN 1 END AS "RETENTION_TIME",
    NULL::VARCHAR AS "SELF_REFERENCING_COLUMN_NAME", NULL::VARCHAR AS "REFERENCE_GENERATION",
    NULL::VARCHAR AS "USER_DEFINED_TYPE_CATALOG", NULL::VARCHAR AS "USER_DEFINED_TYPE_SCHEMA",
    NULL::VARCHAR AS "USER_DEFINED_TYPE_NAME", CASE WHEN r.kind = 'BASE TABLE' THEN 'YES' ELSE 'NO' END
    AS "IS_INSERTABLE_INTO", 'YES' AS "IS_TYPED", NULL::VARCHAR AS "COMMIT_ACTION",
    NULL::TIMESTAMPTZ AS "CREATED", NULL::TIMESTAMPTZ AS "LAST_ALTERED", NULL::TIMESTAMPTZ AS "LAST_DDL",
    NULL::VARCHAR AS "LAST_DDL_BY", 'NO' AS "AUTO_CLUSTERING_ON", nullif(comments.comment, '') AS "COMMENT",
    NULL::VARCHAR AS "IS_TEMPORARY", 'NO' AS "IS_ICEBERG", 'NO' AS "IS_DYNAMIC", 'NO' AS "IS_IMMUTABLE",
    'NO' AS "IS_HYBRID"
FROM relations AS r
LEFT JOIN _fs_global._fs_information_schema._fs_tables_ext AS comments
    ON (r.database_name, r.schema_name, r.table_name)
    = (comments.ext_table_catalog, comments.ext_table_schema, comments.ext_table_name)
WHERE r.database_name = '{database}' AND r.schema_name NOT IN ('_fs_information_schema', 'main')
"""

VIEWS = """
CREATE OR REPLACE VIEW {hidden}._fs_views AS
SELECT
    r.database_name AS "TABLE_CATALOG", r.schema_name AS "TABLE_SCHEMA", r.view_name AS "TABLE_NAME",
    {view_owner} AS "TABLE_OWNER", texts.text AS "VIEW_DEFINITION", 'NONE' AS "CHECK_OPTION",
    'NO' AS "IS_UPDATABLE", 'NO' AS "INSERTABLE_INTO", NULL::VARCHAR AS "IS_SECURE",
    NULL::TIMESTAMPTZ AS "CREATED", NULL::TIMESTAMPTZ AS "LAST_ALTERED", NULL::TIMESTAMPTZ AS "LAST_DDL",
    NULL::VARCHAR AS "LAST_DDL_BY", NULL::VARCHAR AS "COMMENT"
FROM duckdb_views() AS r
LEFT JOIN {ours}.view_texts AS texts
    ON texts.name = r.database_name || '.' || r.schema_name || '.' || r.view_name
WHERE r.database_name = '{database}' AND NOT internal AND r.schema_name NOT IN ('_fs_information_schema', 'main')
"""


SCHEMATA = """
CREATE OR REPLACE VIEW {hidden}._fs_schemata AS
SELECT
    r.database_name AS "CATALOG_NAME",
    CASE WHEN r.schema_name = '_fs_information_schema' THEN 'INFORMATION_SCHEMA' ELSE r.schema_name END
    AS "SCHEMA_NAME", {schema_owner} AS "SCHEMA_OWNER", NULL::VARCHAR AS "IS_TRANSIENT",
    CASE WHEN EXISTS (SELECT 1 FROM {ours}.managed_schemas AS m WHERE m.name = r.database_name || '.' || r.schema_name)
    THEN 'YES' ELSE 'NO' END AS "IS_MANAGED_ACCESS", 1 AS "RETENTION_TIME",
    NULL::VARCHAR AS "DEFAULT_CHARACTER_SET_CATALOG", NULL::VARCHAR AS "DEFAULT_CHARACTER_SET_SCHEMA",
    NULL::VARCHAR AS "DEFAULT_CHARACTER_SET_NAME", NULL::VARCHAR AS "SQL_PATH", NULL::TIMESTAMPTZ AS "CREATED",
    NULL::TIMESTAMPTZ AS "LAST_ALTERED", NULL::VARCHAR AS "COMMENT",
    'UNSET' AS "REPLICABLE_WITH_FAILOVER_GROUPS", 'ROLE' AS "OWNER_ROLE_TYPE"
FROM duckdb_schemas() AS r
WHERE r.database_name = '{database}' AND r.schema_name NOT IN ('main', 'pg_catalog', 'information_schema')
"""

DATABASES = """
CREATE OR REPLACE VIEW {hidden}.databases AS
SELECT
    r.database_name AS "DATABASE_NAME",
    (SELECT grantee FROM {ours}.grants WHERE privilege = 'OWNERSHIP' AND granted_on = 'DATABASE'
    AND name = r.database_name) AS "DATABASE_OWNER", NULL::VARCHAR AS "IS_TRANSIENT", NULL::VARCHAR AS "COMMENT",
    NULL::TIMESTAMPTZ AS "CREATED", NULL::TIMESTAMPTZ AS "LAST_ALTERED", 1 AS "RETENTION_TIME", 'STANDARD' AS "TYPE"
FROM duckdb_databases() AS r
WHERE NOT r.internal AND r.database_name NOT IN ('memory', '_fs_global')
"""


def creation_sql(database: str) -> str:
    """Return the statements that replace fakesnow's INFORMATION_SCHEMA views in a database; the table of
    grants must already exist.
    """
    schema_owner = """(SELECT grantee FROM {ours}.grants WHERE privilege = 'OWNERSHIP' AND granted_on = 'SCHEMA'
        AND name = r.database_name || '.' || r.schema_name)"""
    owners = {
        "schema_owner": schema_owner.format(ours=OURS),
        "table_owner": OWNER.format(ours=OURS, kind="TABLE", name="table_name"),
        "view_owner": OWNER.format(ours=OURS, kind="VIEW", name="view_name"),
    }
    return ";".join(
        view.format(hidden=hidden(database), ours=OURS, database=database, **owners)
        for view in (TABLES, VIEWS, SCHEMATA, DATABASES)
    )
