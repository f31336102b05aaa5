"""The local Snowflake, extended to record how many rows each statement scans in each table.

`MILKRUN_SCANS` names the file, which gets a line of JSON per statement that scanned rows. DuckDB counts the
rows of the row groups that remain after pruning (`rows_scanned` in its profile).
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from local_snowflake import __main__ as local
from local_snowflake.session import LocalConnection

SCANS = Path(os.environ["MILKRUN_SCANS"])
_cursor = LocalConnection.cursor


class Profiled:
    """A DuckDB connection that records the profile of each statement before the next one starts."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        connection.execute("PRAGMA enable_profiling='no_output'")
        connection.execute("SET profiling_coverage='ALL'")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        done = self._connection.execute(*args, **kwargs)
        note(self._connection.get_profiling_information(format="json"))
        return done


def cursor(connection: LocalConnection, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(connection._duck_conn, Profiled):
        connection._duck_conn = Profiled(connection._duck_conn)  # type: ignore[assignment]
    return _cursor(connection, *args, **kwargs)


def note(profile: str) -> None:
    found: list[tuple[str, int]] = []

    def walk(node: dict[str, Any]) -> None:
        if node.get("rows_scanned"):
            found.append((node["extra_info"].get("Table", ""), node["rows_scanned"]))
        for child in node.get("children", []):
            walk(child)

    for root in json.loads(profile).get("operator", []) if profile else []:
        walk(root)
    if found:
        with SCANS.open("a") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    LocalConnection.cursor = cursor  # type: ignore[method-assign, assignment]
    local.app()
    sys.exit()
