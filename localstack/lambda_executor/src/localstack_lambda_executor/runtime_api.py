"""The Lambda Runtime API for one function process.

Each process has its own instance, so that a request for a process that has died can never reach the process that
replaces it. Source: AWS Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes".
"""

import json
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import override

VERSION = "/2018-06-01"
MAX_RESPONSE_BYTES = 6 * 1024 * 1024 + 100  # Lambda's limit is 6 MB and 100 bytes


@dataclass(frozen=True)
class Request:
    request_id: str
    function_arn: str
    payload: bytes
    trace_id: str
    deadline_ms: int


@dataclass(frozen=True)
class Answer:
    """A function's response. `size` is the number of bytes that the function sent. `body` is empty if `size`
    exceeds MAX_RESPONSE_BYTES.
    """

    body: bytes
    is_error: bool
    size: int


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of a connection, because a killed process leaves its connection half-open."""


class RuntimeApi:
    """The Runtime API of one process. `is_ready` becomes true with the process's first `next` request;
    `changed` is notified whenever the state changes.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.is_ready = False
        self.is_closed = False
        self.init_error: bytes | None = None
        self.taken: str | None = None  # the id of the request that the process is working on
        self._offered: Request | None = None
        self._answer: Answer | None = None
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._serve, name="lambda-runtime-api", daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def _serve(self) -> None:
        # serve_forever would wake up twice per second, per process, to check whether it should stop.
        # Only this thread closes the socket. Otherwise the next API's socket could get the same file descriptor, and
        # an accept() that the kernel restarts, for example after SIGSTOP and SIGCONT, would take its connections.
        with self._server:
            while True:
                try:
                    connection, peer = self._server.get_request()
                except OSError:  # because `close` has shut the socket down
                    return
                self._server.process_request(connection, peer)

    def offer(self, request: Request) -> None:
        with self.changed:
            self._offered, self._answer, self.taken = request, None, None
            self.changed.notify_all()

    def answer(self) -> Answer | None:
        return self._answer

    def close(self) -> None:
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()
        self._server.socket.shutdown(socket.SHUT_RDWR)

    def next(self) -> Request | None:
        """Wait for the next request and return it, or None once this API is closed."""
        with self.changed:
            self.is_ready = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: self._offered is not None or self.is_closed)
            if self.is_closed or self._offered is None:
                return None
            request, self._offered = self._offered, None
            self.taken = request.request_id
            self.changed.notify_all()
            return request

    def post_init_error(self, body: bytes) -> None:
        with self.changed:
            self.init_error = body
            self.changed.notify_all()

    def post_answer(self, request_id: str, answer: Answer) -> bool:
        """Store a response. Return False if this request is not being processed or already has a response."""
        with self.changed:
            if self.taken != request_id or self._answer is not None:
                return False
            self._answer = answer
            self.changed.notify_all()
            return True


def _handler(api: RuntimeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path != f"{VERSION}/runtime/invocation/next":
                self._reply(404, _error("InvalidPath", self.path))
                return
            request = api.next()
            if request is None:
                self._reply(410, _error("Closed", "this execution environment has ended"))
                return
            self._reply(
                200,
                request.payload,
                {
                    "Lambda-Runtime-Aws-Request-Id": request.request_id,
                    "Lambda-Runtime-Deadline-Ms": str(request.deadline_ms),
                    "Lambda-Runtime-Invoked-Function-Arn": request.function_arn,
                    "Lambda-Runtime-Trace-Id": request.trace_id,
                },
            )

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self._body(size)
            match self.path.removeprefix(f"{VERSION}/runtime/").split("/"):
                case ["init", "error"]:
                    api.post_init_error(body)
                    self._reply(202, _ok())
                case ["invocation", request_id, ("response" | "error") as kind]:
                    too_large = size > MAX_RESPONSE_BYTES
                    answer = Answer(b"" if too_large else body, too_large or kind == "error", size)
                    if not api.post_answer(request_id, answer):
                        self._reply(400, _error("InvalidRequestID", request_id))
                    elif too_large:
                        self._reply(413, _error("RequestEntityTooLarge", f"{size} bytes"))
                    else:
                        self._reply(202, _ok())
                case _:
                    self._reply(404, _error("InvalidPath", self.path))

        def _body(self, size: int) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(size)
            chunks = []
            while chunk_size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(chunk_size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _ok() -> bytes:
    return b'{"status":"OK"}'


def _error(error_type: str, message: str) -> bytes:
    return json.dumps({"errorType": error_type, "errorMessage": message}, allow_nan=False).encode()
