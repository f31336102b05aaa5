"""Bodies that take more CPU than ordinary bodies of the same size, and the CPU limit per body.

Each of these bodies exceeded the limit of `excess` in an earlier version of the handler. They are also seeds for the
fuzzer.
"""

import base64
import gzip
import json
import random
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Mapping
from functools import cache

import pytest

from contract import logs
from handler import main
from tests.unit.handler.fakes import Context, World, app

JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}
SOUND = b'{"_id":"a","type":"t","createdAt":"2026-11-28T08:00:00Z","deviceId":"d"'
WRONG = (
    b'{"_id":5,"type":"user.entered_geofence","createdAt":{},"user":{"deviceId":3,"userId":4},'
    b'"geofence":{"tag":1,"externalId":2},"duration":"x","confidence":9'
)


def packed(text: bytes) -> bytes:
    """Return `text` as gzip, with a file name long enough to keep the body within the allowed inflation ratio.

    RFC 1952, section 2.3, describes the file name in a gzip header.
    """
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = packer.compress(text) + packer.flush()
    name = b"n" * ((len(text) - 65536) // 100 - len(deflated))
    tail = struct.pack("<II", zlib.crc32(text), len(text))
    return b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + name + b"\0" + deflated + tail


def events(inside: bytes, number: int = 500, event: bytes = SOUND) -> bytes:
    return b"[" + b",".join(event + b',"i":%d,"x":%b}' % (n, inside) for n in range(number)) + b"]"


def many(element: bytes, number: int) -> bytes:
    return b"[" + b",".join([element] * number) + b"]"


# By name, the text and whether it is sent as NDJSON
TEXTS: Mapping[str, tuple[bytes, bool]] = {
    "commas": (b"[" + b"," * 4_000_000 + b"]", False),
    "brackets": (b"[" * 4_000_000, False),
    "braces": (b'{"a":' * 800_000, False),
    "pairs": (many(b"[[]]", 800_000)[:-1], False),
    "towers": (events(b"[" * 2500 + b"]" * 2500), False),
    "identical events": (many(SOUND + b',"x":%b}' % many(b"{}", 2500), 500), False),
    "events of many objects": (events(many(b"{}", 2500)), False),
    "events of many numbers": (events(many(b"1.50", 1500)), False),
    "empty objects": (many(b"{}", 500), False),
    "events with NaN": (events(many(b"{}", 2500)[:-1] + b",NaN]"), False),
    "lines with NaN": (b"\n".join([SOUND + b',"x":%b}' % (many(b"{}", 2500)[:-1] + b",NaN]")] * 500), True),
    "wrong events": (events(many(b"[]", 2300), event=WRONG), False),
    "small wrong events": (events(b"0", event=WRONG), False),
    "events without user": (
        b'{"user":{"deviceId":"d"},"events":%b}' % events(many(b"{}", 2400) + b',"user":null'), False),
    "different contents of one id": (events(b'"%b"' % (b"y" * 7000)), False),
    "elements": (many(b"1", 2_000_000), False),
    "members": (b"{" + b",".join(b'"%d":1' % n for n in range(300_000)) + b"}", False),
    "members of the envelope": (
        b'{"events":[%b}],' % SOUND + b",".join(b'"%d":1' % n for n in range(300_000)) + b"}", False),
    "one name many times": (b"{" + b",".join([b'"a":1'] * 600_000) + b"}", False),
    "quotes": (b'["' + b'\\"' * 2_000_000, False),
    "digits": (events(b"9" * 4000), False),
    "lines": (b"x\n" * 2_000_000, True),
    "empty lines": (b" \n" * 2_000_000, True),
    "byte order marks": (b"\xef\xbb\xbf" * 1_300_000, True),
    "byte order marks and spaces": (b"\xef\xbb\xbf " * 1_000_000 + b"x", True),
}  # fmt: skip
MEMBERS = {"empty gzip members": gzip.compress(b"") * 50_000, "gzip members": gzip.compress(b"[") * 40_000}


@cache
def requests() -> dict[str, tuple[bytes, dict[str, str], int]]:
    """Return each request by name: its body, its headers, and the larger of its sizes as sent and inflated.

    Texts of 500 KB or more are compressed.
    """
    zipped = {"content-encoding": "gzip"}
    found = {name: (body, JSON | zipped, len(body)) for name, body in MEMBERS.items()}
    for name, (text, is_lines) in TEXTS.items():
        form = NDJSON if is_lines else JSON
        found[name] = (
            (text, form, len(text)) if len(text) < 500_000 else (packed(text), form | zipped, len(text))
        )
    return found


@cache
def honest(size: int) -> bytes:
    """Return NDJSON of about `size` bytes: up to 500 geofence events as a phone sends them, padded with metadata."""
    number = min(500, max(1, size // 430))
    drawn = random.Random(1)
    lines = []
    for n in range(number):
        event = {
            "_id": f"{drawn.getrandbits(96):024x}",
            "type": "user.entered_geofence",
            "createdAt": f"2026-11-28T08:{n % 60:02}:00.{n:03}Z",
            "live": True,
            "user": {
                "_id": f"{drawn.getrandbits(96):024x}",
                "deviceId": f"van-{n % 9}",
                "userId": "driver-7",
            },
            "geofence": {"tag": "farm", "externalId": f"farm-{n % 40}"},
            "location": {"type": "Point", "coordinates": [drawn.random(), drawn.random()]},
            "confidence": 3,
            "metadata": {
                f"key_{k}": drawn.choice([k, f"value {k}"]) for k in range((size // number - 330) // 26)
            },
        }
        lines.append(json.dumps(event, separators=(",", ":")).encode())
    return b"\n".join(lines)


def cpu_seconds(body: bytes, headers: Mapping[str, str], times: int = 5) -> float:
    """Handle a request `times` times, and return the median CPU seconds."""
    event = {"headers": dict(headers), "body": base64.b64encode(body).decode(), "isBase64Encoded": True}
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(times):
            application = app(World())
            patch.setattr(main, "_app", lambda made=application: made)
            began = time.process_time()
            main.ingest(event, Context())
            taken.append(time.process_time() - began)
    return statistics.median(taken)


def excess(body: bytes, headers: Mapping[str, str], size: int) -> str:
    """Return "" if the CPU time of a body is within its limit, otherwise the CPU time and the limit.

    The limit is five times the CPU time of an ordinary body of the same `size` (the larger of the sizes as sent and
    inflated), plus 5 ms. Other programs on the machine can double the measured time. Therefore, a body over the limit
    is compared up to three more times, each time with a new measurement of an ordinary body.
    """
    shift = max(0, size.bit_length() - 4)
    size = size >> shift << shift
    if cpu_seconds(body, headers, 1) <= 5 * _ordinary_seconds(size) + 0.005:
        return ""
    found = ""
    for _ in range(3):
        _ordinary_seconds.cache_clear()
        seconds, limit = cpu_seconds(body, headers), 5 * _ordinary_seconds(size) + 0.005
        if seconds <= limit:
            return ""
        found = f"{seconds:.4f} s of CPU time; the limit is {limit:.4f} s"
    return found


@cache
def _ordinary_seconds(size: int) -> float:
    return cpu_seconds(packed(honest(size)), NDJSON | {"content-encoding": "gzip"})


if __name__ == "__main__":
    logs.configure("CRITICAL")
    sys.stdout.write(excess(sys.stdin.buffer.read(), json.loads(sys.argv[1]), int(sys.argv[2])))
