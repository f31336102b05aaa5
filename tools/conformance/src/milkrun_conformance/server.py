"""The server that an app is pointed at; it plays one scenario at a time.

PUT  /scenario/<name>   begin it anew
GET  /report            {"scenario", "requests", "faults", "ok"} of the one under way
POST /v1/events         what the app sends
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from handler.http import Refused, Request, Unreadable, form_of, inflated
from handler.splitting import split
from milkrun_conformance.scenarios import SCENARIOS, Reply, Scenario, Seen

HOLD_SECONDS = 120.0


class Stage:
    """The scenario that is being played, and what was seen of the app so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.begin("accepted")

    def begin(self, name: str) -> None:
        with self._lock:
            self._ended.set()  # lets go of connections that the scenario before still holds
            self._ended = threading.Event()
            self.scenario: Scenario = SCENARIOS[name]
            self.seen: list[Seen] = []

    def receive(self, body: bytes, ids: tuple[str, ...]) -> tuple[Reply, threading.Event]:
        with self._lock:
            reply = self.scenario.reply(self.seen, ids)
            self.seen.append(Seen(time.monotonic(), ids, body, reply.status))
            return reply, self._ended

    def settled(self) -> bool:
        with self._lock:
            return self.scenario.settled(self.seen)

    def report(self) -> dict[str, Any]:
        with self._lock:
            faults = self.scenario.faults(self.seen) if self.seen else ["nothing was sent"]
            return {
                "scenario": self.scenario.name,
                "plays": self.scenario.plays,
                "wants": self.scenario.wants,
                "requests": len(self.seen),
                "faults": faults,
                "ok": not faults,
            }


@contextmanager
def serving(stage: Stage, host: str, port: int) -> Iterator[ThreadingHTTPServer]:
    """The server, in threads of its own; port 0 takes a free one."""
    server = ThreadingHTTPServer((host, port), _handler(stage))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stage.begin("accepted")
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(stage: Stage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            text, ids = _read(Request({name.lower(): value for name, value in self.headers.items()}, body))
            reply, ended = stage.receive(text, ids)
            if reply.hold:
                ended.wait(HOLD_SECONDS)
            if reply.status is None:
                self.close_connection = True
                return
            self._say(reply.status, _answer(reply, ids), reply.headers)

        def do_PUT(self) -> None:
            name = self.path.rpartition("/")[2]
            if name not in SCENARIOS:
                self._say(404, {"scenarios": list(SCENARIOS)})
                return
            stage.begin(name)
            self._say(200, {"scenario": name})

        def do_GET(self) -> None:
            self._say(200, stage.report())

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("transfer-encoding", "").lower():
                return self.rfile.read(int(self.headers.get("content-length") or 0))
            body = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
            return body

        def _say(self, status: int, answer: dict[str, Any], headers: Any = None) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            kind = "application/problem+json" if status >= 400 else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    return Handler


def _read(request: Request) -> tuple[bytes, tuple[str, ...]]:
    """The body inflated, and an id for each event in it; a body that is no events counts as one."""
    try:
        text = inflated(request)
        raws = split(text, form_of(request)).raws
    except (Refused, Unreadable):
        return request.body, (str(hash(request.body)),)
    return text, tuple(_id_of(raw) for raw in raws)


def _id_of(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["_id"])
    except (ValueError, KeyError, TypeError):
        return str(hash(raw))


def _answer(reply: Reply, ids: tuple[str, ...]) -> dict[str, Any]:
    if reply.status != 202:
        return {"type": "about:blank", "status": reply.status, "title": "On purpose", "code": "conformance",
                "detail": "A test of this app.", "request_id": "conformance", "errors": []}  # fmt: skip
    rejected = [event for event in ids if event in reply.rejected]
    return {
        "request_id": "conformance",
        "received": len(ids),
        "accepted": len(ids) - len(rejected),
        "duplicates": 0,
        "rejected": len(rejected),
        "object_key": "events/dt=2026-11-16/hh=08/" + "0" * 64 + f".{len(ids)}.ndjson.gz",
        "rejected_key": None,
        "errors": [
            {"index": ids.index(event), "event_id": event, "code": "wrong_type", "field": "createdAt",
             "message": "On purpose."}
            for event in rejected
        ],
    }  # fmt: skip
