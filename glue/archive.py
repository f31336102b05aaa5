"""Read the event archive (an S3 bucket or a folder) hour by hour for the batch jobs, and verify each object.

An object's key contains the number of its lines and their SHA-256, so a reader can verify the content. If an
object cannot be read, a `Fault` with the reason is returned, so that the job can report it and continue.
"""

import gzip
import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from contract.archive_object import hour_folder, is_content, lines_object, object_name
from contract.events import Reason
from contract.rejected_lines import quarantine_line

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        DeleteMarkerEntryTypeDef,
        ObjectIdentifierTypeDef,
        ObjectVersionTypeDef,
    )

T = TypeVar("T")
HOUR = timedelta(hours=1)
# The handler accepts bodies of at most 4 MiB after decompression, so it never stores an object as large as this.
MAX_INFLATED_BYTES = 64 * 1024 * 1024
READ_TRIES = 3
DELETES_PER_CALL = 1000
READERS = 8  # threads; gunzip and SHA-256 release the GIL, and reads mostly wait for S3


@dataclass(frozen=True)
class Stored:
    """One object in a listing. `modified_at` is set by the store, in whole seconds, as in S3's listings."""

    key: str
    size: int
    modified_at: datetime


@runtime_checkable
class Store(Protocol):
    """An object store. It must be picklable, because each Spark worker gets a copy."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield the objects under a prefix, in no guaranteed order."""
        ...

    def read(self, key: str) -> bytes: ...

    def write(self, key: str, body: bytes) -> None:
        """Write an object atomically. It replaces an existing object, except under events/ in a bucket."""
        ...

    def write_file(self, key: str, path: Path) -> None: ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete all versions of the objects with these keys. A missing object is not an error."""
        ...


@dataclass(frozen=True)
class Folder:
    """A store in a local folder with the same layout as the bucket."""

    path: Path

    def list(self, prefix: str) -> Iterator[Stored]:
        start = prefix.rpartition("/")[0]
        for folder, _, names in os.walk(self.path / start):
            under = Path(folder).relative_to(self.path).as_posix()
            for name in names:
                key = name if under == "." else f"{under}/{name}"
                if name.endswith(_UNFINISHED) or not key.startswith(prefix):
                    continue
                try:
                    facts = (self.path / key).stat()
                except FileNotFoundError:
                    continue  # because it was deleted since the listing began
                yield Stored(key, facts.st_size, datetime.fromtimestamp(int(facts.st_mtime), UTC))

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def write(self, key: str, body: bytes) -> None:
        with _Rename(self.path / key) as path:
            path.write_bytes(body)

    def write_file(self, key: str, path: Path) -> None:
        self.write(key, path.read_bytes())

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.path / key).unlink(missing_ok=True)


_UNFINISHED = ".unfinished"


class _Rename:
    """A context manager that renames its temporary file on success, so that readers never see a partial file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._path.parent, suffix=_UNFINISHED)
        os.close(handle)
        self._unfinished = Path(name)
        return self._unfinished

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is None:
            self._unfinished.replace(self._path)
        else:
            self._unfinished.unlink(missing_ok=True)


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket, accessed with boto3 so that Spark needs no S3A JARs. It can be pickled unless `client` is given."""

    name: str
    client: "S3Client | None" = None

    @property
    def s3(self) -> "S3Client":
        return self.client or _s3()

    def list(self, prefix: str) -> Iterator[Stored]:
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for entry in page.get("Contents", ()):
                yield Stored(
                    entry["Key"], entry["Size"], entry["LastModified"].astimezone(UTC).replace(microsecond=0)
                )

    def read(self, key: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def write(self, key: str, body: bytes) -> None:
        from botocore.exceptions import ClientError

        # The bucket policy rejects unconditional writes to events/, because nobody may replace archived events.
        put = partial(self.s3.put_object, Bucket=self.name, Key=key, Body=body)
        try:
            _ = put(IfNoneMatch="*") if key.startswith("events/") else put()
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":  # an earlier run wrote the object
                raise

    def write_file(self, key: str, path: Path) -> None:
        self.s3.upload_file(str(path), self.name, key)

    def versions(self, prefix: str) -> "Iterator[ObjectVersionTypeDef | DeleteMarkerEntryTypeDef]":
        """Yield all versions and delete markers under a prefix, as ListObjectVersions returns them."""
        for page in self.s3.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=prefix):
            yield from page.get("Versions", ())
            yield from page.get("DeleteMarkers", ())

    def delete(self, keys: Iterable[str]) -> None:
        """Delete every version of each object, because deleting without a version id only adds a delete marker."""
        for key in keys:
            self.delete_versions(entry for entry in self.versions(key) if entry["Key"] == key)

    def delete_versions(self, entries: "Iterable[ObjectVersionTypeDef | DeleteMarkerEntryTypeDef]") -> None:
        named: list[ObjectIdentifierTypeDef] = [
            {"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries
        ]
        for start in range(0, len(named), DELETES_PER_CALL):
            some = named[start : start + DELETES_PER_CALL]
            answer = self.s3.delete_objects(Bucket=self.name, Delete={"Objects": some, "Quiet": True})
            if errors := answer.get("Errors"):
                raise OSError(f"S3 did not delete {errors[0]['Key']}: {errors[0].get('Code')}")


@cache
def _s3() -> "S3Client":
    """Return this process's S3 client, created on first use because a forked Spark worker must not inherit one."""
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 5, "mode": "standard"}, max_pool_connections=READERS * 2)
    return boto3.client("s3", config=config)


def open_store(location: str) -> Store:
    """Return the store for `s3://bucket` or a folder's path.

    Raises ValueError if a prefix follows the bucket's name, or if the path is not a folder.
    """
    if not location.startswith("s3://"):
        if not Path(location).is_dir():
            raise ValueError(f"--archive: {location} is not a folder; write a bucket as s3://BUCKET")
        return Folder(Path(location).resolve())
    bucket, _, rest = location.removeprefix("s3://").partition("/")
    if rest:
        raise ValueError(f"--archive must be a whole bucket, without a prefix: {location!r}")
    return Bucket(bucket)


# --- hours --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hours:
    """A range of full hours in UTC, from `start` (inclusive) to `end` (exclusive), by time of receipt."""

    start: datetime
    end: datetime

    def __iter__(self) -> Iterator[datetime]:
        hour = self.start
        while hour < self.end:
            yield hour
            hour += HOUR

    def widened(self, margin: timedelta) -> "Hours":
        return Hours(floor_hour(self.start - margin), floor_hour(self.end + margin))


def floor_hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def hours_between(start: str, end: str) -> Hours:
    """Return the full hours that cover the range between two RFC 3339 times; a time or date without a zone is UTC."""
    first, last = (_time(text) for text in (start, end))
    return Hours(floor_hour(first), last if last == floor_hour(last) else floor_hour(last) + HOUR)


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def objects_of(store: Store, hour: datetime, prefix: str = "events") -> list[Stored]:
    """Return the hour's objects under a prefix, sorted by key. Empty uploads of other programs are omitted."""
    found = [each for each in store.list(f"{prefix}/{hour_folder(hour)}/") if is_content(each.key, each.size)]
    return sorted(found, key=lambda each: each.key)


# --- objects ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """The reason why an object could not be read. Unless the fault is `permanent`, the next run tries again."""

    key: str
    code: str
    message: str
    permanent: bool = True
    beginning: bytes = b""


@dataclass(frozen=True)
class Lines:
    """Lines of an object. If these are not all its lines, `numbers` holds their 1-based line numbers."""

    stored: Stored
    lines: Sequence[bytes]
    numbers: Sequence[int] | None = None


def read_object(store: Store, stored: Stored, pause: Callable[[float], None] = time.sleep) -> Lines | Fault:
    """Read an archived object and verify it against its key; return its lines, or the fault if it cannot be read."""
    key = stored.key
    name = object_name(key)
    if name is None:
        return Fault(key, "unknown_key", "The key does not have the form of a Milkrun object key.")
    for attempt in range(READ_TRIES):
        try:
            body = store.read(key)
            break
        except Exception as error:  # any error of the store, because one object must not stop the job
            if attempt == READ_TRIES - 1:
                return Fault(key, "unreadable_object", f"{type(error).__name__}: {error}", permanent=False)
            pause(0.1 * 4**attempt)
    try:
        with gzip.GzipFile(fileobj=BytesIO(body)) as inflating:
            text = inflating.read(MAX_INFLATED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        return Fault(key, "corrupt_gzip", str(error), beginning=body[:1024])
    if len(text) > MAX_INFLATED_BYTES:
        return Fault(
            key,
            "too_large",
            f"The inflated object is larger than {MAX_INFLATED_BYTES} bytes.",
            beginning=body[:1024],
        )
    if hashlib.sha256(text).hexdigest() != name.digest:
        return Fault(
            key,
            "wrong_digest",
            "The SHA-256 of the lines differs from the one in the key.",
            beginning=body[:1024],
        )
    lines = text.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if len(lines) != name.lines:
        return Fault(
            key, "wrong_line_count", f"The object has {len(lines)} lines, but its key says {name.lines}."
        )
    return Lines(stored, lines)


def read_objects(store: Store, objects: Iterable[Stored]) -> Iterator[Lines | Fault]:
    """Read objects in parallel; yield the lines or the fault of each object, in the given order."""
    return in_threads(lambda stored: read_object(store, stored), objects)


def in_threads(work: Callable[[Stored], T], objects: Iterable[Stored]) -> Iterator[T]:
    """Process objects in parallel, in groups of READERS * 16, and yield the results in the given order."""
    with ThreadPoolExecutor(READERS) as pool:
        for some in _slices(objects, READERS * 16):
            yield from pool.map(work, some)


def set_aside(store: Store, hour: datetime, faults: Sequence[Fault], job: str) -> str | None:
    """Store a quarantine object with a line per permanent fault; return its key, or None if there are none.

    The same faults produce the same object.
    """
    lines = [
        quarantine_line([Reason(f.code, "", f.message)], f.beginning, {"job": job, "object": f.key})
        for f in sorted(faults, key=lambda each: each.key)
        if f.permanent
    ]
    if not lines:
        return None
    quarantined = lines_object("set-aside", lines, hour)
    store.write(quarantined.key, quarantined.body)
    return quarantined.key


def _slices(items: Iterable[Stored], size: int) -> Iterator[list[Stored]]:
    some: list[Stored] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
