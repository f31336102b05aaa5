"""Write sorted rows to Parquet objects of limited size, and verify each object by reading it back."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from glue.archive import Store
from glue.rows import checksum

FULL_BYTES = 256 * 1024 * 1024  # a file that has reached this size is closed after its current row group
ROW_GROUP_BYTES = 64 * 1024 * 1024  # in memory, uncompressed


@dataclass(frozen=True)
class Written:
    """A finished Parquet object: its key, number of rows, size and checksum."""

    key: str
    rows: int
    bytes: int
    checksum: int


class ReadBackMismatch(Exception):
    """Raised to stop the job if a stored object differs from the rows written, or if a second file of the same run
    would overwrite it.
    """


def write_parquet(
    batches: Iterable[tuple[str, pa.RecordBatch]],
    store: Store,
    key_of: Callable[[str, int], str],
    full_bytes: int = FULL_BYTES,
) -> Iterator[Written]:
    """Write each group's batches to `key_of(group, part)`, with a new part whenever a file is full; yield each object.

    All batches of a group must be consecutive. While a file is written, only one row group is in memory, and one
    temporary file is on disk; to be verified, the finished file is read into memory as a whole.
    A key depends only on the group and the part, and the same batches give the same parts, so a task that runs twice
    replaces each object with an identical one.
    """
    file: _File | None = None
    group, part = "", 0
    begun: set[str] = set()
    for each, batch in batches:
        if file is None or each != group or file.size >= full_bytes:
            if file is not None:
                yield file.finish(store)
            if each in begun and each != group:
                raise ReadBackMismatch(
                    f"batches of {each} are not consecutive: the second file would replace the first"
                )
            begun.add(each)
            group, part = each, part + 1 if each == group and file is not None else 0
            file = _File(key_of(group, part), batch.schema)
        file.add(batch)
    if file is not None:
        yield file.finish(store)


class _File:
    def __init__(self, key: str, schema: pa.Schema) -> None:
        self._key = key
        self._rows = self._checksum = self._pending_bytes = 0
        self._pending: list[pa.RecordBatch] = []
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "part.parquet"
        self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")

    @property
    def size(self) -> int:
        return self._path.stat().st_size

    def add(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        self._checksum += payload_checksum(batch)
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending))
        self._pending, self._pending_bytes = [], 0

    def finish(self, store: Store) -> Written:
        self._flush()
        self._writer.close()
        store.write_file(self._key, self._path)
        written = Written(self._key, self._rows, self._path.stat().st_size, self._checksum)
        self._folder.cleanup()
        if (found := read_back(store, self._key)) != written:
            raise ReadBackMismatch(f"wrote {written}, but read back {found}")
        return written


def write_rows(
    batches: Iterable[pa.RecordBatch], store: Store, key_of: Callable[[int], str], schema: pa.Schema
) -> Iterator[tuple[str, int]]:
    """Write rows of any schema to numbered files of at most about FULL_BYTES; yield the key and row count of each."""
    number, rows = 0, 0
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "part.parquet"
    writer: pq.ParquetWriter | None = None

    def finish() -> tuple[str, int]:
        assert writer is not None
        writer.close()
        store.write_file(key_of(number), path)
        return key_of(number), rows

    with folder:
        for batch in batches:
            if batch.num_rows == 0:
                continue
            if writer is None:
                writer = pq.ParquetWriter(path, schema, compression="zstd")
            writer.write_batch(batch)
            rows += batch.num_rows
            if path.stat().st_size >= FULL_BYTES:
                yield finish()
                number, rows, writer = number + 1, 0, None
        if writer is not None:
            yield finish()


def read_back(store: Store, key: str) -> Written:
    body = store.read(key)
    file = pq.ParquetFile(BytesIO(body))
    rows = total = 0
    for batch in file.iter_batches(columns=["payload"]):
        rows += batch.num_rows
        total += payload_checksum(batch)
    return Written(key, rows, len(body), total)


def payload_checksum(batch: pa.RecordBatch) -> int:
    return checksum(pc.cast(batch.column("payload"), pa.binary()).to_pylist())
