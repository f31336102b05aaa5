"""`milkrun reconcile`: compare accepted, archived and loaded events, and archived geofence events with the visits.

The command compares *sets of objects*: the keys in the handler's log, the keys in S3, and the files in RAW
with their numbers of rows. A key contains the object's number of lines, so an object is read only if RAW has
a different number of rows. The sets are stored in an SQLite file, so their size does not affect the memory
usage.
"""

import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from aws.table import Table
from cli.command_errors import one_line
from cli.counts import count
from cli.refusal import Refusal
from consumer import keys
from consumer.item_lifetime import KEPT_FOR
from consumer.visits import Pair
from contract import logs
from contract.archive_object import hour_folder, hour_of, prefix_of
from contract.event_limits import MAX_AGE
from contract.events import Fence
from contract.instants import instant
from ops import terminal
from ops.object_sets import (
    LAST_RESULT,
    MAX_NAMED,
    MEANINGS,
    Difference,
    Found,
    ObjectSets,
    Reach,
    hour_name,
)
from ops.polling import until
from ops.reachable_stores import ReachableStores, tell, unreachable, with_or_without_warehouse
from ops.read_log_lines import log_days, log_lines
from ops.read_stores import (
    consumed_event_ids,
    event_id_in,
    invalid_rows,
    readable_lines,
)
from ops.repair_differences import QUEUED, Repairer
from ops.stage_outputs import NoStackError, Outputs
from snowpipe.repair import REPAIRED
from snowpipe.warehouse import Row, Warehouse

# Log lines of an hour are expected at most this long after the hour has ended.
LOG_DELAY = timedelta(minutes=15)
# After a repair, differences that have not changed for REPAIR_TIMEOUT_S are final. QUEUE_TIMEOUT_S is longer, because
# Snowpipe may take minutes to load a file that REFRESH has queued.
REPAIR_TIMEOUT_S, QUEUE_TIMEOUT_S = 8.0, 180.0
SHOWN = 20  # per kind of difference, unless the output is JSON


class Reconciler(ReachableStores):
    """Compares the stores of one stage. Without a warehouse, it compares only the log and S3."""

    def look(self, start: datetime, end: datetime, settled_at: datetime) -> Found:
        """Compare the log, S3, Snowflake and DynamoDB for the objects that were received in these hours.

        Objects that were stored after `settled_at` are not compared, only counted as in flight.
        """
        first = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        last = end.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        found = Found(unasked=self._unasked)
        with (
            tempfile.TemporaryDirectory(prefix="milkrun-reconcile-") as folder,
            ObjectSets(Path(folder) / "objects.sqlite", first, last) as sets,
        ):
            self._read(sets)
            found.hours = sets.hours(settled_at)
            found.in_flight = sets.in_flight(settled_at)
            reach = Reach.at(datetime.now(UTC), log_days(self._outputs, self._stage, "ingest"))
            found.log_reaches = reach.log if reach.log > hour_name(first) else ""
            found.foreign = sets.foreign()
            if self._warehouse is None:  # unknown, not 0
                found.hours = [hour | {"loaded": None, "rejects_loaded": None} for hour in found.hours]
                found.foreign = [each | {"rows": None} for each in found.foreign]
            else:
                last_hour = last - timedelta(hours=1)
                found.invalid_rows = invalid_rows(
                    self._warehouse, self._outputs.database, first, last_hour, MAX_NAMED
                )
            for difference in sets.differences(settled_at, reach, raw=self._warehouse is not None):
                found.add(self._with_missing_ids(difference))
            if "DynamoDB" not in self._unasked:
                for first_key, last_key in sets.spans(settled_at):
                    in_transit = sets.in_transit(first_key, last_key, settled_at)
                    self._crossings(first_key, last_key, found, in_transit)
        return found

    def _read(self, sets: ObjectSets) -> None:
        sets.logged(self._in_log(sets.start, sets.end))
        last_hour = sets.end - timedelta(hours=1)
        for prefix in ("events/", "rejected/"):
            received = self.archive.received(prefix, sets.start, last_hour)
            sets.archived((found.key, found.modified_at) for found in received)
        hour = sets.start
        while hour < sets.end:
            for prefix in ("events", "rejected"):
                sets.loaded(self._in_raw(prefix, hour))
            hour += timedelta(hours=1)
        for key in sets.strays:
            sets.loaded(self._rows_of(key))
        sets.rewritten(dict(self._rewritten()))
        sets.explain(key for key in sets.unlogged() if self._is_repaired(key))

    def _is_repaired(self, key: str) -> bool:
        """Return whether `milkrun warehouse repair` stored this object."""
        from botocore.exceptions import ClientError

        try:
            return (
                REPAIRED
                in self._outputs.aws("s3").head_object(Bucket=self._outputs.bucket, Key=key)["Metadata"]
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":  # after a 403, for example, this is unknown
                raise
            return False

    def _rewritten(self) -> Iterator[tuple[str, str | None]]:
        """Yield the old and the new key of each object in plans of `forget`. The new key is None if no line is left."""
        for found in self.archive.objects("forget/"):
            body = self.archive.body(found.key)
            for pair in json.loads(body)["objects"] if body else ():
                yield pair["old"], pair["new"]

    def _in_log(self, start: datetime, end: datetime) -> Iterator[tuple[str, datetime]]:
        """Yield the object keys in the handler's log lines with status 202 or 400, each with the time of the line."""
        lines = log_lines(
            self._outputs, self._stage, "ingest", logs.EVENTS_INGESTED, start=start, end=end + LOG_DELAY
        )
        for at, line in lines:
            # A request that got a 503 is sent again, and the repeated request has its own log line.
            if line.get("status") in (202, 400):
                yield from ((key, at) for key in (line.get("object_key"), line.get("rejected_key")) if key)

    def _in_raw(self, prefix: str, hour: datetime) -> Iterator[tuple[str, int]]:
        begins = f"{prefix}/{hour_folder(hour)}/"
        sql = (
            "SELECT file_name, COUNT(*) AS n"
            f" FROM {self._outputs.database}.RAW.{prefix} WHERE file_name >= %s AND file_name < %s GROUP BY 1"
        )
        # "0" follows "/" in ASCII, so this range covers every key with the prefix.
        for row in self._query(sql, [begins, begins[:-1] + "0"]):
            yield row["file_name"], row["n"]

    def _rows_of(self, key: str) -> Iterator[tuple[str, int]]:
        sql = f"SELECT COUNT(*) AS n FROM {self._outputs.database}.RAW.{prefix_of(key)} WHERE file_name = %s"
        for row in self._query(sql, [key]):
            if row["n"]:
                yield key, row["n"]

    def _query(self, sql: str, parameters: Sequence[object]) -> Sequence[Row]:
        return [] if self._warehouse is None else self._warehouse.query(sql, parameters)

    def _with_missing_ids(self, difference: Difference) -> Difference:
        """Return a `rows_differ` difference under `events/` with the ids of at most MAX_NAMED events that are missing
        from RAW. Return any other difference unchanged, and also one whose object no longer exists.
        """
        if difference.kind != "rows_differ" or not difference.key.startswith("events/"):
            return difference
        body = self.archive.body(difference.key)
        if body is None:
            return difference
        raw = f"{self._outputs.database}.RAW.EVENTS"
        sql = f"SELECT DISTINCT file_row_number AS n FROM {raw} WHERE file_name = %s"
        there = {int(row["n"]) for row in self._query(sql, [difference.key])}
        missing = tuple(
            event_id_in(line) or f"line {number}"
            for number, line in enumerate(readable_lines(body) or (), 1)
            if number not in there
        )
        return Difference(
            difference.kind, difference.key, difference.lines, difference.rows, events=missing[:MAX_NAMED]
        )

    def _crossings(
        self, first_key: str, last_key: str, found: Found, in_transit: Collection[str] = ()
    ) -> None:
        """Look up in the visits table every geofence event that RAW contains from a range of objects, except objects in
        transit, and add the missing events to `found`.

        An event counts as too old if it has expired in the table, or if the consumer skipped it because of
        its age.
        """
        now = datetime.now(UTC)
        wanted: dict[Pair, dict[str, list[Difference]]] = {}
        for row in self._geofence_rows(first_key, last_key):
            if row["file_name"] in in_transit:
                continue
            found.crossings.archived += 1
            named = Difference(
                "not_consumed", row["file_name"], line=int(row["line"]), events=(str(row["event_id"]),)
            )
            try:
                hour = hour_of(row["file_name"])
                came_by = hour + timedelta(hours=1) if hour else now
                if instant(row["created_at"]) < max(now - KEPT_FOR, came_by - MAX_AGE):
                    found.crossings.too_old += 1
                    continue
                pair = Pair(row["device_id"], Fence(row["tag"], row["external_id"]))
                keys.pair_key(pair)  # raises if a part is not text
            except (ValueError, TypeError, AttributeError):
                found.add(named)  # not written by the handler
                continue
            wanted.setdefault(pair, {}).setdefault(str(row["event_id"]), []).append(named)
        with ThreadPoolExecutor(4) as readers:
            table = Table(self._outputs.access().client("dynamodb"), self._outputs.visits_table, readers)
            known = readers.map(lambda pair: consumed_event_ids(table, pair), wanted)
            for by_id, there in zip(wanted.values(), known, strict=True):
                for event_id, differences in by_id.items():
                    if event_id in there:
                        found.crossings.consumed += len(differences)
                    else:
                        found.add(differences[0])

    def _geofence_rows(self, first_key: str, last_key: str) -> Sequence[Row]:
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
        return self._query(sql, [first_key, last_key, *self.kinds])


# --- the command


def command(
    context: typer.Context,
    *,
    start: terminal.From = terminal.A_DAY_AGO,
    end: terminal.To = terminal.NOW,
    settle: Annotated[
        float,
        typer.Option(
            min=0,
            max=terminal.MAX_SECONDS,
            metavar="SECONDS",
            help="Ignore objects stored in the last SECONDS, because their events may still be in transit.",
        ),
    ] = 60,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Load missing rows, replace differing ones, send missing events again, and compare again.",
        ),
    ] = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Compare accepted, archived, loaded and consumed events, and list the differences.

    The exit code is 0 if there are no differences, 1 if there are some, and 2 if something could not be
    checked.
    """
    terminal.check_range(start, end)
    try:
        outputs = terminal.outputs_of(context, stage)
        unasked = unreachable(outputs, ("S3", "CloudWatch Logs", "DynamoDB", "Lambda"))
        if needed := [name for name in ("S3", "CloudWatch Logs") if name in unasked]:
            raise Refusal("; ".join(f"{name}: {unasked[name]}" for name in needed))
        settled_at = datetime.now(UTC) - timedelta(seconds=settle)

        def compare(warehouse: Warehouse | None) -> tuple[Found, list[dict[str, object]]]:
            reconciler = Reconciler(outputs, stage, warehouse, unasked)
            found = reconciler.look(start, end, settled_at)
            if not repair or found.equal:
                return found, []
            if warehouse is None:
                terminal.fail("nothing more was repaired, because Snowflake did not answer")
                return found, []
            repairer = Repairer(outputs, warehouse, reconciler.archive, reconciler.kinds)
            repaired = repairer.repair(found.differences)
            queued = {each["key"] for each in repaired if each["did"] == QUEUED}

            def look_again() -> list[Difference]:
                # Do not return `found`, because on a busy stage its number of objects in transit changes with every
                # look, so that `until` would never time out.
                nonlocal found
                found = reconciler.look(start, end, settled_at)
                return found.differences

            if queued:
                until(
                    look_again,
                    lambda left: not any(d.kind == "not_loaded" and d.key in queued for d in left),
                    timeout_s=QUEUE_TIMEOUT_S,
                    every_s=3,
                )
            until(
                look_again,
                lambda left: {d.kind for d in left} <= {"not_archived", "not_in_s3", "not_logged"},
                timeout_s=REPAIR_TIMEOUT_S,
                every_s=1,
            )
            return found, repaired

        with terminal.progress() as bars:
            bars.add_task("comparing", total=None)
            found, repaired = with_or_without_warehouse(outputs, unasked, compare)
        note_result(outputs, found)
    except (NoStackError, Refusal, *terminal.AWS_ERRORS) as problem:
        if as_json:
            terminal.print_json({"equal": None, "problem": str(problem)})
        else:
            terminal.fail(f"could not check: {problem}")
        raise typer.Exit(2) from None
    _show(found, repaired, as_json)
    raise typer.Exit(2 if found.unasked else 0 if found.equal else 1)


def note_result(outputs: Outputs, found: Found) -> None:
    """Store the result in the bucket, because `milkrun status` shows it."""
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "equal": found.equal,
        "differences": len(found.differences) + found.more,
    }
    try:
        body = json.dumps(result, allow_nan=False).encode()
        outputs.aws("s3").put_object(Bucket=outputs.bucket, Key=LAST_RESULT, Body=body)
    except terminal.AWS_ERRORS as error:  # a role may be read-only; the result is printed in any case
        terminal.note(f"could not store the result for `milkrun status`: {one_line(str(error))}")


def _show(found: Found, repaired: list[dict[str, object]], as_json: bool) -> None:
    geofence = asdict(found.crossings)
    for what, rows in (
        ("objects whose keys do not have Milkrun's format", found.foreign),
        ("invalid rows", found.invalid_rows),
    ):
        if len(rows) >= MAX_NAMED:
            terminal.note(f"only the first {MAX_NAMED:,} {what} are listed")
    if as_json:
        terminal.print_json(
            {
                "equal": found.equal,
                **({"problem": "; ".join(found.unasked.values())} if found.unasked else {}),
                "hours": found.hours,
                "geofence_events": geofence,
                "differences": [asdict(difference) for difference in found.differences],
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
    counted = {} if "Snowflake" in found.unasked else {"geofence events": geofence}
    terminal.show(counted | {"objects in transit, ignored": found.in_flight}, False)
    if found.log_reaches:
        terminal.out.print(
            f"the log begins at {found.log_reaches}; it is unknown which objects were accepted earlier"
        )
    if found.foreign:
        title = "Objects whose keys do not have Milkrun's format, each with its number of rows in RAW"
        terminal.show_rows(found.foreign, False, title=title)
    if found.invalid_rows:
        terminal.show_rows(
            found.invalid_rows,
            False,
            title="Rows of RAW that are neither events nor rejects; only INGEST_QUALITY counts them",
        )
    if repaired:
        terminal.show_rows(repaired, False, title="Repaired")
    for kind, meaning in MEANINGS.items():
        of_kind = [d for d in found.differences if d.kind == kind]
        if of_kind:
            terminal.out.print(f"[red]{kind}[/]: {meaning} ({len(of_kind)})")
        for d in of_kind[:SHOWN]:
            line = f" line {d.line}" if d.line else ""
            more = " …" if len(d.events) > 5 else ""
            terminal.out.print(f"  {d.key}{line} {' '.join(d.events[:5])}{more}", markup=False)
        if len(of_kind) > SHOWN:
            terminal.out.print(f"  … and {len(of_kind) - SHOWN:,} more (use --json)", markup=False)
    if found.more:
        terminal.out.print(
            f"{count(found.more, 'more difference')} neither listed nor repaired: choose a shorter range,"
            " or repeat --repair"
        )
    tell(found.unasked)
    terminal.out.print(
        {
            True: "[green]nothing is missing",
            False: "[red]there are differences",
            None: "nothing is missing in the stores that answered",
        }[found.equal]
    )
