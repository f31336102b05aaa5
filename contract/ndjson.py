"""Read newline-delimited text with the line ends, byte order marks and whitespace that various programs write.

Request bodies and files written by people need this; objects that the handler wrote do not.
"""

import re
from collections.abc import Iterator

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OUTSIDE_JSON = b" \t\r\v\f"
_LINE = re.compile(rb"(?:[ \t\r\v\f\n]++|\xef\xbb\xbf)*+([^\n]*+)")


def lines_in(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the non-empty lines, each with its line number, starting at 1.

    Lines may end in CRLF. A byte order mark before any line is removed, because concatenated files contain several.
    Whitespace around a line, including form feeds, is removed.
    """
    number, counted = 1, 0
    for line in _LINE.finditer(text):
        number += text.count(b"\n", counted, line.start(1))
        counted = line.start(1)
        if line[1]:
            yield number, line[1].rstrip(_OUTSIDE_JSON)
