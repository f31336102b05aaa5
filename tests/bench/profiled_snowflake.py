"""The local Snowflake, extended to record how many rows of each table every statement scans.

`MILKRUN_SCANS` names the output file. For each statement that scans a table, a line of JSON is written with
the dbt model or test, and the rows and columns of each scanned table. The rows are those that DuckDB scans
after pruning (`rows_scanned` in its profile).
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

from local_snowflake import __main__ as local
from local_snowflake.engine import DurableFakeSnow
from local_snowflake.session import LocalConnection, LocalCursor

SCANS = Path(os.environ["MILKRUN_SCANS"])
# dbt writes a comment with the node into every statement.
NODE = re.compile(r'"node_id": "[a-z]+[.][a-z]+[.]([a-z_]+)')
# Matches the names of columns in the projections and filters of a scan. It also matches words in the filters' values,
# but marts.py ignores them, because the table has no such columns.
WORD = re.compile(r"[a-z_]+")
_cursor, _execute = LocalConnection.cursor, LocalCursor.execute


class Profiled:
    """A DuckDB connection that records the profile of each statement as soon as it has run."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.node = ""
        connection.execute("PRAGMA enable_profiling='no_output'")
        connection.execute("SET profiling_coverage='ALL'")

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        done = self._connection.execute(*args, **kwargs)
        record(self.node, self._connection.get_profiling_information(format="json"))
        return done


def cursor(connection: LocalConnection, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(connection._duck_conn, Profiled):
        connection._duck_conn = Profiled(connection._duck_conn)  # type: ignore[assignment]
    return _cursor(connection, *args, **kwargs)


def execute(self: Any, command: str, *args: Any, **kwargs: Any) -> Any:
    found = NODE.search(command)
    self._duck_conn.node = found[1] if found else ""
    return _execute(self, command, *args, **kwargs)


def record(node: str, profile: str) -> None:
    found: list[tuple[str, int, list[str]]] = []

    def walk(part: dict[str, Any]) -> None:
        if part.get("rows_scanned"):
            info = part["extra_info"]
            read = json.dumps([info.get("Projections", ""), info.get("Filters", "")]).lower()
            found.append((info["Table"], part["rows_scanned"], sorted(set(WORD.findall(read)))))
        for child in part.get("children", []):
            walk(child)

    for root in json.loads(profile).get("operator", []) if profile else []:
        walk(root)
    if found:
        with SCANS.open("a") as file:
            file.write(json.dumps({"node": node, "scans": found}) + "\n")


if __name__ == "__main__":
    # `_shut_in` locks DuckDB's configuration, after which `enable_profiling` would fail.
    with (
        patch.object(DurableFakeSnow, "_shut_in", lambda self, folder: None),
        patch.object(LocalConnection, "cursor", cursor),
        patch.object(LocalCursor, "execute", execute),
    ):
        local.app()
