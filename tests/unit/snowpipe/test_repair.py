"""Test that a repaired file becomes an object in the archive, even if an editor or `cat` has added characters to it.

The added characters are byte order marks, blank lines and form feeds.
"""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from cli.refusal import Refusal
from contract.archive_object import lines_of
from snowpipe.repair import repaired_object
from tests.unit.snowpipe.warehouse_stage import command

NOW = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
MARK = b"\xef\xbb\xbf"
FILES = {
    "a byte order mark": MARK + b"%b\n%b\n",
    "a byte order mark and CRLF": MARK + b"%b\r\n%b\r\n",
    "two files joined, each with a mark": MARK + b"%b\n" + MARK + b"%b\n",
    "form feeds": b"\x0c%b\n\x0c\n%b\n\x0c",
    "blank lines": b"\n%b\n \t\n\r\n%b\n\v\n",
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("layout", FILES.values(), ids=FILES.keys())
def test_boms_blank_lines_and_form_feeds_in_a_repaired_file_are_ignored(
    tmp_path: Path, layout: bytes, packed: bool
) -> None:
    lines = [b'{"_id":"a","price":1.50}', b'{"_id":"b","odo":9007199254740993}']
    body = layout % tuple(lines)
    (tmp_path / "file").write_bytes(gzip.compress(body) if packed else body)
    made = repaired_object(tmp_path / "file", "events/dt=2026-11-16/hh=08/torn.ndjson", NOW)
    assert made.key.startswith("events/dt=2026-11-16/hh=08/")
    assert (made.lines, lines_of(made.body)) == (2, lines)


def test_line_that_is_still_invalid_after_a_repair_is_reported_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(MARK + b'\n{"_id":"a"}\r\n\x0c\n{"_id":\n')
    with pytest.raises(Refusal, match="line 4"):
        repaired_object(tmp_path / "file", "", NOW)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    snowflake = {"account": "a", "user": "u", "password": "p"}
    (tmp_path / "outputs.json").write_text(
        json.dumps({"bucket": "archive", "region": "us-east-1", "snowflake": snowflake})
    )
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="archive")
        yield {"MILKRUN_LOCAL": str(tmp_path)}


def test_repair_of_a_file_that_is_already_in_the_archive_names_its_key(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "file").write_bytes(b'{"_id":"a"}\n')
    # The stored key contains the failed file's hour. Without `--instead-of`, it would contain the current hour.
    failed = "events/dt=2026-11-16/hh=08/put-by-hand.ndjson"
    given = ("repair", str(tmp_path / "file"), "--instead-of", failed, "--json")
    first, second = command(environment, *given), command(environment, *given)
    assert first.code == 0
    (stored,) = first.rows
    assert second.code == 1
    assert second.err == (
        f"s3://archive/{stored['key']} already contains these lines. If Snowpipe did not load them, run: "
        f"milkrun warehouse reload {stored['key']}\n"
    )
