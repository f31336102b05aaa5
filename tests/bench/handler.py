"""Measure the handler's cost per request and compare it with peers: `python -m tests.bench.handler [--json]`.

First it checks that all handlers write the same events to the object and to the stream. The results are our CPU
seconds divided by each peer's (tests/bench/peers), as medians of interleaved rounds against the same sink; our
handler's CPU time without its calls, as a multiple of `json.loads` of the same body; the additional
CPU time of a request with a token; and the peak memory (VmHWM above the idle process) of requests of the maximum size.
"""

import base64
import gc
import gzip
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import urllib3

from tests.bench import figures
from tests.bench.figures import Figures, progress

SIZES = (1, 20, 100, 500)
ROUNDS = 15
FOLDER = Path(__file__).parents[2]
START = datetime.now(UTC) - timedelta(hours=1)  # recent, because the handler rejects old events


class Context:
    aws_request_id = "bench"
    function_name = "bench"
    memory_limit_in_mb = 1024
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:bench"

    def get_remaining_time_in_millis(self) -> int:
        return 28_000


def events(count: int) -> list[dict[str, object]]:
    """Return events of about 550 bytes each; every fifth is a geofence event."""
    made = []
    for n in range(count):
        event: dict[str, object] = {
            "_id": f"{random.getrandbits(96):024x}",
            "type": "user.entered_geofence" if n % 5 == 0 else "user.updated_trip",
            "createdAt": f"{START + timedelta(seconds=n % 3600):%Y-%m-%dT%H:%M:%S}.123Z",
            "live": True,
            "user": {
                "userId": f"driver-{n % 12:02}",
                "deviceId": f"van-{n % 12:04}",
                "locationAuthorization": "ALWAYS",
            },
            "location": {"type": "Point", "coordinates": [5.79 + n / 1e4, 53.2 - n / 1e4]},
            "locationAccuracy": 8.25,
            "confidence": 3,
            "foreground": False,
            "stopped": n % 2 == 0,
            "metadata": {"depot": "north", "round": n % 7, "note": "x" * 60},
        }
        if n % 5 == 0:
            event["geofence"] = {"tag": "farm", "externalId": f"farm-{n % 40}", "description": "De Boer"}
        else:
            event["trip"] = {"externalId": f"round-{n % 7}", "mode": "truck", "status": "started"}
        made.append(event)
    return made


def request_of(body: bytes, encoding: str | None = None) -> dict[str, object]:
    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": encoding} if encoding else {})
    return {
        "httpMethod": "POST",
        "path": "/v1/events",
        "headers": headers,
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
        "requestContext": {"extendedRequestId": "bench"},
    }


def cpu_of(call: Callable[[], object], times: int) -> float:
    """Make the call `times` times; return the mean CPU seconds per call, user plus system time."""
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times


def interleaved(*calls: Callable[[], object], times: int) -> list[float]:
    """Return the median CPU seconds of each call. Rounds are interleaved, so that other load on the machine
    affects all calls equally.
    """
    rounds = [[cpu_of(call, times) for call in calls] for _ in range(ROUNDS)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


@contextmanager
def sink() -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.sink"], cwd=FOLDER, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{process.stdout.readline().strip()}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "ARCHIVE_BUCKET": "archive",
        "STREAM_NAME": "stream",
        "REDRIVE_QUEUE_URL": "http://127.0.0.1:9/queue",
    }
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def silence() -> Iterator[None]:
    """Write log lines to the null device, so that the cost of writing them is still measured."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def read_counts() -> dict[str, Any]:
    """Return and reset the counts of the sink, with the last object and the last Kinesis request that it
    received.
    """
    found: dict[str, object] = urllib3.request("GET", os.environ["AWS_ENDPOINT_URL"]).json()
    return found


def events_sent(last: dict[str, str]) -> tuple[list[Any], list[Any]]:
    """Return the normalized events in the object, and those on the stream with their partition keys."""
    lines = gzip.decompress(base64.b64decode(last["PUT"])).splitlines()
    records = json.loads(base64.b64decode(last["POST"]))["Records"] if "POST" in last else []
    published = [(r["PartitionKey"], normalized(json.loads(base64.b64decode(r["Data"])))) for r in records]
    return [normalized(json.loads(line)) for line in lines], published


def normalized(value: Any, name: str = "") -> Any:
    """Undo the changes that models make to an event when they serialize it: remove nulls, and parse times."""
    if isinstance(value, dict):
        return {key: normalized(inner, key) for key, inner in value.items() if inner is not None}
    return datetime.fromisoformat(value) if name == "createdAt" else value


def all_handlers() -> dict[str, Callable[..., Mapping[str, Any]]]:
    """Return our handler and the handlers that it is compared with, by name. Ours is imported first, because
    the others may configure global logging.
    """
    from handler import main
    from tests.bench.peers import limit, naive, powertools

    return {
        "handler": main.ingest,
        "naive": naive.handler,
        "powertools": powertools.handler,
        "limit": limit.handler,
    }


def check_equal_work(handlers: dict[str, Callable[..., Mapping[str, Any]]], size: int) -> None:
    given = events(size)
    request = request_of(json.dumps(given).encode())
    truth = [normalized(event) for event in given]
    crossing = [(event["user"]["deviceId"], event) for event in truth if "geofence" in event]
    read_counts()
    for name, handler in handlers.items():
        answer = handler(request, Context())
        assert json.loads(answer["body"])["accepted"] == size, (name, answer)
        assert events_sent(read_counts()["last"]) == (truth, crossing), name


def against_peers() -> Figures:
    with silence():  # Powertools' logger keeps the stdout that exists when it is created
        return _against_peers()


def _against_peers() -> Figures:
    handlers = all_handlers()
    found = Figures()
    for size in SIZES:
        progress(f"measuring handler and peers with {size} events per request")
        check_equal_work(handlers, size)
        request = request_of(json.dumps(events(size)).encode())
        calls = [partial(handler, request, Context()) for handler in handlers.values()]
        measured = dict(zip(handlers, interleaved(*calls, times=max(2, 60 // size)), strict=True))
        found.rates |= {f"{name}/ms@{size}": seconds * 1e3 for name, seconds in measured.items()}
        ours = measured.pop("handler")
        found.ratios |= {f"handler/{peer}@{size}": ours / theirs for peer, theirs in measured.items()}
    return found


class NoOp:
    """Ports that do nothing, to measure a request without calls to AWS."""

    def store(self, *_: object) -> bool:
        return True

    def put(self, *_: object) -> list[Any]:
        return []

    def enqueue(self, *_: object) -> None: ...


def own_work() -> Figures:
    """Measure our handler's own CPU time with ports that do nothing instead of calling AWS, and compare it with that
    of `json.loads`.
    """
    from handler import main
    from handler.ingest import Ports

    real = main._app()
    app = main.App(real.settings, Ports(NoOp(), NoOp(), NoOp()), real.secrets)
    found = Figures()

    def ingested(request: dict[str, object]) -> object:
        return main.ingest(request, Context())

    for size in SIZES:
        progress(f"measuring the handler without its calls to AWS, {size} events per request")
        body = json.dumps(events(size)).encode()
        request = request_of(body)
        with patch.object(main, "_app", lambda: app), silence():
            ours, loads = interleaved(
                partial(ingested, request),
                partial(json.loads, body),
                times=max(3, 200 // size),
            )
        found.rates[f"handler/own_us_per_event@{size}"] = ours / size * 1e6
        found.ratios[f"handler_own/json.loads@{size}"] = ours / loads
    return found


def identity() -> Figures:
    """Measure the additional CPU time of a request of 100 events with a cached token, and with a new ES256 token,
    relative to a request without a token.
    """
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec

    from handler import main
    from handler.identity import Keys, Tokens
    from handler.ingest import Ports

    key = ec.generate_private_key(ec.SECP256R1())
    jwk = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).to_jwk(key.public_key(), as_dict=True)
    keys = json.dumps({"keys": [{**jwk, "kid": "k"}]}).encode()
    real = main._app()
    settings = msgspec.structs.replace(
        real.settings, jwt_issuer="https://issuer.example", jwt_audience="bench"
    )
    tokens = Tokens(settings, Keys(lambda: keys))
    body = json.dumps([e | {"user": {"deviceId": "van-1"}} for e in events(100)]).encode()
    claims = {
        "iss": settings.jwt_issuer,
        "aud": "bench",
        "exp": int(time.time()) + 3600,
        "device_id": "van-1",
    }

    def authorization(number: int) -> str:
        return f"Bearer {jwt.encode({**claims, 'jti': str(number)}, key, 'ES256', {'kid': 'k'})}"

    without = request_of(body)
    headers = {"Content-Type": "application/json", "Authorization": authorization(0)}
    known = without | {"headers": headers}
    app = replace(real, ports=Ports(NoOp(), NoOp(), NoOp()), tokens=tokens)
    progress("measuring the handler with tokens, 100 events per request")
    new = [without | {"headers": headers | {"Authorization": authorization(n)}} for n in range(1, 300)]
    rounds = []
    with patch.object(main, "_app", lambda: app), silence():
        calls = [partial(main.ingest, request, Context()) for request in (without, known)]
        seconds = interleaved(*calls, times=20)
        # Measure single requests in turn, so that the processor's caches are in the same state as in a function.
        for request in new:
            cases = (without, known, request)
            order = random.sample(range(3), 3)  # each request affects the caches for the next one
            rounds.append({case: cpu_of(partial(main.ingest, cases[case], Context()), 1) for case in order})
    found = Figures()
    found.ratios["handler/cached_token@100"] = seconds[1] / seconds[0]
    for name, case in (("cached_token", 1), ("new_token", 2)):
        more = statistics.median(each[case] - each[0] for each in rounds)
        found.rates[f"handler/{name}_us"] = more * 1e6
    return found


# --- memory -------------------------------------------------------------------------------------


def largest_requests() -> dict[str, dict[str, object]]:
    """Return ordinary and malicious requests of the maximum size, by name."""
    room = 4 * 1024 * 1024
    noise = [f"{random.getrandbits(4096):x}" for _ in range(160)]
    ordinary = json.dumps(
        [e | {"metadata": {"note": random.choice(noise) * 7}} for e in events(500)]
    ).encode()
    assert len(ordinary) < room
    at = f"{START:%Y-%m-%dT%H:%M:%SZ}".encode()
    head = b'{"_id":"%d","type":"t","createdAt":"' + at + b'","deviceId":"d","x":['

    def filled(with_: bytes) -> bytes:
        one = [head % n + with_ * ((65_000 - len(head)) // len(with_)) + b"0]}" for n in range(63)]
        return b"[" + b",".join(one) + b"]"

    bodies = {
        "500 events": ordinary,
        "empty arrays": filled(b"[],"),
        "small objects": filled(b'{"":0},'),
        "one huge event": head % 0 + b"[]," * ((room - 200) // 3) + b"0]}",
        "invalid array": b"[NaN," + filled(b"[],")[1:],
        "too many events": b"[" + b"{}," * ((room - 20) // 3) + b"{}]",
        "padding": ordinary[:-1] + b" " * (room - len(ordinary)) + b"]",
    }
    return {name: request_of(gzip.compress(body), "gzip") for name, body in bodies.items()}


def peak_memory() -> Figures:
    """Measure the peak memory of each of the largest requests, in MiB above that of the idle process.

    One warm process handles all requests; its high-water mark is reset before each request.
    """
    from handler import main

    found = Figures()
    progress("measuring the memory of the largest requests")
    with silence():
        main.ingest(request_of(json.dumps(events(1)).encode()), Context())
    for name, request in largest_requests().items():
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        idle = status("VmRSS")
        with silence():
            answer = main.ingest(request, Context())
        peak = (status("VmHWM") - idle) / 1024
        found.rates[f"handler/peak_mib {name} ({answer['statusCode']})"] = peak
    found.rates["handler/largest_peak_mib"] = max(found.rates.values())
    return found


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def run(part: str) -> Figures:
    """Run one part in this process. `measure` starts a process per part, because otherwise a part's peak memory
    would include that of earlier parts.
    """
    with sink():
        found: Figures = getattr(importlib.import_module("tests.bench.handler"), part)()
        return found


def measure() -> Figures:
    found = Figures()
    for part in PARTS:
        command = [sys.executable, "-m", "tests.bench.handler", part]
        output = subprocess.run(command, cwd=FOLDER, stdout=subprocess.PIPE, check=True).stdout
        found.add(Figures(**json.loads(output.splitlines()[-1])))
    return found


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in PARTS:
        print(json.dumps(asdict(run(arguments[0]))))
        return 0
    return figures.main(measure, arguments)


PARTS = ("against_peers", "own_work", "identity", "peak_memory")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
