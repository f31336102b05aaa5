"""fakesnow with durable databases. Each database is a DuckDB file in one folder, and the next start attaches
it again.
"""

import fcntl
import os
import threading
from pathlib import Path
from typing import IO

import duckdb
import fakesnow.transforms.stage
from fakesnow import info_schema, macros
from fakesnow.instance import GLOBAL_DATABASE_NAME, FakeSnow
from fakesnow.transforms import show

from local_snowflake import fakesnow_patches
from local_snowflake.duckdb_macros import creation_sql
from local_snowflake.objects_sql import macros_of
from local_snowflake.session import LocalConnection
from local_snowflake.sql import literal, quoted
from local_snowflake.temporary import drop_temporary

RESULTS_KEPT = 64


class FolderInUse(Exception):
    pass


def lock(folder: Path) -> IO[str]:
    """Lock the folder for this process and return the lock file. The kernel releases the lock however the process
    ends. Raises FolderInUse if another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / "lock").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        owner = handle.read().strip()
        raise FolderInUse(f"{folder} is in use by another local Snowflake (process {owner})") from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


class RecentResults(dict[str, tuple[object, ...]]):
    """A bounded store of query results. fakesnow keeps every result of every session, but RESULT_SCAN needs
    only the most recent ones. Sessions in several threads write to the store concurrently.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def __setitem__(self, query_id: str, result: tuple[object, ...]) -> None:
        with self._lock:
            super().__setitem__(query_id, result)
            while len(self) > RESULTS_KEPT:
                del self[next(iter(self))]


class DurableFakeSnow(FakeSnow):
    def __init__(self, folder: Path, memory_limit: str = "512MB") -> None:
        self.create_database_on_connect = False
        self.create_schema_on_connect = False
        self.db_path = self.folder = folder = folder.resolve()
        self.nop_regexes = None
        self.results_cache = RecentResults()
        self.duck_conn = duckdb.connect(
            ":memory:",
            config={
                "lambda_syntax": "ENABLE_SINGLE_ARROW",
                "memory_limit": memory_limit,
                # Otherwise, an Arrow table of more than 2,048 rows loses the order of ORDER BY (DuckDB 2.0.0).
                "preserve_insertion_order": True,
                "temp_directory": str(folder / "spill"),
            },
        )
        self.attach(GLOBAL_DATABASE_NAME)
        self.duck_conn.execute(info_schema.fs_global_creation_sql())
        self.duck_conn.execute(show.fs_global_creation_sql())
        self.duck_conn.execute(fakesnow_patches.shown_relations())
        self.duck_conn.execute("SET GLOBAL TimeZone = 'UTC'")
        fakesnow_patches.apply()
        # Create the macros, such as FLATTEN, in `memory`, too, because sessions without a database use it.
        self.duck_conn.execute(macros.creation_sql("memory"))
        self.duck_conn.execute(macros_of("memory"))
        self.duck_conn.execute(creation_sql())
        for file in sorted(folder.glob("*.db")):
            if file.stem != GLOBAL_DATABASE_NAME:
                self.attach(file.stem)
                self.duck_conn.execute(info_schema.per_db_creation_sql(file.stem))
                self.duck_conn.execute(macros.creation_sql(file.stem))
                self.duck_conn.execute(macros_of(file.stem))
        drop_temporary(self.duck_conn)
        keep_internal_stages_in(folder / "internal-stages")
        self._shut_in(folder)

    def _shut_in(self, folder: Path) -> None:
        """Prevent statements from accessing files outside the folder, loading extensions or changing DuckDB's
        settings. The three settings that are set here cannot be changed back while the database is open. Source:
        DuckDB's page "Securing DuckDB".
        """
        self.duck_conn.execute(f"SET allowed_directories = [{literal(f'{folder}/')}]")
        self.duck_conn.execute("SET enable_external_access = false")
        self.duck_conn.execute("SET lock_configuration = true")

    def attach(self, name: str) -> None:
        file = literal(str(self.folder / f"{name}.db"))
        self.duck_conn.execute(f"ATTACH {file} AS {quoted(name)}")

    def detach(self, name: str) -> None:
        """Detach a database and delete its files."""
        self.duck_conn.execute(f"DETACH {quoted(name)}")
        for suffix in (".db", ".db.wal"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def connect(
        self,
        database: str | None = None,
        schema: str | None = None,
        nop_regexes: list[str] | None = None,
        **options: object,
    ) -> LocalConnection:
        return LocalConnection(
            self.duck_conn.cursor(),
            self.results_cache,
            database,
            schema,
            create_database=False,
            create_schema=False,
            db_path=self.db_path,
            nop_regexes=nop_regexes,
            **options,
        )

    def buffered_bytes(self) -> int:
        """Return the size of DuckDB's buffers in bytes. They grow up to the memory limit."""
        with self.duck_conn.cursor() as cursor:
            found = cursor.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchall()
        return int(found[0][0] or 0)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        return self.duck_conn.cursor()


def keep_internal_stages_in(folder: Path) -> None:
    """Store internal stages in the folder; fakesnow would otherwise use a temporary folder per process."""
    folder.mkdir(exist_ok=True)
    fakesnow.transforms.stage.LOCAL_BUCKET_PATH = str(folder)
