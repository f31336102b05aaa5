"""A session's transaction, with Snowflake's rules where they differ from DuckDB's (Snowflake: "Transactions")."""

from contextlib import suppress

import duckdb
from fakesnow.conn import FakeSnowflakeConnection
from sqlglot import exp


class TransactionalConnection(FakeSnowflakeConnection):
    _begun = _changed = _aborted = False

    @property
    def in_transaction(self) -> bool:
        """Return whether a transaction is open. This is tracked here, because a BEGIN that tested it would abort an
        open transaction.
        """
        return self._begun or self._in_transaction

    def begin_unless_autocommit(self) -> None:
        if not self._autocommit and not self._in_transaction:
            self._duck_conn.begin()
            self._in_transaction = True

    def note_transaction(self, statement: exp.Expr) -> None:
        if isinstance(statement, exp.Transaction):
            self._begun = True
        elif isinstance(statement, exp.Commit | exp.Rollback):
            self._begun = self._changed = self._aborted = False

    def note_change(self) -> None:
        self._changed = self.in_transaction

    def commit_open(self) -> None:
        """Commit the open transaction, as Snowflake does before a DDL statement."""
        if self.in_transaction:
            self._begun = self._in_transaction = self._changed = False
            self._duck_conn.commit()

    def begin_batch(self) -> None:
        """Open a transaction for a statement that is run once per row."""
        self._duck_conn.begin()
        self._begun = True

    def end_batch(self, succeeded: bool) -> None:
        if not self._begun:  # A DDL statement has committed the transaction.
            return
        self._begun = self._in_transaction = self._changed = self._aborted = False
        if succeeded:
            self._duck_conn.commit()
        else:
            self._duck_conn.rollback()

    def refuse_to_commit_aborted(self) -> None:
        """If DuckDB has aborted the transaction, roll it back and raise an error. DuckDB would accept a COMMIT and
        silently roll back.
        """
        if self._aborted:
            self._begun = self._in_transaction = self._changed = self._aborted = False
            self._duck_conn.rollback()
            raise duckdb.TransactionException(
                "a statement in the transaction failed, so the whole transaction was rolled back"
            )

    def abort(self) -> None:
        """Abort the open transaction, because a failed statement has changed something in it. DuckDB cannot undo a
        single statement.
        """
        with suppress(duckdb.Error):
            self._duck_conn.execute("SELECT error('')").fetchall()
        self.outlive_failure()

    def outlive_failure(self) -> None:
        """After a failed statement, check the open transaction. If it has changed nothing, replace it with a new one.
        Otherwise note whether DuckDB has aborted it.

        A failed statement can abort its transaction in DuckDB, but not in Snowflake.
        """
        with suppress(duckdb.Error):
            self._duck_conn.fetchall()  # DuckDB accepts no statement while a result is unread
        if not self.in_transaction:
            return
        if self._changed:
            try:
                self._duck_conn.execute("SELECT 1")
            except duckdb.TransactionException:
                self._aborted = True
        else:
            with suppress(duckdb.Error):
                self._duck_conn.rollback()
            self._duck_conn.begin()
