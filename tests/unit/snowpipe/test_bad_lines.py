"""Test that `warehouse validate` names exactly the lines that the loader of the local Snowflake rejects."""

import gzip

import pytest

from local_snowflake.parse_staged_file import FileFormat, read
from snowpipe.history import bad_lines

MARK = b"\xef\xbb\xbf"
# Snowflake skips a byte order mark at the start of a file ("CREATE FILE FORMAT", SKIP_BYTE_ORDER_MARK).
BODIES = {
    "a mark at the start of the file": (MARK + b'{"_id":"a"}\n{"_id":"b"}\n', []),
    "a mark and CRLF": (MARK + b'{"_id":"a"}\r\n\r\n{"_id":"b"}\r\n', []),
    "a mark, gzip": (gzip.compress(MARK + b'{"_id":"a"}\n', mtime=0), []),
    "files joined": (MARK + b'{"_id":"a"}\n' + MARK + b'{"_id":"b"}\n', [2]),
    "gzip files joined": (
        gzip.compress(MARK + b'{"_id":"a"}\n', mtime=0) + gzip.compress(MARK + b'{"_id":"b"}\n', mtime=0),
        [2],
    ),
    "two marks": (MARK + MARK + b'{"_id":"a"}\n', [1]),
    "a mark inside a string": (b'{"_id":"' + MARK + b'"}\n', []),
    "a form feed": (b'{"_id":"a"}\n\x0c{"_id":"b"}\n', [2]),
    "a name twice": (b'{"_id":"a","_id":"b"}\n', [1]),
}


@pytest.mark.parametrize(("body", "lines"), BODIES.values(), ids=BODIES)
def test_validate_names_exactly_the_lines_that_the_loader_rejects(body: bytes, lines: list[int]) -> None:
    assert [bad.line for bad in bad_lines(body)] == lines
    assert [error.line for error in read(body, FileFormat()).errors] == lines
