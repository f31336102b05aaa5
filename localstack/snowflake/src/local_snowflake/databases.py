"""Create and drop databases and schemas. fakesnow cannot drop a database, and does not delete the pipes,
stages and file formats in a dropped database or schema.
"""

from local_snowflake.catalog import FILE_FORMATS, STAGES, Catalog
from local_snowflake.engine import DurableFakeSnow
from local_snowflake.errors import missing, unsupported
from local_snowflake.results import Handlers, Result, status
from local_snowflake.sql import OURS, Scope, Words


class Databases:
    def __init__(self, catalog: Catalog, fakesnow: DurableFakeSnow) -> None:
        self.catalog = catalog
        self.fakesnow = fakesnow
        self.handlers: Handlers = {
            ("CREATE", "DATABASE"): self.create_database,
            ("CREATE", "SCHEMA"): self.create_schema,
            ("DROP", "DATABASE"): self.drop_database,
        }

    def create_database(self, words: Words, scope: Scope) -> None:
        """Check the name in a CREATE DATABASE statement, because it is also a file name; fakesnow then runs
        the statement.
        """
        del scope
        words.take("CREATE")
        if words.takes("OR", "REPLACE"):
            raise unsupported("CREATE OR REPLACE DATABASE")
        words.takes("TRANSIENT")
        words.take("DATABASE")
        words.takes("IF", "NOT", "EXISTS")
        name = words.take_identifier()
        if name != name.upper() or not name.replace("$", "_").isidentifier():
            raise unsupported(
                f'CREATE DATABASE "{name}": a name may contain only capital letters, digits, _ and $, '
                "and may not start with a digit"
            )

    def create_schema(self, words: Words, scope: Scope) -> str | None:
        """Return the CREATE SCHEMA statement without WITH MANAGED ACCESS, which fakesnow does not support and which
        `Change.follow` records. Return None if the statement does not contain this clause.
        """
        del scope
        for at in range(len(words.tokens) - 2):
            words.at = at
            if words.takes("WITH", "MANAGED", "ACCESS"):
                first, last = words.tokens[at], words.tokens[at + 2]
                return words.sql[: first.start] + words.sql[last.end + 1 :]
        return None

    def forget_schema(self, full_name: str) -> None:
        """Delete the pipes, stages and file formats of a schema that was dropped."""
        database, _, schema = full_name.partition(".")
        self._forget("database_name = ? AND schema_name = ?", [database, schema])

    def drop_database(self, words: Words, scope: Scope) -> Result:
        """Drop a database and delete its file. DuckDB only detaches a database, so otherwise the next start
        would attach the file again.
        """
        del scope
        words.take("DROP", "DATABASE")
        if_exists = words.takes("IF", "EXISTS")
        name = words.take_identifier()
        if not (words.takes("CASCADE") or words.takes("RESTRICT")):
            words.finish()
        if name not in self.catalog.databases():
            if if_exists:
                return status(f"Drop statement executed successfully ({name} already dropped).")
            raise missing("Database", name)
        self._forget("database_name = ?", [name])
        self.catalog.prepared.discard(name)
        self.catalog.dropped.add(name)
        self.fakesnow.detach(name)
        return status(f"{name} successfully dropped.")

    def _forget(self, where: str, values: list[str | None]) -> None:
        with self.catalog.transaction() as cursor:
            for table in (f"{OURS}.pipes", f"{OURS}.stages", STAGES, FILE_FORMATS):
                cursor.execute(f"DELETE FROM {table} WHERE {where}", values)
        self.catalog.changed()
