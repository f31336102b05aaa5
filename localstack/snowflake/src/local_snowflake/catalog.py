"""Store the objects that fakesnow does not support: pipes, integrations, file formats of stages, and load
histories.

The objects are stored in fakesnow's global database. A load history is stored in the database of its table, because
a DuckDB transaction can write to only one database, and a file's rows must be committed together with their
history. Queued files are stored in the database of their pipe.
"""

import json
import secrets
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import duckdb

from local_snowflake import information_schema
from local_snowflake.catalog_objects import HISTORIES, OBJECTS, Integration, Pipe, Stage, columns_of, pipe_of
from local_snowflake.clock import Clock
from local_snowflake.engine import DurableFakeSnow
from local_snowflake.errors import missing
from local_snowflake.names import Columns
from local_snowflake.sql import OURS, Name, Options, Words, hidden

STAGES = "_fs_global._fs_information_schema._fs_stages"
FILE_FORMATS = "_fs_global._fs_information_schema._fs_file_formats"

COLUMNS = """
SELECT database_name, schema_name, table_name, column_name, data_type FROM duckdb_columns()
WHERE NOT internal AND schema_name NOT IN ('_fs_information_schema', '_local', 'main')
ORDER BY database_name, schema_name, table_name, column_index
"""


class Catalog:
    def __init__(self, fakesnow: DurableFakeSnow, clock: Clock) -> None:
        self.fakesnow = fakesnow
        self.clock = clock
        self.version = 0
        """Increases with every statement that may change an object, which makes earlier plans stale."""
        self._columns: tuple[int, Columns] = (-1, Columns())
        self.prepared: set[str] = set()
        # The loader and a session may call `create_histories` concurrently.
        self._preparing = threading.Lock()
        self.dropped: set[str] = set()
        """Dropped databases that may still be the current database of a session."""
        with fakesnow.cursor() as cursor:
            cursor.execute(OBJECTS)
            for database in self.databases() - {"memory", "_fs_global"}:
                cursor.execute(information_schema.creation_sql(database))
        rows = self.rows(f"SELECT locator FROM {OURS}.account")
        if not rows:
            locator = "LOCAL" + secrets.token_hex(4).upper()
            self.rows(f"INSERT INTO {OURS}.account VALUES (?, ?)", [locator, clock()])
            rows = [(locator,)]
        self.account: str = rows[0][0]

    # ---- queries and transactions

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self.fakesnow.cursor() as cursor:
            return cursor.execute(sql, list(parameters)).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self.fakesnow.cursor() as cursor:
            cursor.begin()
            try:
                yield cursor
                cursor.commit()
            except BaseException:
                with suppress(duckdb.Error):  # a commit that failed has rolled back
                    cursor.rollback()
                raise

    def changed(self) -> None:
        self.version += 1

    def databases(self) -> set[str]:
        return {
            row[0] for row in self.rows("SELECT database_name FROM duckdb_databases() WHERE NOT internal")
        }

    def columns(self) -> Columns:
        version = self.version
        if self._columns[0] != version:
            self._columns = (version, columns_of(self.rows(COLUMNS)))
        return self._columns[1]

    def require_schema(self, full_name: str) -> None:
        """Raise an error unless the database and schema of an object exist."""
        database = full_name.partition(".")[0]
        if database not in self.databases():
            raise missing("Database", database)
        schemas = self.rows(
            "SELECT 1 FROM duckdb_schemas() WHERE starts_with(?, database_name || '.' || schema_name || '.')",
            [full_name],
        )
        if not schemas:
            raise missing("Schema", full_name.rpartition(".")[0])

    def has_schema(self, database: str, schema: str | None) -> bool:
        """Return whether a database exists and, unless `schema` is None, contains this schema."""
        rows = self.rows("SELECT schema_name FROM duckdb_schemas() WHERE database_name = ?", [database])
        return bool(rows) and (schema in (None, "INFORMATION_SCHEMA") or (schema,) in rows)

    def names_of_schema_objects(self) -> list[tuple[str, str]]:
        """Return the kind and the full name of every pipe, stage and file format."""
        return [
            (kind, f"{database}.{schema}.{name}")
            for kind, table in (("PIPE", f"{OURS}.pipes"), ("STAGE", STAGES), ("FILE FORMAT", FILE_FORMATS))
            for database, schema, name in self.rows(f"SELECT database_name, schema_name, name FROM {table}")
        ]

    def create_histories(self, database: str) -> None:
        """Create a database's hidden tables of load histories and queued files if they do not exist. Call this before
        each query of these tables.
        """
        with self._preparing:
            if database not in self.prepared:
                with self.fakesnow.cursor() as cursor:
                    cursor.execute(HISTORIES.format(hidden=hidden(database)))
                self.prepared.add(database)

    # ---- the texts of views as written, because fakesnow keeps only DuckDB's version

    def view_texts(self) -> dict[str, str]:
        """Return the CREATE VIEW statement of each view, keyed by the view's full name."""
        return dict(self.rows(f"SELECT name, text FROM {OURS}.view_texts"))

    def put_view_text(self, name: str, text: str) -> None:
        with self.transaction() as cursor:
            cursor.execute(f"DELETE FROM {OURS}.view_texts WHERE name = ?", [name])
            cursor.execute(f"INSERT INTO {OURS}.view_texts VALUES (?, ?)", [name, text])

    def rename_view_text(self, name: str, new_name: str) -> None:
        self.rows(f"UPDATE {OURS}.view_texts SET name = ? WHERE name = ?", [new_name, name])

    # ---- pipes

    def pipes(self, where: str = "TRUE", parameters: Sequence[object] = ()) -> list[Pipe]:
        rows = self.rows(
            f"""SELECT pipe_id, database_name, schema_name, name, definition, auto_ingest, topic, channel,
                       integration, error_integration, comment, stage_id, location, paused_on,
                       created_on, transferred
                FROM {OURS}.pipes WHERE {where} ORDER BY database_name, schema_name, name""",
            parameters,
        )
        return [pipe_of(row) for row in rows]

    def find_pipe(self, name: Name) -> Pipe | None:
        found = self.pipes("database_name = ? AND schema_name = ? AND name = ?", name)
        return found[0] if found else None

    def pipe(self, name: Name) -> Pipe:
        pipe = self.find_pipe(name)
        if pipe is None:
            raise missing("Pipe", name)
        return pipe

    def add_pipe(self, pipe: Pipe) -> None:
        with self.transaction() as cursor:
            self._drop_pipe(cursor, pipe.name)
            cursor.execute(
                f"INSERT INTO {OURS}.pipes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    pipe.pipe_id,
                    *pipe.name,
                    pipe.definition,
                    pipe.auto_ingest,
                    pipe.topic,
                    pipe.channel,
                    pipe.integration,
                    pipe.error_integration,
                    pipe.comment,
                    pipe.stage_id,
                    json.dumps(pipe.location, allow_nan=False),
                    pipe.paused_on,
                    pipe.created_on,
                    pipe.transferred,
                ],
            )
        self.changed()

    def drop_pipe(self, name: Name) -> None:
        """Drop a pipe and its queued files. A new pipe with the same name has a new id, so it does not
        inherit the load history.
        """
        pipe = self.pipe(name)
        with self.transaction() as cursor:
            self._drop_pipe(cursor, name)
        self.changed()
        self.create_histories(name.database)
        self.rows(f"DELETE FROM {hidden(name.database)}._local_pending WHERE pipe_id = ?", [pipe.pipe_id])

    def _drop_pipe(self, cursor: duckdb.DuckDBPyConnection, name: Name) -> None:
        cursor.execute(
            f"DELETE FROM {OURS}.pipes WHERE database_name = ? AND schema_name = ? AND name = ?", list(name)
        )

    def set_pipe(self, name: Name, column: str, value: object) -> None:
        self.rows(
            f"UPDATE {OURS}.pipes SET {column} = ? WHERE database_name = ? AND schema_name = ? AND name = ?",
            [value, *name],
        )
        self.changed()

    def pipe_named(self, full_name: str) -> Pipe | None:
        return next((pipe for pipe in self.pipes() if str(pipe.name) == full_name), None)

    # ---- stages and formats

    def find_stage(self, name: Name) -> Stage | None:
        rows = self.rows(
            f"""SELECT coalesce(s.stage_id, ''), f.url, s.file_format, s.integration, s.integration_id
                FROM {STAGES} f LEFT JOIN {OURS}.stages s USING (database_name, schema_name, name)
                WHERE database_name = ? AND schema_name = ? AND name = ?""",
            name,
        )
        if not rows:
            return None
        stage_id, url, file_format, integration, integration_id = rows[0]
        return Stage(stage_id, name, url, json.loads(file_format or "{}"), integration, integration_id)

    def stage(self, name: Name) -> Stage:
        stage = self.find_stage(name)
        if stage is None:
            raise missing("Stage", name)
        return stage

    def put_stage(self, stage: Stage, comment: str) -> None:
        with self.transaction() as cursor:
            self._drop_stage(cursor, stage.name)
            cursor.execute(
                f"""INSERT INTO {STAGES} (created_on, name, database_name, schema_name, url, has_credentials,
                        has_encryption_key, owner, comment, type, cloud, storage_integration, owner_role_type,
                        directory_enabled)
                    VALUES (?, ?, ?, ?, ?, 'N', 'N', 'SYSADMIN', ?, 'EXTERNAL', 'AWS', ?, 'ROLE', 'N')""",
                [
                    self.clock(),
                    stage.name.name,
                    stage.name.database,
                    stage.name.schema,
                    stage.url,
                    comment,
                    stage.integration,
                ],
            )
            self._insert_stage(cursor, stage)
        self.changed()

    def change_stage(self, stage: Stage, comment: str | None) -> None:
        """Store the changed properties of an S3 stage. If `comment` is None, the stage keeps its comment."""
        with self.transaction() as cursor:
            cursor.execute(
                f"""UPDATE {STAGES} SET url = ?, storage_integration = ?, comment = coalesce(?, comment)
                    WHERE database_name = ? AND schema_name = ? AND name = ?""",
                [stage.url, stage.integration, comment, *stage.name],
            )
            cursor.execute(
                f"DELETE FROM {OURS}.stages WHERE database_name = ? AND schema_name = ? AND name = ?",
                list(stage.name),
            )
            self._insert_stage(cursor, stage)
        self.changed()

    def note_stage(self, stage: Stage) -> None:
        """Store the stage properties that fakesnow does not store."""
        with self.transaction() as cursor:
            cursor.execute(
                f"DELETE FROM {OURS}.stages WHERE database_name = ? AND schema_name = ? AND name = ?",
                list(stage.name),
            )
            self._insert_stage(cursor, stage)
        self.changed()

    def _insert_stage(self, cursor: duckdb.DuckDBPyConnection, stage: Stage) -> None:
        cursor.execute(
            f"INSERT INTO {OURS}.stages VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                stage.stage_id,
                *stage.name,
                json.dumps(stage.file_format, allow_nan=False),
                stage.integration,
                stage.integration_id,
            ],
        )

    def drop_stage(self, name: Name) -> None:
        with self.transaction() as cursor:
            self._drop_stage(cursor, name)
        self.changed()

    def _drop_stage(self, cursor: duckdb.DuckDBPyConnection, name: Name) -> None:
        for table in (STAGES, f"{OURS}.stages"):
            cursor.execute(
                f"DELETE FROM {table} WHERE database_name = ? AND schema_name = ? AND name = ?", list(name)
            )

    def file_format(self, options: Options, home: Name) -> Options:
        """Return the options merged with those of the file format that FORMAT_NAME names, if any; explicit
        options take precedence.
        """
        named = options.get("FORMAT_NAME")
        if named is None:
            return options
        parts = Words(str(named)).take_name()
        name = Name(*(*home[: 3 - len(parts)], *parts))
        found = self.find_file_format(name)
        if found is None:
            raise missing("File format", name)
        return {**found, **{key: value for key, value in options.items() if key != "FORMAT_NAME"}}

    def find_file_format(self, name: Name) -> Options | None:
        rows = self.rows(
            f"SELECT options FROM {FILE_FORMATS} WHERE database_name = ? AND schema_name = ? AND name = ?",
            name,
        )
        return json.loads(rows[0][0]) if rows else None

    # ---- integrations

    def integrations(self) -> list[Integration]:
        rows = self.rows(
            f"SELECT integration_id, name, options, created_on FROM {OURS}.integrations ORDER BY name"
        )
        return [Integration(i, name, json.loads(options), created) for i, name, options, created in rows]

    def find_integration(self, name: str) -> Integration | None:
        return next((found for found in self.integrations() if found.name == name), None)

    def integration(self, name: str) -> Integration:
        found = self.find_integration(name)
        if found is None:
            raise missing("Integration", name)
        return found

    def put_integration(self, integration: Integration) -> None:
        with self.transaction() as cursor:
            cursor.execute(f"DELETE FROM {OURS}.integrations WHERE name = ?", [integration.name])
            cursor.execute(
                f"INSERT INTO {OURS}.integrations VALUES (?, ?, ?, ?)",
                [
                    integration.integration_id,
                    integration.name,
                    json.dumps(integration.options, allow_nan=False),
                    integration.created_on,
                ],
            )
        self.changed()

    def drop_integration(self, name: str) -> None:
        self.rows(f"DELETE FROM {OURS}.integrations WHERE name = ?", [name])
        self.changed()


def new_id() -> str:
    return uuid.uuid4().hex
