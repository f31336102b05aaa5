"""Temporary relations that are created with a qualified name. In the local Snowflake they are ordinary relations,
which are dropped when their session ends.
"""

from contextlib import suppress

import duckdb

TEMPORARY = "_fs_global._fs_information_schema._local_temporary"


def drop_temporary(duck: duckdb.DuckDBPyConnection) -> None:
    """Drop the temporary relations of sessions that never ended because the process was killed."""
    duck.execute(f"CREATE TABLE IF NOT EXISTS {TEMPORARY} (relation VARCHAR, kind VARCHAR)")
    for relation, kind in duck.execute(f"SELECT DISTINCT relation, kind FROM {TEMPORARY}").fetchall():
        # DROP TABLE fails if the relation is now a view, and DROP VIEW if it is now a table.
        with suppress(duckdb.Error):
            duck.execute(f"DROP {kind} IF EXISTS {relation}")
    duck.execute(f"DELETE FROM {TEMPORARY}")


def relation_exists(duck: duckdb.DuckDBPyConnection, parts: tuple[str, str, str]) -> bool:
    rows = duck.execute(
        """SELECT 1 FROM information_schema.tables
           WHERE (upper(table_catalog), upper(table_schema), upper(table_name))
                 = (upper(?), upper(?), upper(?))""",
        list(parts),
    ).fetchall()
    return bool(rows)
