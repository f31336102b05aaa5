"""Read one staged object as rows: decompress it, and parse its JSON as strictly as Snowflake does. Duplicate
names, NaN, lone surrogates and broken gzip give an error with its line.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import jiter

from local_snowflake.copying import FileFormat

GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_VARIANT_BYTES = 128 * 1024 * 1024


class Row(NamedTuple):
    number: int
    line: int
    text: str


class BadRow(NamedTuple):
    line: int
    character: int
    message: str


@dataclass
class Content:
    """The content of a file; `parsed` is the number of rows and errors."""

    rows: list[Row] = field(default_factory=list)
    errors: list[BadRow] = field(default_factory=list)

    @property
    def parsed(self) -> int:
        return len(self.rows) + len(self.errors)


class UnreadableFile(Exception):
    """The whole file cannot be read: it is not gzip, or truncated."""


def uncompressed(body: bytes, file_format: FileFormat) -> bytes:
    zipped = body[:2] == GZIP_MAGIC
    if file_format.compression == "NONE" or (file_format.compression == "AUTO" and not zipped):
        return body
    if not zipped and body:
        raise UnreadableFile("Error reading file: invalid gzip header.")
    parts = []
    try:
        while body:  # a gzip file may have several members
            member = zlib.decompressobj(wbits=31)
            parts.append(member.decompress(body))
            if not member.eof:
                raise UnreadableFile("Error reading file: unexpected end of gzip data.")
            body = member.unused_data
    except zlib.error as error:
        raise UnreadableFile(f"Error reading file: {error}.") from None
    return b"".join(parts)


def read(body: bytes, file_format: FileFormat) -> Content:
    text = uncompressed(body, file_format).removeprefix(BYTE_ORDER_MARK)
    content = read_lines(text, file_format)
    if content.errors:
        # Documents may stretch over lines; if the whole file reads that way, it is good.
        return read_documents(text, file_format) or content
    return content


def read_lines(text: bytes, file_format: FileFormat) -> Content:
    content = Content()
    number = 0
    for line, raw in enumerate(text.split(b"\n"), 1):
        document = raw.strip(b" \t\r")
        if not document:
            continue
        problem = problem_of(document, file_format)
        if problem is not None:
            number += 1
            content.errors.append(BadRow(line, problem[0], problem[1]))
        else:
            for element in elements(document.decode(), file_format):
                number += 1
                content.rows.append(Row(number, line, element))
    return content


def problem_of(document: bytes, file_format: FileFormat) -> tuple[int, str] | None:
    if len(document) > MAX_VARIANT_BYTES:
        return 1, "Error parsing JSON: document is too large, max size is 134217728 bytes"
    try:
        jiter.from_json(
            document,
            allow_inf_nan=False,
            catch_duplicate_keys=not file_format.allow_duplicate,
            cache_mode="none",
        )
    except ValueError as error:
        message, _, place = str(error).rpartition(" at line ")
        _, _, column = place.rpartition(" ")
        return int(column) if column.isdecimal() else 1, f"Error parsing JSON: {message or error}"
    return None


def elements(document: str, file_format: FileFormat) -> Iterable[str]:
    if file_format.strip_outer_array and document.startswith("["):
        return array_elements(document)
    return (document,)


def array_elements(array: str) -> Iterator[str]:
    """Return the elements' original texts, so that numbers keep their digits. `array` is valid JSON."""
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    at = skip_space(array, 1)
    while array[at] != "]":
        _, end = decoder.raw_decode(array, at)
        yield array[at:end]
        at = skip_space(array, end)
        if array[at] == ",":
            at = skip_space(array, at + 1)


def skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def read_documents(text: bytes, file_format: FileFormat) -> Content | None:
    """Return JSON documents that follow one another, whatever their lines; None if one of them is invalid."""
    try:
        remaining = text.decode()
    except UnicodeDecodeError:
        return None
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    content = Content()
    at, line = skip_space(remaining, 0), 1
    line += remaining.count("\n", 0, at)
    while at < len(remaining):
        try:
            _, end = decoder.raw_decode(remaining, at)
        except (ValueError, RecursionError):
            return None
        document = remaining[at:end]
        if problem_of(document.encode("utf-8", "surrogatepass"), file_format) is not None:
            return None
        for element in elements(document, file_format):
            content.rows.append(Row(len(content.rows) + 1, line, element))
        following = skip_space(remaining, end)
        line += remaining.count("\n", at, following)
        at = following
    return content
