"""Test the keys, bodies and metadata of archive objects."""

import gzip
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.archive_object import (
    MAX_METADATA_BYTES,
    hour_of,
    is_content,
    lines_object,
    lines_of,
    metadata,
    object_name,
    prefix_of,
)

AT = datetime(2026, 11, 16, 8, 59, 59, 999999, UTC)
lines = st.lists(st.binary(min_size=1).filter(lambda line: not set(line) & set(b"\r\n")), min_size=1)


@given(lines)
@settings(deadline=None, max_examples=50)
def test_compressed_lines_are_read_back_unchanged(given_lines: list[bytes]) -> None:
    packed = lines_object("events", given_lines, AT)
    assert lines_of(packed.body) == given_lines
    name = object_name(packed.key)
    assert name is not None
    assert (name.key, name.lines) == (packed.key, len(given_lines))


def test_same_lines_in_the_same_hour_give_the_same_key_and_bytes() -> None:
    first = lines_object("events", [b"{}"], AT)
    again = lines_object("events", [b"{}"], AT.replace(minute=0).astimezone(timezone(timedelta(hours=5))))
    assert first == again
    assert first.body[4:8] == bytes(4), "the gzip header contains a time"
    assert first.key.startswith("events/dt=2026-11-16/hh=08/")
    assert first.key.endswith(".1.ndjson.gz")


def test_body_is_compressed() -> None:
    line = b'{"type":"user.entered_geofence"}'
    assert len(lines_object("events", [line] * 100, AT).body) < 5 * len(line)


def test_different_lines_give_different_keys() -> None:
    assert lines_object("events", [b"{}"], AT).key != lines_object("events", [b"[]"], AT).key


@pytest.mark.parametrize(
    "key",
    [
        "events/x",
        "events/dt=2026-11-16/hh=08/abc.1.ndjson.gz",
        "other/dt=2026-11-16/hh=08/" + "a" * 64 + ".1.ndjson.gz",
        "events/dt=2026-13-16/hh=08/" + "a" * 64 + ".1.ndjson.gz",
        "events/dt=2026-11-16/hh=08/" + "a" * 64 + ".1.ndjson.gz.bak",
        "events/dt=2026-11-16/hh=08/copy/" + "a" * 64 + ".1.ndjson.gz",
        "events/dt=2026-11-16/hh=08/" + "a" * 64 + ".01.ndjson.gz",
    ],
)
def test_key_in_another_format_is_not_parsed(key: str) -> None:
    assert object_name(key) is None


OURS = "events/dt=2026-11-16/hh=08/" + "a" * 64 + ".1.ndjson.gz"


@pytest.mark.parametrize(
    ("key", "size", "is_there"),
    [
        (OURS, 0, True),
        ("events/export.json", 5, True),
        ("events/export.json", 0, False),
        ("events/folder/", 0, False),
        ("events/folder/", 5, False),
    ],
)
def test_empty_objects_and_folder_markers_are_skipped_unless_the_key_has_a_line_count(
    key: str, size: int, is_there: bool
) -> None:
    assert is_content(key, size) is is_there


@pytest.mark.parametrize(
    ("key", "prefix", "hour"),
    [
        (OURS, "events", AT.replace(minute=0, second=0, microsecond=0)),
        (
            "set-aside/dt=2026-11-16/hh=08/any.json",
            "set-aside",
            AT.replace(minute=0, second=0, microsecond=0),
        ),
        ("rejected/dt=2026-11-31/hh=08/any.json", "rejected", None),
        ("events/any.json", "events", None),
        ("eventsdt=2026-11-16/hh=08/any.json", None, None),
        ("copy/events/dt=2026-11-16/hh=08/any.json", None, None),
    ],
)
def test_prefix_and_hour_are_read_from_the_folders_of_a_key(
    key: str, prefix: str | None, hour: datetime | None
) -> None:
    assert (prefix_of(key), hour_of(key)) == (prefix, hour)


def test_body_of_several_gzip_members_is_read_completely() -> None:
    assert lines_of(gzip.compress(b"a\n") + gzip.compress(b"b\n")) == [b"a", b"b"]


@given(st.dictionaries(st.just("app-version"), st.text(st.characters()), max_size=1))
@settings(deadline=None, max_examples=50)
def test_metadata_is_short_ascii_for_any_client_value(values: dict[str, str]) -> None:
    for value in metadata(values).values():
        assert value.isascii()
        assert value.isprintable()
        assert len(value) <= MAX_METADATA_BYTES


def test_metadata_is_never_truncated_inside_a_percent_escape() -> None:
    assert metadata({"v": "x" * 60 + "é"}) == {"v": "x" * 60}
    assert metadata({"v": "é" * 40})["v"] == "%C3%A9" * 10
    assert metadata({"v": None, "w": ""}) == {}
    assert metadata({"v": "x" * 65}) == {"v": "x" * 64}
