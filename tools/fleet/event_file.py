"""Read a file of events (NDJSON, possibly compressed with gzip) as the requests that a phone would send.

`judged` also computes each event's expected outcome.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

from cli.refusal import Refusal
from contract.event_rules import geofence_event
from contract.geofence_event_types import GEOFENCE_KINDS, Kind
from contract.ndjson import lines_in
from handler.decompress import inflated
from handler.http import Refused, Request
from handler.parse_body import Parts
from handler.request_limits import FREE_INFLATED_BYTES, MAX_BODY_BYTES
from handler.validate import validate
from tools.fleet.phones import Post
from tools.fleet.rounds import Planned

# The outcome of an event that alone makes a request too large. The rule for clients is to drop it.
TOO_LARGE = "body_too_large"


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of an NDJSON file, which may be compressed with gzip. Lines are split as in the
    handler, and bytes that are not valid UTF-8 are kept.

    Raises Refusal if the gzip data is damaged or truncated.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        # GzipFile also reads concatenated members, which are common in log archives.
        lines = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
        try:
            for line in lines:
                for _, text in lines_in(line):
                    yield text.decode("utf-8", "surrogateescape")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise Refusal(f"{path} cannot be read completely: {error}") from None


def unjudged(text: str) -> Planned:
    """Return the line as an event whose expected outcome is unknown."""
    return Planned(text, "")


def judged(text: str, kinds: Mapping[str, Kind] = GEOFENCE_KINDS) -> Planned:
    """Return the line as an event with its expected outcome, computed by the handler's own validation. `kinds` maps the
    stage's geofence event types to their kinds.
    """
    raw = text.encode("utf-8", "surrogateescape")
    if is_too_large_alone(raw):
        return Planned(text, "", code=TOO_LARGE)
    batch = validate(Parts([raw], {}), "ndjson", kinds, datetime.now(UTC))
    if batch.rejected:
        [rejected] = batch.rejected
        return Planned(text, rejected.event_id or "", code=rejected.reasons[0].code)
    [event], [line] = batch.accepted, batch.lines
    crossing = geofence_event(line, kinds) if event.fence else None
    return Planned(text, str(json.loads(line)["_id"]), crossing=crossing)


def is_too_large_alone(line: bytes) -> bool:
    """Return whether a gzipped request with only this line would get a 413, in which case the phone drops the event."""
    if len(line) <= FREE_INFLATED_BYTES:
        return False
    body = gzip.compress(line, mtime=0)
    try:
        inflated(Request({"content-encoding": "gzip"}, body))
    except Refused:
        return True
    return len(body) > MAX_BODY_BYTES


def posts_of_file(
    path: Path,
    *,
    batch_size: int = 500,
    max_bytes: int = 900_000,
    gzipped: bool = True,
    judge: Callable[[str], Planned] = unjudged,
) -> Iterator[Post]:
    """Yield the file's events as NDJSON requests of at most `batch_size` events each and, unless a single
    event is larger, at most `max_bytes` uncompressed bytes.
    """
    batch: list[Planned] = []
    size = 0
    for text in read_lines(path):
        length = len(text.encode("utf-8", "surrogateescape")) + 1
        if batch and (len(batch) == batch_size or size + length > max_bytes):
            yield Post(tuple(batch), datetime.now(UTC), gzipped=gzipped)
            batch, size = [], 0
        batch.append(judge(text))
        size += length
    if batch:
        yield Post(tuple(batch), datetime.now(UTC), gzipped=gzipped)
