"""A proxy in front of AWS that applies faults to calls according to rules.

For each call, the proxy determines the service, the operation and, if possible, the caller (from the process at
the other end of the connection). A call that no rule matches is passed on unchanged. Rules are added and removed at
runtime. Changing the functions' settings instead would make LocalStack end running invocations.
"""

import asyncio
import base64
import itertools
import json
import os
import random
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, Self
from weakref import WeakKeyDictionary

import aiohttp
import yarl
from aiohttp import web

from tests import service_models

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect"}
_API = "/_aws/execute-api/"
_SCOPE = re.compile(r"Credential=[^/]+/[^/]+/[^/]+/([^/]+)/")
_LONGEST_SILENCE_S = 60.0
# The maximum number of times that the caller of a connection is looked up. A lookup may fail, because /proc/net/tcp
# can omit a connection while others are opened and closed. Phones are not separate processes, so they are never found.
LOOKUPS = 5


class Fault(Enum):
    REFUSED = auto()  # the service returns an internal error; nothing was done
    THROTTLED = auto()  # the service returns a throttling error; nothing was done
    CUT_BEFORE = auto()  # the connection closes without a response; nothing was done
    CUT_AFTER = auto()  # the call was executed, and the connection closes without a response
    HALF_ANSWER = auto()  # the call was executed, and the connection closes in the middle of the response
    WRONG_BYTES = auto()  # the call was executed, and the response is a 200 with an invalid body
    SILENT = auto()  # the connection stays open without a response; nothing was done
    SLOW = auto()  # the call is executed with a delay
    PARTLY = auto()  # every second entry of a batch is executed
    INVALID = auto()  # the service rejects the call permanently if it contains the word `poison`
    KILL_BEFORE = auto()  # the caller is killed; nothing was done
    KILL_AFTER = auto()  # the call was executed, and the caller is killed before it gets the response


class Call(NamedTuple):
    """A call to AWS. `caller` is the name of the calling process, or "" if the process is unknown."""

    caller: str
    pid: int | None
    service: str
    operation: str

    def __str__(self) -> str:
        return f"{self.caller or '?'} → {self.service} {self.operation}"


@dataclass
class Rule:
    """A fault and the calls to which it applies. `service`, `operation` and `caller` are shell patterns, such
    as `Batch*`.

    The fault applies to the fraction `share` of the matching calls, chosen by `seed` and the call's number,
    and to at most `times` calls. `seconds` is the delay of a SLOW call. `applied` counts the affected calls.
    """

    fault: Fault
    service: str = "*"
    operation: str = "*"
    caller: str = "*"
    share: float = 1.0
    times: int | None = None
    seconds: float = 1.0
    seed: int = 0
    applied: int = 0
    _seen: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def applies_to(self, call: Call) -> bool:
        if self.times is not None and self.applied >= self.times:
            return False
        names = (
            (call.service, self.service),
            (call.operation, self.operation),
            (call.caller, self.caller),
        )
        if not all(fnmatchcase(name, pattern) for name, pattern in names):
            return False
        chance = random.Random(f"{self.seed}/{next(self._seen)}").random()
        if chance >= self.share:
            return False
        self.applied += 1
        return True

    def __str__(self) -> str:
        share = "" if self.share == 1 else f", {self.share:.0%}"
        return f"{self.fault.name} {self.caller} → {self.service} {self.operation}{share}"


type Processes = Callable[[], Mapping[int, str]]
"""A function that returns the names of all possible callers by process id. It is called for each new connection, and
again if the caller is not found.
"""


class Proxy:
    """An HTTP proxy. `with Proxy(upstream, port) as proxy:` runs it in a thread; it listens on loopback at `url`."""

    def __init__(self, upstream: str, port: int = 0, processes: Processes = dict) -> None:
        self._upstream = upstream
        self._port = port
        self._processes = processes
        self._rules: tuple[Rule, ...] = ()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._callers: MutableMapping[asyncio.BaseTransport, tuple[str, int | None]] = WeakKeyDictionary()
        self._lookups: MutableMapping[asyncio.BaseTransport, int] = WeakKeyDictionary()
        self.calls: Counter[str] = Counter()
        self.breaches: set[str] = set()
        """The problems of requests that violate AWS's service models, although LocalStack may accept them"""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @contextmanager
    def rules(self, *rules: Rule) -> Iterator[None]:
        """Add rules inside the `with` block; they take precedence over existing rules."""
        self._rules = (*rules, *self._rules)
        try:
            yield
        finally:
            self._rules = tuple(r for r in self._rules if not any(r is each for each in rules))

    def stop_listening(self) -> None:
        """Refuse new connections and close existing ones, so that AWS is unreachable."""
        self._do(self._close_site())

    def listen(self) -> None:
        self._do(self._open_site())

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._rules = ()
        self._do(self._close_site())
        self._do(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[object, object, object]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        # Compressed bodies stay compressed in both directions.
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=_LONGEST_SILENCE_S),
        )
        await self._open_site()

    async def _open_site(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, auto_decompress=False, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]

    async def _close_site(self) -> None:
        await self._runner.cleanup()

    # --- one call

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = self._call_of(request, body)
        self.calls[str(call)] += 1
        try:
            service_models.check_http(request.headers, body)
        except service_models.ModelError as error:
            self.breaches.add(str(error))
        rule = next((rule for rule in self._rules if rule.applies_to(call)), None)
        try:
            return (
                await self._pass_on(request, body)
                if rule is None
                else await self._apply(rule, call, request, body)
            )
        except (aiohttp.ClientError, TimeoutError):
            # LocalStack did not respond, so close the connection without a response.
            return _cut(request)

    async def _apply(self, rule: Rule, call: Call, request: web.Request, body: bytes) -> web.StreamResponse:
        match rule.fault:
            case Fault.REFUSED:
                return _error(call, 503 if call.service == "s3" else 500, "InternalFailure")
            case Fault.THROTTLED:
                return _throttled(call)
            case Fault.CUT_BEFORE:
                return _cut(request)
            case Fault.SILENT:
                with suppress(asyncio.CancelledError):  # the caller has disconnected after its timeout
                    await asyncio.sleep(_LONGEST_SILENCE_S)
                return _cut(request)
            case Fault.SLOW:
                await asyncio.sleep(rule.seconds)
                return await self._pass_on(request, body)
            case Fault.PARTLY:
                return await self._partly(call, request, body)
            case Fault.INVALID:
                if not _contains_poison(body):
                    return await self._pass_on(request, body)
                return _error(call, 400, "ValidationException")
            case Fault.KILL_BEFORE:
                _kill(call)
                return _cut(request)
        answer = await self._pass_on(request, body)
        match rule.fault:
            case Fault.KILL_AFTER:
                _kill(call)
            case Fault.WRONG_BYTES:
                return web.Response(status=200, body=b"\x00\xffnot what you asked for{", headers={})
            case Fault.HALF_ANSWER:
                half = web.StreamResponse(status=answer.status)
                half.content_length = max(2, len(_bytes_of(answer)))
                await half.prepare(request)
                await half.write(_bytes_of(answer)[: half.content_length // 2])
        return _cut(request)

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        headers = {n: v for n, v in request.headers.items() if n.lower() not in _HOP_BY_HOP}
        async with self._session.request(
            request.method,
            yarl.URL(self._upstream + request.raw_path, encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
        ) as upstream:
            answer = await upstream.read()
            response = web.Response(status=upstream.status, body=answer)
            response.headers.extend(
                (n, v) for n, v in upstream.headers.items() if n.lower() not in _HOP_BY_HOP - {"connection"}
            )
            return response

    async def _partly(self, call: Call, request: web.Request, body: bytes) -> web.StreamResponse:
        """Pass on every second entry of a batch, and report the others as failed in the service's own format.

        Calls without a batch are throttled.
        """
        request_body = json.loads(body)
        match call.operation:
            case "PutRecords" | "PutEvents":
                name = "Records" if call.operation == "PutRecords" else "Entries"
                code = "ProvisionedThroughputExceededException"
                results: list[dict[str, object]] = [{"ErrorCode": code, "ErrorMessage": "on purpose"}] * len(
                    request_body[name]
                )
                if taken := request_body[name][1::2]:
                    answer = await self._pass_on(request, json.dumps(request_body | {name: taken}).encode())
                    results[1::2] = json.loads(_bytes_of(answer))[name]
                failed = sum("ErrorCode" in result for result in results)
                counted = "FailedRecordCount" if name == "Records" else "FailedEntryCount"
                return _json(200, {counted: failed, name: results})
            case "BatchGetItem":
                ((table, wanted),) = request_body["RequestItems"].items()
                keys = wanted["Keys"]
                found: dict[str, object] = {"Responses": {table: []}}
                if keys[1::2]:
                    some = {"RequestItems": {table: wanted | {"Keys": keys[1::2]}}}
                    answer = await self._pass_on(request, json.dumps(some).encode())
                    found = json.loads(_bytes_of(answer))
                return _json(200, found | {"UnprocessedKeys": {table: wanted | {"Keys": keys[::2]}}})
        return _throttled(call)

    # --- caller, service and operation

    def _call_of(self, request: web.Request, body: bytes) -> Call:
        caller, pid = self._caller_of(request)
        if request.raw_path.startswith(_API):
            return Call("phone", None, "api", request.method)
        scope = _SCOPE.search(request.headers.get("Authorization", ""))
        service = scope[1] if scope else ""
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        if service == "s3":
            operation = f"{request.method.capitalize()}Object"
        elif not operation and (action := re.search(rb"Action=(\w+)", body[:2000])):
            operation = action[1].decode()
        return Call(caller, pid, service, operation)

    def _caller_of(self, request: web.Request) -> tuple[str, int | None]:
        if request.transport is None:
            return "", None
        key = request.transport
        caller, pid = self._callers.get(key, ("", None))
        if pid is None and self._lookups.get(key, 0) < LOOKUPS:
            self._lookups[key] = self._lookups.get(key, 0) + 1
            processes = self._processes()
            pid = process_at(key.get_extra_info("peername")[1], processes) if processes else None
            caller = processes.get(pid, "") if pid else ""
            self._callers[key] = caller, pid
        return caller, pid


def process_at(port: int, pids: Mapping[int, str]) -> int | None:
    """Return the id of the process in `pids` that owns this local port of a loopback connection; None if none does."""
    local = f"0100007F:{port:04X}"
    inode = None
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == local and fields[9] != "0":
            inode = fields[9]
    if inode is None:
        return None
    wanted = f"socket:[{inode}]"
    for pid in pids:
        with suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(entry.path) == wanted:  # noqa: PTH115 - too slow for thousands of entries
                        return pid
    return None


def _contains_poison(body: bytes) -> bool:
    """Return whether the body, or a base64-encoded Kinesis record in it, contains the word `poison`."""
    datas = re.findall(rb'"Data": ?"([^"]*)"', body)
    return b"poison" in body or any(b"poison" in base64.b64decode(data) for data in datas)


def _kill(call: Call) -> None:
    if call.pid:
        with suppress(ProcessLookupError):
            os.kill(call.pid, signal.SIGKILL)


def _bytes_of(answer: web.Response) -> bytes:
    assert isinstance(answer.body, bytes)
    return answer.body


def _cut(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response()


def _throttled(call: Call) -> web.Response:
    match call.service:
        case "s3":
            return _error(call, 503, "SlowDown")
        case "kinesis" | "dynamodb":
            return _error(call, 400, "ProvisionedThroughputExceededException")
        case "api":
            return _json(429, {"message": "Too Many Requests"})
    return _error(call, 400, "ThrottlingException")


def _error(call: Call, status: int, code: str) -> web.Response:
    if call.service == "s3":
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>on purpose</Message></Error>"
        return web.Response(status=status, body=text.encode(), content_type="application/xml")
    if call.service == "sns":
        text = (
            f"<ErrorResponse><Error><Code>{code}</Code><Message>on purpose</Message></Error></ErrorResponse>"
        )
        return web.Response(status=status, body=text.encode(), content_type="text/xml")
    return _json(status, {"__type": code, "message": "on purpose"})


def _json(status: int, body: Mapping[str, object] | Sequence[object]) -> web.Response:
    return web.Response(
        status=status, body=json.dumps(body).encode(), content_type="application/x-amz-json-1.1"
    )
