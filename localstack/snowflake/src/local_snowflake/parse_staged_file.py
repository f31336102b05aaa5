"""Read one staged object as rows: decompress it, and parse its JSON as strictly as Snowflake does. Duplicate
names (unless ALLOW_DUPLICATE is set), NaN, lone surrogates and invalid gzip data produce an error.
"""

import json
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

from local_snowflake.json_text import parsed, place_and_message, text_of
from local_snowflake.parse_copy import FileFormat

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
    """The rows and errors of a file; `parsed` is their total number."""

    rows: list[Row] = field(default_factory=list)
    errors: list[BadRow] = field(default_factory=list)

    @property
    def parsed(self) -> int:
        return len(self.rows) + len(self.errors)


class UnreadableFile(Exception):
    """Raised if the whole file cannot be read, because it is not valid gzip or is truncated."""


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
        # A document may span lines; the file is valid if all of it can be read as documents.
        return read_documents(text, file_format) or content
    return content


def read_lines(text: bytes, file_format: FileFormat) -> Content:
    content = Content()
    number = 0
    for line, raw in enumerate(text.split(b"\n"), 1):
        document = raw.strip(b" \t\r")
        if not document:
            continue
        elements = elements_of(document, file_format)
        if isinstance(elements, list):
            for element in elements:
                number += 1
                content.rows.append(Row(number, line, text_of(element)))
        else:
            number += 1
            content.errors.append(BadRow(line, *elements))
    return content


def elements_of(document: bytes, file_format: FileFormat) -> list[object] | tuple[int, str]:
    """Parse a document and return its rows or, if the document is invalid, the error's position and message."""
    if len(document) > MAX_VARIANT_BYTES:
        return 1, "Error parsing JSON: document is too large, max size is 134217728 bytes"
    try:
        value = parsed(document, file_format.allow_duplicate)
    except ValueError as error:
        return place_and_message(error)
    return value if file_format.strip_outer_array and isinstance(value, list) else [value]


def skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def read_documents(text: bytes, file_format: FileFormat) -> Content | None:
    """Parse consecutive JSON documents, regardless of line breaks, and return their rows. Return None if the
    text is not UTF-8 or a document is invalid.
    """
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
        elements = elements_of(document.encode("utf-8", "surrogatepass"), file_format)
        if not isinstance(elements, list):
            return None
        for element in elements:
            content.rows.append(Row(len(content.rows) + 1, line, text_of(element)))
        following = skip_space(remaining, end)
        line += remaining.count("\n", at, following)
        at = following
    return content
