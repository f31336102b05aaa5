"""Test the pollers with sources that can fail: a poller reports the reason, retries, and counts each item once."""

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from cli.deadline import NoAnswerError
from cli.refusal import Refusal
from consumer import notifications
from consumer.visits import Pair, Rule, Visit
from contract import logs
from contract.archive_object import lines_object, object_name
from contract.events import Fence
from contract.geofence_event_types import GEOFENCE_KINDS
from ops.polling import until
from ops.presence_rule import EXCLUSIVE_TAGS
from ops.stage_outputs import Outputs
from snowpipe.archive import Object
from snowpipe.warehouse import MissingObject
from tests.unit.ops.test_stage_outputs import FILE
from tools.console import archive_poller, polling, store_pollers
from tools.console.archive_poller import ArchivePoller, QueueListener
from tools.console.parse_object import Position
from tools.console.polling import Keys, Session, Shared
from tools.console.state import ConsoleState
from tools.console.store_pollers import LogPoller, VisitPoller, WarehousePoller
from tools.console.update_intervals import Pace

NOW = datetime.now(UTC)


def expired() -> ClientError:
    said = {"Code": "ExpiredToken", "Message": "The provided token has expired."}
    return ClientError({"Error": said}, "ListObjectsV2")


class Sources:
    """A fake of boto3's clients that returns the log lines in `lines` or raises `fault`."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.renewed = 0
        self.lines: list[tuple[datetime, dict[str, object]]] = []
        self.page_size = 1000
        self.exceptions = type("E", (), {"ResourceNotFoundException": type("R", (Exception,), {})})

    def __call__(self, _: str) -> Any:
        return self

    def renew(self) -> None:
        self.renewed += 1
        self.fault = None

    def filter_log_events(self, **request: object) -> dict[str, object]:
        if self.fault:
            raise self.fault
        if not request["logGroupName"].endswith("-ingest"):
            return {"events": []}
        found = [
            {"eventId": f"line-{n}", "timestamp": int(at.timestamp() * 1000), "message": json.dumps(line)}
            for n, (at, line) in enumerate(self.lines)
            if at.timestamp() * 1000 >= request["startTime"]
        ]
        first = int(str(request.get("nextToken", 0)))
        end = first + self.page_size
        return {"events": found[first:end]} | ({"nextToken": str(end)} if found[end:] else {})


@pytest.fixture
def aws() -> Sources:
    return Sources()


@pytest.fixture
def shared(aws: Sources) -> Iterator[Shared]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    state = ConsoleState({"stage": "local"})
    state.viewers = 1
    pace = Pace(listing=0.05, logs=0.02, visits=0.02, queues=0.02, warehouse=0.02)
    yield Shared(
        Outputs.model_validate(FILE), "test", state, loop, aws, pace, Keys(), lambda: GEOFENCE_KINDS,
        Rule, EXCLUSIVE_TAGS, threading.Event(),
    )  # fmt: skip
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


@contextmanager
def running(poller: polling.Poller) -> Iterator[polling.Poller]:
    poller.start()
    try:
        yield poller
    finally:
        poller.shared.over.set()
        poller.wake()
        poller.join(10)
        assert not poller.is_alive()


def state_of(shared: Shared, name: str) -> tuple[str, str | None]:
    [source] = [each for each in shared.ask(shared.state.sources.rows) if each["name"] == name]
    return source["state"], source["reason"]


def ingested(accepted: int) -> dict[str, object]:
    return {"event": logs.EVENTS_INGESTED, "status": 202, "accepted": accepted}


# --- log lines


def test_log_line_read_several_times_is_counted_once(shared, aws):
    """Consecutive polls overlap by a minute. Old lines must not be counted again after a long time without
    new lines.
    """
    long_ago = datetime.now(UTC) - timedelta(minutes=24)
    aws.lines = [(long_ago, ingested(5)), (long_ago + timedelta(seconds=30), ingested(7))]
    reader = LogPoller(shared)
    for _ in range(5):
        reader.look()
    aws.lines.append((long_ago + timedelta(seconds=1), ingested(100)))  # arrives late
    for _ in range(5):
        reader.look()
    assert shared.ask(lambda: shared.state.pipeline.meters["accepted"].total) == 112


def test_accepted_is_unknown_until_a_log_too_long_for_one_read_has_been_read_to_its_end(
    shared, aws, monkeypatch
):
    """All lines are within the minute by which consecutive reads overlap."""
    monkeypatch.setattr(LogPoller, "MAX_LINES", 2)
    aws.page_size = 1
    began = datetime.now(UTC) - timedelta(minutes=24)
    aws.lines = [(began + timedelta(seconds=n), ingested(1)) for n in range(5)]
    reader, pipeline, seen = LogPoller(shared), shared.state.pipeline, []
    shared.ask(lambda: shared.state.sources.say("logs", "ok"))
    for _ in range(4):
        reader.look()
        accepted = shared.ask(lambda: pipeline.row()["stages"][0])
        seen.append((accepted["total"], accepted["state"]))
    assert seen == [(2, "unknown"), (3, "unknown"), (4, "unknown"), (5, "ok")]


def test_unreachable_source_is_reported_with_the_reason_until_it_recovers(shared, aws, monkeypatch):
    monkeypatch.setattr(polling, "RETRY_S", (0.02,))
    aws.fault = EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
    with running(LogPoller(shared)):
        down = until(lambda: state_of(shared, "logs"), lambda state: state[0] == "down", timeout_s=5)
        assert down == ("down", 'Could not connect to the endpoint URL: "http://127.0.0.1:1"')
        aws.fault = None
        assert until(lambda: state_of(shared, "logs"), lambda state: state[0] == "ok", timeout_s=5) == (
            "ok",
            None,
        )
    assert aws.renewed == 0


def test_expired_credentials_are_reported_and_renewed(shared, aws, monkeypatch):
    monkeypatch.setattr(polling, "RETRY_S", (0.02,))
    seen: list[tuple[str, str | None, str | None]] = []
    say = shared.state.sources.say
    monkeypatch.setattr(
        shared.state.sources,
        "say",
        lambda name, *state: (seen.append(state), say(name, *state)),
    )
    aws.fault = expired()
    with running(LogPoller(shared)):
        assert until(lambda: state_of(shared, "logs")[0], lambda state: state == "ok", timeout_s=5) == "ok"
    assert seen[0] == ("down", "ExpiredToken: The provided token has expired.", "credentials")
    assert aws.renewed == 1


# --- the archive


class Stored:
    """A fake archive that holds its objects in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.read: list[str] = []

    def put(self, *ids: str, prefix: object = "events") -> str:
        lines = [json.dumps({"_id": id_, "type": "x", "createdAt": NOW.isoformat()}).encode() for id_ in ids]
        made = lines_object(prefix, lines, datetime.now(UTC))
        self.objects[made.key] = (made.body, datetime.now(UTC))
        return made.key

    def in_hours(self, prefix: str, start: datetime, end: datetime) -> Iterator[Object]:
        hours = f"{start:%Y-%m-%dT%H}", f"{end:%Y-%m-%dT%H}"
        for key, (body, at) in list(self.objects.items()):
            name = object_name(key)
            if name and key.startswith(prefix) and hours[0] <= f"{name.hour:%Y-%m-%dT%H}" <= hours[1]:
                yield Object(key, at, len(body))

    def body(self, key: str) -> bytes | None:
        self.read.append(key)
        return self.objects[key][0] if key in self.objects else None


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Stored:
    stored = Stored()
    monkeypatch.setattr(archive_poller, "Archive", lambda *_: stored)
    return stored


def counted(shared: Shared) -> tuple[int, int]:
    """Return the number of good events and the number of archived lines that the console has counted."""
    return shared.ask(
        lambda: (shared.state.events.counted["good"], shared.state.pipeline.meters["archived"].total)
    )


def test_object_is_counted_once_whether_found_by_notification_by_listing_or_by_both(shared, archive):
    key = archive.put("a", "b")
    with running(ArchivePoller(shared)) as reader:
        assert isinstance(reader, ArchivePoller)
        for _ in range(3):
            reader.stored(key, NOW)
        until(lambda: counted(shared), lambda found: found == (2, 2), timeout_s=5)
        archive.put("c")  # found only by listing
        reader.stored(archive.put("d"), NOW)  # the notification arrives before the next listing
        until(lambda: counted(shared), lambda found: found == (4, 4), timeout_s=5)
        reader.stored("rejected/anything", NOW)
        reader.stored(archive.put("e", prefix="set-aside"), NOW)
        reader.stored(archive.put("f"), NOW)
        until(lambda: counted(shared), lambda found: found == (5, 5), timeout_s=5)
    assert counted(shared) == (5, 5)
    assert len(archive.read) == len(set(archive.read)) == 4


def test_events_of_objects_dropped_from_a_full_read_queue_are_still_counted(shared, archive, monkeypatch):
    monkeypatch.setattr(ArchivePoller, "MAX_PENDING", 5)
    reader = ArchivePoller(shared)  # not running, so nothing is read yet
    for n in range(20):
        reader.stored(archive.put(f"{n}a", f"{n}b"), datetime.now(UTC))
    assert counted(shared) == (30, 40)
    with running(reader):
        until(lambda: counted(shared), lambda found: found == (40, 40), timeout_s=5)
    assert shared.ask(lambda: shared.state.events.held()["good"]) == 10


def test_objects_that_arrive_during_a_read_are_each_counted_once(shared, archive, monkeypatch):
    """A full queue drops its oldest notifications, but must not drop objects that are being read."""
    monkeypatch.setattr(ArchivePoller, "MAX_PENDING", 5)
    reader, read = ArchivePoller(shared), archive.body

    def read_in_a_crowd(key: str) -> bytes | None:
        if not archive.read:
            for n in range(20):
                reader.stored(archive.put(f"late {n}", f"later {n}"), datetime.now(UTC))
        return read(key)

    monkeypatch.setattr(archive, "body", read_in_a_crowd)
    for n in range(5):
        reader.stored(archive.put(f"early {n}"), datetime.now(UTC))
    reader._read_pending()
    assert counted(shared) == (45, 45)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"by\nhand", id="plain text"),
        pytest.param(b"\x1f\x8b", id="two bytes of a header"),
        pytest.param(gzip.compress(b"{}\n", mtime=0)[:-9], id="cut short"),
        pytest.param(b"", id="empty"),
    ],
)
def test_object_that_is_not_valid_gzip_does_not_stop_the_poller(shared, archive, body):
    with running(ArchivePoller(shared)) as reader:
        assert isinstance(reader, ArchivePoller)
        broken = archive.put("broken")
        archive.objects[broken] = (body, NOW)
        reader.stored(broken, NOW)
        reader.stored(archive.put("whole"), NOW)
        until(lambda: counted(shared)[0], lambda found: found == 1, timeout_s=5)
        assert state_of(shared, "archive")[0] != "down"
    assert counted(shared)[0] == 1


def test_pending_objects_are_each_counted_once_after_the_archive_recovers(shared, archive, monkeypatch):
    monkeypatch.setattr(polling, "RETRY_S", (0.02,))
    read, refusals = archive.body, iter(range(3))

    def refuse_three_times(key: str) -> bytes | None:
        if next(refusals, None) is not None:
            raise Refusal("could not read")
        return read(key)

    monkeypatch.setattr(archive, "body", refuse_three_times)
    with running(ArchivePoller(shared)) as reader:
        assert isinstance(reader, ArchivePoller)
        for n in range(12):
            reader.stored(archive.put(str(n)), datetime.now(UTC))
        until(lambda: counted(shared), lambda found: found == (12, 12), timeout_s=5)
    assert counted(shared) == (12, 12)


def test_object_deleted_before_it_is_read_does_not_stop_the_poller(shared, archive):
    with running(ArchivePoller(shared)) as reader:
        assert isinstance(reader, ArchivePoller)
        gone = archive.put("gone")
        del archive.objects[gone]
        reader.stored(gone, NOW)
        reader.stored(archive.put("there"), NOW)
        until(lambda: counted(shared)[0], lambda found: found == 1, timeout_s=5)
    assert counted(shared)[0] == 1


def test_objects_stored_while_the_archive_was_not_listed_for_hours_are_found_afterwards(shared, archive):
    """For example, S3 was down, or the computer was asleep."""
    reader = ArchivePoller(shared)
    reader._list()
    for hours in (3, 1):
        at = NOW - timedelta(hours=hours)
        made = lines_object("events", [b'{"_id": "e"}'], at)
        archive.objects[made.key] = (made.body, at)
    reader._listed_to -= timedelta(hours=4)
    reader._list()
    assert counted(shared)[1] == 2


def test_objects_stored_before_notifications_begin_are_found_without_waiting_for_the_next_regular_listing(
    shared, archive, monkeypatch
):
    monkeypatch.setattr(shared, "pace", Pace(listing=60.0, live_listing=60.0))
    queue = SimpleNamespace(open=lambda: archive.put("a"), receive=list)
    with running(ArchivePoller(shared)) as reader:
        assert isinstance(reader, ArchivePoller)
        until(lambda: reader._listed_at, lambda at: at > 0, timeout_s=5)
        QueueListener(shared, queue, reader).look()
        assert until(lambda: counted(shared), lambda found: found == (1, 1), timeout_s=5) == (1, 1)


def test_only_object_keys_of_the_latest_thirty_hours_are_kept():
    keys = Keys()
    known = [lines_object("events", [b"1"], NOW - timedelta(hours=hours)).key for hours in range(48, 0, -1)]
    for key in known:
        name = object_name(key)
        assert name
        assert keys.add(name)
        assert not keys.add(name)
    assert [key for key in known if key in keys] == known[-30:]
    assert "nonsense" not in keys


# --- visits without notifications


def test_end_of_a_visit_is_read_from_the_visits_table_if_there_are_no_notifications(
    shared, archive, monkeypatch
):
    row = {
        "device_id": "t1",
        "geofence_tag": "farm",
        "geofence_external_id": "f1",
        "entered_at": "2026-11-23T06:00:00.000000Z",
        "exited_at": None,
        "dwell_seconds": None,
        "entered_event_id": "e1",
        "exited_event_id": None,
        "exit_missed": False,
    }
    there = [row]
    closed = row | {"exited_at": "2026-11-23T06:10:00.000000Z", "exited_event_id": "e2"}
    monkeypatch.setattr(store_pollers.visits, "there_now", lambda *_: iter(there))
    monkeypatch.setattr(store_pollers.visits, "visits_of_device", lambda *_: [closed])
    with running(VisitPoller(shared, ArchivePoller(shared))):
        assert until(lambda: shared.ask(shared.state.visits.there), bool, timeout_s=5)
        there.clear()
        assert until(lambda: shared.ask(shared.state.visits.there), lambda rows: not rows, timeout_s=5) == []
    [last] = shared.ask(lambda: shared.state.visits.between("0", "9", None, None)).values()
    assert last.exited_at == closed["exited_at"]


def test_truck_that_was_parked_for_three_days_is_not_shown_at_its_place_after_it_has_left(
    shared, archive, monkeypatch
):
    """The console usually reads a truck's visits of the last two days, but this visit began earlier. Since it left,
    the truck has visited another place.
    """
    plant, farm = Fence("plant", "p1"), Fence("farm", "f1")
    parked = Visit(NOW - timedelta(days=3), "e1")
    left = Visit(parked.entered_at, "e1", NOW - timedelta(hours=2), "x1")
    later = Visit(NOW - timedelta(hours=1), "e2", NOW - timedelta(minutes=50), "x2")
    there = [notifications.fields_of(Pair("t1", plant), parked)]
    monkeypatch.setattr(store_pollers.visits, "there_now", lambda *_: iter(there))
    stored = [(Pair("t1", plant), left), (Pair("t1", farm), later)]
    monkeypatch.setattr(store_pollers.visits.read_stores, "device_visits", lambda *_: stored)
    with running(VisitPoller(shared, ArchivePoller(shared))):
        assert until(lambda: shared.ask(shared.state.visits.there), bool, timeout_s=5)
        there.clear()
        assert until(lambda: shared.ask(shared.state.visits.there), lambda rows: not rows, timeout_s=5) == []


@pytest.mark.parametrize("has_position", [True, False], ids=["new truck", "fence crossed"])
def test_visits_of_every_truck_are_read_even_if_there_are_many_and_one_query_fails(
    shared, archive, monkeypatch, has_position
):
    trucks = {f"t{n}" for n in range(50)}
    for truck in trucks:
        if has_position:
            shared.state.fleet.moved(Position(truck, 1.0, 1.0, 5.8, 53.1, "x"))
        else:
            shared.state._crossed[truck] = None
    read: list[str] = []
    faults = iter([expired()])

    def visits_of_device(_: object, __: str, device: str, ___: datetime) -> list[object]:
        if len(read) == 3 and (fault := next(faults, None)):
            raise fault
        read.append(device)
        return []

    monkeypatch.setattr(store_pollers.visits, "there_now", lambda *_: iter(()))
    monkeypatch.setattr(store_pollers.visits, "visits_of_device", visits_of_device)
    poller = VisitPoller(shared, ArchivePoller(shared))
    with pytest.raises(ClientError):
        poller.look()
    for _ in range(4):
        poller.look()
    assert set(read) == trucks


# --- the warehouse


def test_snowflake_session_is_reopened_after_a_lost_connection_but_not_after_a_missing_table(
    shared, monkeypatch
):
    opened: list[int] = []

    @contextmanager
    def warehouse(_: Outputs, give_up_after_s: int) -> Iterator[str]:
        assert give_up_after_s == 6
        opened.append(len(opened))
        yield f"session {opened[-1]}"

    monkeypatch.setattr(Outputs, "warehouse", warehouse)
    session = Session(shared.outputs, 6)
    for failure, opened_so_far in ((MissingObject("no mart"), 1), (Refusal("no connection"), 1), (None, 2)):
        with session() as found:
            assert found == f"session {opened_so_far - 1}"
        if failure:
            with pytest.raises(Refusal), session():
                raise failure
    assert opened == [0, 1]


class CountingLock:
    """A lock that counts the attempts to acquire it."""

    def __init__(self) -> None:
        self.threads = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.threads += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_requests_that_wait_for_the_session_fail_together_if_snowflake_does_not_respond(shared, monkeypatch):
    lock, attempts, failures = CountingLock(), list[int](), list[str]()

    @contextmanager
    def warehouse(*_: object) -> Iterator[str]:
        attempts.append(lock.threads)
        if len(attempts) == 1:
            assert until(lambda: lock.threads, lambda n: n == 4, timeout_s=10) == 4
            raise NoAnswerError("no answer from Snowflake")
        yield "session"

    monkeypatch.setattr(Outputs, "warehouse", warehouse)
    session = Session(shared.outputs, 6)
    monkeypatch.setattr(session, "_lock", lock)

    def request() -> None:
        try:
            with session():
                pass
        except NoAnswerError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert failures == ["no answer from Snowflake"] * 4
    assert len(attempts) == 1
    with session() as found:
        assert found == "session", "a later request tries again"


def test_file_that_was_loaded_while_no_page_was_open_is_not_reported_as_overdue(shared):
    now, hour = time.time(), 3600
    clock = [now - 3 * hour]
    state = shared.state = ConsoleState({"stage": "local"}, clock=lambda: clock[0])
    for source in ("archive", "snowflake"):
        state.sources.say(source, "ok")
    state.pipeline.warehouse_read_at = now - 5 * hour
    state.pipeline.archived("k", now - 3 * hour - 20, 1)
    state.pipeline.row()  # the console does this every minute

    class Warehouse:
        def query(self, sql: str, _: Sequence[object] = ()) -> list[dict[str, object]]:
            if "STG_EVENTS" in sql:
                raise MissingObject("dbt has not run")
            if "PIPE_STATUS" in sql:
                return [{"status": '{"executionState": "RUNNING"}'}]
            return [{"at": datetime.fromtimestamp(clock[0] - 3 * hour, UTC)}] if "SELECT MAX" in sql else []

    poller = WarehousePoller(shared, Session(shared.outputs, 6))
    poller._known_to, clock[0] = now - 5 * hour, now
    poller.ask(Warehouse())
    [loaded] = [each for each in shared.ask(state.pipeline.row)["stages"] if each["name"] == "loaded"]
    assert (loaded["state"], loaded["lag_s"]) == ("idle", None)


def test_warehouse_is_not_queried_while_no_page_is_open(shared, monkeypatch):
    asked: list[float] = []
    monkeypatch.setattr(WarehousePoller, "look", lambda _: asked.append(time.monotonic()) or 0.01)
    shared.state.viewers = 0
    with running(WarehousePoller(shared, Session(shared.outputs, 6))) as poller:
        until(lambda: state_of(shared, "snowflake")[0], lambda state: state == "idle", timeout_s=5)
        assert asked == []
        shared.ask(shared.state.look)
        poller.wake()
        until(lambda: len(asked), lambda n: n > 0, timeout_s=5)
    assert asked
