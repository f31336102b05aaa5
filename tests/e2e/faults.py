"""Break one of the functions' ways out, look, restore.

A proxy of ours stands in front of LocalStack, and one function's environment is pointed at it: killing
LocalStack or its Kinesis mock would lose what they have acknowledged, which no AWS does.
"""

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3

from tests.e2e.vocabulary import Pipeline

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "host"}


class Fault(Enum):
    NONE = auto()
    THROTTLED = auto()  # 400 ProvisionedThroughputExceededException
    PARTLY = auto()  # PutRecords takes every second record
    INVALID = auto()  # 400 ValidationException while one record holds the word `poison`
    CUT = auto()  # the connection ends without an answer
    LOST = auto()  # it was done, and the connection ends without an answer
    BROKEN = auto()  # 503, as S3 answers when it is unwell


class FaultProxy:
    """Passes requests on, or makes `fault` of them; `seen` counts those that a fault met."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.fault = Fault.NONE
        self.seen = 0
        self._upstream = urllib3.PoolManager(retries=False, timeout=10)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                proxy._answer(self, body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        fault = self.fault
        self.seen += fault is not Fault.NONE
        match fault:
            case Fault.CUT:
                request.close_connection = True
            case Fault.LOST:
                self._pass_on(request, body)
                request.close_connection = True
            case Fault.THROTTLED:
                _say(
                    request,
                    400,
                    {"__type": "ProvisionedThroughputExceededException", "message": "on purpose"},
                )
            case Fault.BROKEN:
                _say(request, 503, {})
            case Fault.INVALID if any(b"poison" in data for data in _records(body)):
                _say(request, 400, {"__type": "ValidationException"})
            case Fault.PARTLY:
                self._take_every_second(request, body)
            case _:
                response = self._pass_on(request, body)
                _write(request, response.status, response.data, dict(response.headers))

    def _take_every_second(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        call = json.loads(body)
        refused = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "on purpose"}
        results: list[dict[str, Any]] = [refused] * len(call["Records"])
        taken = call["Records"][1::2]
        if taken:
            response = self._pass_on(request, json.dumps(call | {"Records": taken}).encode())
            results[1::2] = json.loads(response.data)["Records"]
        failed = sum("ErrorCode" in result for result in results)
        _say(request, 200, {"FailedRecordCount": failed, "Records": results})

    def _pass_on(self, request: BaseHTTPRequestHandler, body: bytes) -> urllib3.BaseHTTPResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = self.target + request.path
        return self._upstream.request(request.command, url, body=body, headers=headers, redirect=False)


def _records(body: bytes) -> Iterator[bytes]:
    for record in json.loads(body).get("Records", []):
        yield base64.b64decode(record["Data"])


def _say(request: BaseHTTPRequestHandler, status: int, answer: Mapping[str, Any]) -> None:
    headers = {"Content-Type": "application/x-amz-json-1.1"}
    _write(request, status, json.dumps(answer).encode() if answer else b"", headers)


def _write(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        if name.lower() not in _HOP_BY_HOP:
            request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def environment_of(pipeline: Pipeline, function: str, changes: Mapping[str, str]) -> Iterator[None]:
    """The function runs with these variables too; afterwards as it was."""
    functions = pipeline.aws("lambda")
    name = f"milkrun-local-{function}"
    before = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]

    def set_to(variables: Mapping[str, str]) -> None:
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": dict(variables)})
        waiter = functions.get_waiter("function_updated_v2")
        waiter.wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})

    set_to(before | changes)
    try:
        yield
    finally:
        set_to(before)
