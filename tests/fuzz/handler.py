"""Fuzz the handler (`make fuzz SECONDS=600`) with bodies and headers that atheris mutates to reach new code.

For any input the handler must return a documented response, store exactly the events that its response counts as
accepted or rejected, use only valid object keys and lines that Snowflake can load, and need no excessive CPU time.
The program exits with 0 if every input meets these rules. Otherwise it saves the first input that does not, and exits
with another code.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["handler", "contract"]):
    from contract import logs
    from contract.archive_object import object_name
    from handler import decompress, http, main, parse_body, request_limits, validate

import base64
import gzip
import json
import subprocess
import tempfile
import time
import zlib

from local_snowflake.parse_copy import FileFormat
from local_snowflake.parse_staged_file import read
from tests.unit.handler import costly
from tests.unit.handler.fakes import Context, World, app

PAYLOADS = Path(__file__).parents[2] / "tools/conformance/src/milkrun_conformance/payloads"
CONTENT_TYPES = (
    "application/json",
    "application/x-ndjson",
    "application/json; charset=latin1",
    "text/plain",
    "",
)
ANSWERS = {202, 400, 413, 415}
# These modules are imported above, so that atheris instruments them.
INSTRUMENTED = (decompress, http, parse_body, validate)


def try_one(data: bytes) -> None:
    if not data:
        return
    how, body = data[0], data[1:]
    headers = {"content-type": CONTENT_TYPES[how % len(CONTENT_TYPES)]}
    if how & 0x40:
        headers["content-encoding"] = "gzip"
        # Compress half of these bodies here, so that the mutations affect their text.
        body = gzip.compress(body, 1, mtime=0) if how & 0x20 else body
    elif how & 0x20 and body:
        length, body = body[0], body[1:]
        name, _, value = body[:length].decode("latin1").partition(":")
        headers[name], body = value, body[length:]
    world = World()
    application = app(world)
    main._app = lambda: application  # type: ignore[assignment]
    event = {"headers": headers, "body": base64.b64encode(body).decode(), "isBase64Encoded": bool(how & 0x10)}
    began = time.process_time()
    given = main.ingest(event, Context())
    taken = time.process_time() - began
    answer = json.loads(given["body"])
    assert given["statusCode"] in ANSWERS, given
    if given["statusCode"] in (202, 400):
        assert answer["received"] == answer["accepted"] + answer["duplicates"] + answer["rejected"] > 0, (
            answer
        )
        assert len(world.lines("events")) == answer["accepted"]
        assert len(world.lines("rejected")) == answer["rejected"]
    else:
        assert not world.objects
    # One call may be slow because of the machine, so use the median of five.
    if taken > 0.005 and how & 0x10 and costly.cpu_seconds(body, headers) > 0.005:
        size = max(inflated_size(body, headers), len(body))
        # atheris's instrumentation slows down Python code but not C, so confirm the excess in a process without it.
        excess = costly.excess(body, headers, size) and excess_in_new_process(body, headers, size)
        assert not excess, excess
    for key, stored in world.objects.items():
        assert object_name(key), key
        assert read(stored, FileFormat(compression="GZIP")).errors == [], key


def excess_in_new_process(body: bytes, headers: dict[str, str], size: int) -> str:
    command = [
        sys.executable,
        "-m",
        "tests.unit.handler.costly",
        json.dumps(headers, allow_nan=False),
        str(size),
    ]
    return subprocess.run(command, input=body, capture_output=True, check=True).stdout.decode()


def inflated_size(body: bytes, headers: dict[str, str]) -> int:
    if headers.get("content-encoding") != "gzip":
        return len(body)
    try:
        return len(
            zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, request_limits.MAX_INFLATED_BYTES)
        )
    except zlib.error:
        return len(body)


def seeds(folder: Path) -> None:
    """Write the initial corpus: the conformance kit's request bodies, plain and compressed, and bodies that
    once needed too much CPU time.
    """
    for name, (body, headers, _) in costly.requests().items():
        is_gzip, form = "content-encoding" in headers, CONTENT_TYPES.index(headers["content-type"])
        how = next(how for how in range(0x50 if is_gzip else 0x10, 0x60) if how % len(CONTENT_TYPES) == form)
        (folder / name.replace(" ", "-")).write_bytes(bytes([how]) + body)
    for path in sorted(PAYLOADS.rglob("*.*json")):
        for how in (0x10, 0x11, 0x70, 0x71):
            (folder / f"{path.parent.name}-{path.stem}-{how}").write_bytes(
                bytes([how]) + path.read_bytes()[:4000]
            )


if __name__ == "__main__":
    logs.configure("CRITICAL")
    with tempfile.TemporaryDirectory() as corpus:
        seeds(Path(corpus))
        atheris.Setup([*sys.argv, corpus, "-max_len=50000", "-timeout=120", "-print_final_stats=1"], try_one)
        atheris.Fuzz()
