"""Compact each hour's small objects into a few Parquet files by day and type, and switch readers to them atomically.

    compacted/dt=2026-11-16/type=user.updated_trip/hh=08.<generation>-<attempt>.<bucket>.<part>.parquet
    compacted/_manifests/dt=2026-11-16/hh=08.json

The order is a promise: files are written under names that no manifest contains yet, then read back and compared
with the lines read from the archive (number and checksum), and only then is the hour's manifest, one small
object, replaced. Readers use only files that a manifest names, so even after a crash they read either the old
or the new files. The generation is a hash of the source objects' keys, so an hour with unchanged objects is not
compacted again. Files that no manifest names are deleted after a grace period (--grace-seconds, default: three
hours), counted from the last replacement of their hour's manifest. The period must be longer than the run time of
any reader, because a reader such as glue.rebuild reads the manifests when it starts and the files later.

    python -m glue.compact --archive s3://BUCKET --from 2026-11-16 --to 2026-11-17 [--engine duckdb|spark]
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from contract.archive_object import hour_folder
from glue.archive import Fault, Hours, Store, Stored, floor_hour, objects_of, read_objects, set_aside
from glue.jobs import add_range, arguments, at_least, choose_engine, exit_code, parser_of, report
from glue.parquet import FULL_BYTES, Written, payload_checksum, write_parquet
from glue.rows import LINE, OTHER, line_rows, merge_batches, micros, type_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FORMAT = 1  # part of each generation, so a new number causes every hour to be compacted again
PREFIX = "compacted"
MAX_TYPES = 200  # type folders per hour; rarer types share one
GRACE = timedelta(hours=3)  # longer than the timeout of any Glue job that reads these files
SWEPT_AGAIN = timedelta(days=1)  # so that daily runs also sweep the hours of the previous run

SORTED = pa.schema([*LINE, ("hour_us", pa.int64()), ("folder", pa.string()), ("bucket", pa.int64())])


@dataclass(frozen=True)
class Source:
    """The archived objects of one hour, to be compacted."""

    hour: datetime
    objects: tuple[Stored, ...]
    full_bytes: int = FULL_BYTES
    attempt: int = 0  # number of earlier attempts with the same objects, some of which were unreadable

    @property
    def generation(self) -> str:
        return generation_of(stored.key for stored in self.objects)

    @property
    def version(self) -> str:
        """Return `<generation>-<attempt>`, which makes the Parquet file names of each attempt unique."""
        return f"{self.generation}-{self.attempt}"

    def buckets(self) -> Iterator[tuple[Stored, int]]:
        """Yield each object with its bucket number. Each bucket has its own Parquet files, one or more per event type.

        The objects of a bucket have about `full_bytes` in total, so that none of its files becomes much larger, because
        gzipped NDJSON and Parquet have about the same size.
        """
        seen = 0
        for stored in self.objects:
            yield stored, seen // self.full_bytes
            seen += stored.size


@dataclass(frozen=True)
class ReadSummary:
    """The result of reading an hour: the numbers of valid objects and lines, the lines' checksum, and the faults."""

    objects: int
    lines: int
    checksum: int
    faults: tuple[Fault, ...]


def generation_of(keys: Iterable[str]) -> str:
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    for key in sorted(keys):
        digest.update(key.encode() + b"\n")
    return digest.hexdigest()[:16]


def manifest_key(hour: datetime) -> str:
    return f"{PREFIX}/_manifests/{hour_folder(hour)}.json"


def manifest_of(store: Store, hour: datetime) -> dict[str, Any] | None:
    key = manifest_key(hour)
    if not any(each.key == key for each in store.list(key)):
        return None
    manifest: dict[str, object] = json.loads(store.read(key))
    return manifest


def compacted_files(store: Store, hours: Hours) -> list[str]:
    """Return the keys of the Parquet files that the manifests of these hours name."""
    manifests = (manifest_of(store, hour) for hour in hours)
    return [file["key"] for manifest in manifests if manifest for file in manifest["files"]]


def stale(store: Store, hours: Hours, full_bytes: int = FULL_BYTES) -> list[Source]:
    """Return a Source for each hour that must be compacted.

    Such an hour has objects but no manifest, or its manifest was made from other objects or lists objects that were
    temporarily unreadable.
    """
    wanted = []
    for hour in hours:
        source = Source(hour, tuple(objects_of(store, hour)), full_bytes)
        manifest = manifest_of(store, hour)
        if manifest and manifest["generation"] == source.generation:
            source = replace(source, attempt=manifest["attempt"] + 1)
        if manifest is None:
            done = not source.objects
        else:
            done = manifest["generation"] == source.generation and not manifest["unreadable"]
        if not done:
            wanted.append(source)
    return wanted


def file_key(source_hour: datetime, version: str, folder: str, bucket: int, part: int) -> str:
    day = f"{PREFIX}/dt={source_hour:%Y-%m-%d}"
    return f"{day}/type={folder}/hh={source_hour:%H}.{version}.{bucket}.{part}.parquet"


class IncompleteWrite(Exception):
    """Raised if the lines written differ from the lines read; the manifest is then not replaced."""


def commit(
    store: Store, source: Source, read: ReadSummary, files: Sequence[Written], engine: str
) -> dict[str, object]:
    """Replace the hour's manifest, and return the new one.

    Raises IncompleteWrite if the files do not hold exactly the lines that were read.
    """
    written = (sum(f.rows for f in files), sum(f.checksum for f in files))
    if written != (read.lines, read.checksum) or len({f.key for f in files}) != len(files):
        raise IncompleteWrite(
            f"{hour_folder(source.hour)}: the {written[0]} lines written are not exactly the {read.lines} lines read"
        )
    quarantined = set_aside(store, source.hour, read.faults, "glue.compact")
    manifest = {
        "hour": source.hour.isoformat(),
        "generation": source.generation,
        "attempt": source.attempt,
        "engine": engine,
        "objects": read.objects,
        "lines": read.lines,
        "checksum": read.checksum,
        "files": [asdict(file) for file in sorted(files, key=lambda each: each.key)],
        "set_aside_key": quarantined,
        "set_aside": [_fault_fields(fault) for fault in read.faults if fault.permanent],
        "unreadable": [_fault_fields(fault) for fault in read.faults if not fault.permanent],
    }
    store.write(manifest_key(source.hour), json.dumps(manifest, indent=1, allow_nan=False).encode())
    return manifest


def _fault_fields(fault: Fault) -> dict[str, str]:
    return {"key": fault.key, "code": fault.code, "message": fault.message}


def superseded_files(store: Store, hours: Hours, before: datetime | None = None) -> list[str]:
    """Return the Parquet files of these hours that no manifest names. Such files remain after a replacement or a crash.

    With `before`, files that a manifest may have named after this time are excluded: those written later, and those
    of an hour whose manifest was replaced later.
    """
    days: dict[datetime, list[datetime]] = {}
    for hour in hours:
        days.setdefault(hour.replace(hour=0), []).append(hour)
    unnamed = []
    for day, members in days.items():
        stored = list(store.list(f"{PREFIX}/dt={day:%Y-%m-%d}/"))
        named = {
            file["key"] for hour in members for file in (manifest_of(store, hour) or {}).get("files", ())
        }
        # List the manifests after reading them, so that a manifest replaced in between counts as recent.
        manifests = store.list(f"{PREFIX}/_manifests/dt={day:%Y-%m-%d}/") if before else ()
        recent = {each.key for each in manifests if before and each.modified_at > before}
        ours = {f"hh={hour:%H}" for hour in members if manifest_key(hour) not in recent}
        unnamed += [
            each.key
            for each in stored
            if each.key.rpartition("/")[2].partition(".")[0] in ours
            and each.key not in named
            and (before is None or each.modified_at <= before)
        ]
    return unnamed


def sweep(store: Store, hours: Hours, now: datetime, grace: timedelta = GRACE) -> int:
    """Delete files that no manifest has named for `grace`; return the number of deleted files."""
    unnamed = superseded_files(store, hours, now - grace)
    store.delete(unnamed)
    return len(unnamed)


# --- shared by both engines: lines in, sorted lines out ------------------------------------------------------


def with_destination(batch: pa.RecordBatch, hour_us: int, bucket: int) -> pa.RecordBatch:
    """Add the columns that determine the target file of each row: hour, folder and bucket."""
    folders = [type_folder(type_) for type_ in batch.column("event_type").to_pylist()]
    values = [[hour_us] * batch.num_rows, folders, [bucket] * batch.num_rows]
    new = [pa.array(v, field.type) for v, field in zip(values, list(SORTED)[len(LINE) :], strict=True)]
    return pa.record_batch([*batch.columns, *new], schema=SORTED)


def by_file(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Split sorted rows at the boundaries between target files; yield each file's group name with its rows.

    The columns that determine the target file are dropped.
    """
    for batch in batches:
        # One string per row: "hour/folder/bucket". Folder names contain no slash.
        groups = pc.binary_join_element_wise(
            batch.column("hour_us").cast(pa.string()),
            batch.column("folder"),
            batch.column("bucket").cast(pa.string()),
            "/",
        )
        runs = pc.run_end_encode(groups)
        start = 0
        for group, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            yield group, batch.slice(start, end - start).select(LINE.names)
            start = end


def parse_group(group: str) -> tuple[int, str, int]:
    hour_us, folder, bucket = group.split("/")
    return int(hour_us), folder, int(bucket)


# --- DuckDB: one machine, one hour at a time ----------------------------------------------------------------


def compact_with_duckdb(
    store: Store, sources: Sequence[Source], memory: str = "1GB"
) -> Iterator[dict[str, object]]:
    for source in sources:
        yield _compact_hour(store, source, memory)


def _compact_hour(store: Store, source: Source, memory: str) -> dict[str, object]:
    import duckdb

    faults: list[Fault] = []
    sums = {"objects": 0, "lines": 0, "checksum": 0}

    def rows() -> Iterator[pa.RecordBatch]:
        bucket_of = {stored.key: bucket for stored, bucket in source.buckets()}
        for read in read_objects(store, source.objects):
            if isinstance(read, Fault):
                faults.append(read)
                continue
            batch = line_rows(read)
            sums["objects"] += 1
            sums["lines"] += batch.num_rows
            sums["checksum"] += payload_checksum(batch)
            yield with_destination(batch, micros(source.hour), bucket_of[read.stored.key])

    def key_of(group: str, part: int) -> str:
        _, folder, bucket = parse_group(group)
        return file_key(source.hour, source.version, folder, bucket, part)

    # By default, DuckDB would write what exceeds its memory to the current folder.
    with (
        tempfile.TemporaryDirectory() as spilled,
        duckdb.connect(config={"memory_limit": memory, "temp_directory": spilled}) as db,
    ):
        db.register("read", pa.RecordBatchReader.from_batches(SORTED, merge_batches(rows())))
        db.execute("CREATE TEMP TABLE lines AS SELECT * FROM read")
        _fold_rare_types(db)
        ordered: pa.RecordBatchReader = db.sql(
            "SELECT * FROM lines ORDER BY folder, bucket, device_id, created_at, file_name, file_row_number"
        ).to_arrow_reader(50_000)
        rows_of_files = by_file(batch.cast(SORTED) for batch in ordered)
        files = list(write_parquet(rows_of_files, store, key_of, source.full_bytes))
    return commit(store, source, ReadSummary(**sums, faults=tuple(faults)), files, "duckdb")


def _fold_rare_types(db: "DuckDBPyConnection") -> None:
    db.execute(
        """
        UPDATE lines SET folder = ?
        WHERE folder NOT IN (
            SELECT folder FROM lines GROUP BY folder ORDER BY count(*) DESC, folder LIMIT ?
        )
        """,
        [OTHER, MAX_TYPES],
    )


# --- the job ------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    parser = parser_of("compact", __doc__)
    add_range(parser)
    parser.add_argument(
        "--full-bytes",
        type=at_least(1),
        default=FULL_BYTES,
        help="start a new file when the current one has this many bytes",
    )
    parser.add_argument(
        "--grace-seconds",
        type=at_least(0),
        default=int(GRACE.total_seconds()),
        help="seconds to keep files that no manifest names; must exceed any reader's run time (default: %(default)s)",
    )
    given = arguments(parser, argv)
    wanted = stale(given.store, given.hours, given.full_bytes)
    engine = choose_engine(given.engine, (stored for source in wanted for stored in source.objects))
    if engine == "spark":
        from glue.session import session
        from glue.spark_compact import compact_with_spark

        with session("milkrun-compact", given.master) as spark:
            manifests = list(compact_with_spark(spark, given.store, wanted))
    else:
        manifests = list(compact_with_duckdb(given.store, wanted))
    grace = timedelta(seconds=given.grace_seconds)
    # Also sweep hours of earlier runs, because files superseded in the same run are still within the grace period.
    hours = Hours(floor_hour(given.hours.start - SWEPT_AGAIN - grace), given.hours.end)
    swept = sweep(given.store, hours, datetime.now(UTC), grace)
    unreadable = sum(len(m["unreadable"]) for m in manifests)
    report(
        "hours_compacted",
        engine=engine,
        hours=len(manifests),
        objects=sum(m["objects"] for m in manifests),
        lines=sum(m["lines"] for m in manifests),
        files=sum(len(m["files"]) for m in manifests),
        bytes=sum(f["bytes"] for m in manifests for f in m["files"]),
        set_aside=sum(len(m["set_aside"]) for m in manifests),
        unreadable=unreadable,
        swept=swept,
    )
    return 1 if unreadable else 0


if __name__ == "__main__" and (status := exit_code(main)):  # Glue may treat sys.exit(0) as a failure
    sys.exit(status)
