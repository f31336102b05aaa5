"""The console's queries against the stores, on behalf of its page. The functions block, so call them in a thread."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Protocol
from zoneinfo import ZoneInfo

from consumer import keys
from contract.archive_object import object_name
from contract.events import Fence
from ops import daily_report, visits
from ops.read_stores import utc
from ops.stage_outputs import Outputs
from ops.trace_steps import Finder, Step, lags
from snowpipe.archive import Archive
from snowpipe.quoting import quoted
from snowpipe.warehouse import MissingObject, Row
from tools.console import known_visits, parse_object
from tools.console.polling import Clients, Session
from tools.console.replay import Kinds

MAX_VISITS = 5000
MAX_CSV_VISITS = 50_000
# The visits of a CSV file are read from the mart in parts, because all of them at once would need 150 MiB.
PART_VISITS = 2500
# Two weeks of 2,000 trucks are 28,000 rows.
MAX_DAILY = 50_000
WHERE_REACH = timedelta(hours=48)


class Ask(Protocol):
    async def __call__[T](self, source: str, question: Callable[[], T]) -> T:
        """Return the result of `question`, which queries a store. Raises Problem if the query fails."""


class PerStatement:
    """A warehouse that uses the session only during each statement, so that a long search of the archive between two
    statements does not make other requests wait.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        with self._session() as warehouse:
            return warehouse.query(sql, parameters)


class StoreQueries:
    def __init__(self, outputs: Outputs, stage: str, aws: Clients, session: Session, kinds: Kinds) -> None:
        self._outputs = outputs
        self._stage = stage
        self._aws = aws
        self._session = session
        self._kinds = kinds

    def where(self, what: str, device_id: str = "") -> dict[str, object]:
        """Return the steps that an event (of one device, if `device_id` is given) or object took through the pipeline.
        Raises Refusal if the warehouse cannot be queried.
        """
        steps, searched = self._steps(what, device_id)
        keys = [step.detail["key"] for step in steps if "key" in step.detail]
        return {
            "what": what,
            "steps": [
                step
                | {
                    "at": step["at"] and parse_object.written(step["at"]),
                    "detail": {name: _json(value) for name, value in step["detail"].items()},
                }
                for step in lags(steps)
            ],
            "searched": searched,
            "found": any(step.at for step in steps),
            "s3_uris": [f"s3://{self._outputs.bucket}/{key}" for key in dict.fromkeys(keys)],
            "sql": self._sql(what),
        }

    def _steps(self, what: str, device_id: str) -> tuple[list[Step], list[str]]:
        """Return the steps of an event or object, and the names of the stores that were searched."""
        with self._session():
            pass  # fail at once if Snowflake does not answer; the search for an object queries Snowflake last
        finder = Finder(self._outputs, self._stage, PerStatement(self._session))
        if object_name(what):
            return finder.object(what), finder.searched
        now = datetime.now(UTC)
        steps = finder.loaded_event(what, device_id or None)
        return steps or finder.archived_event(what, now - WHERE_REACH, now, lambda _: None), finder.searched

    def find_event(self, event_id: str, device_id: str = "") -> tuple[str, int | None] | None:
        """Return the key of the object that contains an event, and the number of the event's line if it is
        known; return None if the event was not found.
        """
        for step in self._steps(event_id, device_id)[0]:
            key, line = step.detail.get("key"), step.detail.get("line")
            if key and object_name(str(key)):
                return str(key), int(line) if isinstance(line, int | float) else None
        return None

    def event_in(self, key: str, line: int | None, event_id: str | None) -> parse_object.Event | None:
        """Return one event from an archived object: the event on line `line`, or the event with the id
        `event_id` if `line` is None. Return None if there is no such event.
        """
        archive = Archive(self._aws("s3"), self._outputs.bucket)
        # Keys are listed in order, so the key itself comes before the keys that begin with it.
        found = next(iter(archive.objects(key)), None)
        body = archive.body(key) if found and found.key == key else None
        if found is None or body is None:
            return None
        for event in parse_object.read(key, body, found.modified_at, self._kinds()).events:
            if event.line == line if line is not None else event.event_id == event_id:
                return event
        return None

    def _sql(self, what: str) -> list[str]:
        """Return SQL statements that find an event or the rows of an object, for users to copy."""
        raw, text = f"{self._outputs.database}.RAW", quoted(what)
        if name := object_name(what):
            return [f"SELECT * FROM {raw}.{name.prefix.upper()} WHERE file_name = {text}"]
        staging = f"{self._outputs.database}.STAGING.STG_EVENTS"
        return [
            f"SELECT * FROM {raw}.EVENTS WHERE payload:_id::VARCHAR = {text}",
            f"SELECT * FROM {raw}.REJECTED WHERE payload:event_id::VARCHAR = {text}",
            f"SELECT * FROM {staging} WHERE event_id = {text}",
        ]

    def device_visits(self, device_id: str, since: datetime) -> list[known_visits.Known]:
        """Return the visits of a device since `since`, read from the visits table."""
        rows = visits.visits_of_device(self._aws("dynamodb"), self._outputs.visits_table, device_id, since)
        return [known_visits.known(row) for row in rows]

    def mart_visits(
        self, start: datetime, end: datetime, device_id: str | None, fence: Fence | None, most: int
    ) -> tuple[list[known_visits.Known], int]:
        """Return the latest matching visits in the mart, at most `most`, and the number of earlier visits left
        out. No visits are returned if dbt has never run.
        """
        where, parameters = self._of_visits(start, end, device_id, fence)
        try:
            with self._session() as warehouse:
                rows = warehouse.query(
                    f"SELECT {_COLUMNS} {where} ORDER BY entered_at DESC LIMIT {most}", parameters
                )
        except MissingObject:
            return [], 0
        left_out = self.count_visits(start, end, fence, device_id) - most if len(rows) == most else 0
        return [_known(row) for row in reversed(rows)], left_out

    def count_visits(
        self, start: datetime, end: datetime, fence: Fence | None, device_id: str | None = None
    ) -> int:
        where, parameters = self._of_visits(start, end, device_id, fence)
        try:
            with self._session() as warehouse:
                [counted] = warehouse.query(f"SELECT COUNT(*) AS n {where}", parameters)
        except MissingObject:
            return 0
        return int(counted["n"])

    def visits_after(
        self, last: tuple[datetime, str], end: datetime, fence: Fence | None
    ) -> tuple[list[known_visits.Known], tuple[datetime, str] | None]:
        """Return up to PART_VISITS visits in the mart that follow `last` (an entry time and a visit key), the
        earliest first.

        The second value is the argument `last` for the next call, or None if there are no further visits.
        """
        start, visit_key = last
        where, parameters = self._of_visits(start, end, None, fence)
        sql = (
            f"SELECT visit_key, {_COLUMNS} {where} AND (entered_at > %s::TIMESTAMP_NTZ OR visit_key > %s)"
            f" ORDER BY entered_at, visit_key LIMIT {PART_VISITS}"
        )
        try:
            with self._session() as warehouse:
                rows = warehouse.query(sql, [*parameters, _ntz(start), visit_key])
        except MissingObject:
            return [], None
        is_last = len(rows) < PART_VISITS
        following = None if is_last else (utc(rows[-1]["entered_at"]), str(rows[-1]["visit_key"]))
        return [_known(row) for row in rows], following

    def _of_visits(
        self, start: datetime, end: datetime, device_id: str | None, fence: Fence | None
    ) -> tuple[str, list[object]]:
        sql = (
            f"FROM {self._outputs.database}.MARTS.GEOFENCE_VISITS"
            " WHERE entered_at BETWEEN %s::TIMESTAMP_NTZ AND %s::TIMESTAMP_NTZ"
        )
        parameters: list[object] = [_ntz(start), _ntz(end)]
        if device_id is not None:
            sql, parameters = f"{sql} AND device_id = %s", [*parameters, device_id]
        if fence is not None:
            sql = f"{sql} AND geofence_tag = %s AND geofence_external_id = %s"
            parameters += fence
        return sql, parameters

    def report(self, day: date, zone: ZoneInfo) -> daily_report.Report:
        with self._session() as warehouse:
            return daily_report.report(warehouse, self._outputs.database, day, zone, datetime.now(UTC))

    def daily(self, n: int) -> dict[str, object]:
        """Return the totals of today and of each of the `n` days before, from the marts. A day is a UTC day of the
        devices' clocks.

        `from` is the first day with complete totals; it is later than asked for if there are MAX_DAILY rows or
        more.
        """
        database, first = self._outputs.database, (datetime.now(UTC) - timedelta(days=n)).date()
        try:
            with self._session() as warehouse:
                farms = warehouse.query(
                    "SELECT collection_date AS date, geofence_tag, geofence_external_id, visits, devices, pickups,"
                    " litres, dwell_seconds, dwell_seconds_median, missed_exits, open_visits"
                    f" FROM {database}.MARTS.DAILY_FARM_COLLECTIONS WHERE collection_date >= %s::DATE"
                    f" ORDER BY 1 DESC, 2, 3 LIMIT {MAX_DAILY}",
                    [first.isoformat()],
                )
                trucks = warehouse.query(
                    "SELECT event_date AS date, device_id, events, replayed_events, visits, collections,"
                    f" dwell_seconds, litres, kilometres FROM {database}.MARTS.FLEET_DAILY"
                    f" WHERE event_date >= %s::DATE ORDER BY 1 DESC, 2 LIMIT {MAX_DAILY}",
                    [first.isoformat()],
                )
        except MissingObject:
            return {
                "farms": [],
                "trucks": [],
                "days": [],
                "built": False,
                "from": first.isoformat(),
                "cut": False,
            }
        # LIMIT may have cut off some rows of the earliest date of either list, so leave that date out of both.
        cut = max((rows[-1]["date"] for rows in (farms, trucks) if len(rows) == MAX_DAILY), default=None)
        farm_rows = [
            {name: _json(value) for name, value in row.items()}
            | {"fence_id": keys.fence_key(Fence(row["geofence_tag"], row["geofence_external_id"]))}
            for row in _by_date(farms, cut)
        ]
        truck_rows = [{name: _json(value) for name, value in row.items()} for row in _by_date(trucks, cut)]
        return {
            "farms": farm_rows,
            "trucks": truck_rows,
            "days": _days(farm_rows, truck_rows),
            "built": True,
            "from": (first if cut is None else cut + timedelta(days=1)).isoformat(),
            "cut": cut is not None,
        }


_COLUMNS = (
    "device_id, geofence_tag, geofence_external_id, entered_at, exited_at, entered_event_id,"
    " exited_event_id, exit_missed, dwell_seconds, last_seen_at, app_dwell_seconds, crossings"
)
_TIMES = ("entered_at", "exited_at", "last_seen_at")
_NUMBERS = ("dwell_seconds", "app_dwell_seconds")
_SUMS = ("events", "visits", "collections", "litres", "kilometres", "dwell_seconds")


def _known(row: Row) -> known_visits.Known:
    """Parse a row of the mart GEOFENCE_VISITS."""
    times = {name: row[name] and keys.timestamp(utc(row[name])) for name in _TIMES}
    numbers = {name: None if row[name] is None else float(row[name]) for name in _NUMBERS}
    return known_visits.known(row | times | numbers)


def _by_date(rows: list[Row], after: date | None) -> list[Row]:
    """Return the rows with a date later than `after`, sorted by date. The order within each date is kept."""
    return sorted((row for row in rows if after is None or row["date"] > after), key=lambda row: row["date"])


def _days(farms: list[Row], trucks: list[Row]) -> list[Row]:
    found: dict[str, Row] = {}
    for row in trucks:
        day = found.setdefault(
            row["date"], {"date": row["date"], **dict.fromkeys(_SUMS, 0), "trucks": 0, "farms": 0}
        )
        for name in _SUMS:
            day[name] += row[name] or 0
        day["trucks"] += 1
    for row in farms:
        if row["date"] in found:
            found[row["date"]]["farms"] += 1
    return [found[date] for date in sorted(found)]


def _json(value: object) -> object:
    """Convert a value from Snowflake to a JSON value: a decimal to a number, a date or time to text."""
    match value:
        case datetime():
            return parse_object.written(utc(value))
        case None | str() | bool() | int() | float():
            return value
        case Decimal():
            return float(value)
        case date():
            return value.isoformat()
        case _:
            return str(value)


def _ntz(at: datetime) -> str:
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
