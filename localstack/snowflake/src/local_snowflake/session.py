"""fakesnow's session, with corrections for dbt's SQL and other statements.

Each correction concerns a case in which fakesnow 0.12.1 fails or silently gives a wrong answer. Statements that
cannot be corrected are refused with an error that names them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import duckdb
import snowflake.connector.errors
import sqlglot
import structlog
from fakesnow.cursor import FakeSnowflakeCursor
from fakesnow.transforms.merge import operations
from snowflake.connector.cursor import DictCursor
from sqlglot import exp

from local_snowflake import fakesnow_patches, fakesnow_transforms, information_schema
from local_snowflake.actor import Actor
from local_snowflake.assignments import cast_assigned
from local_snowflake.catalog_objects import HISTORIES
from local_snowflake.column_names import keep_headings
from local_snowflake.column_types import Types
from local_snowflake.comments import column_comments
from local_snowflake.context_functions import (
    context_function,
    positions_of_order,
    refuse_context_functions,
    with_values,
)
from local_snowflake.duckdb_errors import worded
from local_snowflake.errors import SnowflakeError
from local_snowflake.fakesnow_transforms import Params
from local_snowflake.fakesnow_wrong_answers import (
    cast_times,
    flatten_options,
    one_path,
    refuse_local_times,
    refuse_wrong_answers,
    unsupported,
    write_plainly,
)
from local_snowflake.invalid_queries import refuse_invalid
from local_snowflake.lengths import keep_lengths
from local_snowflake.names import Columns, check_names, in_other_case
from local_snowflake.objects_sql import macros_of
from local_snowflake.session_errors import refused
from local_snowflake.sql import hidden, quoted
from local_snowflake.supported_sql import check
from local_snowflake.tables import (
    clone,
    identities,
    loses_by_copy,
    ordered_sequence,
    refuse_altered_columns,
    refuse_options,
    refuse_types,
)
from local_snowflake.temporary import TEMPORARY, relation_exists
from local_snowflake.transactions import TransactionalConnection
from local_snowflake.translate import translate

log = structlog.get_logger()

fakesnow_patches.remove_temporary_folder()

CONFLICT_TRIES = 20
CONFLICT_PAUSE_SECONDS = 0.05
OVERWRITE = "_local_overwrite"
# These statements commit the open transaction (Snowflake: "Transactions", "DDL").
DDL = (exp.Alter, exp.Comment, exp.Create, exp.Drop)
ONLY_READ = (exp.Query, exp.Describe, exp.Show, exp.Use, exp.Set, exp.Transaction)
DONE = "SELECT 'Statement executed successfully.' AS status"


class LocalConnection(TransactionalConnection):
    """A session. `temporary` contains the name and the kind of each relation that is dropped when the session
    ends.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.actor = Actor("LOCAL_SNOWFLAKE", "ACCOUNTADMIN")
        self.authorize: Callable[[exp.Expr, LocalConnection], None] | None = None
        """Raises an error if the session may not read or change an object that a statement names."""
        self.visible: Callable[[exp.Show, exp.Expr, LocalConnection], exp.Expr] | None = None
        """Restricts a SHOW statement's query to the objects that the session may see."""
        self.when_done: Callable[[], None] | None = None
        """Called after the current statement has succeeded."""
        self.view_reads: tuple[object, ...] | None = None
        """The tables that the current CREATE VIEW statement reads."""
        self.columns: Callable[[], Columns] = Columns
        """Returns the known columns of all databases."""
        self.temporary: dict[str, str] = {}

    def done(self) -> None:
        follow, self.when_done = self.when_done, None
        if follow:
            follow()

    def cursor(self, cursor_class: type[object] | None = None) -> "LocalCursor":
        return LocalCursor(self, self._duck_conn, cursor_class is DictCursor)

    def leave(self, database: str) -> None:
        """Unset the current database and schema, and forget the database's temporary relations."""
        self._duck_conn.execute("USE memory.main")
        self.database, self._schema = None, None
        self.database_set = self.schema_set = False
        self.temporary = {r: kind for r, kind in self.temporary.items() if not r.startswith(quoted(database))}

    def leave_schema(self) -> None:
        self._duck_conn.execute(f"USE {quoted(self.database or 'memory')}.main")
        self._schema, self.schema_set = None, False

    def close(self, retry: bool = True) -> None:
        for relation, kind in self.temporary.items():
            with suppress(duckdb.Error):
                self._duck_conn.execute(f"DROP {kind} IF EXISTS {relation}")
                self._duck_conn.execute(f"DELETE FROM {TEMPORARY} WHERE relation = ?", [relation])
        super().close(retry)


class LocalCursor(FakeSnowflakeCursor):
    _conn: LocalConnection
    _comments: list[str]
    _positions: list[int]

    def execute(
        self,
        command: str,
        params: Sequence[Any] | dict[Any, Any] | None = None,
        *args: object,
        **kwargs: object,
    ) -> FakeSnowflakeCursor:
        """Execute a statement as fakesnow does, but raise a connector error for every failure, and retry
        after a write conflict outside a transaction.
        """
        for _ in range(CONFLICT_TRIES):
            try:
                answer = self._run(command, params, *args, **kwargs)
                self._conn.done()
                return answer
            except (duckdb.TransactionException, duckdb.SerializationException) as error:
                if "onflict" not in str(error) or self._conn.in_transaction:
                    raise refused(command, error) from None
                # Snowflake would have waited for the other statement's lock.
                time.sleep(CONFLICT_PAUSE_SECONDS)
            except duckdb.Error as error:
                raise refused(command, error) from None
            except SnowflakeError as error:
                raise snowflake.connector.errors.ProgrammingError(
                    msg=error.message, errno=int(error.code), sqlstate=error.sqlstate
                ) from None
            except (
                AssertionError,
                ValueError,
                TypeError,
                AttributeError,
                LookupError,
                RuntimeError,
            ) as error:
                log.exception("fakesnow_failed", statement=command[:500])
                raise refused(command, error) from None
        raise snowflake.connector.errors.ProgrammingError(
            msg="Statement was aborted because other statements kept changing the same rows.",
            errno=625,
            sqlstate="57014",
        )

    def _run(self, *args: Any, **kwargs: Any) -> FakeSnowflakeCursor:
        try:
            return super().execute(*args, **kwargs)
        except snowflake.connector.errors.ProgrammingError as error:
            self._conn.outlive_failure()
            # Snowflake's grammar has the statement but DuckDB's does not, or fakesnow cannot handle it.
            if isinstance(error.__cause__, duckdb.ParserException | NotImplementedError):
                raise unsupported(f"the statement {' '.join(str(args[0]).split())[:200]}") from None
            if isinstance(error.__cause__, duckdb.Error) and (known := worded(error.__cause__)):
                raise known from None
            raise
        except Exception:
            self._conn.outlive_failure()
            raise

    def _describe_last_sql(self) -> list[tuple[object, ...]]:
        """Return the result's columns in the form of DuckDB's DESCRIBE. This overrides fakesnow's method, which
        parses, binds and describes the statement again. That takes a third of the statement's CPU time.
        """
        return list(self._described)

    # ---- statements that fakesnow would split into several

    def _transform_explode(self, expression: exp.Expr) -> list[exp.Expr]:
        if isinstance(expression, exp.Merge | exp.Create):
            return [expression]
        if isinstance(expression, exp.Insert) and expression.args.get("overwrite"):
            return [expression]
        return super()._transform_explode(expression)

    def _transform(self, expression: exp.Expr, params: Params) -> exp.Expr:
        actor = self._conn.actor
        if self._conn.authorize:
            self._conn.authorize(expression, self._conn)
        show = expression if isinstance(expression, exp.Show) else None
        # Otherwise fakesnow would ignore the text in COMMENT = $$…$$.
        for raw in list(expression.find_all(exp.RawString)):
            raw.replace(exp.Literal.string(raw.this))
        params = with_values(expression, params)
        refuse_context_functions(expression)
        refuse_wrong_answers(expression)
        write_plainly(expression)
        check(expression)
        refuse_invalid(expression, self._kinds_of)
        self._comments = [] if self._is_kept(expression) else column_comments(expression)
        columns = self._conn.columns()
        self._positions = positions_of_order(expression)
        check_names(expression, columns)
        home = (self._conn.database or "", self._conn.schema or "")
        with self._duck_conn.cursor() as apart:  # not in the open transaction, which may be aborted
            names = in_other_case(expression, apart, home)
        if names:
            if isinstance(expression, exp.Drop) and expression.args.get("exists"):
                return sqlglot.parse_one(DONE, read="duckdb")
            raise unsupported(f"the name {names[0]}, which differs only in case from {names[1]}")
        refuse_local_times(expression)
        if isinstance(expression, exp.Insert):
            cast_times(expression, self._kinds_of)
        types = Types.of_statement(expression, columns.types)
        cast_assigned(expression, self._kinds_of, types)
        keep_headings(expression)
        expression = expression.transform(
            lambda node: context_function(one_path(flatten_options(node)), actor, self._conn), copy=False
        )
        expression = translate(expression, columns.variants, types)
        keep_lengths(expression)
        if isinstance(expression, exp.Create | exp.Alter):
            refuse_types(expression)
        if isinstance(expression, exp.Alter) and isinstance(expression.this, exp.Table):
            refuse_altered_columns(expression, self._kinds_of(expression.this))
        if isinstance(expression, exp.Create):
            expression = self._created(expression)
        if isinstance(expression, exp.Create | exp.Drop):
            self._name_temporary(expression)
        transformed = fakesnow_transforms.transformed(self, expression, params)
        if show and self._conn.visible:
            return self._conn.visible(show, transformed, self._conn)
        return transformed

    def _kinds_of(self, table: exp.Table) -> Mapping[str, str]:
        """Return the DuckDB types of a table's columns, in column order, keyed by the column's name in upper case."""
        parts = (
            table.catalog or self._conn.database or "",
            table.db or self._conn.schema or "",
            table.name,
        )
        return self._conn.columns().tables.get(tuple(part.upper() for part in parts), {})

    def _created(self, create: exp.Create) -> exp.Create:
        self._conn.refuse_to_commit_aborted()
        refuse_options(create)
        ordered_sequence(create)
        database, schema = self._conn.database or "", self._conn.schema or ""
        if not self._is_kept(create):
            for sequence in identities(create, database):
                self._duck_conn.execute(sequence)
        source = create.args.get("clone") or create.find(exp.LikeProperty)
        if create.kind != "TABLE" or not source:
            return create
        if self._duck_conn.execute(loses_by_copy(source.this, database, schema)).fetchall():
            raise unsupported("CLONE or LIKE of a table with keys, defaults, NOT NULL or VARCHAR(n)")
        return clone(create) if create.args.get("clone") else create

    def _execute(self, transformed: exp.Expr, params: Params = None) -> None:
        if isinstance(transformed, (*DDL, exp.Commit)):
            self._conn.refuse_to_commit_aborted()
        if isinstance(transformed, DDL):
            self._conn.commit_open()
        elif isinstance(transformed, exp.Transaction) and self._conn.in_transaction:
            # Snowflake ignores a second BEGIN.
            self._execute_and_describe(sqlglot.parse_one(DONE, read="duckdb"))
            return
        self._execute_one(transformed, params)
        self._follow_table(transformed)
        if not isinstance(transformed, ONLY_READ):
            self._conn.note_change()

    def _execute_and_describe(self, transformed: exp.Expr, params: Params = None) -> None:
        super()._execute(transformed, params)
        self._described = [
            (column[0], str(column[1]), None, None, None, None)
            for column in self._duck_conn.description or ()
        ]

    def _execute_one(self, transformed: exp.Expr, params: Params) -> None:
        if isinstance(transformed, exp.Merge):
            self._merge(transformed, params)
        elif isinstance(transformed, exp.Insert) and transformed.args.get("overwrite"):
            self._at_once(lambda: self._overwrite(transformed, params))
        else:
            database: str | None = transformed.args.get("create_db_name")
            is_new = database is not None and not self._has_database(database)
            self._conn.note_transaction(transformed)
            self._execute_and_describe(transformed, params)
            if any(self._described[at - 1][1] == "JSON" for at in self._positions):
                raise unsupported(
                    "ORDER BY the position of a VARIANT column. Name the column, and cast it to a type."
                )
            for comment in self._comments:
                self._duck_conn.execute(comment)
            if database:  # even if it already existed, because fakesnow has created its own macros again
                self._duck_conn.execute(macros_of(database))
            if database and is_new:
                self._duck_conn.execute(information_schema.creation_sql(database))
                # Create these tables now: a transaction could not see them if the loader created them after it began.
                self._duck_conn.execute(HISTORIES.format(hidden=hidden(database)))
                # A new database has the schema PUBLIC (Snowflake: "CREATE DATABASE").
                self._duck_conn.execute(f"CREATE SCHEMA {quoted(database)}.PUBLIC")

    def _is_kept(self, statement: exp.Expr) -> bool:
        """Return whether the statement is CREATE … IF NOT EXISTS for a relation that exists and therefore
        stays unchanged.
        """
        table = statement.find(exp.Table) if isinstance(statement, exp.Create) else None
        if not table or not statement.args.get("exists"):
            return False
        return relation_exists(
            self._duck_conn,
            (table.catalog or self._conn.database or "", table.db or self._conn.schema or "", table.name),
        )

    def _has_database(self, database: str) -> bool:
        found = self._duck_conn.execute(
            "SELECT 1 FROM duckdb_databases() WHERE database_name = ?", [database]
        )
        return bool(found.fetchall())

    def _follow_table(self, done: exp.Expr) -> None:
        """Update the load history after a change to a table or its schema (Snowflake: "COPY INTO <table>",
        "COPY_HISTORY"). When the table is truncated, dropped or replaced, mark its entries from users' COPY statements
        as forgotten; a pipe's entries are kept. When the table is renamed, write the new name into all its entries.
        """
        table, renamed = done.find(exp.Table), done.find(exp.AlterRename)
        gone = isinstance(done, exp.Drop) or (isinstance(done, exp.Create) and done.args.get("replace"))
        emptied = isinstance(done, exp.TruncateTable) or (gone and done.args["kind"] in ("TABLE", "SCHEMA"))
        if not table or not (emptied or renamed):
            return
        database, schema = table.catalog or self._conn.database or "", table.db or self._conn.schema
        if not relation_exists(self._duck_conn, (database, "_fs_information_schema", "_local_history")):
            return
        if isinstance(done, exp.Drop) and relation_exists(
            self._duck_conn, (database, schema or "", table.name)
        ):
            return  # only the temporary table of the same name was dropped
        changed = "forgotten = forgotten OR pipe_id IS NULL"
        # For a dropped schema the table name is empty, which means all of its tables.
        values = [schema, table.name]
        if renamed:
            changed = "table_schema = ?, table_name = ?"
            values = [renamed.this.db or schema, renamed.this.name, *values]
        self._duck_conn.execute(
            f"UPDATE {hidden(database)}._local_history SET {changed} "
            "WHERE table_schema = ? AND ? IN (table_name, '')",
            values,
        )

    def _merge(self, merge: exp.Merge, params: Params) -> None:
        """Run MERGE as a single DuckDB MERGE statement within the current transaction; fakesnow would run
        several statements.
        """
        counted = {kind for kind, indices in operations(merge).items() if indices}
        for update in merge.find_all(exp.Update):
            for assignment in update.expressions:
                assignment.this.set("table", None)  # DuckDB accepts no table name here
        for insert in merge.find_all(exp.Insert):
            for column in insert.this.expressions if insert.this else ():
                column.set("table", None)
        self._conn.begin_unless_autocommit()
        sql = f"{merge.sql(dialect='duckdb')} RETURNING merge_action"
        try:
            rows = self._duck_conn.execute(sql, params).fetchall()
        except duckdb.InvalidInputException as error:
            if "more than once" in str(error):
                if "deleted" in counted:  # Snowflake deletes the row if no other source row updates it
                    raise unsupported(
                        "MERGE with DELETE if several source rows match one target row"
                    ) from None
                raise snowflake.connector.errors.ProgrammingError(
                    msg="Duplicate row detected during DML action", errno=100090, sqlstate="42P18"
                ) from None
            raise
        actions = [row[0] for row in rows]
        counts = ", ".join(
            f'{actions.count(action)} AS "number of rows {kind}"'
            for kind, action in (("inserted", "INSERT"), ("updated", "UPDATE"), ("deleted", "DELETE"))
            if kind in counted
        )
        result = sqlglot.parse_one(f"SELECT {counts}", read="duckdb")
        result.set("merge_counts", True)
        self._execute_and_describe(result)

    def _overwrite(self, insert: exp.Insert, params: Params) -> None:
        """Run INSERT OVERWRITE. Read the rows before emptying the table, because they may come from the same table."""
        target = insert.this.this if isinstance(insert.this, exp.Schema) else insert.this
        rows = insert.expression.sql(dialect="duckdb")
        self._duck_conn.execute(f"CREATE OR REPLACE TEMP TABLE {OVERWRITE} AS {rows}", params)
        self._duck_conn.execute(f"DELETE FROM {target.sql(dialect='duckdb')}")
        again = insert.copy()
        again.set("overwrite", None)
        again.set("expression", sqlglot.parse_one(f"SELECT * FROM temp.main.{OVERWRITE}", read="duckdb"))
        self._execute_and_describe(again)

    def _at_once(self, work: Callable[[], None]) -> None:
        """Run statements atomically, within the session's transaction if it has one."""
        self._conn.begin_unless_autocommit()
        if self._conn.in_transaction:
            work()
            return
        self._duck_conn.begin()
        try:
            work()
        except BaseException:
            self._duck_conn.rollback()
            raise
        self._duck_conn.commit()

    # ---- temporary relations with a database and a schema, which DuckDB does not support

    def _name_temporary(self, create: exp.Create | exp.Drop) -> None:
        """Turn a temporary relation into an ordinary one that is dropped when the session ends. Until then,
        other sessions can see it.
        """
        properties = create.args.get("properties")
        temporary = properties and properties.find(exp.TemporaryProperty)
        table = create.find(exp.Table)
        if not table or not table.db or create.kind not in ("TABLE", "VIEW"):
            return
        parts = (table.catalog or self._conn.database or "", table.db, table.name)
        relation = ".".join(quoted(part.upper()) for part in parts)
        if not temporary:  # The statement drops the relation or replaces it with a permanent one.
            self._conn.temporary.pop(relation, None)
            return
        temporary.pop()
        before = self._conn.temporary.get(relation)
        if before and before != create.kind:
            self._duck_conn.execute(f"DROP {before} IF EXISTS {relation}")
        elif not before and relation_exists(self._duck_conn, parts):
            raise snowflake.connector.errors.ProgrammingError(
                msg=f"Not supported by the local Snowflake: temporary {create.kind.lower()} "
                f"{'.'.join(parts)}, because it would hide a permanent relation with that name.",
                errno=2,
                sqlstate="0A000",
            )
        self._conn.temporary[relation] = create.kind
        with self._duck_conn.cursor() as apart:
            apart.execute(f"INSERT INTO {TEMPORARY} VALUES (?, ?)", [relation, create.kind])
