"""Test which objects of the bucket the commands find. The fake S3 lists keys with a prefix and a delimiter."""

from collections.abc import Iterator
from datetime import UTC, datetime

from snowpipe.archive import Archive

NOW = datetime(2026, 11, 16, 8, 30, tzinfo=UTC)


class FakeS3:
    def __init__(self, *keys: str, modified_at: datetime = NOW) -> None:
        self.keys, self.modified_at = sorted(keys), modified_at

    def get_paginator(self, operation: str) -> "FakeS3":
        del operation
        return self

    def paginate(self, Bucket: str, Prefix: str, Delimiter: str = "\0") -> Iterator[dict[str, object]]:
        del Bucket
        found = [key for key in self.keys if key.startswith(Prefix)]
        rest = {key: key.removeprefix(Prefix).partition(Delimiter) for key in found}
        folders = sorted({Prefix + name + Delimiter for name, mark, _ in rest.values() if mark})
        contents = [{"Key": k, "LastModified": self.modified_at, "Size": 1} for k in found if not rest[k][1]]
        yield {"Contents": contents, "CommonPrefixes": [{"Prefix": folder} for folder in folders]}


def test_objects_in_folders_that_only_resemble_days_and_hours_are_found_once() -> None:
    keys = [
        "events/dt=2026-11-16/hh=08/ours.ndjson",
        "events/dt=2026-11-16/hh=24/no-such-hour.json",
        "events/dt=2026-11-16/other.json",
        "events/dt=2026-11-31/hh=08/no-such-day.json",
        "events/dt=20261116/part-0.json",
        "events/hh=08/no-day.json",
    ]
    archive = Archive(FakeS3(*keys, "events/dt=2026-11-15/hh=08/earlier.ndjson"), "bucket")
    assert [found.key for found in archive.received("events/", NOW, NOW)] == keys
