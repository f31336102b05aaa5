"""Snowflake's errors for failures in DuckDB and fakesnow."""

import duckdb
import snowflake.connector.errors

from local_snowflake.duckdb_errors import worded
from local_snowflake.duckdb_macros import error_of
from local_snowflake.errors import unsupported


def refused(command: str, error: Exception) -> Exception:
    """Return Snowflake's error for a failure in DuckDB or fakesnow, or error 000603 if none is known."""
    if raised := error_of(str(error)):
        return snowflake.connector.errors.ProgrammingError(
            msg=raised.message, errno=int(raised.code), sqlstate=raised.sqlstate
        )
    if isinstance(error, duckdb.Error) and (known := worded(error)):
        return snowflake.connector.errors.ProgrammingError(
            msg=known.message, errno=int(known.code), sqlstate=known.sqlstate
        )
    if isinstance(error, duckdb.ParserException | duckdb.InternalException):
        return unsupported(f"the statement {' '.join(command.split())[:200]}")
    if "Map keys must be unique" in str(error):  # by OBJECT_AGG; DuckDB does not say which key is duplicated
        return snowflake.connector.errors.ProgrammingError(
            msg="Duplicate field key '…'", errno=100083, sqlstate="22000"
        )
    if isinstance(error, duckdb.ConstraintException):
        return constraint_failure(str(error).splitlines()[0])
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    statement = " ".join(command.split())
    return snowflake.connector.errors.ProgrammingError(
        msg=f"The local Snowflake could not run the statement: {message}\nStatement: {statement[:300]}",
        errno=603,
        sqlstate="XX000",
    )


def constraint_failure(message: str) -> Exception:
    """Return Snowflake's error for a violated CHECK constraint (text longer than its VARCHAR(n)) or NOT NULL
    constraint, or a refusal for a violated key. The kind of constraint is read from DuckDB's message.
    """
    code, state, text = (100072, "22000", f"NULL result in a non-nullable column: {message}")
    if message.startswith("Constraint Error: CHECK"):
        code, state, text = (100078, "22000", f"String is too long and would be truncated: {message}")
    elif not message.startswith("Constraint Error: NOT NULL"):
        # Snowflake does not enforce the keys of a standard table ("Constraints").
        code, state, text = (
            2,
            "0A000",
            f"Not supported by the local Snowflake: rows that violate a key: {message}",
        )
    return snowflake.connector.errors.ProgrammingError(msg=text, errno=code, sqlstate=state)
