"""A Snowflake session for the commands: it runs statements, returns rows as dictionaries, and reports an
error as one line.
"""

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import repeat
from typing import Any, Protocol

from cli.deadline import NoAnswerError, while_alive, within
from cli.refusal import Refusal
from snowpipe.dbt_process import make_loggers
from snowpipe.pipe_check.sqlapi import host_of
from snowpipe.roles import Role
from snowpipe.settings import Connection

type Row = dict[str, Any]

# How long Snowflake may fail to respond, while signing in and during a statement.
ANSWER_SECONDS = 10
CLOSE_SECONDS = 2
SECTION = 'see docs/runbook.md, "Snowflake unreachable"'
# Snowflake's error numbers; 2003 and 2043 mean "does not exist or not authorized".
_NO_PRIVILEGE = 3001
_NO_SUCH_OBJECT = (2003, 2043)
_NOT_CONNECTED = range(250001, 252000)
_NO_ROLE = 390189


class MissingObject(Refusal):
    """An object, such as a table or a pipe, does not exist or is hidden from the role; Snowflake does not say which."""


class Warehouse(Protocol):
    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return its rows.

        Column names are lower case; a number is added to repeated names: `id`, `id_2`. Raises Refusal if
        Snowflake returns an error, and NoAnswerError if Snowflake does not respond.
        """


class Snowflake:
    """A `Warehouse` that uses an open connection of snowflake-connector-python.

    A statement may take any length of time while Snowflake answers the connector's heartbeats ("Python
    Connector API": `is_valid`). Once a statement has failed for lack of a response, all further statements fail
    immediately.
    """

    def __init__(self, connection: Any, where: str, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._connection = connection
        self._where = where
        self._answer_seconds = answer_seconds
        self.silence: NoAnswerError | None = None

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        if self.silence:
            raise self.silence
        try:
            return while_alive(
                self._answer_seconds,
                lambda: self._query(sql, parameters),
                self._connection.is_valid,
                f"Snowflake at {self._where}",
            )
        except NoAnswerError as error:
            self.silence = NoAnswerError(f"{error}; the statement may have run, {SECTION}")
            raise self.silence from None

    def _query(self, sql: str, parameters: Sequence[object]) -> list[Row]:
        from snowflake.connector import Error

        try:
            # A DictCursor would keep only the last of two columns with the same name.
            with self._connection.cursor() as cursor:
                cursor.execute(sql, list(parameters) or None)
                names = distinct([column.name.lower() for column in cursor.description])
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except Error as error:
            kind = (
                MissingObject
                if error.errno in _NO_SUCH_OBJECT
                else NoAnswerError
                if error.errno in _NOT_CONNECTED
                else Refusal
            )
            raise kind(explain(error.errno, error.msg, self._where)) from error


def distinct(names: Sequence[str]) -> list[str]:
    """Return the names, made unique: a repeated `n` becomes `n_2`, or `n_3` if there is an `n_2`, and so on."""
    taken, found = set(names), set[str]()
    result = []
    for name in names:
        new, number = name, 2
        while new in found or (new != name and new in taken):
            new, number = f"{name}_{number}", number + 1
        found.add(new)
        result.append(new)
    return result


def explain(number: int | None, message: str | None, where: str) -> str:
    """Return Snowflake's error as one line, with advice for the common errors."""
    said = " ".join((message or "").split())
    if number == _NO_PRIVILEGE:
        return f"missing privilege: {said} (grant it, or use another SNOWFLAKE_ROLE)"
    if number in _NO_SUCH_OBJECT:
        return f"missing object: {said} (milkrun warehouse apply creates the stage's objects)"
    if number == _NO_ROLE:
        advice = "run milkrun warehouse apply, grant the role as in docs/deploy.md, or set SNOWFLAKE_ROLE"
        return f"role not granted: {said} ({advice})"
    if number in _NOT_CONNECTED:
        return f"no connection to Snowflake at {where}: {said}"
    return f"Snowflake refused: {said}"


@contextmanager
def connect(
    settings: Connection, give_up_after_s: int | None = None, *, role: Role | None = None
) -> Iterator[Snowflake]:
    """Open a session in UTC without a current database, because our statements use fully qualified names.

    The session uses the role in the settings; otherwise `role`; otherwise the user's default role. Raises
    NoAnswerError if signing in fails. `give_up_after_s` (default: ANSWER_SECONDS) limits how long Snowflake
    may fail to respond; if it is given, it also limits the duration of each statement.
    """
    from snowflake import connector  # imported here, because it takes 2.6 s

    make_loggers()
    settings = settings.using(role) if role else settings
    where = url_of(settings)
    if settings.role:
        where += f" as {settings.role}"
    session = {"TIMEZONE": "UTC", "QUERY_TAG": "milkrun", "CLIENT_TELEMETRY_ENABLED": False}
    answer_seconds = give_up_after_s or ANSWER_SECONDS
    options = {**_address(settings), **_sign_in(settings), **_timeouts(give_up_after_s)}
    try:
        connection = within(
            answer_seconds,
            lambda: connector.connect(**options, application="Milkrun", session_parameters=session),
            f"Snowflake at {where}",
        )
    except NoAnswerError as error:
        raise NoAnswerError(f"{error}, {SECTION}") from None
    except connector.Error as error:
        raise NoAnswerError(explain(error.errno or _NOT_CONNECTED[0], error.msg, where)) from error
    except (OSError, ValueError, TypeError) as error:
        # The key file does not exist, contains no key, or needs another password.
        raise NoAnswerError(explain(_NOT_CONNECTED[0], str(error), where)) from error
    # The connector would close the session at exit, too, and wait 5 s for a Snowflake that does not answer.
    atexit.unregister(connection._close_at_exit)
    opened = Snowflake(connection, where, answer_seconds)
    try:
        yield opened
    finally:
        with suppress(NoAnswerError):
            within(0 if opened.silence else CLOSE_SECONDS, connection.close, where)


def url_of(settings: Connection) -> str:
    return f"{settings.protocol}://{settings.host or host_of(settings.account)}:{settings.port}"


def _address(settings: Connection) -> dict[str, Any]:
    # The connector derives the host from the account only if `host` is absent, and connects to a host named
    # "None" if host=None. Therefore, settings that are not set are omitted.
    return settings.model_dump(
        include={"account", "user", "host", "port", "protocol", "warehouse", "role"}, exclude_none=True
    )


def _sign_in(settings: Connection) -> dict[str, Any]:
    """Return the connector's parameters for the configured way to sign in. (Snowflake: "Python Connector API")"""
    token: dict[str, Any] = {}
    if settings.token:
        token = {"token": settings.token.get_secret_value()}
    elif settings.token_file_path:
        # The connector would send the file's final line feed too.
        token = {"token": settings.token_file_path.read_text().strip()}
    if settings.workload_identity_provider:
        provider = settings.workload_identity_provider
        return {"authenticator": "WORKLOAD_IDENTITY", "workload_identity_provider": provider, **token}
    if token:
        return {"authenticator": "PROGRAMMATIC_ACCESS_TOKEN", **token}
    if settings.private_key_file:
        secret = {"authenticator": "SNOWFLAKE_JWT", "private_key_file": str(settings.private_key_file)}
        if settings.private_key_file_pwd:
            secret["private_key_file_pwd"] = settings.private_key_file_pwd.get_secret_value()
        return secret
    return {"password": settings.password.get_secret_value()} if settings.password else {}


def _timeouts(give_up_after_s: int | None) -> dict[str, object]:
    if give_up_after_s is None:
        return {"login_timeout": ANSWER_SECONDS}
    # The connector's pauses grow to 16 s, and it checks its timeout only after them.
    return {
        "login_timeout": min(ANSWER_SECONDS, give_up_after_s),
        "network_timeout": give_up_after_s,
        "socket_timeout": give_up_after_s,
        "backoff_policy": lambda: repeat(1),
    }
