"""Plant bugs in the real code, and test that the checker detects each of them.

Without a bug, the checker must find no breach under the same load and the same faults.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch
from uuid import uuid4

import pytest

import consumer.item_layout
import consumer.keys
import consumer.store
import consumer.visit_diff
import consumer.visits
import handler.ingest
from aws.archive import Archive
from aws.errors import RetryableError
from aws.stream import KinesisStream
from consumer.consume import Outcome
from consumer.event_bus import EventBus
from consumer.notifications import Notification
from contract.archive_object import LinesObject, Prefix, lines_object
from handler.ingest import Delivery, Effects, Ports
from handler.receipt import Receipt
from handler.validate import Batch
from tests.faults import inprocess
from tests.faults.checker import Breach, Kind
from tests.faults.fault_proxy import Fault, Proxy, Rule
from tests.faults.harness import contradicted, converged
from tests.faults.inprocess import Snowflake, moto, pipeline
from tools.fleet.phones import posts
from tools.fleet.traffic_parameters import Plan

type Bug = Callable[[], AbstractContextManager[object]]
type Faults = Callable[[], Sequence[Rule]]

NO_HISTORY = "from local_snowflake.loader import Loader; Loader.loaded_by_pipe = lambda *_: set()"


# --- faults (a rule counts its calls, so each run needs new rules)


def s3_refuses() -> Sequence[Rule]:
    return [Rule(Fault.REFUSED, "s3", "PutObject", times=6)]


def kinesis_takes_half() -> Sequence[Rule]:
    return [Rule(Fault.PARTLY, "kinesis", "PutRecords", share=0.5)]


def kinesis_and_queue_refuse() -> Sequence[Rule]:
    return [
        Rule(Fault.THROTTLED, "kinesis", "PutRecords", times=30),
        Rule(Fault.REFUSED, "sqs", "SendMessage", times=6),
    ]


def table_throttles() -> Sequence[Rule]:
    return [Rule(Fault.THROTTLED, "dynamodb", "BatchGetItem", times=9)]


def bus_throttles() -> Sequence[Rule]:
    return [Rule(Fault.THROTTLED, "events", times=6)]


def bus_responses_are_lost() -> Sequence[Rule]:
    return [Rule(Fault.CUT_AFTER, "events", times=8)]


def s3_fails_and_phones_break() -> Sequence[Rule]:
    return [Rule(Fault.REFUSED, "s3", "PutObject", share=0.7)]


def deleting_messages_fails() -> Sequence[Rule]:
    return [Rule(Fault.CUT_BEFORE, "sqs", "DeleteMessageBatch", times=9)]


# --- bugs


@contextmanager
def answer_although_s3_failed() -> Iterator[None]:
    store = Archive.store

    def storing(self: Archive, stored: LinesObject, facts: object) -> None:
        with suppress(RetryableError):
            store(self, stored, facts)

    with patch.object(Archive, "store", storing):
        yield


@contextmanager
def drop_refused_records() -> Iterator[None]:
    put = KinesisStream.put

    def dropping(self: KinesisStream, records: object) -> list[object]:
        put(self, records)
        return []

    with patch.object(KinesisStream, "put", dropping):
        yield


@contextmanager
def skip_after_an_exception() -> Iterator[None]:
    with patch.object(Outcome, "stop_at", lambda *_: None):
        yield


@contextmanager
def load_without_history() -> Iterator[None]:
    """Do nothing here, because NO_HISTORY plants the bug in the local Snowflake's process."""
    yield


@contextmanager
def not_published_if_archived() -> Iterator[None]:
    """Publish nothing if S3 returns 412 (the object exists), although the first attempt may have failed between
    S3 and Kinesis.
    """
    store, publish, is_new = Archive.store, handler.ingest._publish, [True]

    def remembering(self: Archive, lines: LinesObject, facts: object) -> bool:
        is_new[0] = store(self, lines, facts)
        return is_new[0]

    def only_new(*given: object, **named: object) -> None:
        if is_new[0]:
            publish(*given, **named)

    with (
        patch.object(handler.ingest, "_publish", only_new),
        patch.object(Archive, "store", remembering),
    ):
        yield


@contextmanager
def keys_from_the_clock() -> Iterator[None]:
    """Give the object of each attempt a new key, so that a repeated request is archived again."""

    def by_clock(
        prefix: Prefix, lines: Sequence[bytes], received_at: datetime, gzipped: Callable[[bytes], bytes]
    ) -> LinesObject:
        made = lines_object(prefix, lines, received_at, gzipped)
        folder, _, name = made.key.rpartition("/")
        digest = f"{datetime.now(UTC).timestamp():.6f}".replace(".", "").rjust(64, "0")
        return replace(made, key=f"{folder}/{digest}{name[64:]}")

    with patch.object(handler.ingest, "lines_object", by_clock):
        yield


@contextmanager
def rejects_not_archived() -> Iterator[None]:
    store = Archive.store

    def without_rejects(self: Archive, lines: LinesObject, facts: object) -> bool:
        return True if lines.key.startswith("rejected/") else store(self, lines, facts)

    with patch.object(Archive, "store", without_rejects):
        yield


@contextmanager
def rejects_also_accepted() -> Iterator[None]:
    real = handler.ingest.ingest

    def ingest(batch: Batch, ports: Ports, delivery: Delivery, effects: Effects) -> Receipt:
        receipt = real(batch, ports, delivery, effects)
        if lines := [r.text for r in batch.rejected if r.is_json and r.event_id]:
            ports.archive.store(lines_object("events", lines, delivery.received_at), {})
        return receipt

    with patch("handler.main.ingest_batch", ingest):
        yield


@contextmanager
def visits_never_merge() -> Iterator[None]:
    real = consumer.visits.walk

    def walk(visit: object, events: object, rule: object) -> object:
        return real(visit, events, replace(rule, merge_gap=timedelta(seconds=-1)))

    with (
        patch.object(consumer.visit_diff, "walk", walk),
        patch.object(consumer.store, "walk", walk),
        patch.object(consumer.item_layout, "walk", walk),
    ):
        yield


@contextmanager
def late_events_are_applied_last() -> Iterator[None]:
    real = consumer.store.Store._changed

    def changed(self: object, job: object, new: object, earlier: object) -> object:
        diff, log = real(self, job, new, earlier)
        events = sorted(log.events, key=lambda event: event in new.added)
        return diff, replace(log, events=tuple(events))

    # One record per batch, because otherwise late events share a batch with the events that they should precede.
    with patch.object(consumer.store.Store, "_changed", changed), patch.object(inprocess, "BATCH_SIZE", 1):
        yield


@contextmanager
def failed_notifications_are_not_retried() -> Iterator[None]:
    publish = EventBus.publish

    def without_failures(self: EventBus, notifications: object) -> dict[str, Exception]:
        publish(self, notifications)
        return {}

    with patch.object(EventBus, "publish", without_failures):
        yield


@contextmanager
def published_before_archived() -> Iterator[None]:
    real = handler.ingest.ingest

    def ingest(batch: Batch, ports: Ports, delivery: Delivery, effects: Effects) -> Receipt:
        if records := handler.ingest.geofence_records(batch):
            handler.ingest._publish(records, ports, delivery, effects)
        return real(batch, ports, delivery, effects)

    with patch("handler.main.ingest_batch", ingest):
        yield


@contextmanager
def other_contents_are_dropped() -> Iterator[None]:
    """Ignore an event with a known id even if its content differs."""
    real = consumer.store._new

    def by_id(job: object, earlier: object) -> object:
        new = real(job, earlier)
        known = {event.event_id for event in new.replaced}
        return new._replace(added=[event for event in new.added if event.event_id not in known], replaced=[])

    with patch.object(consumer.store, "_new", by_id):
        yield


@contextmanager
def notifications_get_a_new_id_per_try() -> Iterator[None]:
    publish = EventBus.publish

    def renamed(self: EventBus, notifications: object) -> dict[str, Exception]:
        now = []
        for notice in notifications:
            id_ = uuid4().hex
            now.append(Notification(id_, notice.kind, {**notice.detail, "id": id_}))
        failed = publish(self, now)
        return {
            old.id: failed[new.id] for old, new in zip(notifications, now, strict=True) if new.id in failed
        }

    with patch.object(EventBus, "publish", renamed):
        yield


@contextmanager
def every_notification_is_arrived() -> Iterator[None]:
    publish = EventBus.publish

    def misnamed(self: EventBus, notifications: object) -> dict[str, Exception]:
        return publish(self, [notice._replace(kind="arrived") for notice in notifications])

    with patch.object(EventBus, "publish", misnamed):
        yield


@contextmanager
def dwells_are_not_stored() -> Iterator[None]:
    real = consumer.item_layout.packed

    def packed(events: object) -> str:
        return real([event for event in events if event.kind != "dwell"])

    with patch.object(consumer.item_layout, "packed", packed):
        yield


@contextmanager
def ended_visits_are_in_the_index_of_open_visits() -> Iterator[None]:
    real = consumer.item_layout.log_item

    def log_item(pair: object, log: object, rule: object) -> object:
        entered_at = consumer.keys.timestamp(log.events[-1].occurred_at)
        at = {"fence_now": consumer.keys.fence_key(pair.fence), "entered_at": entered_at}
        return at | {"entered_event_id": log.events[-1].event_id} | real(pair, log, rule)

    with patch.object(consumer.item_layout, "log_item", log_item):
        yield


# --- the tests

FOUR: list[tuple[Bug, Faults, Kind]] = [
    (answer_although_s3_failed, s3_refuses, "lost"),
    (drop_refused_records, kinesis_takes_half, "wrong visit"),
    (skip_after_an_exception, table_throttles, "wrong visit"),
    (load_without_history, deleting_messages_fails, "duplicated"),
]
MORE: list[tuple[Bug, Faults, Kind]] = [
    (not_published_if_archived, kinesis_and_queue_refuse, "wrong visit"),
    (keys_from_the_clock, kinesis_and_queue_refuse, "duplicated"),
    (rejects_not_archived, list, "lost"),
    (rejects_also_accepted, list, "both"),
    (visits_never_merge, list, "wrong visit"),
    (late_events_are_applied_last, list, "wrong visit"),
    (failed_notifications_are_not_retried, bus_throttles, "notification"),
    (notifications_get_a_new_id_per_try, bus_responses_are_lost, "notification"),
    (every_notification_is_arrived, list, "notification"),
    (other_contents_are_dropped, list, "wrong visit"),
    (dwells_are_not_stored, list, "wrong visit"),
    (ended_visits_are_in_the_index_of_open_visits, list, "wrong visit"),
    (published_before_archived, s3_fails_and_phones_break, "wrong visit"),
]
BUGS = [*(pytest.param(*bug, marks=pytest.mark.short) for bug in FOUR), *MORE]
FAULTS = list(dict.fromkeys(faults for _, faults, _ in [*FOUR, *MORE]))


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture(scope="module")
def proxy(aws: str) -> Iterator[Proxy]:
    with Proxy(aws) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def sound(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snowflake]:
    process = Snowflake(tmp_path_factory.mktemp("sound") / "snowflake", proxy.url)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def forgetful(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snowflake]:
    process = Snowflake(tmp_path_factory.mktemp("forgetful") / "snowflake", proxy.url, NO_HISTORY)
    process.start()
    yield process
    process.stop()


def breaches(
    aws: str, proxy: Proxy, snowflake: Snowflake, faults: Faults, no_progress_s: float
) -> list[Breach]:
    """Send a morning's requests under these faults through the pipeline, as it is patched now; return the breaches."""
    plan = Plan("5eedb065", datetime.now(UTC) - timedelta(hours=8), trucks=3, farms=6, rounds=1)
    plan = replace(plan, batch_size=8, duplicates=0.1, late=0.25, invalid=0.03)
    with pipeline(aws, proxy, snowflake) as line, proxy.rules(*faults()):
        phones = line.phones(breaking=faults is s3_fails_and_phones_break)
        phones.send(contradicted(posts(plan)))
        exchanges = phones.exchanges()
        phones.stop()
        line.drain()
        return converged(lambda: line.facts(exchanges), no_progress_s)[0]


@pytest.mark.parametrize("faults", FAULTS, ids=lambda faults: faults.__name__)
def test_code_without_bugs_breaks_no_promise(
    aws: str, proxy: Proxy, sound: Snowflake, faults: Faults
) -> None:
    assert breaches(aws, proxy, sound, faults, no_progress_s=30) == []


@pytest.mark.parametrize(("bug", "faults", "kind"), BUGS, ids=lambda value: getattr(value, "__name__", value))
def test_seeded_bug_is_detected(
    aws: str, proxy: Proxy, request: pytest.FixtureRequest, bug: Bug, faults: Faults, kind: Kind
) -> None:
    snowflake = request.getfixturevalue("forgetful" if bug is load_without_history else "sound")
    with bug():
        found = breaches(aws, proxy, snowflake, faults, no_progress_s=4)
    assert kind in {breach.kind for breach in found}, found[:5]
