"""Test that valid JSON in staged files is read completely and that errors are reported with their line numbers."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_snowflake.parse_copy import FileFormat, OnError
from local_snowflake.parse_staged_file import UnreadableFile, read, uncompressed

JSON = FileFormat()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
quick = settings(max_examples=60, deadline=None)


def compact(text: str, sort_keys: bool = False) -> str:
    """Return the JSON text in a normalized form for comparison; decimal numbers keep their notation."""
    return json.dumps(json.loads(text, parse_float=lambda number: f"#{number}"), sort_keys=sort_keys)


def test_numbers_are_kept_as_written() -> None:
    (row,) = read(b'{"b": 1.50, "a": 1e400, "c": 123456789012345678901234567890, "B": -0.0}', JSON).rows
    assert row.text == '{"B":-0.0,"a":1e400,"b":1.50,"c":123456789012345678901234567890}'


@quick
@given(st.lists(values, max_size=6), st.booleans())
def test_every_document_becomes_one_row_with_sorted_keys(documents: list[object], zipped: bool) -> None:
    lines = [json.dumps(document) for document in documents]
    body = "\n".join(lines).encode()
    content = read(gzip.compress(body) if zipped else body, JSON)
    assert content.errors == []
    assert [compact(row.text) for row in content.rows] == [compact(line, sort_keys=True) for line in lines]
    assert [row.number for row in content.rows] == list(range(1, len(lines) + 1))


@quick
@given(st.lists(values, min_size=1, max_size=6))
def test_json_document_may_span_several_lines(documents: list[object]) -> None:
    body = "\n".join(json.dumps(document, indent=1) for document in documents).encode()
    assert [json.loads(row.text) for row in read(body, JSON).rows] == documents


@quick
@given(st.lists(values, max_size=6))
def test_strip_outer_array_makes_each_element_a_row(elements: list[object]) -> None:
    body = json.dumps(elements).encode()
    rows = read(body, FileFormat(strip_outer_array=True)).rows
    assert [json.loads(row.text) for row in rows] == elements


@quick
@given(st.lists(st.sampled_from(["{}", "{oops", "[1,]", '{"a":1,"a":2}', "NaN"]), max_size=8))
def test_each_invalid_line_is_reported_with_its_line_number(lines: list[str]) -> None:
    content = read("\n".join(lines).encode(), JSON)
    assert [error.line for error in content.errors] == [n for n, line in enumerate(lines, 1) if line != "{}"]
    assert content.parsed == len(lines)


@quick
@given(st.binary(max_size=200))
def test_reading_arbitrary_bytes_raises_no_error_other_than_unreadable_file(body: bytes) -> None:
    try:
        content = read(body, JSON)
    except UnreadableFile:
        return
    for row in content.rows:
        json.loads(row.text)


@quick
@given(st.binary(min_size=1, max_size=500), st.data())
def test_truncated_gzip_file_is_unreadable(text: bytes, data: st.DataObject) -> None:
    whole = gzip.compress(text)
    cut = whole[: data.draw(st.integers(2, len(whole) - 1))]
    with pytest.raises(UnreadableFile):
        uncompressed(cut, JSON)


def test_concatenated_gzip_members_are_read_as_one_file() -> None:
    body = gzip.compress(b'{"a":1}\n') + gzip.compress(b'{"a":2}\n')
    assert [row.text for row in read(body, JSON).rows] == ['{"a":1}', '{"a":2}']


def test_duplicate_json_keys_are_accepted_only_if_the_file_format_allows_them() -> None:
    assert read(b'{"a":1,"a":2}', JSON).errors
    assert not read(b'{"a":1,"a":2}', FileFormat(allow_duplicate=True)).errors


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_number_or_percentage_of_errors_decides_whether_a_file_is_skipped(
    errors: int, good: int, limit: int
) -> None:
    parsed = errors + good
    assert OnError.of(f"SKIP_FILE_{limit}").skips(errors, parsed) == (errors >= limit)
    assert OnError.of(f"skip_file_{limit}%").skips(errors, parsed) == (
        errors > 0 and errors * 100 > limit * parsed
    )
    assert OnError.of("SKIP_FILE").skips(errors, parsed) == (errors > 0)
    assert not OnError.of("CONTINUE").skips(errors, parsed)
