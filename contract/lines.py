"""Newline-delimited text as phones, laptops and editors write it: the one reader of lines.

The handler's own objects need none of this; request bodies and files that people make do.
"""

from collections.abc import Iterator

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OUTSIDE_JSON = b" \t\r\v\f"


def lines_in(text: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something, each with its number from 1.

    Line ends may be CRLF. A byte order mark may stand before any line, as it does where files were joined. Whitespace
    around a line goes, form feeds included.
    """
    for number, line in enumerate(text.split(b"\n"), 1):
        bare = line.strip(_OUTSIDE_JSON)
        while bare.startswith(BYTE_ORDER_MARK):
            bare = bare.removeprefix(BYTE_ORDER_MARK).strip(_OUTSIDE_JSON)
        if bare:
            yield number, bare
