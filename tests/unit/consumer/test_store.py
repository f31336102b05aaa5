"""The store keeps what the rule says, whoever else writes, and whoever dies where."""

import random
import threading
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aws.errors import PermanentError
from consumer.keys import pair_key
from consumer.store import Added, RaceLost, Store
from consumer.visit_diff import Rule
from consumer.visits import Pair, pair_of, visits_of
from contract.events import Fence

from .fakes import FakeBus, FakeTable, Inline
from .strategies import World, event, events

HOME = Pair("truck-1", Fence("farm", "7"))
ONE_PAIR = World(devices=("truck-1",), fences=(Fence("farm", "7"),))
RULE = Rule()


def store(table: FakeTable, bus: FakeBus | None = None, rule: Rule = RULE) -> Store:
    return Store(table, bus or FakeBus(), rule, Inline())


def grouped(some):
    pairs = {}
    for e in some:
        pairs.setdefault(pair_of(e), []).append(e)
    return pairs


def told_state(told):
    """The visits as a receiver knows them that takes, per visit, the latest version it heard."""
    visits = {}
    for notice in sorted(told, key=lambda n: n.detail["version"]):
        detail = notice.detail
        was, now = detail.get("previous"), detail["visit"]
        if was and (now is None or now["entered_event_id"] != was["entered_event_id"]):
            visits.pop(
                (was["device_id"], was["geofence_tag"], was["geofence_external_id"], was["entered_event_id"]),
                None,
            )
        if now and (
            notice.kind != "visit_restated" or (was and was["entered_event_id"] == now["entered_event_id"])
        ):
            key = now["device_id"], now["geofence_tag"], now["geofence_external_id"], now["entered_event_id"]
            visits[key] = now["exited_event_id"], now["exit_missed"]
    return visits


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(events(), max_size=8), max_size=8),
    st.sampled_from([0, 2]),
    st.sampled_from([-1, 30, 120]),
)
def test_any_batching_of_any_events_ends_with_the_visits_of_their_set(batches, min_confidence, gap):
    rule = Rule(timedelta(seconds=gap), min_confidence)
    table, bus = FakeTable(), FakeBus()
    orphans = {}
    for batch in batches:
        for pair, added in store(table, bus, rule).add(grouped(batch)).items():
            assert isinstance(added, Added), added
            orphans[pair] = orphans.get(pair, 0) + added.orphan_exits
    expected = visits_of([e for b in batches for e in b], rule.merge_gap, min_confidence)
    for pair, history in expected.items():
        assert table.visits(pair_key(pair)) == list(history.visits)
        assert orphans[pair] == history.orphan_exits
    assert told_state(bus.told) == {
        (pair.device_id, *pair.fence, v.entered_event_id): (v.exited_event_id, v.exit_missed)
        for pair, history in expected.items()
        for v in history.visits
    }
    assert len({n.id for n in bus.told}) == len(bus.told)


@settings(deadline=None, max_examples=60)
@given(st.lists(events(ONE_PAIR), min_size=1, max_size=12))
def test_the_same_again_changes_nothing_and_tells_nothing(some):
    table, bus = FakeTable(), FakeBus()
    store(table, bus).add(grouped(some))
    before, told = dict(table.stored), len(bus.told)
    for result in store(table, bus).add(grouped(some)).values():
        assert (result.added, result.visits_changed, result.repeated + result.outdone) == (0, 0, len(some))
    assert (table.stored, len(bus.told)) == (before, told)


class Died(BaseException):
    """The process was killed."""


def stubborn(chance):
    """Chooses one actor for a while, so that others sleep through whole changes of it."""
    patience = chance.choice([0.0, 0.5, 0.9, 0.97])
    last = [""]

    def choose(names):
        if last[0] not in names or chance.random() > patience:
            last[0] = chance.choice(names)
        return last[0]

    return choose


class Stage:
    """Lets one of several actors make its next call, as `choose` decides, and kills some on the way."""

    def __init__(self, choose):
        self._choose = choose
        self._lock = threading.Condition()
        self._waiting = {}
        self._alive = 0
        self._on = None

    def turn_of(self, name, deaths):
        calls = iter(range(10**9))

        def turn(what):
            if next(calls) in deaths:
                raise Died
            with self._lock:
                self._waiting[name] = what
                self._pick()
                self._lock.wait_for(lambda: self._on == name)
                self._on = None
                del self._waiting[name]

        return turn

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
)
def test_consumers_of_one_device_that_interleave_and_die_anywhere_end_with_the_visits_of_the_set(
    batches_of, seed, deaths
):
    table, told = FakeTable(), []
    stage = Stage(stubborn(random.Random(seed)))
    errors = []

    def actor(name, batches, deaths):
        turn = stage.turn_of(name, deaths)
        mine = store(table.seen_by(turn), FakeBus(told, turn))

        def act():
            for batch in batches:
                for _ in range(100):  # Kinesis sends a batch until it is done
                    try:
                        results = mine.add(grouped(batch))
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
    assert table.visits(pair_key(HOME)) == list(expected.visits)
    # Nothing was lost: who hears all, in whatever order and however often, knows the visits.
    heard = {n.id: n for n in told}.values()
    assert told_state(heard) == {
        (*("truck-1", "farm", "7"), v.entered_event_id): (v.exited_event_id, v.exit_missed)
        for v in expected.visits
    }


def test_whoever_comes_next_finishes_and_publishes_what_a_dead_process_began():
    table, bus = FakeTable(), FakeBus()

    seen = []

    def dies_after_the_commit(what):
        seen.append(what)
        if "put if" in seen[:-1]:
            raise Died

    with pytest.raises(Died):
        store(table.seen_by(dies_after_the_commit), bus).add({HOME: [event("enter", 0, "a")]})
    assert bus.told == []
    store(table, bus).add({HOME: [event("exit", 600, "b")]})
    assert [n.kind for n in bus.told] == ["arrived", "departed"]
    (visit,) = table.visits(pair_key(HOME))
    assert (visit.entered_event_id, visit.exited_event_id) == ("a", "b")


def test_a_lost_race_names_no_device_because_its_text_is_logged(monkeypatch):
    class Contested(FakeTable):
        def put_version(self, item, expected):
            return False

    monkeypatch.setattr("consumer.store.time.sleep", lambda seconds: None)
    [failure] = store(Contested(), FakeBus()).add({HOME: [event("enter", 0, "a")]}).values()
    assert isinstance(failure, RaceLost)
    assert HOME.device_id not in str(failure)


def test_an_event_that_dynamodb_never_takes_is_found_by_halves_and_the_others_are_added():
    class Choosy(FakeTable):
        def put_version(self, item, expected):
            if "bad" in str(item["entry"]):
                raise PermanentError("ValidationException")
            return super().put_version(item, expected)

    some = [event("enter" if n % 2 else "exit", n * 10, f"e{n}") for n in range(20)]
    bad = [event("dwell", 55, "bad-1"), event("exit", 155, "bad-2")]
    table = Choosy()
    added = store(table).add({HOME: [*bad, *some]})[HOME]
    assert (set(added.refused), added.added) == ({"bad-1", "bad-2"}, 20)
    assert table.visits(pair_key(HOME)) == list(visits_of(some)[HOME].visits)


def test_it_says_how_many_visits_are_other_than_before():
    table = FakeTable()

    def changed(*some):
        return store(table).add({HOME: some})[HOME].visits_changed

    assert changed(event("enter", 0)) == 1
    assert changed(event("exit", 60)) == 1
    assert changed(event("exit", 70)) == 0
    assert changed(event("enter", 600), event("exit", 660), event("enter", 1200)) == 2
    assert changed(event("enter", 30)) == 2  # the first ends unclosed there, and a new one begins


def test_a_process_that_wakes_up_late_overwrites_nothing():
    table = FakeTable()
    store(table).add({HOME: [event("enter", 0, "a"), event("exit", 10, "b")]})

    def meanwhile(what):
        if seen.append(what) or seen.count("put if") != 2 or what != "put if":
            return
        # Between its commit and its put of the visit that it ended, another one lengthens that visit.
        store(table).add({HOME: [event("enter", 50, "c"), event("exit", 60, "e")]})

    seen = []
    store(table.seen_by(meanwhile)).add({HOME: [event("enter", 900, "d")]})
    assert table.visits(pair_key(HOME)) == list(
        visits_of(
            [
                event("enter", 0, "a"), event("exit", 10, "b"), event("enter", 900, "d"),
                event("enter", 50, "c"), event("exit", 60, "e"),
            ]
        )[HOME].visits
    )  # fmt: skip
    assert seen.count("put if") == 2


def test_what_the_bus_does_not_take_comes_again_with_the_same_id():
    table, bus = FakeTable(), FakeBus()
    seen = []
    bus.fails = lambda notice: len(seen) < 1 and not seen.append(notice)
    failed = store(table, bus).add({HOME: [event("enter", 0, "a")]})[HOME]
    assert isinstance(failed, ConnectionError)
    assert isinstance(store(table, bus).add({HOME: [event("enter", 0, "a")]})[HOME], Added)
    assert [n.id for n in bus.told] == [n.id for n in seen]


def test_a_late_event_reads_only_its_surroundings_however_long_the_history():
    table = FakeTable()
    day = [
        event(kind, n * 1000 + (500 if kind == "exit" else 0), f"{kind}{n}")
        for n in range(2000)
        for kind in ("enter", "exit")
    ]
    store(table).add({HOME: day})
    reads = []
    late = store(table.seen_by(reads.append))
    late.add({HOME: [event("dwell", 1_000_100, "late")]})
    assert reads.count("query") < 10
    assert table.visits(pair_key(HOME))[1000].last_seen_at == event("dwell", 1_000_100).occurred_at


def test_two_thousand_contents_in_one_batch_need_no_item_over_dynamodbs_limit():
    table = FakeTable()
    mad = [event("enter", n, "\x01" * 110 + f"{n:08}") for n in range(2000)]
    store(table).add({HOME: mad})
    assert len(table.visits(pair_key(HOME))) == 2000
    assert max(len(str(item)) for item in table.stored.values()) < 400_000
