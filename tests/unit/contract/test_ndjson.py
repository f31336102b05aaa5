"""Test splitting NDJSON into lines, with byte order marks, Windows line ends and empty lines."""

from contract.ndjson import lines_in


def test_empty_lines_are_skipped_but_included_in_the_numbering() -> None:
    text = b'\xef\xbb\xbf{"a":1}\r\n\n  \t\n {"b":2} \f\n\xef\xbb\xbf{"c":3}'
    assert list(lines_in(text)) == [(1, b'{"a":1}'), (4, b'{"b":2}'), (5, b'{"c":3}')]


def test_text_of_whitespace_and_byte_order_marks_yields_no_lines() -> None:
    assert list(lines_in(b" \n\r\n\xef\xbb\xbf\n")) == []
