"""Read events and visits from S3, Kinesis, DynamoDB and Snowflake, for commands that compare them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import batched
from typing import TYPE_CHECKING, NamedTuple

from aws.table import Table, loaded
from consumer import keys
from consumer.settings import Settings as ConsumerSettings
from consumer.visits import Pair, Rule, Visit
from contract.archive_object import hour_folder, lines_of, object_name
from contract.events import Fence, GeofenceEvent
from contract.geofence_event_types import Kind
from contract.ndjson import lines_in
from handler.settings import Settings
from ops.stage_outputs import Outputs
from ops.visits_items import events_in, visits_in
from snowpipe.history import inflated
from snowpipe.warehouse import MissingObject, Row, Warehouse

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

# Snowflake accepts 16,384 values in a list, but parses shorter statements faster.
NAMES_PER_QUERY = 500


class Stay(NamedTuple):
    """A visit with the fields that the visits table and the marts have in common."""

    device_id: str
    fence: Fence
    entered_at: datetime
    exited_at: datetime | None
    entered_event_id: str
    exited_event_id: str | None
    exit_missed: bool


def stay(pair: Pair, visit: Visit) -> Stay:
    return Stay(
        pair.device_id,
        pair.fence,
        visit.entered_at,
        visit.exited_at,
        visit.entered_event_id,
        visit.exited_event_id,
        visit.exit_missed,
    )


class StreamRecord(NamedTuple):
    shard_id: str
    sequence_number: str
    arrived_at: datetime
    data: bytes


def geofence_kinds(outputs: Outputs, stage: str) -> Mapping[str, Kind]:
    """Return the kind (enter, dwell, exit) of each geofence event type in the settings of the ingest function."""
    function = outputs.aws("lambda").get_function_configuration(FunctionName=f"milkrun-{stage}-ingest")
    return Settings.of(function["Environment"]["Variables"]).geofence_kinds


def consumer_settings(outputs: Outputs, stage: str) -> ConsumerSettings:
    """Return the settings of the stage's consumer."""
    function = outputs.aws("lambda").get_function_configuration(FunctionName=f"milkrun-{stage}-consume")
    return ConsumerSettings.of(function["Environment"]["Variables"])


def rule(outputs: Outputs, stage: str) -> Rule:
    """Return the visit rule that the stage's consumer applies."""
    return consumer_settings(outputs, stage).rule


def archived_lines(s3: "S3Client", bucket: str, key: str) -> list[bytes]:
    return lines_of(s3.get_object(Bucket=bucket, Key=key)["Body"].read())


def readable_lines(body: bytes, key: str = "") -> list[bytes] | None:
    """Return the lines of an archived object; None if it is damaged.

    Other programs may write to the bucket, so objects may be plain text, and blank lines and byte order marks are
    ignored. A key in Milkrun's format contains the number of lines, which must match.
    """
    text, broken = inflated(body)
    lines = [line for _, line in lines_in(text)]
    name = object_name(key)
    return None if broken or (name is not None and name.lines != len(lines)) else lines


def invalid_rows(
    warehouse: Warehouse, database: str, start: datetime, end: datetime, limit: int
) -> list[Row]:
    """Return the file, line and reason of rows in RAW that are neither events nor rejects, at most `limit`. The rows
    were loaded since `start`, from files in the folders of these hours or outside all day folders.

    Most such rows come from other programs or people; of the marts, only INGEST_QUALITY counts them. Returns [] if dbt
    has not built STAGING.INVALID_ROWS.
    """
    ranges, parameters = [], []
    for prefix in ("events/", "rejected/"):
        # Keys outside the day folders sort before or after them. In ASCII, "0" follows "/", and ":" follows "9".
        ranges.append(
            "file_name BETWEEN %s AND %s OR file_name BETWEEN %s AND %s OR file_name BETWEEN %s AND %s"
        )
        first, last = f"{prefix}{hour_folder(start)}", f"{prefix}{hour_folder(end)}0"
        parameters += [prefix, f"{prefix}dt=", first, last, f"{prefix}dt=:", f"{prefix[:-1]}0"]
    sql = (
        f"SELECT file_name, file_row_number, code FROM {database}.STAGING.INVALID_ROWS"
        f" WHERE ({' OR '.join(ranges)}) AND scanned_at >= %s ORDER BY 1, 2 LIMIT {limit:d}"
    )
    try:
        rows = warehouse.query(sql, [*parameters, start])
    except MissingObject:
        return []
    return [{"file": r["file_name"], "line": int(r["file_row_number"]), "reason": r["code"]} for r in rows]


def event_id_of(line: bytes) -> str:
    """Return the event id in a line of an object under `events/`. Raises an error if the line is not an event."""
    return str(json.loads(line)["_id"])


def event_id_in(data: bytes) -> str | None:
    """Return the event id in a stream record; None if the record is not an event, such as another producer's record."""
    try:
        return event_id_of(data)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def device_in(data: bytes) -> str | None:
    """Return the device id in an archived line or a stream record; None if there is none."""
    try:
        event = json.loads(data)
        user = event.get("user") or {}
        device = user.get("deviceId") or event.get("deviceId")
        return device if isinstance(device, str) else None
    except (ValueError, AttributeError, RecursionError):
        return None


def event_ids_among(records: Iterable[StreamRecord]) -> Iterator[str]:
    return (found for record in records if (found := event_id_in(record.data)) is not None)


def stream_records(
    kinesis: "KinesisClient", stream: str, since: datetime, to: datetime | None = None
) -> Iterator[StreamRecord]:
    """Yield the records that arrived on the stream between `since` and `to` (default: now), shard by shard.

    The last page that is read from a shard may also contain later records.
    """
    pages = kinesis.get_paginator("list_shards").paginate(StreamName=stream)
    for shard in [shard for page in pages for shard in page["Shards"]]:
        iterator = kinesis.get_shard_iterator(
            StreamName=stream,
            ShardId=shard["ShardId"],
            ShardIteratorType="AT_TIMESTAMP",
            Timestamp=since,
        )["ShardIterator"]
        while iterator:
            answer = kinesis.get_records(ShardIterator=iterator)
            if to and answer["Records"] and answer["Records"][0]["ApproximateArrivalTimestamp"] > to:
                break
            for record in answer["Records"]:
                yield StreamRecord(
                    shard["ShardId"],
                    record["SequenceNumber"],
                    record["ApproximateArrivalTimestamp"],
                    record["Data"],
                )
            # An empty page may be followed by pages with records, unless the lag is 0.
            if not answer["Records"] and answer.get("MillisBehindLatest", 0) == 0:
                break
            iterator = answer.get("NextShardIterator")


def consumed_event_ids(table: Table, pair: Pair) -> set[str]:
    """Return the ids of the events that the visits table contains for a device and a fence."""
    return {event.event_id for event in _events(table, pair)}


def table_events(table: Table, pair: Pair, since: datetime) -> list[GeofenceEvent]:
    """Return the events at or after `since` that the visits table contains for a device and a fence, without
    duplicates.
    """
    return [event for event in _events(table, pair) if event.occurred_at >= since]


def _events(table: Table, pair: Pair) -> Iterator[GeofenceEvent]:
    return (event for _, some in events_in(table.query(*keys.pair_range(pair))) for event in some)


def table_stays(table: Table, pair: Pair) -> Iterator[Stay]:
    """Return the visits of a device at a fence from the visits table, in time order."""
    return (stay(*found) for found in visits_in(table.query(*keys.pair_range(pair))))


def device_visits(dynamodb: "DynamoDBClient", table: str, device: str) -> list[tuple[Pair, Visit]]:
    """Return all visits of a device from the visits table, sorted by entry time."""
    pages = dynamodb.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="pk = :device",
        ExpressionAttributeValues={":device": {"S": keys.quoted(device)}},
        ConsistentRead=True,
    )
    found = visits_in(loaded(item) for page in pages for item in page["Items"])
    return sorted(found, key=lambda one: (one[1].entered_at, one[1].entered_event_id, one[0]))


def device_stays(dynamodb: "DynamoDBClient", table: str, device: str) -> Iterator[Stay]:
    return (stay(*found) for found in device_visits(dynamodb, table, device))


def loaded_event_ids(warehouse: Warehouse, database: str, object_keys: Sequence[str]) -> Iterator[str]:
    """Yield the event ids of the rows that were loaded into RAW.EVENTS from these objects."""
    for some in batched(object_keys, NAMES_PER_QUERY // 5, strict=False):
        sql = (
            f"SELECT payload:_id::VARCHAR AS event_id FROM {database}.RAW.EVENTS"
            f" WHERE file_name IN ({placeholders(some)})"
        )
        for row in warehouse.query(sql, some):
            yield row["event_id"]


def rejects_loaded(warehouse: Warehouse, database: str, object_keys: Sequence[str]) -> int:
    """Return the number of rows in RAW.REJECTED from these objects.

    If a client sends a request again in a later hour, the same object is stored under two hours; its rows count once.
    """
    if not object_keys:
        return 0
    found: set[tuple[str, int]] = set()
    for some in batched(object_keys, NAMES_PER_QUERY, strict=False):
        sql = (
            f"SELECT file_name, file_row_number FROM {database}.RAW.REJECTED"
            f" WHERE file_name IN ({placeholders(some)})"
        )
        for row in warehouse.query(sql, some):
            found.add((row["file_name"].rpartition("/")[2], row["file_row_number"]))
    return len(found)


def staged_event_ids(warehouse: Warehouse, database: str, event_ids: Iterable[str]) -> Iterator[str]:
    """Yield the given event ids that are in staging; an id is repeated for each of its rows."""
    for some in batched(event_ids, 2000, strict=False):
        sql = (
            f"SELECT event_id FROM {database}.STAGING.STG_EVENTS WHERE event_id IN"
            " (SELECT value::VARCHAR FROM TABLE(FLATTEN(PARSE_JSON(%s))))"
        )
        for row in warehouse.query(sql, [json.dumps(some, allow_nan=False)]):
            yield row["event_id"]


def mart_stays(warehouse: Warehouse, database: str, devices: Sequence[str]) -> Iterator[Stay]:
    """Yield the visits of these devices from MARTS.GEOFENCE_VISITS."""
    for some in batched(devices, NAMES_PER_QUERY, strict=False):
        sql = (
            "SELECT device_id, geofence_tag, geofence_external_id, entered_at, exited_at,"
            f" entered_event_id, exited_event_id, exit_missed FROM {database}.MARTS.GEOFENCE_VISITS"
            f" WHERE device_id IN ({placeholders(some)})"
        )
        for row in warehouse.query(sql, some):
            yield Stay(
                row["device_id"],
                Fence(row["geofence_tag"], row["geofence_external_id"]),
                utc(row["entered_at"]),
                row["exited_at"] and utc(row["exited_at"]),
                row["entered_event_id"],
                row["exited_event_id"],
                row["exit_missed"],
            )


def latest_mart_visits(
    warehouse: Warehouse, database: str, devices: Sequence[str], limit: int
) -> list[dict[str, object]]:
    sql = (
        "SELECT device_id, geofence_tag, geofence_external_id,"
        " entered_at, exited_at, dwell_seconds, exit_missed"
        f" FROM {database}.MARTS.GEOFENCE_VISITS WHERE device_id IN ({placeholders(devices)})"
        f" ORDER BY entered_at DESC, visit_key LIMIT {limit:d}"
    )
    return [
        {
            "device": row["device_id"],
            "fence": f"{row['geofence_tag']} {row['geofence_external_id']}",
            "entered_at": utc(row["entered_at"]),
            "exited_at": row["exited_at"] and utc(row["exited_at"]),
            "dwell_minutes": (
                None if row["dwell_seconds"] is None else round(float(row["dwell_seconds"]) / 60, 1)
            ),
            "exit_missed": "yes" if row["exit_missed"] else "",
        }
        for row in warehouse.query(sql, devices)
    ]


def utc(at: datetime) -> datetime:
    """Add the time zone UTC to a time without one.

    Times in the marts (TIMESTAMP_NTZ) are in UTC, but lack a time zone.
    """
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def placeholders(values: Sequence[object]) -> str:
    """Return comma-separated placeholders, one per value, for an IN condition."""
    return ", ".join(["%s"] * len(values))
