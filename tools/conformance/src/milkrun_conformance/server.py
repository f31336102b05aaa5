"""The server to which the app under test sends its events. It runs one scenario at a time.

PUT  /scenario/<name>   start or restart this scenario
GET  /report            {"scenario", "plays", "wants", "requests", "faults", "ok"} of the current scenario
POST /v1/events         the app's events (any other path works as well)
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypedDict, cast, override

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from milkrun_conformance.parse_body import (
    UnreadableBodyError,
    decompress,
    digest,
    event_ids,
    unsupported,
)
from milkrun_conformance.scenarios import SCENARIOS, Reply, Scenario, Seen

HOLD_SECONDS = 120.0
POLL_SECONDS = 0.05
SHUTDOWN_SECONDS = 5
MAX_BODY_BYTES = 1024 * 1024  # Milkrun's limit, which is the `limit` in a 413 response
_CODES = {
    400: "no_valid_event",
    401: "token_expired",
    403: "invalid_api_key",
    413: "body_too_large",
    429: "throttled",
    503: "unavailable",
}
_OBJECT = "dt=2026-11-16/hh=08/" + "0" * 64  # a part of the object keys in receipts


class Report(TypedDict):
    """A report on the app's behaviour in a scenario. `plays` and `wants` are those of the Scenario. `faults`
    lists requests that got 415, and how the app violated `wants`, or "nothing was sent" if it sent no events. `ok` is
    true if `faults` is empty.
    """

    scenario: str
    plays: str
    wants: str
    requests: int
    faults: list[str]
    ok: bool


class Stage:
    """The current scenario, and the requests that the app has sent since the scenario began. Safe to use from
    any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.begin("accepted")

    def begin(self, name: str) -> None:
        with self._lock:
            self._ended.set()  # closes the connections that the previous scenario still holds open
            self._ended = threading.Event()
            self.scenario: Scenario = SCENARIOS[name]
            self.seen: list[Seen] = []
            self._refused: dict[str, None] = {}  # an ordered set of violations

    def receive(self, body: bytes, ids: tuple[str, ...], token: str) -> tuple[Reply, threading.Event]:
        """Record a request; return the reply to it, and a threading.Event that is set when the scenario ends."""
        with self._lock:
            reply = self.scenario.reply(self.seen, ids, token)
            self.seen.append(Seen(time.monotonic(), ids, body, reply.status, token))
            return reply, self._ended

    def refuse(self, headers: str) -> None:
        """Record a request that Milkrun would never accept because of these headers."""
        with self._lock:
            self._refused[f"a request got 415, as from Milkrun, because of its headers ({headers})"] = None

    def settled(self) -> bool:
        with self._lock:
            return self.scenario.settled(self.seen)

    def report(self) -> Report:
        with self._lock:
            faults = self.scenario.faults(self.seen) if self.seen else ["nothing was sent"]
            faults = [*self._refused, *faults]
            return {
                "scenario": self.scenario.name,
                "plays": self.scenario.plays,
                "wants": self.scenario.wants,
                "requests": len(self.seen),
                "faults": faults,
                "ok": not faults,
            }


@contextmanager
def serving(stage: Stage, host: str, port: int) -> Iterator[str]:
    """Run the server in a thread and yield its URL. Port 0 selects a free port; a port that is in use raises
    OSError.
    """
    with socket.create_server((host, port)) as listener:
        config = uvicorn.Config(
            application(stage),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            stage.begin("accepted")
            server.should_exit = True
            thread.join()


def application(stage: Stage) -> Starlette:
    async def events(request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:  # the app gave up while sending, so this does not count as a request
            return Response()
        text, ids = _read(body, request.headers)
        given = {name: request.headers.get(name, "") for name in ("Content-Type", "Content-Encoding")}
        if code := unsupported(*given.values()):
            stage.refuse(", ".join(f"{name}: {value}" for name, value in given.items() if value))
            return _response(Reply(415, code=code), ids)
        if not ids:  # not counted as a request; Milkrun also always responds with 400
            return _response(Reply(400, code="no_events"), (digest(text),))
        reply, ended = stage.receive(text, ids, request.headers.get("authorization", ""))
        if reply.hold:
            await _hold(request, ended)
        if reply.status is None:
            await _close_connection(request)
            return Response()
        return _response(reply, ids)

    async def scenario(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in SCENARIOS:
            return JSONResponse({"scenarios": list(SCENARIOS)}, 404)
        stage.begin(name)
        return JSONResponse({"scenario": name})

    async def report(_request: Request) -> Response:
        return JSONResponse(stage.report())

    return Starlette(
        routes=[
            Route("/scenario/{name}", scenario, methods=["PUT"]),
            Route("/report", report, methods=["GET"]),
            Route("/{path:path}", events, methods=["POST"]),
        ]
    )


class _Protocol(H11Protocol):
    """An HTTP protocol that lets the application close the connection without a response, which ASGI cannot express."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(cast("asyncio.Transport", transport))


async def _close_connection(request: Request) -> None:
    request.state.transport.abort()
    # If this function returned before the server had noticed the end of the connection, the server would answer 500.
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _hold(request: Request, ended: threading.Event) -> None:
    """Wait until the app closes the connection or the scenario ends, but for at most HOLD_SECONDS."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HOLD_SECONDS):
            while not ended.is_set() and not await request.is_disconnected():
                await asyncio.sleep(POLL_SECONDS)


def _read(body: bytes, headers: Mapping[str, str]) -> tuple[bytes, tuple[str, ...]]:
    """Return the decompressed body and the ids of its events. An unreadable body counts as one event."""
    try:
        text = decompress(body, headers.get("content-encoding", ""))
        return text, event_ids(text, headers.get("content-type", ""))
    except UnreadableBodyError:
        return body, (digest(body),)


def _response(reply: Reply, ids: tuple[str, ...]) -> Response:
    status = reply.status or 500
    if reply.text:
        return Response(reply.text, status, dict(reply.headers))
    kind = "application/problem+json" if status >= 400 else "application/json"
    # Unlike JSONResponse, this can encode an id with a lone surrogate.
    return Response(json.dumps(_answer(reply, ids), allow_nan=False), status, dict(reply.headers), kind)


def _answer(reply: Reply, ids: tuple[str, ...]) -> dict[str, object]:
    """Return the body of a response, which matches Milkrun's OpenAPI document."""
    rejected = ids if reply.status == 400 else [event for event in ids if event in reply.rejected]
    accepted = len(ids) - len(rejected)
    receipt: dict[str, object] = {
        "request_id": "conformance",
        "received": len(ids),
        "accepted": accepted,
        "duplicates": 0,
        "rejected": len(rejected),
        "object_key": f"events/{_OBJECT}.{accepted}.ndjson.gz" if accepted else None,
        "rejected_key": f"rejected/{_OBJECT}.{len(rejected)}.ndjson.gz" if rejected else None,
        "errors": [
            {"index": ids.index(event), "event_id": event, "code": reply.code, "field": "createdAt",
             "message": "On purpose."}
            for event in rejected
        ],
        "errors_omitted": 0,
    }  # fmt: skip
    if reply.status == 202:
        return receipt
    status = reply.status or 500
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": _CODES.get(status, reply.code),
        "detail": "A test of this app.",
        "request_id": "conformance",
    }
    if status == 400:
        return problem | receipt
    return problem | ({"limit": MAX_BODY_BYTES} if status == 413 else {})
