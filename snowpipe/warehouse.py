"""A Snowflake session for the commands: statements in, rows as dictionaries out, errors as one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any, Protocol

from snowpipe.arrow import make_loggers
from snowpipe.check.sqlapi import host_of
from snowpipe.refusal import MissingObject, Refusal
from snowpipe.roles import Role
from snowpipe.settings import Connection
from snowpipe.within import within

type Row = dict[str, Any]

# Snowflake's error numbers; 2003 and 2043 mean "does not exist or not authorized".
LOGIN_SECONDS = 10
_NO_PRIVILEGE = 3001
_NO_SUCH_OBJECT = (2003, 2043)
_NOT_CONNECTED = range(250001, 252000)
_NO_ROLE = 390189


class Warehouse(Protocol):
    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement. Column names are lower case; a repeated one gets a number: `id`, `id_2`.

        Raises Refusal if Snowflake returns an error.
        """


class Snowflake:
    """A `Warehouse` on an open connection of snowflake-connector-python."""

    def __init__(self, connection: Any, where: str) -> None:
        self._connection = connection
        self._where = where

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        from snowflake.connector import Error

        try:
            # Not a DictCursor, which keeps only the last of two columns with the same name.
            with self._connection.cursor() as cursor:
                cursor.execute(sql, list(parameters) or None)
                names = distinct([column.name.lower() for column in cursor.description])
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except Error as error:
            kind = MissingObject if error.errno in _NO_SUCH_OBJECT else Refusal
            raise kind(explain(error.errno, error.msg, self._where)) from error


def distinct(names: Sequence[str]) -> list[str]:
    """Make names unique by adding the first free number to a repeated one."""
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
    """Return Snowflake's error as one line that says what to do."""
    said = " ".join((message or "").split())
    if number == _NO_PRIVILEGE:
        return f"missing privilege: {said} (grant it, or use another SNOWFLAKE_ROLE)"
    if number in _NO_SUCH_OBJECT:
        return f"missing object: {said} (milkrun warehouse apply creates ours)"
    if number == _NO_ROLE:
        return f"role not granted: {said} (run apply, grant it as in docs/deploy.md, or set SNOWFLAKE_ROLE)"
    if number in _NOT_CONNECTED:
        return f"no connection to Snowflake at {where}: {said}"
    return f"Snowflake refused: {said}"


@contextmanager
def connect(
    settings: Connection, give_up_after_s: int | None = None, *, role: Role | None = None
) -> Iterator[Snowflake]:
    """Open a session in UTC without a current database, because our statements name objects in full.

    It uses `role` unless the settings name one, and otherwise the user's default role. Raises NoAnswerError
    if signing in takes longer than `give_up_after_s` (LOGIN_SECONDS). Without `give_up_after_s` the
    connector later repeats requests without an answer forever.
    """
    from snowflake import connector  # takes 2.6 s to import

    make_loggers()
    settings = settings.using(role) if role else settings
    where = f"{settings.protocol}://{settings.host or host_of(settings.account)}:{settings.port}"
    if settings.role:
        where += f" as {settings.role}"
    session = {"TIMEZONE": "UTC", "QUERY_TAG": "milkrun", "CLIENT_TELEMETRY_ENABLED": False}
    options = {**_address(settings), **_sign_in(settings), **_timeouts(give_up_after_s)}
    try:
        connection = within(
            give_up_after_s or LOGIN_SECONDS,
            lambda: connector.connect(**options, application="Milkrun", session_parameters=session),
            f"Snowflake at {where}",
        )
    except connector.Error as error:
        raise Refusal(explain(error.errno or _NOT_CONNECTED[0], error.msg, where)) from error
    except (OSError, ValueError, TypeError) as error:
        # The key file does not exist, has no key, or needs another password.
        raise Refusal(explain(_NOT_CONNECTED[0], str(error), where)) from error
    try:
        yield Snowflake(connection, where)
    finally:
        connection.close()


def _address(settings: Connection) -> dict[str, Any]:
    # The connector derives the host from the account only if `host` is absent: with host=None it connects to
    # a host named "None". So settings that are not set are omitted.
    return settings.model_dump(
        include={"account", "user", "host", "port", "protocol", "warehouse", "role"}, exclude_none=True
    )


def _sign_in(settings: Connection) -> dict[str, Any]:
    """Return the connector's parameters of the one way to sign in. (Snowflake: "Python Connector API")"""
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
        return {"login_timeout": LOGIN_SECONDS}
    # The connector's pauses grow to 16 s, and it checks its timeout only after them.
    return {
        "login_timeout": min(LOGIN_SECONDS, give_up_after_s),
        "network_timeout": give_up_after_s,
        "socket_timeout": give_up_after_s,
        "backoff_policy": lambda: repeat(1),
    }
