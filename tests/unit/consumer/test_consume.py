"""Test the outcomes for a record: added to the visits, quarantined, retried, or ignored if its event is too old."""

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aws.errors import PermanentError
from consumer import main
from consumer.consume import Outcome, Ports, TimeNearlyUp, consume
from consumer.records import records_of
from consumer.store import Added, Store
from consumer.visits import DEFAULT_RULE, Pair, Rule, visits_of
from contract.events import Fence
from contract.settings import SettingsError

from .fakes import FakeBus, FakeSetAside, FakeTable, Inline
from .strategies import as_json, batch_of, event, events

HOME = Pair("truck-1", Fence("farm", "7"))
ENTER, EXIT = event("enter", 0, "a"), event("exit", 600, "b")


class World:
    def __init__(self):
        self.table, self.bus, self.aside = FakeTable(), FakeBus(), FakeSetAside()
        self.ports = Ports(Store(self.table, self.bus, Rule(), Inline()), self.aside)

    def consume(self, *datas, stream="geofence", **how) -> Outcome:
        return consume(records_of(batch_of(datas, stream=stream), "geofence"), self.ports, **how)

    def codes(self) -> list[str]:
        return [reason.code for p in self.aside.kept for reason in p.reasons]

    def visits(self):
        return self.table.visits(HOME)


class FailingStore:
    """A store that adds all events except those of the given devices, for which it returns the given errors."""

    def __init__(self, store, failing):
        self.store, self.failing = store, failing

    def add(self, events, arrivals):
        sound = {p: e for p, e in events.items() if p.device_id not in self.failing}
        added = self.store.add(sound, arrivals)
        return added | {p: self.failing[p.device_id] for p in events if p.device_id in self.failing}


def aggregated(*datas: bytes, spoil: bool = False) -> bytes:
    from aws_kinesis_agg.aggregator import RecordAggregator

    packed = RecordAggregator()
    for n, data in enumerate(datas):
        packed.add_user_record(f"key-{n}", data)
    _, _, body = packed.clear_and_get().get_contents()
    if spoil:  # make a key index invalid and recompute the digest
        message = body[4:-16].replace(b"\x08\x00", b"\x08\x63")
        body = body[:4] + message + hashlib.md5(message).digest()
    return body


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("%%% not base64", "not_base64"),
        (b"", "invalid_json_value"),
        (b"\xff\xfe", "invalid_json_value"),
        (b'{"_id": NaN}', "invalid_json_value"),
        (b"[]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (as_json(ENTER).replace(b"user.entered_geofence", b"pickup.done"), "not_a_geofence_event"),
        (as_json(ENTER).replace(b"deviceId", b"phone"), "missing_device"),
        (as_json(ENTER).replace(b'"geofence"', b'"fence"'), "missing_geofence"),
        (as_json(ENTER).replace(b'"_id"', b'"id"'), "missing_id"),
        (as_json(ENTER).replace(b"2026-11-16", b"2026-13-16"), "invalid_created_at"),
        (as_json(ENTER).replace(b"2026-11-16", b"9999-12-31"), "created_at_in_future"),
        (as_json(ENTER).replace(b"2026-11-16T08", b"2026-11-17T11"), "created_at_in_future"),
        (b'{"_id":"' + b"x" * (1024 * 1024 - 20) + b'"}', None),
        (as_json(ENTER).replace(b'"7"', b'"' + b"7" * 129 + b'"'), "field_length"),
        (b"\xf3\x89\x9a\xc2" + b"x" * 40, "invalid_json_value"),
        (aggregated(as_json(ENTER), spoil=True), "bad_aggregate"),
    ],
)
def test_poison_record_is_quarantined_and_its_neighbours_are_processed(data, code):
    world = World()
    outcome = world.consume(as_json(ENTER), data, as_json(EXIT))
    assert (outcome.stopped_at, outcome.consumed) == (None, 2)
    (poison,) = world.aside.kept
    assert code is None or code in world.codes()
    assert poison.record.sequence_number == "2"
    assert poison.record.data == (data.encode() if isinstance(data, str) else data)
    assert world.visits() == list(visits_of([ENTER, EXIT])[HOME].visits)


def test_records_of_another_stream_are_quarantined():
    world = World()
    assert world.consume(as_json(ENTER), stream="other").stopped_at is None
    assert world.codes() == ["wrong_stream"]


def test_batch_of_only_poison_records_has_a_quarantined_share_of_100_percent():
    world = World()
    outcome = world.consume(b"no", b"nor this")
    assert (len(world.aside.kept), outcome.set_aside_share, outcome.stopped_at) == (2, 100.0, None)


def test_event_that_is_too_old_is_counted_but_not_added_to_the_visits():
    world = World()
    outcome = world.consume(
        as_json(event("enter", -80 * 86400, "old")), as_json(event("enter", -79 * 86400, "kept"))
    )
    assert (outcome.too_old, outcome.consumed, len(world.visits())) == (1, 1, 1)


def test_records_aggregated_by_the_kpl_are_processed_one_by_one():
    world = World()
    outcome = world.consume(aggregated(as_json(ENTER), b"poison", as_json(EXIT)))
    assert (outcome.records, outcome.consumed) == (3, 2)
    (poison,) = world.aside.kept
    assert (poison.record.sub_sequence_number, poison.record.partition_key) == (1, "key-1")
    assert len(world.visits()) == 1


def test_deaggregation_does_not_need_the_kpl_helpers():
    """Importing the KPL helpers changes sys.path, so this test uses a process that has not imported them."""
    code = f"""
from consumer.records import records_of
print([r.data for r in records_of({batch_of([aggregated(b"a", b"b")])!r})])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[b'a', b'b']"


def test_outcome_names_the_first_failed_record_and_its_error():
    world = World()
    failing = {"truck-3": ConnectionError("throttled"), "truck-2": TimeoutError("slow")}
    ports = Ports(FailingStore(world.ports.store, failing), world.aside)
    datas = [as_json(event("enter", n, device=f"truck-{n}")) for n in range(1, 6)]
    outcome = consume(records_of(batch_of(datas)), ports)
    assert outcome.stopped_at.sequence_number == "2"
    assert isinstance(outcome.failure, TimeoutError)
    assert outcome.consumed == 3


def test_change_committed_by_a_killed_consumer_is_published_with_the_next_batch():
    """The killed consumer is a KCL worker that runs beside the Lambda function, as with `make kcl`.

    The worker received both events in one batch, the function in two.
    """
    world, calls = World(), []

    class Died(BaseException):
        pass

    def dies_after_the_commit(what):
        if "put if" in calls:
            raise Died
        calls.append(what)

    table, bus = world.table.seen_by(dies_after_the_commit), FakeBus(before_access=dies_after_the_commit)
    other = Ports(Store(table, bus, Rule(), Inline()), world.aside)
    world.consume(as_json(ENTER))
    with pytest.raises(Died):
        consume(records_of(batch_of([as_json(ENTER), as_json(EXIT)])), other)
    consume(records_of(batch_of([as_json(EXIT)], first=2)), world.ports)
    assert [n.kind for n in world.bus.notified] == ["arrived", "departed"]


def test_consumer_stops_after_a_group_of_pairs_with_a_failure_or_when_time_runs_out():
    """The consumer adds the events of 100 pairs (PAIRS_AT_ONCE) at a time."""
    world = World()
    ports = Ports(FailingStore(world.ports.store, {"truck-7": ConnectionError()}), world.aside)
    datas = [as_json(event("enter", n, device=f"truck-{n}")) for n in range(230)]
    assert consume(records_of(batch_of(datas)), ports).consumed == 99
    time = iter([True, True, False])
    outcome = World().consume(*datas, has_time=lambda: next(time))
    assert (outcome.consumed, outcome.stopped_at.sequence_number) == (200, "201")
    assert isinstance(outcome.failure, TimeNearlyUp)


def test_record_that_cannot_be_quarantined_is_retried():
    world = World()
    world.aside.failure = ConnectionError("no S3")
    outcome = world.consume(as_json(ENTER), b"poison", as_json(EXIT))
    assert outcome.stopped_at.sequence_number == "2"
    assert world.aside.kept == []


def test_all_events_of_a_pair_are_quarantined_if_the_store_rejects_the_pair_permanently():
    world = World()
    ports = Ports(FailingStore(world.ports.store, {"truck-1": PermanentError("key too long")}), world.aside)
    outcome = consume(records_of(batch_of([as_json(ENTER), as_json(EXIT)])), ports)
    assert (outcome.stopped_at, world.codes()) == (None, ["refused_by_store"] * 2)


def test_if_the_store_rejects_only_some_events_of_a_pair_only_these_are_quarantined():
    class Choosy(FailingStore):
        def add(self, events, arrivals):
            return {p: Added(added=1, refused={"b": PermanentError("no")}) for p in events}

    world = World()
    outcome = consume(
        records_of(batch_of([as_json(ENTER), as_json(EXIT)])), Ports(Choosy(None, {}), world.aside)
    )
    assert (outcome.consumed, outcome.stopped_at, world.codes()) == (1, None, ["refused_by_store"])
    assert world.aside.kept[0].record.sequence_number == "2"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(events().map(as_json), st.just(b"poison"), st.just("%")), max_size=25),
    st.sets(st.sampled_from(["truck-1", "truck#2"])),
)
def test_every_record_is_added_quarantined_or_retried(datas, failing):
    world = World()
    ports = Ports(FailingStore(world.ports.store, dict.fromkeys(failing, ConnectionError())), world.aside)
    records = list(records_of(batch_of(datas)))
    outcome = consume(records, ports)
    done = [r for r in records if outcome.stopped_at is None or r.position < outcome.stopped_at.position]
    aside = {p.record.position for p in world.aside.kept}
    good = [r for r in done if r.position not in aside]
    assert all(r.position in aside for r in done if r.fault or r.data == b"poison")
    again = consume(good, Ports(Store(world.table, FakeBus(), Rule(), Inline()), FakeSetAside()))
    assert (again.added, again.visits_changed, again.consumed) == (0, 0, len(good))


@pytest.mark.parametrize(("milliseconds", "first_again"), [(14_900, ["1"]), (15_100, [])])
def test_function_starts_no_work_that_may_outlast_its_timeout(monkeypatch, milliseconds, first_again):
    class Context:
        aws_request_id = "r"

        def get_remaining_time_in_millis(self):
            return milliseconds

    environment = {"ARCHIVE_BUCKET": "archive", "VISITS_TABLE": "visits", "EVENT_BUS_NAME": "bus"}
    app = main.Settings.of(environment), World().ports
    monkeypatch.setattr(main, "app_of", lambda: app)
    answer = main.consume(batch_of([as_json(ENTER)]), Context())
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == first_again


@pytest.mark.parametrize("level", ["-1", "4", "1.5", "high"])
def test_minimum_confidence_that_no_event_can_have_is_refused(level):
    environment = {"ARCHIVE_BUCKET": "archive", "VISITS_TABLE": "visits", "EVENT_BUS_NAME": "bus"}
    with pytest.raises(SettingsError, match="MIN_CONFIDENCE"):
        main.Settings.of(environment | {"MIN_CONFIDENCE": level})


def test_empty_visit_rule_settings_mean_the_default_rule_but_empty_notifications_are_refused():
    environment = {"ARCHIVE_BUCKET": "archive", "VISITS_TABLE": "visits", "EVENT_BUS_NAME": "bus"}
    rule = main.Settings.of(environment | {"MERGE_GAP_SECONDS": "", "MIN_CONFIDENCE": ""}).rule
    assert rule == DEFAULT_RULE
    with pytest.raises(SettingsError, match="NOTIFICATIONS"):
        main.Settings.of(environment | {"NOTIFICATIONS": ""})
