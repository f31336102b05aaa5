"""Test that the stored visits follow the rule of `consumer.visits` and that no notification is lost.

Both must hold whatever other processes write and wherever a process is killed.
"""

import random
import threading
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aws.errors import NoResponseError, PermanentError
from consumer import item_layout
from consumer.store import EVENTS_PER_CHANGE, Added, Arrival, RaceLost, Store
from consumer.visits import Pair, Rule, pair_of, visits_of
from contract.events import Fence

from .fakes import FakeBus, FakeTable, Inline
from .strategies import World, event, events

HOME = Pair("truck-1", Fence("farm", "7"))
ONE_PAIR = World(devices=("truck-1",), fences=(Fence("farm", "7"),))
RULE = Rule()
# Bytes of a log, events that remain in it when it overflows, and bytes of a chunk. They are small, so that a few events
# reach every limit.
SIZES = st.tuples(st.sampled_from([0, 350, 864]), st.sampled_from([1, 3]), st.sampled_from([1, 120, 16_000]))


def small(sizes):
    log_bytes, kept, chunk_bytes = sizes
    return patch.multiple(item_layout, LOG_BYTES=log_bytes, KEPT_EVENTS=kept, CHUNK_BYTES=chunk_bytes)


def store(table: FakeTable, bus: FakeBus | None = None, rule: Rule = RULE) -> Store:
    return Store(table, bus or FakeBus(), rule, Inline())


def deliver(mine, batch, number, shard="shard"):
    """Add a batch to the store as consume() does; return results by pair. `number` is its position on the stream."""
    pairs = grouped(batch)
    return mine.add(pairs, dict.fromkeys(pairs, Arrival(shard, number, number)))


def grouped(some):
    pairs = {}
    for e in some:
        pairs.setdefault(pair_of(e), []).append(e)
    return pairs


def visits_known_to_a_receiver(notifications):
    """Return the visits that a subscriber derives from the notifications, using the latest version of each visit."""
    visits, began = {}, {}
    for notice in sorted(notifications, key=lambda n: n.detail["version"]):
        detail = notice.detail
        was, now = detail.get("previous"), detail["visit"]
        if was and (now is None or now["entered_event_id"] != was["entered_event_id"]):
            key = was["device_id"], was["geofence_tag"], was["geofence_external_id"], was["entered_event_id"]
            # Notifications of the same version may arrive in any order, and another visit may already use
            # this id.
            if began.get(key) == was["entered_at"]:
                visits.pop(key, None)
        if now and (
            notice.kind != "visit_restated" or (was and was["entered_event_id"] == now["entered_event_id"])
        ):
            key = now["device_id"], now["geofence_tag"], now["geofence_external_id"], now["entered_event_id"]
            visits[key] = now["exited_event_id"], now["exit_missed"]
            began[key] = now["entered_at"]
    return visits


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(events(), max_size=8), max_size=8),
    st.sampled_from([0, 2]),
    st.sampled_from([-1, 30, 120]),
    SIZES,
    st.randoms(use_true_random=False),
)
def test_any_batching_of_events_gives_the_same_visits(batches, min_confidence, gap, sizes, chance):
    """The maximum sizes of logs and chunks vary, and eventually consistent reads may be stale."""
    with small(sizes):
        check_any_batching(batches, min_confidence, gap, chance)


def check_any_batching(batches, min_confidence, gap, chance):
    rule = Rule(timedelta(seconds=gap), min_confidence)
    table, bus = FakeTable(stale=lambda key: chance.random() < 0.3), FakeBus()
    orphans = {}
    for number, batch in enumerate(batches):
        for pair, added in deliver(store(table, bus, rule), batch, number).items():
            assert isinstance(added, Added), added
            orphans[pair] = orphans.get(pair, 0) + added.orphan_exits
    expected = visits_of([e for b in batches for e in b], rule)
    for pair, history in expected.items():
        assert table.visits(pair) == list(history.visits)
        assert orphans[pair] == history.orphan_exits
    assert visits_known_to_a_receiver(bus.notified) == {
        (pair.device_id, *pair.fence, v.entered_event_id): (v.exited_event_id, v.exit_missed)
        for pair, history in expected.items()
        for v in history.visits
    }
    assert len({n.id for n in bus.notified}) == len(bus.notified)


def test_results_count_repeated_and_superseded_events_separately():
    some = [event("enter", 60, "a"), event("enter", 0, "a"), event("enter", 0, "a")]
    (result,) = deliver(store(FakeTable()), some, 1).values()
    assert (result.added, result.superseded, result.repeated) == (1, 1, 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(events(ONE_PAIR), min_size=1, max_size=12), SIZES)
def test_repeated_batch_changes_no_visit_and_sends_no_new_notification(some, sizes):
    table, bus = FakeTable(), FakeBus()
    with small(sizes):
        deliver(store(table, bus), some, 1)
        before, notified = dict(table.stored), list(bus.notified)
        for result in deliver(store(table, bus), some, 2).values():  # new positions, as after a replay
            assert (result.added, result.visits_changed) == (0, 0)
            assert result.repeated + result.superseded == len(some)
        assert (table.stored, bus.notified) == (before, notified)
        # Deliver the same batch again, as after a lost response or if the process was killed before it published.
        deliver(store(table, bus), some, 1)
        assert table.stored == before
        assert {n.id for n in bus.notified} == {n.id for n in notified}


class Died(BaseException):
    """Raised to simulate a killed process."""


def stubborn(chance):
    """Return a function that chooses the next actor. It may choose the same actor many times in a row, so that the
    others miss whole changes.
    """
    stay_probability = chance.choice([0.0, 0.5, 0.9, 0.97])
    last = [""]

    def choose(names):
        if last[0] not in names or chance.random() > stay_probability:
            last[0] = chance.choice(names)
        return last[0]

    return choose


class Stage:
    """A scheduler that runs several actors as threads, one call at a time.

    `choose` decides which actor makes the next call, and some calls kill their actor.
    """

    def __init__(self, choose):
        self._choose = choose
        self._lock = threading.Condition()
        self._waiting = {}
        self._alive = 0
        self._on = None

    def before_access_of(self, name, deaths):
        calls = iter(range(10**9))

        def before_access(what):
            if next(calls) in deaths:
                raise Died
            with self._lock:
                self._waiting[name] = what
                self._pick()
                self._lock.wait_for(lambda: self._on == name)
                self._on = None
                del self._waiting[name]

        return before_access

    def _pick(self):
        if self._on is None and len(self._waiting) == self._alive and self._waiting:
            self._on = self._choose(sorted(self._waiting))
            self._lock.notify_all()

    def play(self, actors):
        self._alive = len(actors)

        def run(act):
            try:
                act()
            finally:
                with self._lock:
                    self._alive -= 1
                    self._pick()

        threads = [threading.Thread(target=run, args=(act,)) for act in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.lists(st.lists(events(ONE_PAIR), min_size=1, max_size=4), min_size=1, max_size=3),
        min_size=2,
        max_size=3,
    ),
    st.integers(0, 10**6),
    st.lists(st.frozensets(st.integers(0, 60), max_size=3), min_size=3, max_size=3),
    SIZES,
)
def test_interleaved_consumers_killed_at_any_point_store_correct_visits_and_lose_no_notification(
    batches_of, seed, deaths, sizes
):
    with small(sizes):
        check_consumers_that_interleave(batches_of, seed, deaths)


def check_consumers_that_interleave(batches_of, seed, deaths):
    table, notifications = FakeTable(), []
    stage = Stage(stubborn(random.Random(seed)))
    errors = []

    def actor(name, batches, deaths):
        before_access = stage.before_access_of(name, deaths)
        mine = store(table.seen_by(before_access), FakeBus(notifications, before_access))

        def act():
            for number, batch in enumerate(batches):
                for _ in range(100):  # Lambda retries a batch until it succeeds
                    try:
                        results = deliver(mine, batch, number, shard=name)
                    except Died:
                        continue
                    if all(isinstance(r, Added) for r in results.values()):
                        break
                else:
                    errors.append(results)

        return act

    stage.play([actor(str(n), b, d) for n, (b, d) in enumerate(zip(batches_of, deaths, strict=False))])
    assert not errors
    expected = visits_of([e for batches in batches_of for b in batches for e in b])[HOME]
    assert table.visits(HOME) == list(expected.visits)
    # No notification was lost, because a receiver of all notifications knows the visits, in whatever order and however
    # often they arrived.
    heard = {n.id: n for n in notifications}.values()
    assert visits_known_to_a_receiver(heard) == {
        (*("truck-1", "farm", "7"), v.entered_event_id): (v.exited_event_id, v.exit_missed)
        for v in expected.visits
    }


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(events(ONE_PAIR), min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(0, 10**6),
    st.lists(st.frozensets(st.integers(0, 60), max_size=3), min_size=2, max_size=2),
    st.sets(st.integers(0, 12)),
    SIZES,
)
def test_no_notification_is_lost_when_two_workers_of_one_shard_are_killed_and_restarted(
    batches, seed, deaths, failures, sizes
):
    with small(sizes):
        check_shard_that_moves(batches, seed, deaths, failures)


def check_shard_that_moves(batches, seed, deaths, failures):
    """Check that two workers that read one shard at the same time lose no notification.

    Two workers read the same shard if one continues after losing its lease.
    """
    table, heard, checkpoint = FakeTable(), [], [0]
    stage = Stage(stubborn(random.Random(seed)))
    published = iter(range(10**9))

    def bus_fails(_notice):
        return next(published) in failures

    def actor(name, deaths):
        before_access = stage.before_access_of(name, deaths)
        mine = store(table.seen_by(before_access), FakeBus(heard, before_access, bus_fails))

        def act():
            for _ in range(200):
                number = checkpoint[0]
                if number == len(batches):
                    return
                with suppress(Died):
                    results = deliver(mine, batches[number], number)
                    if all(isinstance(result, Added) for result in results.values()):
                        checkpoint[0] = max(checkpoint[0], number + 1)

        return act

    stage.play([actor(str(n), dead) for n, dead in enumerate(deaths)])
    assert checkpoint == [len(batches)]
    expected = visits_of([e for batch in batches for e in batch])[HOME]
    assert table.visits(HOME) == list(expected.visits)
    assert visits_known_to_a_receiver({n.id: n for n in heard}.values()) == {
        (*("truck-1", "farm", "7"), v.entered_event_id): (v.exited_event_id, v.exit_missed)
        for v in expected.visits
    }


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(events(ONE_PAIR), min_size=1, max_size=10),
    st.integers(0, 10**6),
    st.lists(st.frozensets(st.integers(0, 60), max_size=3), min_size=2, max_size=2),
    SIZES,
)
def test_consumers_that_split_a_shard_into_different_batches_lose_no_notification(
    records, seed, deaths, sizes
):
    """`make kcl` runs a KCL worker beside the Lambda function, and each of them has its own checkpoint."""
    with small(sizes):
        check_other_batches(records, seed, deaths)


def check_other_batches(records, seed, deaths):
    table, heard, chance = FakeTable(), [], random.Random(seed)
    stage = Stage(stubborn(chance))

    def actor(name, deaths, until):
        before_access = stage.before_access_of(name, deaths)
        mine = store(table.seen_by(before_access), FakeBus(heard, before_access))

        def act():
            begins = 0
            while begins < len(records):
                ends = min(begins + until.choice([1, 2, 4]), len(records))
                try:
                    results = mine.add(
                        {HOME: records[begins:ends]}, {HOME: Arrival("shard", begins, ends - 1)}
                    )
                except Died:
                    if name == "0":
                        return  # this worker is not restarted
                    continue
                if all(isinstance(result, Added) for result in results.values()):
                    begins = ends

        return act

    stage.play([actor(str(n), dead, random.Random(seed + n)) for n, dead in enumerate(deaths)])
    expected = visits_of(records)[HOME]
    assert table.visits(HOME) == list(expected.visits)
    assert visits_known_to_a_receiver({n.id: n for n in heard}.values()) == {
        (*("truck-1", "farm", "7"), v.entered_event_id): (v.exited_event_id, v.exit_missed)
        for v in expected.visits
    }


def test_stale_read_of_the_log_does_not_lose_an_unpublished_change():
    """The process that wrote the chunk was killed before publishing, and the eventually consistent read returns an
    older log.
    """
    some = [event("enter", 0, "a"), event("enter", 600, "b"), event("enter", 1200, "c")]
    late = event("exit", 300, "late")
    table, bus, calls = FakeTable(), FakeBus(), []

    def dies_before_it_publishes(what):
        if what == "publish":
            raise Died

    with small((0, 1, 16_000)):
        deliver(store(table, bus), some, 1)
        with pytest.raises(Died):
            deliver(store(table, FakeBus(before_access=dies_before_it_publishes)), [late], 2)
        table.stale = lambda key: not calls and not calls.append(key)
        deliver(store(table, bus), [late], 2)
    assert calls
    assert [n.kind for n in bus.notified] == ["arrived", "arrived", "arrived", "visit_restated"]


def test_chunk_that_could_not_be_written_is_written_by_the_next_change():
    class Refusing(FakeTable):
        def put_newer(self, item):
            raise ConnectionError("no table")

    some = [event(kind, n * 300, f"{kind}{n}") for n in range(6) for kind in ["exit" if n % 2 else "enter"]]
    table = FakeTable()
    with small((0, 1, 16_000)):
        refusing = Refusing(table.stored)
        assert isinstance(deliver(store(refusing), some[:5], 1)[HOME], ConnectionError)
        deliver(store(table), some[5:], 2)  # Lambda has discarded the first batch
    assert table.visits(HOME) == list(visits_of(some)[HOME].visits)


def test_notifications_of_a_discarded_batch_are_sent_with_the_next_batch():
    table, bus = FakeTable(), FakeBus(fails=lambda notice: True)
    assert isinstance(deliver(store(table, bus), [event("enter", 0, "a")], 1)[HOME], ConnectionError)
    bus.fails = lambda notice: False
    deliver(store(table, bus), [event("exit", 600, "b")], 2)  # Lambda has discarded the first batch
    assert [n.kind for n in bus.notified] == ["arrived", "departed"]


def test_only_the_configured_kinds_of_notification_are_published():
    table, bus = FakeTable(), FakeBus()
    mine = Store(table, bus, RULE, Inline(), frozenset({"visit_restated"}))
    deliver(mine, [event("enter", 0, "a"), event("exit", 600, "b")], 1)
    deliver(mine, [event("exit", 300, "c")], 2)
    assert [n.kind for n in bus.notified] == ["visit_restated"]


def test_change_begun_by_a_killed_process_is_completed_and_published():
    table, bus = FakeTable(), FakeBus()

    seen = []

    def dies_after_the_commit(what):
        if "put if" in seen:
            raise Died
        seen.append(what)

    with pytest.raises(Died):
        store(table.seen_by(dies_after_the_commit), FakeBus(before_access=dies_after_the_commit)).add(
            {HOME: [event("enter", 0, "a")]}
        )
    assert bus.notified == []
    store(table, bus).add({HOME: [event("exit", 600, "b")]})
    assert [n.kind for n in bus.notified] == ["arrived", "departed"]
    (visit,) = table.visits(HOME)
    assert (visit.entered_event_id, visit.exited_event_id) == ("a", "b")


def test_lost_race_is_reported_without_the_device_id(monkeypatch):
    class Contested(FakeTable):
        def put_version(self, item, expected):
            return False

    monkeypatch.setattr("consumer.store.time", SimpleNamespace(sleep=lambda seconds: None))
    [failure] = store(Contested(), FakeBus()).add({HOME: [event("enter", 0, "a")]}).values()
    assert isinstance(failure, RaceLost)
    assert HOME.device_id not in str(failure)


@pytest.mark.parametrize("committed", [0, 100], ids=["before the commits", "after the commits"])
def test_pairs_do_not_wait_one_after_another_for_a_table_that_does_not_respond(committed):
    """A call without a response takes 9 s. Calls for 100 pairs, 16 at a time, would exceed the function's timeout."""

    class Silent(FakeTable):
        def put_version(self, item, expected):
            calls.append(item)
            if len(calls) > committed:
                raise NoResponseError("DynamoDB: TimeoutError")
            return super().put_version(item, expected)

    calls = []
    some = [event("enter", 0, f"e{n}", device=f"truck-{n}") for n in range(100)]
    results = deliver(store(Silent(), FakeBus(fails=lambda notice: True)), some, 1)
    assert len(calls) == committed + 1
    assert {type(result) for result in results.values()} == {NoResponseError}


def test_event_rejected_by_dynamodb_does_not_block_other_events_of_its_pair():
    class Choosy(FakeTable):
        def put_version(self, item, expected):
            if "bad" in str(item["events"]):
                raise PermanentError("ValidationException")
            return super().put_version(item, expected)

    some = [event("enter" if n % 2 else "exit", n * 10, f"e{n}") for n in range(20)]
    bad = [event("dwell", 55, "bad-1"), event("exit", 155, "bad-2")]
    table = Choosy()
    added = store(table).add({HOME: [*bad, *some]})[HOME]
    assert (set(added.refused), added.added) == ({"bad-1", "bad-2"}, 20)
    assert table.visits(HOME) == list(visits_of(some)[HOME].visits)


def test_adding_events_returns_the_number_of_changed_visits():
    table = FakeTable()

    def changed(*some):
        return store(table).add({HOME: some})[HOME].visits_changed

    assert changed(event("enter", 0)) == 1
    assert changed(event("exit", 60)) == 1
    assert changed(event("exit", 70)) == 0
    assert changed(event("enter", 600), event("exit", 660), event("enter", 1200)) == 2
    assert changed(event("enter", 30)) == 2  # the first visit ends without an exit, and a new one begins


def test_process_that_resumes_after_a_suspension_overwrites_no_newer_chunk():
    table, woken = FakeTable(), []

    def sleeps_before_its_chunk(what):
        if what == "put if" and woken.append(what) is None and len(woken) == 2:
            # Meanwhile another process changes the chunk that this one is about to write.
            store(table).add({HOME: [late]})

    some = [event("enter", 0, "a"), event("exit", 10, "b"), event("enter", 900, "d")]
    late = event("dwell", 5, "c")
    with small((0, 1, 16_000)):
        deliver(store(table), some[:2], 1)
        deliver(store(table.seen_by(sleeps_before_its_chunk)), some[2:], 2)
    assert table.visits(HOME) == list(visits_of([*some, late])[HOME].visits)
    assert len(woken) == 2


def test_failed_notification_is_resent_with_the_same_id():
    table, bus = FakeTable(), FakeBus()
    seen = []
    bus.fails = lambda notice: len(seen) < 1 and not seen.append(notice)
    failed = store(table, bus).add({HOME: [event("enter", 0, "a")]})[HOME]
    assert isinstance(failed, ConnectionError)
    assert isinstance(store(table, bus).add({HOME: [event("enter", 0, "a")]})[HOME], Added)
    assert [n.id for n in bus.notified] == [n.id for n in seen]


def test_late_event_causes_at_most_one_read_per_chunk_even_after_a_long_history():
    table = FakeTable()
    day = [
        event(kind, n * 1000 + (500 if kind == "exit" else 0), f"{kind}{n}")
        for n in range(2000)
        for kind in ("enter", "exit")
    ]
    deliver(store(table), day, 1)
    reads = []
    late = store(table.seen_by(reads.append))
    deliver(late, [event("dwell", 1_000_100, "late")], 2)
    assert reads.count("query") <= 4000 / EVENTS_PER_CHANGE + 2
    assert reads.count("put if") == 2  # one for the log, one for the event's chunk
    assert table.visits(HOME)[1000].last_seen_at == event("dwell", 1_000_100).occurred_at


def test_items_stay_below_400_kb_with_two_thousand_events_in_one_batch():
    table = FakeTable()
    mad = [event("enter", n, "\x01" * 110 + f"{n:08}") for n in range(2000)]
    store(table).add({HOME: mad})
    assert len(table.visits(HOME)) == 2000
    assert max(len(str(item)) for item in table.stored.values()) < 400_000
