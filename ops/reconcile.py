"""`milkrun reconcile`: accepted = archived = loaded, and archived geofence events = consumed.

Compares *sets of objects*: the keys that the handler's log names, the keys in S3, and the files in RAW, each
with the number of lines that the key carries. An object is read only where the counts differ. The sets lie in
a file of SQLite, so that memory does not grow with them.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import Annotated, Any, Self

import typer

from aws.stream import KinesisStream
from aws.table import DynamoTable, Table
from consumer import keys
from consumer.visits import Pair
from contract import logs
from contract.events import MAX_AGE, Fence, Kind
from contract.instants import instant
from contract.objects import hour_of, object_name, prefix_of
from ops import terminal
from ops.outputs import NoStackError, Outputs
from ops.polling import until
from ops.replay import Pace, lines_again
from ops.stores import event_id_in, geofence_kinds, invalid_rows, log_days, log_lines, readable_lines
from snowpipe import loading
from snowpipe.archive import Archive
from snowpipe.cli import Stage
from snowpipe.pipes import Pipe
from snowpipe.refusal import Refusal
from snowpipe.repair import REPAIRED
from snowpipe.settings import Aws, Settings
from snowpipe.warehouse import Warehouse

# RAW is asked for the geofence events of so many lines at a time.
LINES_A_QUERY = 25_000
MAX_NAMED = 1000
# A line that the log gets later than this after its hour is not found.
LOG_DELAY = timedelta(minutes=15)
# After a repair: how long nothing may change until what still differs is taken for good.
REPAIR_PATIENCE_S = 8.0

_TABLES = """
CREATE TABLE object (
    key TEXT PRIMARY KEY, prefix TEXT, hour TEXT, lines INT,
    logged_at REAL, archived_at REAL, rows INT, explained INT
) WITHOUT ROWID;
"""

# What is wrong with an object, the first that is true. `at` is the limit of what may still be on its way.
_DIFFERENCES = """
SELECT kind, key, COALESCE(lines, 0), COALESCE(rows, 0) FROM (
    SELECT *, CASE
        WHEN logged_at IS NOT NULL AND archived_at IS NULL THEN 'not_archived'
        WHEN archived_at IS NULL THEN 'not_in_s3'
        WHEN rows IS NULL THEN 'not_loaded'
        WHEN rows != lines THEN 'rows_differ'
        WHEN logged_at IS NULL AND explained IS NULL AND hour >= :log THEN 'not_logged'
    END AS kind
    FROM object WHERE COALESCE(archived_at, logged_at, 0) <= :at
        AND (archived_at IS NOT NULL OR hour >= CASE prefix WHEN 'events' THEN :events ELSE :rejected END)
)
WHERE kind IS NOT NULL ORDER BY key
"""

_HOURS = """
SELECT hour, prefix,
    SUM(CASE WHEN logged_at IS NOT NULL THEN lines ELSE 0 END),
    SUM(CASE WHEN archived_at IS NOT NULL THEN COALESCE(lines, rows, 0) ELSE 0 END),
    SUM(COALESCE(rows, 0))
FROM object WHERE COALESCE(archived_at, logged_at, 0) <= :at GROUP BY hour, prefix ORDER BY hour
"""

# How long the bucket keeps objects (serverless/storage.yml): what is gone by then is not lost.
KEPT_DAYS = {"events": 400, "rejected": 90}

MEANINGS = {
    "not_archived": "accepted, and not in S3",
    "not_in_s3": "rows of an object that is in neither the log nor S3",
    "not_loaded": "in S3, no row in RAW",
    "rows_differ": "RAW has other than the object's number of lines",
    "not_logged": "in S3, and no request in the log tells of it",
    "not_consumed": "archived, and not in the visits table",
}
MENDABLE = ("not_loaded", "rows_differ", "not_consumed")


@dataclass(frozen=True, slots=True)
class Reach:
    """The first hour of which each still tells everything; "" for all hours."""

    log: str = ""
    events: str = ""
    rejected: str = ""

    @staticmethod
    def at(now: datetime, log_days: int | None) -> "Reach":
        """`log_days` None: the log is kept for ever."""
        kept = {prefix: _hour(now - timedelta(days=days)) for prefix, days in KEPT_DAYS.items()}
        return Reach(_hour(now - timedelta(days=log_days)) if log_days else "", **kept)


def _hour(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%HZ}"


EVER = Reach()


@dataclass(frozen=True, slots=True)
class Difference:
    """`events` are known where a look into the object could tell; `line` for a single event."""

    kind: str
    key: str
    lines: int = 0
    rows: int = 0
    line: int | None = None
    events: tuple[str, ...] = ()


@dataclass(slots=True)
class Crossings:
    """Archived geofence events against the consumer's table."""

    archived: int = 0
    consumed: int = 0
    too_old: int = 0


@dataclass(slots=True)
class Found:
    """One look at everything."""

    hours: list[dict[str, Any]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    more: int = 0
    in_flight: int = 0
    log_reaches: str = ""
    crossings: Crossings = field(default_factory=Crossings)
    foreign: list[dict[str, Any]] = field(default_factory=list)  # objects under keys that others chose
    invalid_rows: list[dict[str, Any]] = field(default_factory=list)  # rows of RAW that are no events

    @property
    def equal(self) -> bool:
        return not self.differences

    def add(self, difference: Difference) -> None:
        if len(self.differences) < MAX_NAMED:
            self.differences.append(difference)
        else:
            self.more += 1


class Books:
    """Three lists of the same objects, side by side. `start` and `end` are whole hours, `end` left out."""

    def __init__(self, path: Path | None, start: datetime, end: datetime) -> None:
        self.start, self.end = start, end
        self._strays: dict[str, datetime] = {}
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def logged(self, keys: Iterable[tuple[str, datetime]]) -> None:
        self._enter("logged_at", ((key, at.timestamp()) for key, at in keys))

    def archived(self, keys: Iterable[tuple[str, datetime]]) -> None:
        """Take the keys in S3 with S3's times; a key that names no hour counts in the hour of that time."""
        self._enter("archived_at", ((key, at.timestamp()) for key, at in self._noting_strays(keys)))

    def _noting_strays(self, keys: Iterable[tuple[str, datetime]]) -> Iterator[tuple[str, datetime]]:
        for key, at in keys:
            if hour_of(key) is None:
                self._strays[key] = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            yield key, at

    @property
    def strays(self) -> Sequence[str]:
        """The keys in S3 that name no hour."""
        return sorted(self._strays)

    def loaded(self, files: Iterable[tuple[str, int]]) -> None:
        self._enter("rows", files)

    def unlogged(self) -> list[str]:
        """Return the keys of ours in S3 of which no request in the log tells."""
        sql = """SELECT key FROM object WHERE archived_at IS NOT NULL AND logged_at IS NULL AND explained IS NULL
            ORDER BY key LIMIT ?"""
        return [key for (key,) in self._db.execute(sql, (MAX_NAMED,))]

    def explain(self, keys: Iterable[str]) -> None:
        """Somebody put these there on purpose: that no request tells of them is no difference."""
        self._db.executemany("UPDATE object SET explained = 1 WHERE key = ?", ((key,) for key in keys))

    def foreign(self) -> list[dict[str, Any]]:
        """Return the objects in S3 under keys that others chose, each with its rows in RAW."""
        sql = "SELECT key, COALESCE(rows, 0) FROM object WHERE lines IS NULL AND archived_at IS NOT NULL ORDER BY key"
        return [{"key": key, "rows": rows} for key, rows in self._db.execute(f"{sql} LIMIT ?", (MAX_NAMED,))]

    def rewritten(self, anew: Mapping[str, str | None]) -> None:
        """`forget` wrote these objects anew (None: nothing else was in it): the log's word counts for the new one.

        An old one that is gone from S3 and RAW is meant to be.
        """
        for old in anew:
            row = self._db.execute("SELECT logged_at FROM object WHERE key = ?", (old,)).fetchone()
            if row is None or row[0] is None:
                continue
            self._db.execute(
                "DELETE FROM object WHERE key = ? AND archived_at IS NULL AND rows IS NULL", (old,)
            )
            new = anew[old]
            while new is not None and new in anew:  # somebody else was forgotten later
                new = anew[new]
            if new is not None:
                self.logged([(new, datetime.fromtimestamp(row[0], UTC))])

    def _enter(self, column: str, values: Iterable[tuple[str, float]]) -> None:
        sql = (
            f"INSERT INTO object (key, prefix, hour, lines, explained, {column}) VALUES (?, ?, ?, ?, ?, ?)"
            f" ON CONFLICT DO UPDATE SET {column} = excluded.{column}"
        )
        self._db.execute("BEGIN")
        self._db.executemany(sql, self._rows(values))
        self._db.execute("COMMIT")

    def _rows(self, values: Iterable[tuple[str, float]]) -> Iterator[tuple[object, ...]]:
        for key, value in values:
            prefix, hour, name = prefix_of(key), self._hour_of(key), object_name(key)
            if prefix is not None and hour is not None and self.start <= hour < self.end:
                yield key, prefix, _hour(hour), name and name.lines, None if name else 1, value

    def _hour_of(self, key: str) -> datetime | None:
        """The hour in the key, else the one that `strays` has told for it."""
        return hour_of(key) or self._strays.get(key)

    def differences(self, at: datetime, reach: Reach = EVER) -> Iterator[Difference]:
        for kind, key, lines, rows in self._db.execute(_DIFFERENCES, {"at": at.timestamp(), **asdict(reach)}):
            yield Difference(kind, key, lines, rows)

    def hours(self, at: datetime) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        names = {
            "events": ("accepted", "archived", "loaded"),
            "rejected": ("rejected", "rejects_kept", "rejects_loaded"),
        }
        for hour, prefix, *counts in self._db.execute(_HOURS, {"at": at.timestamp()}):
            row = found.setdefault(
                hour, {"hour": hour} | dict.fromkeys(names["events"] + names["rejected"], 0)
            )
            row |= dict(zip(names[prefix], counts, strict=True))
        return list(found.values())

    def in_flight(self, at: datetime) -> int:
        sql = "SELECT COUNT(*) FROM object WHERE COALESCE(archived_at, logged_at, 0) > ?"
        return int(self._db.execute(sql, (at.timestamp(),)).fetchone()[0])

    def spans(self, at: datetime) -> Iterator[tuple[str, str]]:
        """First and last key of runs of loaded objects, LINES_A_QUERY lines a run or one object."""
        sql = """SELECT key, COALESCE(lines, rows) FROM object WHERE prefix = 'events' AND rows IS NOT NULL
            AND COALESCE(archived_at, logged_at, 0) <= ? ORDER BY key"""
        first = last = ""
        lines = 0
        for key, n in self._db.execute(sql, (at.timestamp(),)):
            if first and lines + n > LINES_A_QUERY:
                yield first, last
                first, lines = "", 0
            first, last, lines = first or key, key, lines + n
        if first:
            yield first, last


class Reconciler:
    """The stores of one stage, and what to ask of them."""

    def __init__(self, outputs: Outputs, stage: str, warehouse: Warehouse) -> None:
        self._outputs = outputs
        self._stage = stage
        self._warehouse = warehouse
        self.kinds = geofence_kinds(outputs, stage)
        self.archive = Archive(outputs.aws("s3"), outputs.bucket)

    def look(self, start: datetime, end: datetime, settled_at: datetime) -> Found:
        """What was received from `start`'s hour to `end`'s, and in S3 (or else the log) by `settled_at`."""
        first = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        last = end.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        found = Found()
        with (
            tempfile.TemporaryDirectory(prefix="milkrun-reconcile-") as folder,
            Books(Path(folder) / "books.sqlite", first, last) as books,
        ):
            self._read(books)
            found.hours = books.hours(settled_at)
            found.in_flight = books.in_flight(settled_at)
            reach = Reach.at(datetime.now(UTC), log_days(self._outputs, self._stage, "ingest"))
            found.log_reaches = reach.log if reach.log > _hour(first) else ""
            found.foreign = books.foreign()
            found.invalid_rows = invalid_rows(
                self._warehouse, self._outputs.database, first, last - timedelta(hours=1), MAX_NAMED
            )
            for difference in books.differences(settled_at, reach):
                found.add(self._closer(difference))
            for first_key, last_key in books.spans(settled_at):
                self._crossings(first_key, last_key, found)
        return found

    def _read(self, books: Books) -> None:
        books.logged(self._in_log(books.start, books.end))
        last_hour = books.end - timedelta(hours=1)
        for prefix in ("events/", "rejected/"):
            received = self.archive.received(prefix, books.start, last_hour)
            books.archived((found.key, found.modified_at) for found in received)
        hour = books.start
        while hour < books.end:
            for prefix in ("events", "rejected"):
                books.loaded(self._in_raw(prefix, hour))
            hour += timedelta(hours=1)
        for key in books.strays:
            books.loaded(self._rows_of(key))
        books.rewritten(dict(self._rewritten()))
        books.explain(key for key in books.unlogged() if self._is_repaired(key))

    def _is_repaired(self, key: str) -> bool:
        """Whether `milkrun warehouse repair` has put it there."""
        from botocore.exceptions import ClientError

        try:
            return (
                REPAIRED
                in self._outputs.aws("s3").head_object(Bucket=self._outputs.bucket, Key=key)["Metadata"]
            )
        except ClientError:
            return False

    def _rewritten(self) -> Iterator[tuple[str, str | None]]:
        """Which objects `forget` wrote anew, by its plans."""
        for found in self.archive.objects("forget/"):
            body = self.archive.body(found.key)
            for pair in json.loads(body)["objects"] if body else ():
                yield pair["old"], pair["new"]

    def _in_log(self, start: datetime, end: datetime) -> Iterator[tuple[str, datetime]]:
        """The keys that the handler's canonical lines name, each with the time of its line."""
        lines = log_lines(
            self._outputs, self._stage, "ingest", logs.EVENTS_INGESTED, start=start, end=end + LOG_DELAY
        )
        for at, line in lines:
            # What got 503 was sent again, and has a line of its own then.
            if line.get("status") in (202, 400):
                yield from ((key, at) for key in (line.get("object_key"), line.get("rejected_key")) if key)

    def _in_raw(self, prefix: str, hour: datetime) -> Iterator[tuple[str, int]]:
        begins = f"{prefix}/dt={hour:%Y-%m-%d}/hh={hour:%H}/"
        sql = (
            "SELECT file_name, COUNT(*) AS n"
            f" FROM {self._outputs.database}.RAW.{prefix} WHERE file_name >= %s AND file_name < %s GROUP BY 1"
        )
        # "0" follows "/" in ASCII: every key that begins so, and no other.
        for row in self._warehouse.query(sql, [begins, begins[:-1] + "0"]):
            yield row["file_name"], row["n"]

    def _rows_of(self, key: str) -> Iterator[tuple[str, int]]:
        sql = f"SELECT COUNT(*) AS n FROM {self._outputs.database}.RAW.{prefix_of(key)} WHERE file_name = %s"
        [row] = self._warehouse.query(sql, [key])
        if row["n"]:
            yield key, row["n"]

    def _closer(self, difference: Difference) -> Difference:
        """With the events that have no row, where the object can be read."""
        if difference.kind != "rows_differ" or not difference.key.startswith("events/"):
            return difference
        body = self.archive.body(difference.key)
        if body is None:
            return difference
        raw = f"{self._outputs.database}.RAW.EVENTS"
        sql = f"SELECT DISTINCT file_row_number AS n FROM {raw} WHERE file_name = %s"
        there = {int(row["n"]) for row in self._warehouse.query(sql, [difference.key])}
        missing = tuple(
            event_id_in(line) or f"line {number}"
            for number, line in enumerate(readable_lines(body) or (), 1)
            if number not in there
        )
        return Difference(
            difference.kind, difference.key, difference.lines, difference.rows, events=missing[:MAX_NAMED]
        )

    def _crossings(self, first_key: str, last_key: str, found: Found) -> None:
        """Look up in the visits table every geofence event of the objects between these keys.

        Too old is what the table keeps no longer, and what the consumer left out when it came.
        """
        now = datetime.now(UTC)
        wanted: dict[tuple[str, str], list[Difference]] = {}
        for row in self._geofence_rows(first_key, last_key):
            found.crossings.archived += 1
            named = Difference(
                "not_consumed", row["file_name"], line=int(row["line"]), events=(str(row["event_id"]),)
            )
            try:
                hour = hour_of(row["file_name"])
                came_by = hour + timedelta(hours=1) if hour else now
                if instant(row["created_at"]) < max(now - keys.KEPT_FOR, came_by - MAX_AGE):
                    found.crossings.too_old += 1
                    continue
                pair = Pair(row["device_id"], Fence(row["tag"], row["external_id"]))
                where = (keys.pair_key(pair), keys.id_key(row["event_id"]))
            except (ValueError, TypeError, AttributeError):
                found.add(named)  # not of the handler: somebody else wrote it to the archive
                continue
            wanted.setdefault(where, []).append(named)
        with ThreadPoolExecutor(4) as readers:
            table: Table = DynamoTable(
                self._outputs.access().client("dynamodb"), self._outputs.visits_table, readers
            )
            for some in batched(wanted, 2000, strict=False):
                there, failures = table.get(some)
                for failure in failures.values():
                    raise failure
                found.crossings.consumed += sum(len(wanted[where]) for where in there)
                for where in some:
                    if where not in there:
                        found.add(wanted[where][0])

    def _geofence_rows(self, first_key: str, last_key: str) -> Sequence[Mapping[str, Any]]:
        types = ", ".join(["%s"] * len(self.kinds))
        sql = f"""
            SELECT file_name, MIN(file_row_number) AS line,
                payload:_id::VARCHAR AS event_id, payload:createdAt::VARCHAR AS created_at,
                COALESCE(payload:user.deviceId::VARCHAR, payload:deviceId::VARCHAR) AS device_id,
                payload:geofence.tag::VARCHAR AS tag, payload:geofence.externalId::VARCHAR AS external_id
            FROM {self._outputs.database}.RAW.EVENTS
            WHERE file_name BETWEEN %s AND %s AND payload:type::VARCHAR IN ({types})
            GROUP BY 1, 3, 4, 5, 6, 7
        """
        return self._warehouse.query(sql, [first_key, last_key, *self.kinds])


class Repairer:
    """Mends what can be mended, and says of each difference what it did."""

    def __init__(
        self, outputs: Outputs, warehouse: Warehouse, archive: Archive, kinds: Mapping[str, Kind]
    ) -> None:
        self._outputs = outputs
        self._warehouse = warehouse
        self._archive = archive
        self._kinds = kinds
        aws = Aws(region=outputs.region, aws_endpoint_url=outputs.aws_endpoint_url, bucket=outputs.bucket)
        settings = Settings(connection=outputs.snowflake, aws=aws, folder=Path(), source="outputs")
        self._stage = Stage(settings)

    def repair(self, differences: Sequence[Difference]) -> list[dict[str, Any]]:
        """A row for each thing done; one that failed says why, and the others are mended all the same."""
        done: list[dict[str, Any]] = []
        for key in (d.key for d in differences if d.kind == "rows_differ"):
            done += self._trying(key, self._reload(key))
        for pipe in self._stage.pipes():
            keys = [d.key for d in differences if d.kind == "not_loaded" and d.key.startswith(pipe.prefix)]
            if keys:
                done += self._trying(f"{len(keys)} objects", self._load(pipe, keys))
        again = [(d.key, d.line) for d in differences if d.kind == "not_consumed" and d.line is not None]
        if again:
            done += self._trying(f"{len(again)} geofence events", self._publish(again))
        done += (
            {"key": d.key, "did": f"nothing: {MEANINGS[d.kind]}; look at it"}
            for d in differences
            if d.kind not in MENDABLE
        )
        return done

    def _trying(self, key: str, mending: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        try:
            yield from mending
        except Refusal as refusal:
            yield {"key": key, "did": f"nothing: {refusal}"}

    def _load(self, pipe: Pipe, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
        """By the pipe where it will: REFRESH sees what has no history. COPY for the rest."""
        left = set(keys)
        for prefix in sorted({key.rpartition("/")[0] + "/" for key in keys}):
            left -= set(loading.refresh(self._warehouse, pipe, self._archive, prefix).sent)
        yield from ({"key": key, "did": "queued by REFRESH"} for key in keys if key not in left)
        copy = self._copy_statement(pipe) + "\nFORCE = TRUE"
        for row in loading.copy_files(self._warehouse, pipe, copy, sorted(left)) if left else ():
            yield {"key": row["key"], "did": f"COPY with FORCE: {row['status']}, {row['rows']} rows"}

    def _reload(self, key: str) -> Iterator[dict[str, Any]]:
        [pipe] = [pipe for pipe in self._stage.pipes() if key.startswith(pipe.prefix)]
        row = loading.reload(self._warehouse, pipe, self._archive, self._copy_statement(pipe), key)
        yield {
            "key": key,
            "did": f"COPY with FORCE: {row['rows']} rows; the {row['rows_deleted']} from before deleted",
        }

    def _publish(self, lines: Sequence[tuple[str, int]]) -> Iterator[dict[str, Any]]:
        label = f"reconcile-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        stream = KinesisStream(self._outputs.access().client("kinesis"), self._outputs.stream)
        sent = lines_again(self._archive, stream, lines, label, Pace(200), self._kinds)
        yield {"key": f"{sent} geofence events", "did": f"put on the stream again, labelled {label}"}

    def _copy_statement(self, pipe: Pipe) -> str:
        return self._stage.definition(pipe).copy_statement


# --- the command


def command(
    context: typer.Context,
    *,
    start: Annotated[
        datetime, typer.Option("--from", parser=terminal.time, metavar="TIME", help="First hour received.")
    ] = "24 hours ago",  # type: ignore[assignment]  # typer parses it like any other value
    end: Annotated[
        datetime, typer.Option("--to", parser=terminal.time, metavar="TIME", help="Last hour received.")
    ] = "now",  # type: ignore[assignment]
    settle: Annotated[
        float,
        typer.Option(
            min=0,
            max=terminal.MAX_SECONDS,
            help="Leave out what was received in the last so many seconds: it is under way.",
        ),
    ] = 60,
    repair: Annotated[
        bool, typer.Option("--repair", help="Load again, send again; then look again.")
    ] = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Compare accepted, archived and loaded events, and name what is missing.

    Exit 0: nothing is missing; 1: there are differences; 2: something could not be checked.
    """
    terminal.check_range(start, end)
    repaired: list[dict[str, Any]] = []
    try:
        outputs = terminal.outputs_of(context, stage)
        with outputs.warehouse() as warehouse, terminal.progress() as bars:
            bars.add_task("comparing", total=None)
            reconciler = Reconciler(outputs, stage, warehouse)
            settled_at = datetime.now(UTC) - timedelta(seconds=settle)
            found = reconciler.look(start, end, settled_at)
            if repair and not found.equal:
                repairer = Repairer(outputs, warehouse, reconciler.archive, reconciler.kinds)
                repaired = repairer.repair(found.differences)
                mended = until(
                    lambda: reconciler.look(start, end, settled_at),
                    lambda found: (
                        {d.kind for d in found.differences} <= {"not_archived", "not_in_s3", "not_logged"}
                    ),
                    patience_s=REPAIR_PATIENCE_S,
                    every_s=1,
                )
                found = mended
    except (NoStackError, Refusal, *terminal.AWS_ERRORS) as problem:
        if as_json:
            terminal.print_json({"equal": None, "problem": str(problem)})
        else:
            terminal.fail(f"could not check: {problem}")
        raise typer.Exit(2) from None
    _show(found, repaired, as_json)
    raise typer.Exit(0 if found.equal else 1)


def _show(found: Found, repaired: list[dict[str, Any]], as_json: bool) -> None:
    crossings = found.crossings
    geofence = {"archived": crossings.archived, "consumed": crossings.consumed, "too_old": crossings.too_old}
    named = [
        {
            "kind": d.kind,
            "key": d.key,
            "line": d.line,
            "lines": d.lines,
            "rows": d.rows,
            "events": list(d.events),
        }
        for d in found.differences
    ]
    if as_json:
        terminal.print_json(
            {
                "equal": found.equal,
                "hours": found.hours,
                "geofence_events": geofence,
                "differences": named,
                "more_differences": found.more,
                "foreign_objects": found.foreign,
                "invalid_rows": found.invalid_rows,
                "in_flight": found.in_flight,
                "log_reaches": found.log_reaches or None,
                "repaired": repaired,
            }
        )
        return
    terminal.show_rows(found.hours, False)
    terminal.show({"geofence events": geofence, "objects under way, left out": found.in_flight}, False)
    if found.log_reaches:
        terminal.out.print(f"before {found.log_reaches} the log is gone: what was accepted is not known")
    if found.foreign:
        title = "Objects under keys that others chose; RAW holds what could be read of them"
        terminal.show_rows(found.foreign, False, title=title)
    if found.invalid_rows:
        terminal.show_rows(
            found.invalid_rows, False, title="Rows of RAW that are no events; no mart has them"
        )
    if repaired:
        terminal.show_rows(repaired, False, title="Repaired")
    for kind, meaning in MEANINGS.items():
        of_kind = [d for d in found.differences if d.kind == kind]
        if of_kind:
            terminal.out.print(f"[red]{kind}[/]: {meaning} ({len(of_kind)})")
        for d in of_kind[:20]:
            line = f" line {d.line}" if d.line else ""
            terminal.out.print(f"  {d.key}{line} {' '.join(d.events[:5])}", markup=False)
    terminal.out.print("[green]nothing is missing" if found.equal else "[red]there are differences")
