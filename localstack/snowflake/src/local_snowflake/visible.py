"""SHOW and the information schema list only what the session's roles have a privilege on, each with its owner."""

import sqlglot
from sqlglot import exp

from local_snowflake.access import Access
from local_snowflake.actor import Actor
from local_snowflake.catalog import OURS
from local_snowflake.sql import literal

IN_A_SCHEMA = "database_name || '.' || schema_name || '.' || {}"
SHOWN = {
    "DATABASES": ("name", ("DATABASE",)),
    "SCHEMAS": ("database_name || '.' || name", ("SCHEMA",)),
    "TABLES": (IN_A_SCHEMA.format("name"), ("TABLE", "VIEW")),
    "VIEWS": (IN_A_SCHEMA.format("name"), ("TABLE", "VIEW")),
    "OBJECTS": (IN_A_SCHEMA.format("name"), ("TABLE", "VIEW")),
    "COLUMNS": (IN_A_SCHEMA.format("table_name"), ("TABLE", "VIEW")),
    "STAGES": (IN_A_SCHEMA.format("name"), ("STAGE",)),
    "SEQUENCES": (IN_A_SCHEMA.format("name"), ("SEQUENCE",)),
}
OWNED = {"DATABASES", "TABLES", "VIEWS", "OBJECTS", "STAGES", "SEQUENCES"}


class Visible:
    def __init__(self, access: Access) -> None:
        self.access = access

    def __call__(self, show: exp.Show, query: exp.Expr, actor: Actor) -> exp.Expr:
        """The query of a SHOW statement, without what the session may not see."""
        kind = show.name.upper()
        if kind not in SHOWN:
            return query
        name, kinds = SHOWN[kind]
        listed = ", ".join(literal(each) for each in kinds)
        columns = "*"
        if kind in OWNED and not show.args.get("terse"):
            columns = f"""shown.* REPLACE (coalesce((SELECT any_value(grantee) FROM {OURS}.grants AS owning
                WHERE owning.privilege = 'OWNERSHIP' AND owning.granted_on IN ({listed})
                    AND owning.name = {qualified(name)}), 'SYSADMIN') AS "owner")"""
        where = "TRUE"
        if self.access.enforced:
            roles = ", ".join(literal(role) for role in sorted(self.access.now.roles_of(actor)))
            where = f"""{qualified(name)} IN (SELECT granted.name FROM {OURS}.grants AS granted
                WHERE granted.granted_on IN ({listed}) AND granted.granted_to = 'ROLE'
                    AND granted.grantee IN ({roles}))"""
            if kind == "SCHEMAS":
                where = f"({where} OR shown.name = 'INFORMATION_SCHEMA')"
        outer = sqlglot.parse_one(f"SELECT {columns} FROM (SELECT 1) AS shown WHERE {where}", read="duckdb")
        inner = outer.find(exp.Subquery, bfs=True)
        for subquery in outer.find_all(exp.Subquery):
            if subquery.alias == "shown":
                inner = subquery
        assert inner is not None
        inner.set("this", query)
        return outer


def qualified(name: str) -> str:
    for column in ("database_name", "schema_name", "table_name"):
        name = name.replace(column, f"shown.{column}")
    return name.replace("|| name", "|| shown.name") if name != "name" else "shown.name"
