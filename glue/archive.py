"""The archive as jobs see it: a bucket or a folder, its hours, and its objects, each read whole and checked.

A key carries the SHA-256 and the number of its lines, so a reader knows whether it has what was written.
What cannot be read becomes a `Fault` with its reason: never fatal, never silent.
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
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from contract.events import Reason
from contract.objects import is_content, lines_object, object_name, quarantine_line

HOUR = timedelta(hours=1)
MAX_INFLATED_BYTES = 64 * 1024 * 1024  # the handler takes 4 MiB; more is not ours
READ_TRIES = 3
READERS = 8  # gunzip and SHA-256 let go of the interpreter's lock, and S3 is mostly waiting


@dataclass(frozen=True)
class Stored:
    """One object of a listing. `modified_at` is the store's clock, in whole seconds as S3 has it."""

    key: str
    size: int
    modified_at: datetime


@runtime_checkable
class Store(Protocol):
    """Where objects lie. Picklable: Spark's workers get a copy."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """In no promised order."""
        ...

    def read(self, key: str) -> bytes: ...

    def write(self, key: str, body: bytes) -> None:
        """Whole or not at all; an older object of that key is replaced."""
        ...

    def write_file(self, key: str, path: Path) -> None: ...

    def delete(self, keys: Iterable[str]) -> None:
        """All versions; what is not there is no fault."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder that holds what the bucket holds."""

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
                    continue  # deleted since the listing began
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
    """A file that appears under its name only when it is complete, as an object in S3 does."""

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
    """A bucket of S3, through boto3 (so Spark needs no S3A jars)."""

    name: str

    def list(self, prefix: str) -> Iterator[Stored]:
        for page in _s3().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for entry in page.get("Contents", ()):
                yield Stored(
                    entry["Key"], entry["Size"], entry["LastModified"].astimezone(UTC).replace(microsecond=0)
                )

    def read(self, key: str) -> bytes:
        body: bytes = _s3().get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def write(self, key: str, body: bytes) -> None:
        _s3().put_object(Bucket=self.name, Key=key, Body=body)

    def write_file(self, key: str, path: Path) -> None:
        _s3().upload_file(str(path), self.name, key)

    def delete(self, keys: Iterable[str]) -> None:
        """In a versioned bucket a plain delete only hides: what is forgotten must go in every version."""
        for key in keys:
            for page in _s3().get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=key):
                versions = [
                    {"Key": entry["Key"], "VersionId": entry["VersionId"]}
                    for entry in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
                    if entry["Key"] == key
                ]
                if versions:
                    _s3().delete_objects(Bucket=self.name, Delete={"Objects": versions, "Quiet": True})


@cache
def _s3() -> Any:
    """One client a process, built at first use: a forked Spark worker must not inherit the driver's."""
    import boto3
    from botocore.config import Config

    tries: Any = {"total_max_attempts": 5, "mode": "standard"}
    return boto3.client("s3", config=Config(retries=tries, max_pool_connections=READERS * 2))


def open_store(where: str) -> Store:
    """`s3://bucket`, or a folder."""
    if not where.startswith("s3://"):
        return Folder(Path(where).resolve())
    bucket, _, rest = where.removeprefix("s3://").partition("/")
    if rest:
        raise ValueError(f"an archive is a whole bucket, not a prefix in it: {where!r}")
    return Bucket(bucket)


# --- hours --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hours:
    """Every full hour (UTC) from `start` until before `end`: when events were received."""

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
    """From two RFC 3339 times (or dates, in UTC); whole hours that touch the range."""
    first, last = (_time(text) for text in (start, end))
    return Hours(floor_hour(first), last if last == floor_hour(last) else floor_hour(last) + HOUR)


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def hour_path(hour: datetime) -> str:
    return f"dt={hour:%Y-%m-%d}/hh={hour:%H}"


def objects_of(store: Store, hour: datetime, prefix: str = "events") -> list[Stored]:
    """The objects of one hour by key, whatever they are: what is none of ours shows when it is read."""
    found = [each for each in store.list(f"{prefix}/{hour_path(hour)}/") if is_content(each.key, each.size)]
    return sorted(found, key=lambda each: each.key)


# --- objects ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Why an object could not be taken. `lasting`: it never will be; otherwise the next run tries again."""

    key: str
    code: str
    message: str
    lasting: bool = True
    beginning: bytes = b""


@dataclass(frozen=True)
class Lines:
    """An object's lines, as its key says. `numbers`, from 1, where they are not all of them."""

    stored: Stored
    lines: Sequence[bytes]
    numbers: Sequence[int] | None = None


def read_object(store: Store, stored: Stored, pause: Callable[[float], None] = time.sleep) -> Lines | Fault:
    """Read and check one object of `events/`; what it says about itself in its key must be true."""
    key = stored.key
    name = object_name(key)
    if name is None:
        return Fault(key, "unknown_key", "This key is not one that Milkrun writes.")
    for attempt in range(READ_TRIES):
        try:
            body = store.read(key)
            break
        except Exception as error:  # whatever a store raises: one object must not stop a million others
            if attempt == READ_TRIES - 1:
                return Fault(key, "unreadable_object", f"{type(error).__name__}: {error}", lasting=False)
            pause(0.1 * 4**attempt)
    try:
        with gzip.GzipFile(fileobj=BytesIO(body)) as inflating:
            text = inflating.read(MAX_INFLATED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        return Fault(key, "corrupt_gzip", str(error), beginning=body[:1024])
    if len(text) > MAX_INFLATED_BYTES:
        return Fault(
            key, "too_large", f"More than {MAX_INFLATED_BYTES} bytes inflated.", beginning=body[:1024]
        )
    if hashlib.sha256(text).hexdigest() != name.digest:
        return Fault(
            key, "wrong_digest", "The lines are not those that the key names.", beginning=body[:1024]
        )
    lines = text.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if len(lines) != name.lines:
        return Fault(key, "wrong_line_count", f"{len(lines)} lines, the key says {name.lines}.")
    return Lines(stored, lines)


def read_objects(store: Store, objects: Iterable[Stored]) -> Iterator[Lines | Fault]:
    """Many objects, read side by side, given in the order asked for, a few hundred in memory at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        for some in _slices(objects, READERS * 16):
            yield from pool.map(lambda stored: read_object(store, stored), some)


def set_aside(store: Store, hour: datetime, faults: Sequence[Fault], job: str) -> str | None:
    """Leave what can never be read where operators look, with reasons; same faults, same object."""
    lines = [
        quarantine_line([Reason(f.code, "", f.message)], f.beginning, {"job": job, "object": f.key})
        for f in sorted(faults, key=lambda each: each.key)
        if f.lasting
    ]
    if not lines:
        return None
    aside = lines_object("set-aside", lines, hour)
    store.write(aside.key, aside.body)
    return aside.key


def _slices(items: Iterable[Stored], size: int) -> Iterator[list[Stored]]:
    some: list[Stored] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
