"""The pollers of the log lines, the visits table, the redrive and dead-letter queues, and the warehouse."""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import msgspec

from consumer import keys, notifications
from contract import logs
from contract.events import Fence
from ops import fleet_day, redrive, visits
from ops.read_stores import utc
from snowpipe.warehouse import MissingObject, Row, Snowflake
from tools.console.archive_poller import ArchivePoller
from tools.console.event_rates import WINDOW_S
from tools.console.known_visits import FEW_VISITS
from tools.console.polling import Poller, Session, Shared
from tools.console.state import MartPlace

# The time between two reads of the marts' figures for each place; dbt builds the marts hourly.
PLACES_EVERY_S = 300.0
PLACES_REACH = timedelta(days=35)


class LogPoller(Poller):
    """A poller that reads the functions' canonical log lines, which are also the source of the CloudWatch
    dashboard's metrics.
    """

    source = "logs"
    always = True
    NAMES: ClassVar = {
        "ingest": logs.EVENTS_INGESTED,
        "redrive": logs.RECORDS_REDRIVEN,
        "consume": logs.RECORDS_CONSUMED,
    }
    # A log line may become visible this long after its timestamp.
    OVERLAP_S = 60.0
    MAX_LINES = 20_000

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._since = dict.fromkeys(self.NAMES, time.time() - WINDOW_S)
        self._seen: dict[str, dict[str, float]] = {function: {} for function in self.NAMES}

    def look(self) -> float:
        read_to_end = [self._read(function, name) for function, name in self.NAMES.items()]
        self.shared.tell(setattr, self.state.pipeline, "partial", not all(read_to_end))
        pace = self.shared.pace
        return pace.logs if self.state.is_watched else pace.unwatched

    def _read(self, function: str, name: str) -> bool:
        """Read at most about MAX_LINES further lines; return whether the end of the log was reached."""
        client = self.shared.aws("logs")
        request: dict[str, object] = {
            "logGroupName": f"/aws/lambda/milkrun-{self.shared.stage}-{function}",
            "startTime": int(self._since[function] * 1000),
            # A function logs quarantined records in a separate line. LocalStack ignores the filter pattern.
            "filterPattern": f'{{ ($.event = "{name}") || ($.event = "{logs.RECORDS_SET_ASIDE}") }}',
        }
        at, read, seen = self._since[function], 0, self._seen[function]
        newest = at + self.OVERLAP_S
        while read < self.MAX_LINES:
            try:
                page = client.filter_log_events(**request)
            except client.exceptions.ResourceNotFoundException:
                return True  # the function has not run yet
            for found in page["events"]:
                at = found["timestamp"] / 1000
                read += 1
                if found["eventId"] in seen:
                    continue
                seen[found["eventId"]] = at
                newest = max(newest, at)
                with suppress(msgspec.MsgspecError):
                    line = msgspec.json.decode(found["message"])
                    if isinstance(line, dict):
                        self.shared.tell(self._logged, at, line)
            if is_end := "nextToken" not in page:
                break
            request["nextToken"] = page["nextToken"]
        # If the end of the log was not reached, continue at the last line read, because lines come in time order.
        # Starting OVERLAP_S earlier could read the same MAX_LINES lines of a busy function's log again and again.
        self._since[function] = since = newest - self.OVERLAP_S if is_end else at
        # Keep the ids of the lines that the next read will return again. Timestamps are full milliseconds.
        self._seen[function] = {line: at for line, at in seen.items() if at > since - 0.002}
        return is_end

    def _logged(self, at: float, line: dict[str, object]) -> None:
        self.state.pipeline.logged(at, line, self.shared.keys.__contains__)


class VisitPoller(Poller):
    """A poller of the visits table. It reads all open visits repeatedly. It reads a device's visits when the
    device is new, when an open visit of the device has disappeared, and, while no notifications are received,
    after a geofence event of the device.
    """

    source = "visits"
    DEVICES_A_LOOK = 20
    MAX_DEVICES = 2000
    SINCE = timedelta(hours=48)
    USUAL_EVERY_S = 30.0

    def __init__(self, shared: Shared, reader: ArchivePoller) -> None:
        super().__init__(shared)
        self._reader = reader
        self._asked: set[str] = set()
        self._missing: set[str] = set()
        self._crossed: dict[str, None] = {}
        self._scanned_at = 0.0
        self._verified: dict[str, str] = {}
        self._usual_at = 0.0

    def look(self) -> float:
        pace, state = self.shared.pace, self.state
        every = pace.live_visits if self._reader.is_live else pace.visits
        if time.monotonic() - self._scanned_at >= every:
            self._scan()
            self._scanned_at = time.monotonic()
        devices = self.shared.ask(state.fleet.devices)[: self.MAX_DEVICES]
        new = [device for device in devices if device not in self._asked][: self.DEVICES_A_LOOK]
        self._crossed |= dict.fromkeys(self.shared.ask(state.take_crossed))
        if self._reader.is_live:
            self._crossed.clear()
        changed = list(self._crossed)[: self.DEVICES_A_LOOK]
        for device in dict.fromkeys([*new, *changed]):
            self.shared.tell(state.visits.reread if device in changed else self._read, *self._of(device))
            # Note the device only after the read, so that it is read again if DynamoDB has not answered.
            self._asked.add(device)
            self._crossed.pop(device, None)
        is_all_verified = self._verify()
        if time.monotonic() - self._usual_at >= self.USUAL_EVERY_S:
            self._usual_at = time.monotonic()
            self.shared.tell(state.visits.learn_usual)
        return min(every, pace.visits) if is_all_verified and not new and not self._crossed else 0.2

    def _verify(self) -> bool:
        """For each device with a contradiction, read its enter events from the visits table, which also contains the
        enter events of merged visits. Return whether all contradictions have been verified.
        """
        doubtful = self.shared.ask(self.state.visits.doubtful)
        self._verified = {device: doubt for device, doubt in self._verified.items() if device in doubtful}
        to_ask = [device for device, doubt in doubtful.items() if self._verified.get(device) != doubt]
        if not to_ask:
            return True
        self.shared.tell(setattr, self.state, "min_confidence", self.shared.rule().min_confidence)
        for device in to_ask[: self.DEVICES_A_LOOK]:
            enters = visits.competing_enters(
                self.shared.aws("dynamodb"),
                self.shared.outputs.visits_table,
                device,
                self.shared.exclusive_tags,
                self.shared.rule,
            )
            # `enters` is empty if the table is behind the event bus; then keep the enter events in memory.
            if enters:
                self.shared.tell(self.state.visits.verified, device, enters)
            self._verified[device] = doubtful[device]
        return len(to_ask) <= self.DEVICES_A_LOOK

    def _read(self, _: str, rows: list[notifications.VisitFields], __: str) -> None:
        self.state.visits.read(rows, as_news=False)

    def _opened(self, rows: list[notifications.VisitFields], as_news: bool) -> None:
        self.state.visits.read(rows, as_news=as_news)

    def _of(
        self, device: str, since: datetime | None = None
    ) -> tuple[str, list[notifications.VisitFields], str]:
        """Return the device, its visits of the last two days or, if that is longer, since `since`, and the beginning
        of this time range as text.
        """
        earliest = datetime.now(UTC) - self.SINCE
        since = min(since or earliest, earliest)
        table = self.shared.outputs.visits_table
        rows = visits.visits_of_device(self.shared.aws("dynamodb"), table, device, since)
        return device, rows, keys.timestamp(since)

    def _scan(self) -> None:
        rows = list(visits.there_now(self.shared.aws("dynamodb"), self.shared.outputs.visits_table))
        there = {(row["device_id"], row["entered_event_id"]) for row in rows}
        held = self.shared.ask(self.state.visits.open_starts)
        # Device → the entry time of its earliest open visit that is no longer in the table.
        missing: dict[str, str] = {}
        for device, _, entered_at, event_id in held:
            if (device, event_id) not in there:
                missing[device] = min(entered_at, missing.get(device, entered_at))
        self.shared.tell(self._opened, rows, bool(self._asked))
        # DynamoDB updates an index a moment after its table. While notifications are received, reread a device only
        # if its visits are missing in two scans in a row.
        doubtful = missing.keys() & self._missing if self._reader.is_live else missing.keys()
        for device in sorted(doubtful)[: self.DEVICES_A_LOOK]:
            self.shared.tell(self.state.visits.reread, *self._of(device, keys.instant(missing[device])))
        self._missing = set(missing)


class RedriveQueuePoller(Poller):
    source = "queues"

    def look(self) -> float:
        sqs, outputs = self.shared.aws("sqs"), self.shared.outputs
        counts = [
            redrive.waiting(sqs, url) for url in (outputs.redrive_queue_url, outputs.dead_letter_queue_url)
        ]
        self.shared.tell(self.state.pipeline.queues, *counts)
        return self.shared.pace.queues


class WarehousePoller(Poller):
    """A poller that counts loaded and staged rows, and reads the states of the pipes and the statistics of the
    places. It queries the warehouse only while a page is open, because a running warehouse costs money.
    """

    source = "snowflake"
    # A row may become visible this long after its scan time.
    OVERLAP_S = 180.0

    def __init__(self, shared: Shared, session: Session) -> None:
        super().__init__(shared)
        self._session = session
        self._known_to: float | None = None
        self._places_at = 0.0

    def look(self) -> float:
        with self._session() as warehouse:
            # Importing the connector and signing in do not count as reading.
            self._began = time.monotonic()
            self.ask(warehouse)
        return self.shared.pace.warehouse

    def ask(self, warehouse: Snowflake) -> None:
        now, database, state = time.time(), self.shared.outputs.database, self.state
        since = max(now - WINDOW_S, (self._known_to or 0.0) - self.OVERLAP_S)
        first = datetime.fromtimestamp(int(since), UTC)
        loaded = warehouse.query(
            "SELECT DATE_TRUNC('second', scanned_at) AS at, COUNT(*) AS n,"
            f" MAX(file_modified_at) AS modified_at FROM {database}.RAW.EVENTS"
            " WHERE scanned_at >= %s::TIMESTAMP_TZ GROUP BY 1 ORDER BY 1",
            [first.isoformat()],
        )
        lag = (
            max(0.0, (utc(loaded[-1]["at"]) - utc(loaded[-1]["modified_at"])).total_seconds())
            if loaded
            else None
        )
        if self._known_to is not None and since > self._known_to:
            # Rows that were loaded while no page was open are not counted, but must not appear as waiting to be loaded.
            [newest] = warehouse.query(
                f"SELECT MAX(scanned_at) AS at FROM {database}.RAW.EVENTS WHERE scanned_at >= %s::TIMESTAMP_TZ",
                [datetime.fromtimestamp(int(self._known_to), UTC).isoformat()],
            )
            if newest["at"]:
                self.shared.tell(state.pipeline.meters["loaded"].touch, utc(newest["at"]).timestamp())
        pipes = {name: self._pipe(warehouse, name) for name in ("EVENTS_PIPE", "REJECTED_PIPE")}
        self.shared.tell(self._loaded, now, _by_second(loaded), int(since), lag, pipes)
        try:
            staged = warehouse.query(
                "SELECT DATE_TRUNC('second', scanned_at) AS at, COUNT(*) AS n"
                f" FROM {database}.STAGING.STG_EVENTS WHERE scanned_at >= %s::TIMESTAMP_TZ GROUP BY 1",
                [datetime.fromtimestamp(int(now - WINDOW_S), UTC).isoformat()],
            )
        except MissingObject:
            self.shared.tell(setattr, state.pipeline, "marts_built", False)
        else:
            self.shared.tell(self._staged, _by_second(staged), int(now - WINDOW_S))
            if time.monotonic() - self._places_at >= PLACES_EVERY_S or not self._places_at:
                self.shared.tell(self._learn_places, self._places(warehouse))
                self._places_at = time.monotonic()
        self._known_to = now

    def _places(self, warehouse: Snowflake) -> dict[str, MartPlace]:
        """Return the statistics of each place's visits of the last 35 days from the marts, or {} if dbt has not run."""
        zone = fleet_day.zone_of(self.shared.outputs.time_zone)
        midnight = fleet_day.bounds(fleet_day.day_of(datetime.now(UTC), zone), zone)[0]
        try:
            rows = warehouse.query(
                "SELECT geofence_tag, geofence_external_id, COUNT(dwell_seconds) AS closed,"
                " MEDIAN(dwell_seconds) AS usual, MAX(entered_at) AS last_entered_at,"
                " MAX(exited_at) AS last_exited_at, COUNT_IF(entered_at >= %s::TIMESTAMP_NTZ) AS today"
                f" FROM {self.shared.outputs.database}.MARTS.GEOFENCE_VISITS"
                " WHERE entered_at >= %s::TIMESTAMP_NTZ GROUP BY 1, 2 LIMIT 20000",
                [
                    at.replace(tzinfo=None).isoformat(sep=" ")
                    for at in (midnight, datetime.now(UTC) - PLACES_REACH)
                ],
            )
        except MissingObject:
            return {}
        return {
            keys.fence_key(Fence(row["geofence_tag"], row["geofence_external_id"])): MartPlace(
                closed=row["closed"],
                usual_dwell_s=None if row["usual"] is None else float(row["usual"]),
                last_entered_at=row["last_entered_at"],
                last_exited_at=row["last_exited_at"],
                today=row["today"],
                midnight=midnight,
            )
            for row in rows
        }

    def _learn_places(self, places: dict[str, MartPlace]) -> None:
        self.state.mart_places = places
        self.state.visits.learn_usual(
            {
                fence_id: place.usual_dwell_s
                for fence_id, place in places.items()
                if place.usual_dwell_s is not None and place.closed >= FEW_VISITS
            }
        )

    def _pipe(self, warehouse: Snowflake, name: str) -> dict[str, object]:
        pipe = f"{self.shared.outputs.database}.RAW.{name}"
        [row] = warehouse.query(f"SELECT SYSTEM$PIPE_STATUS('{pipe}') AS status")
        status = msgspec.json.decode(row["status"])
        return {"state": status.get("executionState"), "pending_files": status.get("pendingFileCount", 0)}

    def _loaded(
        self,
        at: float,
        counts: dict[int, int],
        since: int,
        lag: float | None,
        pipes: dict[str, dict[str, object]],
    ) -> None:
        self.state.pipeline.warehouse_read_at = at
        meter = self.state.pipeline.meters["loaded"]
        meter.put(counts, since)
        meter.lag_s = lag if lag is not None else meter.lag_s
        self.state.pipeline.pipes = pipes

    def _staged(self, counts: dict[int, int], since: int) -> None:
        self.state.pipeline.marts_built = True
        self.state.pipeline.meters["marts"].put(counts, since)


def _by_second(rows: list[Row]) -> dict[int, int]:
    return {int(utc(row["at"]).timestamp()): int(row["n"]) for row in rows}
