"""`milkrun forget`: delete a person's data from S3, DynamoDB and Snowflake.

Each step can be repeated, and their order makes sure that no other person's event is ever missing: 1. write
each object again without the person's lines, under a new key; 2. wait until Snowflake has loaded the new
objects; 3. delete the person's items from the visits table and the old objects' rows from RAW; 4. delete all
versions of the old objects; 5. rebuild staging and marts from RAW, because dbt's incremental models never
delete. After an interruption the same command continues: the plan is stored under forget/ and has only a hash
of the person.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import typer
from botocore.exceptions import ClientError

from aws.table import Item, loaded
from consumer import keys
from consumer.visits import Pair, pair_of
from contract.events import MAX_AGE, InvalidEvent, Kind, geofence_event
from glue import forget as archive
from glue.archive import Stored
from ops import polling, redrive, terminal
from ops.marts import build_marts
from ops.outputs import environment_of
from ops.stores import geofence_kinds
from ops.visits_table import events_in, missing_chunks
from snowpipe.warehouse import Warehouse

TABLES = {"events": "EVENTS", "rejected": "REJECTED"}
KEYS_A_DELETE = 1000
ITEMS_A_DELETE = 25
PATIENCE_SECONDS = 120.0
CHANGE_SECONDS = 60.0  # the consumer's timeout: after it, an invocation has ended

RUNS_OUT = {
    "old versions of objects that were deleted or replaced earlier": "30 days after their deletion",
    "rebuilt/ and streamed/": "visits and windows by device, without user ids; rebuilt/ expires after 90 days",
    "Kinesis": "records expire with the stream's retention: 24 hours, prod 168 hours",
    "redrive queue": "claim checks have keys and line numbers, no personal data; at most 14 days",
    "DynamoDB backups": "point-in-time recovery covers 35 days",
    "Snowflake Time Travel and Fail-safe": "the tables' retention (1 day unless raised), then 7 days",
    "logs": "have request ids, object keys and numbers, no personal data",
}


@dataclass(frozen=True)
class ArchiveBucket:
    """The archive as glue's `Store`, with a given client."""

    s3: Any
    name: str

    def list(self, prefix: str) -> Iterator[Stored]:
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for entry in page.get("Contents", ()):
                yield Stored(entry["Key"], entry["Size"], entry["LastModified"].astimezone(UTC))

    def read(self, key: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def write(self, key: str, body: bytes) -> None:
        if not key.startswith("events/"):
            self.s3.put_object(Bucket=self.name, Key=key, Body=body)
            return
        try:  # the bucket's policy does not allow replacing an archived event
            self.s3.put_object(Bucket=self.name, Key=key, Body=body, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":  # written by an earlier run
                raise

    def write_file(self, key: str, path: Path) -> None:
        self.s3.upload_file(str(path), self.name, key)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete all versions: without a version id, S3 only adds a delete marker."""
        for key in keys:
            pages = self.s3.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=key)
            versions = [
                {"Key": entry["Key"], "VersionId": entry["VersionId"]}
                for page in pages
                for entry in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
                if entry["Key"] == key
            ]
            for start in range(0, len(versions), KEYS_A_DELETE):
                some = versions[start : start + KEYS_A_DELETE]
                self.s3.delete_objects(Bucket=self.name, Delete={"Objects": some, "Quiet": True})


def plan(
    store: ArchiveBucket, users: archive.Users, request: str, told: Callable[[], object]
) -> dict[str, Any]:
    """Rewrite every object with the person's events; the plan maps old keys to new ones."""
    found = []
    for stored in list(archive.candidates(store)):
        result = archive.rewrite(store, users, stored)
        told()
        if result is not None:
            found.append(result)
    return archive.begin(store, request, users, found)


# --- DynamoDB ---------------------------------------------------------------------------------------------


def their_crossings(
    store: ArchiveBucket,
    users: archive.Users,
    pairs: Iterable[Mapping[str, Any]],
    kinds: Mapping[str, Kind],
) -> dict[Pair, set[str]]:
    """Return the person's geofence event ids by device and fence, from the old objects."""
    found: defaultdict[Pair, set[str]] = defaultdict(set)
    for key in (pair["old"] for pair in pairs if pair["old"].startswith("events/")):
        for line in archive.lines_in(store.read(key)):
            if users.in_line(line):
                try:
                    event = geofence_event(line, kinds)
                except InvalidEvent:
                    continue
                found[pair_of(event)].add(event.event_id)
    return dict(found)


def forget_visits(
    dynamodb: Any, table: str, crossings: Mapping[Pair, set[str]]
) -> tuple[int, list[dict[str, str]]]:
    """Delete the consumer's items of these pairs. Return their number and the pairs that others used too.

    A visit combines several events, so the whole pair is deleted. If another person used the same device
    there, `milkrun replay` of the device restores that person's visits.
    """
    deleted, shared = 0, []
    for pair, event_ids in crossings.items():
        found = polling.until(
            lambda: _items_of(dynamodb, table, pair),  # noqa: B023
            _no_change_under_way,
            patience_s=CHANGE_SECONDS,
        )
        item_keys = [{"pk": {"S": item["pk"]}, "sk": {"S": item["sk"]}} for item in found]
        others = {event.event_id for _, some in events_in(found) for event in some} - event_ids
        for start in range(0, len(item_keys), ITEMS_A_DELETE):
            _delete_all(dynamodb, table, item_keys[start : start + ITEMS_A_DELETE])
        deleted += len(item_keys)
        if others:
            shared.append(
                {"device_id": pair.device_id, "tag": pair.fence.tag, "external_id": pair.fence.external_id}
            )
    return deleted, shared


def _items_of(dynamodb: Any, table: str, pair: Pair) -> list[Item]:
    """Return all item keys of a pair, including those of the previous layout."""
    found: list[Item] = []
    for pk, first, last in (keys.pair_range(pair), (keys.pair_key(pair), "a", keys.LAST)):
        pages = dynamodb.get_paginator("query").paginate(
            TableName=table,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={":pk": {"S": pk}, ":first": {"S": first}, ":last": {"S": last}},
            ConsistentRead=True,
        )
        found += (loaded(item) for page in pages for item in page["Items"])
    return found


def _no_change_under_way(found: Iterable[Item]) -> bool:
    """Return whether the chunks of the pair's last change are written; one written later would remain."""
    return not any(missing_chunks(found))


def _delete_all(dynamodb: Any, table: str, keys: list[Any]) -> None:
    left: list[Any] = [{"DeleteRequest": {"Key": key}} for key in keys]
    while left:
        answer = dynamodb.batch_write_item(RequestItems={table: left})
        left = answer.get("UnprocessedItems", {}).get(table, [])


# --- Snowflake --------------------------------------------------------------------------------------------


def not_loaded(warehouse: Warehouse, database: str, pairs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the new objects that are not completely in RAW."""
    wanted = [p for p in pairs if p["new"] is not None and p["new"].split("/")[0] in TABLES]
    missing = []
    for pair in wanted:
        table = TABLES[pair["new"].split("/")[0]]
        sql = f"SELECT COUNT(*) AS n FROM {database}.RAW.{table} WHERE file_name = %s"
        if warehouse.query(sql, [pair["new"]])[0]["n"] < pair["lines_after"]:
            missing.append(pair["new"])
    return missing


def forget_rows(warehouse: Warehouse, database: str, pairs: Iterable[Mapping[str, Any]]) -> int:
    """Delete the old objects' rows from RAW and return their number."""
    deleted = 0
    for pair in pairs:
        table = TABLES.get(pair["old"].split("/")[0])
        if table is None:
            continue
        name = f"{database}.RAW.{table}"
        sql = f"SELECT COUNT(*) AS n FROM {name} WHERE file_name = %s"
        deleted += warehouse.query(sql, [pair["old"]])[0]["n"]
        warehouse.query(f"DELETE FROM {name} WHERE file_name = %s", [pair["old"]])
    return deleted


# --- the command


def command(
    context: typer.Context,
    *,
    user: Annotated[
        str, typer.Option(parser=terminal.not_empty, metavar="USER", help="user.userId or user._id.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    marts: Annotated[
        bool, typer.Option(help="Rebuild staging and marts from all of RAW (dbt build --full-refresh).")
    ] = True,
    patience: Annotated[
        float, typer.Option(min=0, max=terminal.MAX_SECONDS, help="Seconds to wait for Snowpipe.")
    ] = PATIENCE_SECONDS,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Delete all data of one person. Can be interrupted and repeated.

    Exit 1 if something is still to do.
    """
    outputs = terminal.outputs_of(context, stage)
    if not yes:
        question = f"Delete every event of {user!r} from stage {stage} permanently?"
        typer.confirm(question, abort=True, err=True)
    store = ArchiveBucket(outputs.aws("s3"), outputs.bucket)
    users = archive.Users(frozenset({user}))
    request = hashlib.sha256(user.encode()).hexdigest()[:16]
    with terminal.progress() as bars:
        looked = bars.add_task("objects read", total=None)
        found = plan(store, users, request, lambda: bars.advance(looked))
        pairs = found["objects"]
        standing = [
            pair for pair in pairs if any(each.key == pair["old"] for each in store.list(pair["old"]))
        ]
        items_deleted, rows, shared = 0, 0, list[dict[str, str]]()
        with outputs.warehouse() as warehouse:
            waiting = polling.until(
                lambda: not_loaded(warehouse, outputs.database, standing),
                lambda left: not left,
                patience_s=patience,
            )
            if not waiting:
                crossings = their_crossings(store, users, standing, geofence_kinds(outputs, stage))
                items_deleted, shared = forget_visits(
                    outputs.aws("dynamodb"), outputs.visits_table, crossings
                )
                rows = forget_rows(warehouse, outputs.database, standing)
        if not waiting:
            # Skip what an earlier run has completed: a later run may have rewritten its new object.
            archive.delete_old(store, standing)
            # For all pairs, because an earlier run may have stopped between the two steps.
            archive.compact_again(store, pairs)
        sqs = outputs.aws("sqs")
        claimed = bool(standing) and any(
            redrive.waiting(sqs, url) for url in (outputs.redrive_queue_url, outputs.dead_letter_queue_url)
        )
        built = False
        if pairs and marts and not waiting:
            bars.add_task("rebuilding staging and marts", total=None)
            built = build_marts(environment_of(stage, context.obj), "--full-refresh")
    report = {
        "user": user,
        "plan": archive.plan_key(request),
        "objects": len(pairs),
        "lines": sum(pair["lines_before"] - pair["lines_after"] for pair in pairs),
        "items_deleted": items_deleted,
        "raw_rows_deleted": rows,
        "objects_deleted": 0 if waiting else len(standing),
        "marts_built": built,
        "unreadable": [each["key"] for each in found["unreadable"]],
        "not_loaded_yet": waiting,
        "visits_to_make_again": shared,
        "next": _next(waiting, shared, marts_left=bool(pairs) and not built, claimed=claimed),
        "runs_out_by_itself": RUNS_OUT,
    }
    terminal.show(json.loads(json.dumps(report, allow_nan=False)), as_json)
    if waiting or found["unreadable"] or (pairs and not built):
        raise typer.Exit(1)


def _next(waiting: list[str], shared: list[dict[str, str]], *, marts_left: bool, claimed: bool) -> list[str]:
    if waiting:
        return ["Snowpipe has not loaded the new objects yet, so nothing was deleted. Run the command again."]
    steps = []
    if marts_left:
        steps.append(
            "milkrun warehouse dbt build --full-refresh   # staging and marts still have the old rows"
        )
    if claimed:
        steps.append(
            "milkrun reconcile --repair   # claim checks waited for other people's lines in an old object"
        )
    # The consumer skips older events, and `replay` rejects them.
    since = f"--from '{MAX_AGE.days - 1} days ago'"
    devices = sorted({each["device_id"] for each in shared})
    return steps + [
        (f"milkrun replay {since} --device {device}   # other people used it too") for device in devices
    ]
