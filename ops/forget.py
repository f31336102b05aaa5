"""`milkrun forget`: delete all data of a person or a device from S3, DynamoDB and Snowflake.

Every step can be repeated. The order of the steps ensures that no event of another person is missing at any time:

1. Read every event, and follow the person to other ids and devices (glue/person.py).
2. Rewrite each object without the person's lines, under a new key. Keep the old object, and write a plan that lists
   the old and the new keys.
3. Wait until Snowflake has loaded the new objects, point the claim checks to them, and wait until the consumer has
   processed the newest events. If Snowflake or the consumer does not finish in time, stop.
4. Delete the data that is recognized by an id: items of the visits table, rows of job results and SQLite files, old
   versions of objects.
5. Set the plan's state to `released`. Then delete the old objects with all their versions, and their rows in RAW.
   From here on, no id is needed, so any later run can complete the plan.
6. Rebuild staging and marts from RAW, because dbt's incremental models never delete rows.

The same command continues an interrupted run. Plans are stored under forget/ and contain object keys and line numbers,
but no id and no hash of an id.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from aws.table import Table
from cli.printable import printable
from contract.archive_object import hour_folder, object_name
from contract.event_limits import MAX_AGE
from contract.event_rules import geofence_event
from contract.events import GeofenceEvent, InvalidEvent
from glue import forget as archive
from glue.archive import READERS, Bucket, Fault, Stored, in_threads
from glue.forget import Found, Rewritten
from glue.person import Followed, Names, Subject, follow
from ops import (
    forget_copies,
    forget_remaining,
    forget_rows,
    forget_visits,
    polling,
    read_stores,
    redrive,
    terminal,
)
from ops.build_marts import build_marts
from ops.forget_report import MAX_RECORD_AGE, Plan, Result, advice, report, todo
from ops.reachable_stores import require
from ops.stage_outputs import Outputs, environment_of
from snowpipe.warehouse import Warehouse

TIMEOUT_SECONDS = 120.0
CONSUMED, RELEASED, FINISHED = "consumed", "released", "finished"


@dataclass(frozen=True)
class Stage:
    """The stores of a stage.

    `timeout_s`: give up if Snowpipe makes no progress for this many seconds. The wait until the consumer has processed
    recent events ends if the consumer makes no progress for as long, or for forget_visits.CHANGE_SECONDS if that is
    shorter.
    """

    name: str
    outputs: Outputs
    warehouse: Warehouse
    bucket: Bucket
    timeout_s: float

    @property
    def database(self) -> str:
        return self.outputs.database


# --- S3 -------------------------------------------------------------------------------------------------------


def followed(
    stage: Stage, subject: Subject, objects: Sequence[Stored], advance: Callable[[], object]
) -> Followed:
    """Find the subject's other ids and devices, in the archive and in RAW, which keeps events longer than the
    archive.
    """
    seen: set[Names] = set()
    for names in in_threads(partial(archive.seen_in, stage.bucket, subject), objects):
        seen |= names
        advance()
    while True:
        found = follow(subject, seen)
        more = forget_rows.seen_in_raw(stage.warehouse, stage.database, found.subject)
        if more <= seen:
            return found
        seen |= more


def rewritten(
    stage: Stage, subject: Subject, objects: Sequence[Stored], advance: Callable[[], object]
) -> list[Found]:
    found = []
    for result in in_threads(partial(archive.rewrite, stage.bucket, subject), objects):
        advance()
        if result is not None:
            found.append(result)
    return found


def request_of(keys: Iterable[str]) -> str:
    """Derive a plan's name from the keys of its objects, or from its rows if it has no objects, so that a repeated run
    finds the plan of an interrupted run.
    """
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]


def plans_in(bucket: Bucket) -> Iterator[Plan]:
    """Yield all plans.

    A plan that an earlier version of Milkrun wrote contains a hash of the person's ids. Such a plan is
    rewritten without the hash.
    """
    for stored in list(bucket.list(f"{archive.PREFIX}/")):
        plan = json.loads(bucket.read(stored.key))
        if plan.pop("users_sha256", None):
            plan["request"] = request_of(pair["old"] for pair in plan["objects"])
            archive.write_plan(bucket, plan)
            bucket.delete([stored.key])
        yield plan


def finish_released(stage: Stage, plans: Iterable[Plan], result: Result) -> None:
    """Complete the deletions of the released plans that interrupted runs left. The marts are rebuilt later."""
    result.unfinished = [plan for plan in plans if plan.get("state") == RELEASED]
    for plan in result.unfinished:
        stage.bucket.delete(pair["old"] for pair in plan["objects"])
        result.raw_rows += _after_objects(stage, plan)


def _after_objects(stage: Stage, plan: Plan) -> int:
    """Delete a plan's rows from RAW and compact the plan's hours again; return the number of deleted rows.

    The old objects must already be deleted, because Snowpipe could otherwise still load them.
    """
    old = [pair["old"] for pair in plan["objects"]]
    deleted = forget_rows.forget_objects(stage.warehouse, stage.database, old)
    deleted += forget_rows.delete_rows(stage.warehouse, stage.database, plan.get("rows", ()))
    archive.compact_again(stage.bucket, plan["objects"])
    return deleted


def crossings_of(
    stage: Stage, pairs: Sequence[Plan], objects: Sequence[Stored]
) -> Iterator[tuple[GeofenceEvent, datetime]]:
    """Yield the subject's geofence events from the old objects, each with the time at which it was received."""
    kinds = read_stores.geofence_kinds(stage.outputs, stage.name)
    stored = {each.key: each for each in objects}
    for pair in pairs:
        if pair["old"].startswith("events/") and pair["old"] in stored:
            lines = archive.lines_of_object(stage.bucket, stored[pair["old"]])
            if isinstance(lines, bytes | Fault):
                continue
            for number in pair["removed"]:
                with suppress(InvalidEvent, IndexError):
                    yield geofence_event(lines[number - 1], kinds), stored[pair["old"]].modified_at


# --- steps that need the ids ----------------------------------------------------------------------------------


def change_claim_checks(stage: Stage, result: Result) -> None:
    pairs, outputs = result.plan["objects"], stage.outputs
    sqs = outputs.aws("sqs")
    for url in (outputs.redrive_queue_url, outputs.dead_letter_queue_url):
        result.claim_checks += forget_copies.repoint_claim_checks(sqs, url, pairs)
        result.claims_in_flight |= bool(pairs) and redrive.waiting(sqs, url, redrive.OUT_OF_REACH) > 0


def not_consumed(stage: Stage, crossings: Iterable[tuple[GeofenceEvent, datetime]]) -> int:
    """Wait until the consumer has processed the recent events; return how many it did not process in time."""
    now = datetime.now(UTC)
    recent = [
        event
        for event, received_at in crossings
        if now - received_at < MAX_RECORD_AGE and received_at - event.occurred_at < MAX_AGE
    ]
    dynamodb, name = stage.outputs.aws("dynamodb"), stage.outputs.visits_table
    timeout_s = min(stage.timeout_s, forget_visits.CHANGE_SECONDS)
    return forget_visits.not_consumed(dynamodb, name, forget_visits.by_pair(recent), timeout_s)


def forget_everywhere(
    stage: Stage,
    subject: Subject,
    events: Sequence[GeofenceEvent],
    hours: Collection[str],
    sqlite: Sequence[Path],
    result: Result,
) -> None:
    """Delete all data that is recognized only by an id. The old objects and their rows in RAW must still exist."""
    _forget_visits(stage, subject, events, result)
    rows = forget_copies.Rows(subject, events, result.plan["objects"])
    result.result_rows = forget_copies.forget_results(stage.bucket, rows, hours)
    for path in sqlite:
        every = [pair for plan in plans_in(stage.bucket) for pair in plan["objects"]]
        result.sqlite_rows += forget_copies.forget_in_sqlite(path, subject, every)
    result.old_versions = forget_copies.forget_old_versions(stage.bucket, rows)
    result.plan["unreadable"] += [{"key": key} for key in dict.fromkeys(rows.unreadable)]


def _forget_visits(stage: Stage, subject: Subject, events: Sequence[GeofenceEvent], result: Result) -> None:
    dynamodb, name = stage.outputs.aws("dynamodb"), stage.outputs.visits_table
    whole = subject.devices | subject.own_devices
    shared = [event for event in events if event.device_id not in whole]
    with ThreadPoolExecutor(READERS) as executor:
        table = Table(stage.outputs.access().client("dynamodb"), name, executor)
        result.visits = forget_visits.forget_events(
            dynamodb,
            table,
            name,
            forget_visits.by_pair(shared),
            lambda: read_stores.rule(stage.outputs, stage.name),
        )
    result.visits.items += forget_visits.forget_devices(dynamodb, name, whole)


def forget(stage: Stage, subject: Subject, sqlite: Sequence[Path], bars: Progress) -> tuple[Followed, Result]:
    result = Result()
    plans = list(plans_in(stage.bucket))
    finish_released(stage, plans, result)
    objects = list(archive.candidates(stage.bucket))
    looked = bars.add_task("objects read", total=2 * len(objects))
    found_by = followed(stage, subject, objects, partial(bars.advance, looked))
    found = rewritten(stage, found_by.subject, objects, partial(bars.advance, looked))
    if old := [each.old for each in found if isinstance(each, Rewritten)]:
        result.plan = archive.begin(stage.bucket, request_of(old), found)
    else:
        result.plan["unreadable"] = [{"key": each.key} for each in found if isinstance(each, Fault)]
    pairs = result.plan["objects"]
    result.not_loaded = polling.until(
        lambda: forget_rows.not_loaded(stage.warehouse, stage.database, pairs),
        lambda left: not left,
        timeout_s=stage.timeout_s,
    )
    if result.not_loaded:
        return found_by, result
    change_claim_checks(stage, result)
    crossings = list(crossings_of(stage, pairs, objects))
    # Do not wait again if an interrupted run has waited successfully. That run may already have deleted the events from
    # the visits table, where not_consumed looks for them.
    if not any(
        plan["request"] == result.plan.get("request") and plan.get("state") == CONSUMED for plan in plans
    ):
        result.not_consumed = not_consumed(stage, crossings)
        if result.not_consumed:
            return found_by, result
    if pairs:
        archive.write_plan(stage.bucket, result.plan | {"state": CONSUMED})
    hours = {
        hour_folder(name.hour)
        for each in objects
        if (name := object_name(each.key)) and name.prefix == "events"
    }
    events = [event for event, _ in crossings]
    forget_everywhere(stage, found_by.subject, events, hours, sqlite, result)
    old_keys = {pair["old"] for pair in pairs}  # _after_objects deletes all rows of these objects
    rows = [
        row
        for row in forget_rows.rows_of(stage.warehouse, stage.database, found_by.subject)
        if row["file"] not in old_keys
    ]
    if pairs or rows:
        request = result.plan.get("request") or request_of(f"{row['file']} {row['lines']}" for row in rows)
        result.plan |= {"request": request, "rows": rows, "state": RELEASED}
        archive.write_plan(stage.bucket, result.plan)
        result.unfinished.append(result.plan)
        archive.delete_old(stage.bucket, pairs)
        result.objects_deleted = len(pairs)
        result.raw_rows += _after_objects(stage, result.plan)
    # A phone may have sent events meanwhile, and another run of `forget` may have rewritten an old object.
    known = {each.key for each in objects} | {pair["new"] for pair in pairs}
    later = [each for each in archive.candidates(stage.bucket) if each.key not in known]
    result.stored_meanwhile = sum(
        in_threads(partial(archive.contains, stage.bucket, found_by.subject), later)
    )
    result.needs_marts = bool(result.unfinished)
    result.remaining = list(
        forget_remaining.remaining(
            stage.outputs,
            stage.warehouse,
            forget_copies.checkpoints(stage.bucket),
            datetime.now(UTC),
        )
    )
    return found_by, result


def refresh_marts(outputs: Outputs, subject: Subject, environment: Mapping[str, str], result: Result) -> None:
    """Rebuild staging and marts. If this succeeds, mark the unfinished plans as finished, and find tables that still
    contain one of the person's ids.
    """
    result.marts_built = build_marts(environment, "--full-refresh")
    if not result.marts_built:
        return
    bucket = Bucket(outputs.bucket, outputs.aws("s3"))
    for plan in result.unfinished:
        archive.write_plan(bucket, plan | {"state": FINISHED})
    with outputs.warehouse() as warehouse:
        result.tables_left = forget_rows.tables_that_name(warehouse, outputs.database, subject)


# --- the command ----------------------------------------------------------------------------------------------


def command(
    context: typer.Context,
    *,
    user: Annotated[
        str | None,
        terminal.text_option(
            "USER", "The person whose data will be deleted: a value of user.userId or user._id."
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        terminal.text_option(
            "DEVICE", "A device whose events will all be deleted, whoever used it. Can be repeated."
        ),
    ] = None,
    sqlite: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Also delete the data from this SQLite file, which `milkrun warehouse load` wrote. Can be repeated.",
        ),
    ] = None,
    yes: terminal.Yes = False,
    marts: Annotated[
        bool, typer.Option(help="Afterwards, rebuild staging and marts from RAW (dbt build --full-refresh).")
    ] = True,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            "--patience",
            min=0,
            max=terminal.MAX_SECONDS,
            help="Give up if Snowpipe makes no progress for this many seconds while it loads the rewritten objects, "
            "or if the consumer makes no progress with recent events for as long (but at most 60 seconds).",
        ),
    ] = TIMEOUT_SECONDS,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Delete all data of a person or a device. The command can be interrupted and repeated.

    With --user: if only this person used a device, its events without a user are deleted too; if other people also
    used the device, only this person's events are deleted. At the end the command lists the copies that cannot be
    deleted yet, each with the date until which it exists, if it expires by itself. Exit code 1: further steps are
    necessary; the command lists them.
    """
    subject = Subject.of([user] if user else [], device or [])
    if not subject.ids:
        raise typer.BadParameter("name a person with --user, or a device with --device")
    outputs = terminal.outputs_of(context, stage)
    if not yes:
        named = printable(", ".join(sorted(subject.ids)))
        typer.confirm(f"Delete every event of {named} from stage {stage} permanently?", abort=True, err=True)
    require(outputs, "S3", "DynamoDB", "SQS", "Lambda")
    with terminal.progress() as bars:
        with outputs.warehouse() as warehouse:
            bucket = Bucket(outputs.bucket, outputs.aws("s3"))
            chosen = Stage(stage, outputs, warehouse, bucket, timeout_s)
            found_by, result = forget(chosen, subject, sqlite or [], bars)
        if result.needs_marts and marts:
            bars.add_task("staging and marts", total=None)
            refresh_marts(outputs, found_by.subject, environment_of(stage, context.obj), result)
    left, hints = list(todo(result)), list(advice(found_by, result, terminal.stage_option(stage)))
    facts = report(user, found_by, result) | {
        "next": left + hints,
        "remaining": [each._asdict() for each in result.remaining],
    }
    terminal.show(json.loads(json.dumps(facts, allow_nan=False, default=terminal.in_words)), as_json)
    if left:
        raise typer.Exit(1)
