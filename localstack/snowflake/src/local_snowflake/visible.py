"""Limit SHOW to objects on which the session's roles have a privilege, and add each object's owner."""

import pyarrow as pa
import sqlglot
from sqlglot import exp

from local_snowflake.access import Access
from local_snowflake.session import LocalConnection
from local_snowflake.sql import Words

LISTED = "_LOCAL_LISTED"
IN_A_SCHEMA = "shown.database_name || '.' || shown.schema_name || '.' || shown."
SHOWN = {
    "DATABASES": ("shown.name", ("DATABASE",)),
    "SCHEMAS": ("shown.database_name || '.' || shown.name", ("SCHEMA",)),
    "TABLES": (IN_A_SCHEMA + "name", ("TABLE", "VIEW")),
    "VIEWS": (IN_A_SCHEMA + "name", ("TABLE", "VIEW")),
    "OBJECTS": (IN_A_SCHEMA + "name", ("TABLE", "VIEW")),
    "COLUMNS": (IN_A_SCHEMA + "table_name", ("TABLE", "VIEW")),
    "STAGES": (IN_A_SCHEMA + "name", ("STAGE",)),
    "SEQUENCES": (IN_A_SCHEMA + "name", ("SEQUENCE",)),
}
OWNED = 'shown.* REPLACE (listed.role AS "owner")'
COLUMNS = {
    "COLUMNS": "shown.*",
    "SCHEMAS": 'shown.*, listed.role AS "owner", listed.options AS "options"',
    "VIEWS": 'shown.* REPLACE (listed.role AS "owner", COALESCE(listed.text, shown.text) AS "text")',
}

UNFILTERED = {"COLUMNS", "DATABASES", "SCHEMAS", "SEQUENCES", "STAGES"}
"""The kinds of object for which fakesnow ignores the LIKE of SHOW."""


def filter_rows(query: exp.Select, show: exp.Show) -> None:
    """Apply the LIMIT of a SHOW statement and, for the kinds in UNFILTERED, its LIKE. Sort the rows by full name,
    except those of SHOW COLUMNS.
    """
    like = show.args.get("like")
    if like and show.name.upper() in UNFILTERED:
        name = "column_name" if show.name.upper() == "COLUMNS" else "name"
        pattern = like.sql(dialect="duckdb")
        query.where(f"shown.{name} ILIKE {pattern} ESCAPE '\\'", dialect="duckdb", copy=False)
    if show.name.upper() != "COLUMNS":
        query.order_by("listed.full_name", dialect="duckdb", copy=False)
    if limit := show.args.get("limit"):
        query.limit(limit.expression.copy(), copy=False)


class Visible:
    def __init__(self, access: Access) -> None:
        self.access = access

    def __call__(self, show: exp.Show, query: exp.Expr, session: LocalConnection) -> exp.Expr:
        """Return the query of a SHOW statement, restricted to the objects that the session may see. Except for
        SHOW TERSE and SHOW COLUMNS, the result contains each object's owner. A query for a kind of object that
        is not in SHOWN is returned unchanged.
        """
        kind = show.name.upper()
        if kind not in SHOWN:
            return query
        name, kinds = SHOWN[kind]
        owners = self._owners(kinds, session)
        managed = self.access.now.managed
        texts = self.access.catalog.view_texts() if kind == "VIEWS" else {}
        session._duck_conn.register(
            LISTED,
            pa.table(
                {
                    "full_name": list(owners),
                    "role": list(owners.values()),
                    "options": ["MANAGED ACCESS" if each in managed else "" for each in owners],
                    "text": pa.array([texts.get(each) for each in owners], pa.string()),
                }
            ),
        )
        columns = "shown.*" if show.args.get("terse") else COLUMNS.get(kind, OWNED)
        outer = sqlglot.parse_one(
            f"SELECT {columns} FROM (SELECT 1) AS shown JOIN TEMP.MAIN.{LISTED} AS listed "
            f"ON listed.full_name = {name}",
            read="duckdb",
        )
        assert isinstance(outer, exp.Select)
        filter_rows(outer, show)
        query.set("limit", None)  # fakesnow's LIMIT would also count objects that are hidden here
        inner = outer.find(exp.Subquery)
        assert inner is not None
        inner.set("this", query)
        return outer

    def _owners(self, kinds: tuple[str, ...], session: LocalConnection) -> dict[str, str]:
        """Return the owner of each object of these kinds that the session may see, keyed by the object's full name."""
        now = self.access.now
        roles = now.roles_of(session.actor)
        owners = {
            row.name: now.owner(row.kind, row.name) or ""
            for row in now.rows
            if row.kind in kinds and (row.grantee in roles or not self.access.enforced)
        }
        if "SCHEMA" in kinds:
            databases = {name.partition(".")[0] for name in owners}
            owners |= {f"{database}.INFORMATION_SCHEMA": "" for database in databases}
        for relation in session.temporary if "TABLE" in kinds else ():
            owners[".".join(Words(relation).take_name())] = session.actor.role
        return owners
