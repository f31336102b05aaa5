"""Store a repaired file in the archive under a new key."""

import gzip
import zlib
from datetime import UTC, datetime
from pathlib import Path

from cli.refusal import Refusal
from contract.archive_object import LinesObject, Prefix, hour_of, lines_object, prefix_of
from contract.events import InvalidEvent
from contract.ndjson import lines_in
from contract.strict_json import compact, parse_json

REPAIRED = "milkrun-repaired"
"""The metadata entry that marks a repaired object; its value is the key that was replaced, or else the file's name."""


def repaired_object(path: Path, instead_of: str, now: datetime) -> LinesObject:
    """Read NDJSON, plain or gzipped; return an object with the prefix and hour of the file that it replaces.

    `instead_of` is the key of that file; without it, the object gets the prefix events/ and the current hour.
    Raises Refusal for another prefix, for a file that is empty or not valid gzip, and, with the line number,
    for a line that is not a JSON object.
    """
    prefix: Prefix = "events"
    if instead_of:
        found = prefix_of(instead_of)
        if found is None or found == "set-aside":
            raise Refusal(f"{instead_of}: a key must begin with events/ or rejected/")
        prefix = found
    lines = [_line(path, number, line) for number, line in lines_in(_text(path))]
    if not lines:
        raise Refusal(f"{path} has no lines", 1)
    return lines_object(prefix, lines, hour_of(instead_of) or now.astimezone(UTC))


def _text(path: Path) -> bytes:
    body = path.read_bytes()
    if not body.startswith(b"\x1f\x8b"):
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise Refusal(f"{path} is truncated or not valid gzip: {error}", 1) from None


def _line(path: Path, number: int, line: bytes) -> bytes:
    try:
        value = parse_json(line)
    except InvalidEvent as invalid:
        raise Refusal(f"{path}, line {number}: {invalid}", 1) from None
    if not isinstance(value, dict):
        raise Refusal(f"{path}, line {number}: not a JSON object", 1)
    return compact(line)
