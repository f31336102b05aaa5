"""`milkrun trace`: search all stores for one event, object or request, and return its steps in time order.

An event is first looked up in RAW. If it is not there, the archived objects of a range of hours are searched. A
request is looked up in the handler's log of these hours.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import batched, chain
from typing import Any

from aws.table import Table
from cli.counts import count
from cli.deadline import NoAnswerError
from cli.refusal import Refusal
from consumer.item_lifetime import KEPT_FOR
from consumer.visits import pair_of
from contract import logs
from contract.archive_object import hour_of, object_name, prefix_of
from contract.event_limits import MAX_AGE
from contract.event_rules import geofence_event
from contract.events import GeofenceEvent, InvalidEvent
from contract.instants import instant
from ops.object_sets import KEPT_DAYS
from ops.reachable_stores import ReachableStores
from ops.read_log_lines import Line as LogLine
from ops.read_log_lines import log_lines
from ops.read_stores import (
    consumed_event_ids,
    device_in,
    event_id_in,
    readable_lines,
    stream_records,
    table_stays,
    utc,
)
from ops.send_to_stream import LABEL
from snowpipe.warehouse import Row

# The other stores are searched for this long after an event's arrival in S3. Redrive publishes some events late.
STREAM_REACH = timedelta(hours=1)
SET_ASIDE_REACH = timedelta(hours=24)
LOG_REACH = timedelta(minutes=10)
# Matches the request ids of API Gateway ($context.extendedRequestId) and of Lambda.
_REQUEST_ID = re.compile(r"[A-Za-z0-9_=+/-]{1,128}")
_FOR_EVER = datetime.max.replace(tzinfo=UTC)

type Details = dict[str, Any]
"""Details of a step, such as its object key, that the output shows."""


@dataclass(frozen=True, slots=True)
class Step:
    """One pipeline step of an event or object. `at` is None if no store recorded the time."""

    what: str
    at: datetime | None
    detail: Details = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an archived object: the object's key, the line number (starting at 1) and the content."""

    key: str
    number: int
    text: bytes


class Finder(ReachableStores):
    """Searches the stores of a stage, except stores that do not answer.

    `searched` lists, for the output, the objects, tables, logs and stream that were searched.
    """

    @cached_property
    def searched(self) -> list[str]:
        return []

    def event(
        self, event_id: str, start: datetime, end: datetime, advance: Callable[[int], None]
    ) -> list[Step]:
        """Return the steps of all copies of the event, in time order. The archive is searched only if RAW has none."""
        return self.loaded_event(event_id) or self.archived_event(event_id, start, end, advance)

    def archived_event(
        self, event_id: str, start: datetime, end: datetime, advance: Callable[[int], None]
    ) -> list[Step]:
        """Return the steps of all copies of the event that were received in these hours, in time order."""
        return self._of_lines(self._archived_lines(event_id, start, end, advance), event_id)

    def loaded_event(
        self, event_id: str, device: str | None = None, max_devices: int | None = None
    ) -> list[Step]:
        """Return the steps of all copies of the event, in time order, if RAW contains one; otherwise [].

        Several devices may use one event id; with `device`, events of the others are omitted. Raises Refusal if more
        than `max_devices` have used it, because finding the steps of each takes seconds.
        """
        lines = self._loaded_lines(event_id, device, max_devices)
        return self._of_lines(lines, event_id, device) if lines else []

    def _of_lines(self, lines: Sequence[Line], event_id: str, device: str | None = None) -> list[Step]:
        steps = [step for line in lines for step in self._of_line(line, event_id)]
        for text in {line.text for line in lines if line.key.startswith("events/")}:
            steps += self._of_crossing(text, event_id, lines)
        steps += self._staged(event_id, device)
        return in_order(steps)

    def object(self, key: str) -> list[Step]:
        """Return the steps of an object: received, archived, answered, loaded."""
        if "S3" not in self._unasked:
            self.searched.append(f"s3://{self._outputs.bucket}/{key}")
        if self._warehouse and not key.startswith("set-aside/"):
            self.searched.append(f"{self._outputs.database}.RAW.{str(prefix_of(key)).upper()}")
        return in_order([*self._stored(key), *self._rows(key)])

    def request(self, request_id: str, start: datetime, end: datetime) -> list[Step]:
        """Return the steps of the objects that a request stored, or only its response if it stored none.

        Returns [] if the log lacks the request or cannot be read.
        """
        if "CloudWatch Logs" in self._unasked or not _REQUEST_ID.fullmatch(request_id):
            return []
        self.searched.append(
            f"the log of the function ingest from {start:%Y-%m-%dT%HZ} to {end:%Y-%m-%dT%HZ}"
        )
        # Search from the beginning of the hour of `start` to the end of the hour of `end`, as in the archive.
        first, last = (at.replace(minute=0, second=0, microsecond=0) for at in (start, end))
        after = last + timedelta(hours=1)
        names = (logs.EVENTS_INGESTED, logs.REQUEST_REFUSED)
        lines = chain.from_iterable(
            log_lines(
                self._outputs, self._stage, "ingest", name, start=first, end=after, request_id=request_id
            )
            for name in names
        )
        for at, line in lines:
            if line.get("request_id") == request_id:
                keys = [key for key in (line.get("object_key"), line.get("rejected_key")) if key]
                if not keys:
                    return [replace(_answer(at, line), what="answered, nothing stored")]
                stored = [step for key in keys for step in [*self._stored(key), *self._rows(key)]]
                return in_order([*stored, _answer(at, line)])
        return []

    def near(self, device: str, start: datetime, end: datetime) -> list[Row]:
        """Return a device's events in RAW that happened between these times."""
        if self._warehouse is None:
            return []
        self.searched.append(f"{self._outputs.database}.RAW.EVENTS of {device}")
        sql = (
            "SELECT payload:_id::VARCHAR AS event_id, MIN(payload:type::VARCHAR) AS type,"
            f" MIN(payload:createdAt::VARCHAR) AS created_at FROM {self._outputs.database}.RAW.EVENTS"
            f" WHERE TRUE{_of_device()} GROUP BY 1"
        )
        rows = self._warehouse.query(sql, [device])
        timed = [(at, row) for row in rows if (at := _time(row["created_at"] or ""))]
        return [row for at, row in sorted(timed, key=lambda each: each[0]) if start <= at <= end]

    # --- searching

    def _loaded_lines(self, event_id: str, device: str | None, max_devices: int | None) -> list[Line]:
        if self._warehouse is None:
            return []
        found: list[tuple[str, Row]] = []
        for table, field_, event in (("EVENTS", "_id", ""), ("REJECTED", "event_id", "event.")):
            self.searched.append(f"{self._outputs.database}.RAW.{table}")
            sql = (
                "SELECT file_name, file_row_number AS n, MAX(TO_JSON(payload)) AS said"
                f" FROM {self._outputs.database}.RAW.{table}"
                f" WHERE payload:{field_}::VARCHAR = %s{_of_device(event) if device else ''}"
                " GROUP BY 1, 2 ORDER BY 1, 2"
            )
            rows = self._warehouse.query(sql, [event_id, device] if device else [event_id])
            found += ((table, row) for row in rows)
        devices = {device_in(row["said"].encode()) for table, row in found if table == "EVENTS"}
        if max_devices and len(devices) > max_devices:
            raise Refusal(
                f"{len(devices)} devices sent an event with the id {event_id}: choose one with --device and --at"
            )
        return [self._loaded_line(table, row, event_id) for table, row in found]

    def _loaded_line(self, table: str, row: Row, event_id: str) -> Line:
        unread = "S3" in self._unasked
        text = row["said"].encode() if unread else self._text(row["file_name"], int(row["n"]))
        # If a rejected event's object has expired, its row still names the reasons. In a file added by hand, an event
        # may span several lines, so that this line is not the event.
        suffices = _is_of(text, f"{table.lower()}/", event_id) if text else table == "EVENTS"
        return Line(row["file_name"], int(row["n"]), text if suffices else row["said"].encode())

    def _text(self, key: str, number: int) -> bytes:
        """Return a line of an object; b"" if the object is unreadable, or deleted by a lifecycle rule or `forget`."""
        lines = self._lines(key, self.archive.body(key))
        return lines[number - 1] if number <= len(lines) else b""

    def _lines(self, key: str, body: bytes | None) -> Sequence[bytes]:
        lines = readable_lines(body) if body else ()
        if lines is None:
            self.searched.append(f"{key} (unreadable, so not searched)")
        return lines or ()

    def _archived_lines(
        self,
        event_id: str,
        start: datetime,
        end: datetime,
        advance: Callable[[int], None] = lambda _: None,
        prefixes: Sequence[str] = ("events/", "rejected/", "set-aside/"),
    ) -> list[Line]:
        """Search every object that was received in these hours, and return the event's lines.

        Only lines that may contain the event's id are parsed.
        """
        found: list[Line] = []
        if "S3" in self._unasked:
            return found
        needle = json.dumps(event_id, ensure_ascii=False, allow_nan=False).encode()
        for prefix in prefixes:
            keys = [each.key for each in self.archive.received(prefix, start, end)]
            self.searched.append(
                f"{count(len(keys), 'object')} of {prefix} received from {start:%Y-%m-%dT%HZ} to {end:%Y-%m-%dT%HZ}"
            )
            with ThreadPoolExecutor(8) as readers:
                # Read in groups, because objects that were read but not searched yet are kept in memory.
                bodies = chain.from_iterable(
                    readers.map(self.archive.body, some) for some in batched(keys, 256, strict=False)
                )
                for key, body in zip(keys, bodies, strict=True):
                    advance(1)
                    for number, text in enumerate(self._lines(key, body), 1):
                        if _may_hold(text, needle) and _is_of(text, prefix, event_id):
                            found.append(Line(key, number, text))
        return found

    # --- the steps

    def _of_line(self, line: Line, event_id: str) -> Iterator[Step]:
        yield from self._stored(line.key, line.number)
        if line.key.startswith("events/"):
            event = json.loads(line.text) if line.text else {}
            if "createdAt" in event:
                # Two devices may use the same event id, so each step names its device.
                facts = {"type": event.get("type"), "device": device_in(line.text)}
                yield Step("happened (the phone's clock)", _time(event["createdAt"]), facts)
        elif line.text:
            reasons = json.loads(line.text).get("reasons", [])
            said = "; ".join(f"{r['code']} {r['field']}: {r['message']}" for r in reasons)
            what = "rejected" if line.key.startswith("rejected/") else "set aside"
            yield Step(what, None, {"reasons": said, "event_id": event_id, "key": line.key})
        yield from self._rows(line.key, line.number)

    def _stored(self, key: str, number: int | None = None) -> Iterator[Step]:
        from botocore.exceptions import ClientError

        if "S3" in self._unasked:
            return
        try:
            head = self._s3.head_object(Bucket=self._outputs.bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":  # after a 403, for example, the object may exist
                raise Refusal(f"could not read s3://{self._outputs.bucket}/{key}: {error}") from None
            yield Step("expired from S3" if _has_expired(key) else "gone from S3", None, {"key": key})
            return
        facts = head["Metadata"]
        if "received-at" in facts:
            received = {"request_id": facts.get("request-id"), "app_version": facts.get("app-version")}
            yield Step("received", _time(facts["received-at"]), {k: v for k, v in received.items() if v})
        name = object_name(key)
        place = {"key": key} | ({"line": number} if number else {"lines": name.lines if name else None})
        yield Step("archived", head["LastModified"], place)
        yield from self._answered(key, head["LastModified"])

    def _answered(self, key: str, about: datetime) -> Iterator[Step]:
        """Yield the handler's response to the request that stored an object, as a step.

        The response and the numbers of published, queued and quarantined events are read from the handler's log.
        """
        for at, line in self._lines_of("ingest", logs.EVENTS_INGESTED, about):
            if key in (line.get("object_key"), line.get("rejected_key")):
                yield _answer(at, line)
                return

    def _lines_of(self, function: str, name: str, about: datetime) -> Iterator[LogLine]:
        if "CloudWatch Logs" in self._unasked:
            return iter(())
        # The clocks of S3, Kinesis and the function may differ by a few seconds.
        start, end = about - timedelta(seconds=5), about + LOG_REACH
        return log_lines(self._outputs, self._stage, function, name, start=start, end=end)

    def _rows(self, key: str, number: int | None = None) -> Iterator[Step]:
        prefix = prefix_of(key)
        if prefix is None or prefix == "set-aside" or self._warehouse is None:
            return
        sql = (
            "SELECT MIN(scanned_at) AS at, COUNT(*) AS n"
            f" FROM {self._outputs.database}.RAW.{prefix} WHERE file_name = %s"
        )
        parameters: list[object] = [key]
        if number:
            sql, parameters = f"{sql} AND file_row_number = %s", [key, number]
        [row] = self._warehouse.query(sql, parameters)
        if row["n"]:
            yield Step("loaded", row["at"], {"table": f"RAW.{prefix.upper()}", "rows": row["n"]})
        else:
            yield Step("not loaded", None, {"key": key})

    def _of_crossing(self, text: bytes, event_id: str, lines: Sequence[Line]) -> Iterator[Step]:
        """Yield the steps of a geofence event after it was archived: stream, consumer, visit or quarantine."""
        if not text or str(json.loads(text).get("type")) not in self.kinds:
            return
        try:
            event = geofence_event(text, self.kinds)
        except InvalidEvent:  # archived before the stage treated such events as geofence events
            return
        since = min(filter(None, (self._received_at(line.key) for line in lines)), default=None)
        published = list(self._published(event, since)) if since and "Kinesis" not in self._unasked else []
        yield from published
        if "DynamoDB" in self._unasked:
            return
        with ThreadPoolExecutor(2) as readers:
            table = Table(self._outputs.access().client("dynamodb"), self._outputs.visits_table, readers)
            pair = pair_of(event)
            self.searched.append(
                f"{self._outputs.visits_table} ({event.device_id} at {' '.join(event.fence)})"
            )
            known = event_id in consumed_event_ids(table, pair)
            missing = "too old for the visits table" if _is_too_old(event, since) else "not consumed"
            detail = {"device": event.device_id, "fence": " ".join(event.fence)}
            yield Step("consumed" if known else missing, self._consumed_at(published), detail)
            for stay in table_stays(table, pair) if known else ():
                until = stay.exited_at or (stay.entered_at if stay.exit_missed else _FOR_EVER)
                if stay.entered_at <= event.occurred_at <= until:
                    yield Step(
                        "in a visit", None, {"entered_at": stay.entered_at, "exited_at": stay.exited_at}
                    )
        if not known and since:
            to = min(datetime.now(UTC), since + SET_ASIDE_REACH)
            for line in self._archived_lines(event_id, since, to, prefixes=["set-aside/"]):
                if device_in(_quarantined(line.text)) in (None, event.device_id):
                    yield from self._of_line(line, event_id)

    def _consumed_at(self, published: Sequence[Step]) -> datetime | None:
        """Return the time at which the consumer processed the batch with the first published record, according to the
        consumer's log. Return None if the log does not have this batch, or no record was published.
        """
        first = next((step for step in published if step.at and "sequence_number" in step.detail), None)
        if first is None or first.at is None:
            return None
        number = int(first.detail["sequence_number"])
        lines = self._lines_of("consume", logs.RECORDS_CONSUMED, first.at)
        for at, line in lines:
            if line.get("shard_id") == first.detail["shard"] and _covers(line, number):
                return at
        return None

    def _published(self, event: GeofenceEvent, since: datetime) -> Iterator[Step]:
        to = min(datetime.now(UTC), since + STREAM_REACH)
        self.searched.append(f"{self._outputs.stream} from {since:%H:%M:%SZ} to {to:%H:%M:%SZ}")
        seen = False
        needle = event.event_id.encode()
        records = stream_records(
            self._outputs.aws("kinesis"), self._outputs.stream, since - timedelta(seconds=2), to
        )
        for record in records:
            if not _may_hold(record.data, needle) or event_id_in(record.data) != event.event_id:
                continue
            if device_in(record.data) != event.device_id:
                continue
            seen = True
            replayed = json.loads(record.data).get(LABEL)
            place = {"shard": record.shard_id, "sequence_number": record.sequence_number}
            yield Step(f"replayed by {replayed}" if replayed else "published", record.arrived_at, place)
        if not seen:
            stream = self._outputs.aws("kinesis").describe_stream_summary(StreamName=self._outputs.stream)
            kept_for = timedelta(hours=stream["StreamDescriptionSummary"]["RetentionPeriodHours"])
            expired = since < datetime.now(UTC) - kept_for
            what = "expired on the stream, or never published" if expired else "not on the stream"
            yield Step(what, None, {"searched": self.searched[-1]})

    def _received_at(self, key: str) -> datetime | None:
        return next((step.at for step in self._stored(key) if step.at), None)

    def _staged(self, event_id: str, device: str | None) -> Iterator[Step]:
        if self._warehouse is None:
            return
        self.searched.append(f"{self._outputs.database}.STAGING.STG_EVENTS")
        sql = (
            "SELECT file_name, file_row_number AS n, received_at, device_id"
            f" FROM {self._outputs.database}.STAGING.STG_EVENTS WHERE event_id = %s"
            + (" AND device_id = %s" if device else "")
        )
        try:
            rows = self._warehouse.query(sql, [event_id, device] if device else [event_id])
        except NoAnswerError:
            raise
        except Refusal:  # dbt has never run here
            return
        for row in rows:
            place = {"table": "STAGING.STG_EVENTS", "key": row["file_name"], "line": row["n"]}
            yield Step("staged", None, place | {"device": row["device_id"]})


def _answer(at: datetime, line: Mapping[str, Any]) -> Step:
    """Return the handler's response to a request as a step, from the request's log line."""
    names = ("status", "code", "error", "published", "queued", "set_aside")
    what = "answered, some events enqueued for redrive" if line.get("queued") else "answered"
    return Step(what, at, {name: line[name] for name in names if name in line})


def _of_device(event: str = "") -> str:
    """Return an SQL condition on the device of a row in RAW; `event` is the prefix of the event's path."""
    return f" AND COALESCE(payload:{event}user.deviceId::VARCHAR, payload:{event}deviceId::VARCHAR) = %s"


def _is_too_old(event: GeofenceEvent, received_at: datetime | None) -> bool:
    """Return whether the visits table no longer keeps the event, or the consumer skipped it because of its age."""
    now = datetime.now(UTC)
    return event.occurred_at < max(now - KEPT_FOR, (received_at or now) - MAX_AGE)


def _has_expired(key: str) -> bool:
    """Return whether a lifecycle rule has deleted the object, according to the hour in its key."""
    hour, days = hour_of(key), KEPT_DAYS.get(prefix_of(key) or "")
    return hour is not None and days is not None and hour < datetime.now(UTC) - timedelta(days=days)


def is_key(text: str) -> bool:
    """Return whether a string may be the key of an archived object. The part after the prefix may have any format."""
    return "/" in text and prefix_of(text) is not None


def in_order(steps: Sequence[Step]) -> list[Step]:
    """Sort steps by time and remove duplicates. A step without a time stays after all steps before it."""
    placed: list[tuple[datetime, int, Step]] = []
    last = datetime.min.replace(tzinfo=UTC)
    for i, step in enumerate(steps):
        last = utc(step.at) if step.at else max(last, *(at for at, _, _ in placed), last)
        placed.append((last, i, step))
    unique = {repr(step): step for _, _, step in sorted(placed, key=lambda p: p[:2])}
    return list(unique.values())


def _may_hold(text: bytes, needle: bytes) -> bool:
    """Return whether a line must be parsed, because it contains the event's id, or an escape or base64 that
    may hide the id.
    """
    return needle in text or b"\\" in text or b"_base64" in text


def _is_of(text: bytes, prefix: str, event_id: str) -> bool:
    """Return whether an archived line is the event itself, rather than another event that mentions its id."""
    if prefix == "events/":
        return event_id_in(text) == event_id
    try:
        line = json.loads(text)
        if prefix == "rejected/":
            return bool(line.get("event_id") == event_id)
        return event_id_in(_quarantined(text)) == event_id
    except (ValueError, AttributeError, TypeError, RecursionError):  # not written by Milkrun
        return False


def _quarantined(text: bytes) -> bytes:
    """Return the record in a line of an object under `set-aside/`."""
    line = json.loads(text)
    if line.get("event") is None:
        return base64.b64decode(line.get("record_base64", ""))
    return json.dumps(line["event"], allow_nan=False).encode()


def _covers(line: Mapping[str, Any], number: int) -> bool:
    """Return whether the batch described by a log line processed the record with this sequence number.

    If the line has the field `stopped_at`, the batch processed only the records before it.
    """
    try:
        first, last = int(line["first_sequence_number"]), int(line["last_sequence_number"])
        return first <= number <= last and number < int(line.get("stopped_at") or last + 1)
    except (KeyError, ValueError):
        return False


def _time(text: str) -> datetime | None:
    try:
        return instant(text)
    except (ValueError, TypeError):  # a file added by hand may contain a number
        return None


def lags(steps: Sequence[Step]) -> list[Row]:
    """Return the steps as rows, each with the number of seconds since the request was received."""
    begin = next((utc(step.at) for step in steps if step.at and step.what == "received"), None)
    rows: list[Row] = []
    for step in steps:
        at = utc(step.at) if step.at else None
        lag = (at - begin).total_seconds() if at and begin else None
        rows.append({"what": step.what, "at": at, "lag_s": lag, "detail": step.detail})
    return rows
