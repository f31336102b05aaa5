"""An ASGI middleware in front of fakesnow's server. It handles logins, sessions and long-running statements
as the Snowflake connector expects.
"""

import asyncio
import gzip
import json
import re
import secrets
from base64 import b64encode
from collections import defaultdict
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import duckdb
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from local_snowflake.catalog import Catalog
from local_snowflake.clock import AdvancedClock
from local_snowflake.commands import Commands
from local_snowflake.errors import SnowflakeError, compilation, unsupported
from local_snowflake.in_progress import Message, Receive, RunningStatements, Send
from local_snowflake.results import READ_OUT, VIEW, Result
from local_snowflake.roles import Roles
from local_snowflake.session import LocalConnection
from local_snowflake.sql import Scope, Words

log = structlog.get_logger()

type Json = dict[str, Any]
# `from fakesnow import server` would import the function of that name instead of the module.
fakesnow_server: Any = import_module("fakesnow.server")

type App = Callable[[Message, Receive, Send], Awaitable[None]]

CHANGE_NO_OBJECT = {
    "SELECT",
    "WITH",
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "SHOW",
    "DESC",
    "DESCRIBE",
    "LIST",
}
NOT_DESCRIBED = {
    "CREATE", "ALTER", "DROP", "COPY", "GRANT", "REVOKE", "TRUNCATE", "COMMENT",
    "USE", "SET", "UNSET", "BEGIN", "START", "COMMIT", "ROLLBACK",
}  # fmt: skip
"""fakesnow would run these statements in order to describe them."""
SESSION_SECONDS = 30 * 24 * 3600
QUERY = "/queries/v1/query-request"
LOGIN = "/session/v1/login-request"
SESSION = "/session"
HEALTH = "/health"
CLOCK = "/clock"
ABORT = "/queries/v1/abort-request"
PASSED_ON = {SESSION, "/session/heartbeat"}
MONITORING = "/monitoring/queries/"
RESULT = re.compile(r"/queries/([0-9a-fA-F-]+)/result")


class LocalSnowflake:
    def __init__(
        self,
        app: App,
        commands: Commands,
        catalog: Catalog,
        clock: AdvancedClock,
        health: Callable[[], dict[str, object]],
        roles: Roles,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.app = app
        self.roles = roles
        self.commands = commands
        self.catalog = catalog
        self.clock = clock
        self.health = health
        self.login = login
        self.statements = RunningStatements()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if scope["type"] != "http":
            return
        if not is_local(scope):
            log.warning(
                "request_refused",
                reason="the Host header names another machine, or there is an Origin header",
            )
            await JSONResponse({"error": "Host must name this machine; Origin must be absent."}, 403)(
                scope, receive, send
            )
        elif path == HEALTH:
            health = self.health()
            await JSONResponse(health, 200 if health["status"] == "ok" else 503)(scope, receive, send)
        elif path == CLOCK and scope["method"] == "PUT":
            await self._set_clock(scope, receive, send)
        elif path == LOGIN:
            await self._log_in(scope, receive, send)
        elif path == SESSION and b"delete=true" in scope["query_string"]:
            self.statements.forget(token_of(scope))
            await run_in_threadpool(self._log_out, token_of(scope))
            await self.app(scope, receive, send)
        elif path == ABORT:
            await self._abort(scope, receive, send)
        elif path == QUERY:
            await self._query(scope, receive, send)
        elif running := RESULT.fullmatch(str(path)):
            if not await self.statements.result(token_of(scope), running[1], receive, send):
                await JSONResponse({"error": "This session has no statement with this id."}, 404)(
                    scope, receive, send
                )
        elif path in PASSED_ON or str(path).startswith(MONITORING):
            await self.app(scope, receive, send)
        else:  # This also blocks fakesnow's upload route, which would write files for any caller.
            await JSONResponse({"error": f"No such path: {path}"}, 404)(scope, receive, send)

    async def _set_clock(self, scope: Message, receive: Receive, send: Send) -> None:
        answer = JSONResponse({"error": "The Basic credentials are missing or wrong."}, 401)
        if self._knows_password(scope):
            try:
                changed = AdvancedClock(float((await body_of(scope, receive))["days_ahead"]))
                answer = JSONResponse({"now": changed().isoformat()})
                self.clock.days_ahead = changed.days_ahead
            except (ValueError, LookupError, TypeError, OverflowError):
                answer = JSONResponse({"error": 'The body must be {"days_ahead": number}.'}, 400)
        await answer(scope, receive, send)

    def _knows_password(self, scope: Message) -> bool:
        if self.login is None:
            return True
        wanted = "Basic " + b64encode(":".join(self.login).encode()).decode()
        given: bytes = dict(scope["headers"]).get(b"authorization", b"")
        return secrets.compare_digest(given, wanted.encode())

    async def _log_in(self, scope: Message, receive: Receive, send: Send) -> None:
        request = await body_of(scope, receive)
        name, password = request["data"].get("LOGIN_NAME"), request["data"].get("PASSWORD")
        if self.login and not is_same(name, password, self.login):
            log.warning("login_refused", user=name)
            error = SnowflakeError("390100", "08001", "Incorrect username or password was specified.")
            await failure(error)(scope, receive, send)
            return
        # Pass on only AUTOCOMMIT. Two other session parameters would make fakesnow open database files in a folder that
        # the client names (FAKESNOW_DB_PATH) and skip statements (nop_regexes).
        given = request["data"].get("SESSION_PARAMETERS") or {}
        autocommit = {"AUTOCOMMIT": given["AUTOCOMMIT"]} if "AUTOCOMMIT" in given else {}
        request["data"]["SESSION_PARAMETERS"] = autocommit
        asked = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
        try:
            actor = await run_in_threadpool(
                self.roles.log_in, name, asked.get("roleName"), asked.get("warehouse")
            )
        except SnowflakeError as error:
            log.warning("login_refused", user=name, reason=error.message)
            await failure(error)(scope, receive, send)
            return

        def begin(answer: Json) -> None:
            with_master_token(answer)
            if answer.get("data"):
                session = fakesnow_server.sessions[answer["data"]["token"]]
                session.actor, session.authorize = actor, self.commands.reading
                session.visible = self.commands.visible
                session.columns = self.catalog.columns
                self.commands.authority.enter(session)
                answer["data"]["sessionInfo"] |= {
                    "roleName": actor.role,
                    "warehouseName": actor.warehouse,
                }

        await self.app(*replayed(scope, request), answered(begin, send))

    def _log_out(self, token: str) -> None:
        session = fakesnow_server.sessions.get(token)
        if session is not None:
            session.close()
        self._turns.pop(token, None)

    async def _abort(self, scope: Message, receive: Receive, send: Send) -> None:
        """Cancel a running statement, which then fails with error 000604. The connector requests this, for example,
        after its timeout.
        """
        token, request_id = token_of(scope), (await body_of(scope, receive)).get("requestId", "")
        session = fakesnow_server.sessions.get(token)
        if session is not None and self.statements.runs(token, request_id):
            session._duck_conn.interrupt()
        await JSONResponse({"data": None, "code": None, "message": None, "success": True})(
            scope, receive, send
        )

    async def _query(self, scope: Message, receive: Receive, send: Send) -> None:
        request = await body_of(scope, receive)
        asked = parse_qs(scope["query_string"].decode())
        (request_id,) = asked.get("requestId") or [str(uuid4())]

        async def run(send: Send) -> None:
            await self._run(scope, request, receive, send)

        await self.statements.run(token_of(scope), request_id, run, receive, send)

    async def _run(self, scope: Message, request: Json, receive: Receive, send: Send) -> None:
        token = token_of(scope)
        session = fakesnow_server.sessions.get(token)
        if session is None:
            await self.app(*replayed(scope, request), send)
            return
        # A session is one DuckDB cursor, which can run only one statement at a time.
        async with self._turns[token]:
            verb = ""
            try:
                verb, request["sqlText"] = await run_in_threadpool(self._prepare, request, session)
            except SnowflakeError as error:
                log.info("statement_refused", code=error.code, reason=error.message)
                await failure(error)(scope, receive, send)
                return
            except Exception as error:  # After HTTP 500, the connector would retry the statement for minutes.
                log.exception("statement_failed")
                await failure(SnowflakeError("000603", "XX000", f"local Snowflake: {error!r}"))(
                    scope, receive, send
                )
                return
            answer = send
            if verb == "USE":
                answer = answered(lambda data: name_session(data, session), answer)
            if has_arrays(request) and session._autocommit and not session.in_transaction:
                session.begin_batch()
                answer = answered(lambda data: end_batch(data, session), answer)
            answer = self._at_once(request["sqlText"], answer)
            await self.app(*replayed(scope, request), answer)
            if verb not in CHANGE_NO_OBJECT:
                self.catalog.changed()

    def _prepare(self, request: Json, session: LocalConnection) -> tuple[str, str]:
        """Run the statement if this server implements it itself. Return the statement's first word and the SQL for
        fakesnow: the statement, its translation, or a query that reads the result.
        """
        sql: str = request["sqlText"]
        try:
            json.dumps([sql, request.get("bindings")], ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise compilation("The statement or a binding is not valid UTF-8.") from None
        verb = (*Words(sql).start(1), "")[0]
        if request.get("describeOnly") and (
            verb in NOT_DESCRIBED or "SYSTEM$PIPE_FORCE_RESUME" in sql.upper()
        ):
            raise unsupported(f"a description of {verb} without running the statement")
        self._leave_dropped(session)
        session.when_done = session.view_reads = None
        answer = self.commands(sql, Scope(session.database, session.schema, session.actor), session)
        self._leave_dropped(session)
        if answer is None:
            return verb, sql
        if isinstance(answer, Result):
            session._duck_conn.register(VIEW, answer.table())
            return verb, READ_OUT
        return verb, answer

    def _leave_dropped(self, session: LocalConnection) -> None:
        database = session.database
        if database in self.catalog.dropped and database not in self.catalog.databases():
            session.leave(database)

    def _at_once(self, sql: str, send: Send) -> Send:
        """Return an ASGI `send` function that replaces a server error with an error response with status 200,
        because the connector retries HTTP 500.
        """
        start: Message = {}
        body = b""

        async def send_at_once(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.update(message)
                if message["status"] < 500:
                    await send(message)
            elif start["status"] < 500:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    log.error("statement_not_supported", statement=sql[:200], answer=body[:500].decode())
                    answer = failure(unsupported(" ".join(sql.split())[:200]))
                    await send({**start, "status": 200, "headers": answer.raw_headers})
                    await send({"type": "http.response.body", "body": answer.body})

        return send_at_once


def is_same(name: object, password: object, login: tuple[str, str]) -> bool:
    given = f"{str(name).upper()}/{password}".encode()
    return secrets.compare_digest(given, f"{login[0].upper()}/{login[1]}".encode())


def is_local(scope: Message) -> bool:
    """Return whether the Host header names this machine and there is no Origin header, so that no web page in a browser
    can run statements. A browser adds an Origin header to a page's POST and PUT requests. A page that rebinds its own
    domain name to 127.0.0.1 sends that name in the Host header.
    """
    headers = dict(scope["headers"])
    host: bytes = headers.get(b"host", b"")
    return b"origin" not in headers and LOOPBACK.fullmatch(host.decode("latin-1")) is not None


LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")


def token_of(scope: Message) -> str:
    """Return the token from the header `Authorization: Snowflake Token="…"`."""
    header: bytes = dict(scope["headers"]).get(b"authorization", b"")
    return header[17:-1].decode()


async def body_of(scope: Message, receive: Receive) -> Json:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if dict(scope["headers"]).get(b"content-encoding") == b"gzip":
        body = gzip.decompress(body)
    read: Json = json.loads(body)
    return read


def replayed(scope: Message, request: Json) -> tuple[Message, Receive]:
    """Return an ASGI scope and `receive` function that pass the changed request to the inner application."""
    body = json.dumps(request, allow_nan=False).encode()
    headers = [(k, v) for k, v in scope["headers"] if k not in (b"content-encoding", b"content-length")]
    headers.append((b"content-length", str(len(body)).encode()))
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return unread.pop() if unread else {"type": "http.disconnect"}

    return {**scope, "headers": headers}, receive


def with_master_token(answer: Json) -> None:
    """Add a master token to the response. Without it, the connector does not end the session when the
    connection is closed.
    """
    if answer.get("data"):
        answer["data"] |= {
            "masterToken": answer["data"]["token"],
            "validityInSeconds": SESSION_SECONDS,
            "masterValidityInSeconds": SESSION_SECONDS,
        }


def name_session(answer: Json, session: LocalConnection) -> None:
    """Add the current role and warehouse to the response, where the connector expects them."""
    if answer.get("data"):
        answer["data"] |= {
            "finalRoleName": session.actor.role,
            "finalWarehouseName": session.actor.warehouse,
        }


def has_arrays(request: Json) -> bool:
    """Return whether a statement has array bindings, which fakesnow runs as one statement per row."""
    bindings = request.get("bindings") or {}
    return any(isinstance(binding["value"], list) for binding in bindings.values())


def end_batch(answer: Json, session: LocalConnection) -> None:
    """Commit the rows of a statement with array bindings, or roll all of them back if a row failed."""
    try:
        session.end_batch(answer["success"])
    except duckdb.Error as error:
        answer.clear()
        answer |= json.loads(bytes(failure(SnowflakeError("000603", "XX000", str(error))).body))


def answered(change: Callable[[Json], None], send: Send) -> Send:
    """Return an ASGI `send` function that applies a change to the JSON response."""
    start: Message = {}
    body = b""

    async def send_changed(message: Message) -> None:
        nonlocal body
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            answer = json.loads(body)
            change(answer)
            changed = JSONResponse(answer, start["status"])
            await send({**start, "headers": changed.raw_headers})
            await send({"type": "http.response.body", "body": changed.body})

    return send_changed


def failure(error: SnowflakeError) -> JSONResponse:
    return JSONResponse(
        {
            "data": {"errorCode": error.code, "sqlState": error.sqlstate},
            "code": error.code,
            "message": error.message,
            "success": False,
        }
    )
