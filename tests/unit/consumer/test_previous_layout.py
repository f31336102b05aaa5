"""Test that a (device, fence) pair is migrated from the table's previous layout by its next event or by the operator.

`previous_layout.json` contains the items that the previous version of the consumer wrote. In some cases the consumer
completed all changes. In others it was stopped in the middle of its last change, or some of the items have expired.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from consumer import previous_layout
from consumer.item_lifetime import KEPT_FOR
from consumer.keys import timestamp
from consumer.visits import visits_of

from .fakes import FakeBus, FakeTable
from .strategies import START, event
from .test_item_lifetime import DAY
from .test_store import HOME, Died, deliver, store

CASES = {
    case["name"]: case for case in json.loads(Path(__file__).with_name("previous_layout.json").read_text())
}

NOW = START.timestamp()  # no item has expired at this time


def old_table(case):
    table = FakeTable()
    table.stored = {(item["pk"], item["sk"]): item for item in case["items"]}
    return table


def sent(case):
    return [event(each.pop("kind"), each.pop("seconds"), **each) for each in map(dict, case["events"])]


def is_complete(name):
    return not name.startswith("stopped") and "expired" not in name


@pytest.mark.parametrize("name", [name for name in CASES if is_complete(name)])
def test_migration_keeps_the_visits_of_a_pair_and_publishes_no_notification(name):
    case, bus = CASES[name], FakeBus()
    table = old_table(case)
    expected = visits_of(sent(case))
    for pair in expected:
        assert previous_layout.move(table, bus, pair, store(table).rule, NOW)
        assert table.visits(pair) == list(expected[pair].visits)
    assert bus.notified == []


@pytest.mark.parametrize("name", [name for name in CASES if "expired" not in name])
def test_next_event_migrates_a_pair_wherever_the_previous_consumer_stopped(name, monkeypatch):
    """The last batch is delivered again with one more event."""
    monkeypatch.setattr(previous_layout, "time", SimpleNamespace(time=lambda: NOW))
    case, bus = CASES[name], FakeBus()
    table, events = old_table(case), sent(case)
    batch = [*events[-4:], event("enter", 3600, "next")]
    deliver(store(table, bus), batch, 1)
    expected = visits_of([*events, batch[-1]])[HOME]
    assert table.visits(HOME) == list(expected.visits)
    if name.startswith("stopped"):
        # Notifications that the previous version did not publish are published now.
        wanted = ids_of_the_last_notifications(case)
        assert wanted <= {n.id for n in bus.notified} | set(case["told"])


def test_pair_in_the_previous_layout_is_found_despite_a_stale_read():
    """An eventually consistent read may miss the pair's item `head` if it was just written."""
    case = CASES["many visits"]
    table, events = old_table(case), sent(case)
    table.stale = lambda key: True
    deliver(store(table), [event("enter", 3600, "next")], 1)
    expected = visits_of([*events, event("enter", 3600, "next")])[HOME]
    assert table.visits(HOME) == list(expected.visits)


def ids_of_the_last_notifications(case):
    """Return the ids of the notifications of a pair's last change, whether they were published or not."""
    items = {item["sk"]: item for item in case["items"]}
    entry = json.loads(items["head"]["entry"])
    return {id_ for id_, _, _ in entry["told"]}


def test_open_visit_is_kept_after_its_events_have_expired():
    case = CASES["an open visit whose events have expired"]
    table = old_table(case)
    deliver(store(table), [event("exit", 101 * DAY, "left")], 1)
    (visit,) = table.visits(HOME)
    assert (visit.entered_event_id, visit.exited_event_id) == ("parked", "left")
    assert timestamp(visit.last_seen_at) == "2027-02-24T08:00:00.000000Z"


def test_re_entry_after_an_exit_that_has_expired_does_not_split_the_visit():
    case = CASES["a flap whose exit has expired"]
    table = old_table(case)
    assert any("#parked" in sk for _, sk in table.stored)  # DynamoDB has not deleted it yet
    now = event("exit", DAY).occurred_at + KEPT_FOR
    previous_layout.move(table, FakeBus(), HOME, store(table).rule, now.timestamp())
    deliver(store(table), [event("exit", 31 * DAY, "left")], 1)
    (visit,) = table.visits(HOME)
    assert (visit.entered_event_id, visit.exited_event_id, visit.exit_missed) == ("parked", "left", False)


@pytest.mark.parametrize("calls", range(12))
def test_interrupted_migration_is_completed_by_the_next_one(calls):
    case, bus, count = CASES["many visits"], FakeBus(), iter(range(99))

    def dies(_):
        if next(count) == calls:
            raise Died

    table = old_table(case)
    rule = store(table).rule
    try:
        previous_layout.move(table.seen_by(dies), bus, HOME, rule)
    except Died:
        previous_layout.move(table, bus, HOME, rule)
    assert table.visits(HOME) == list(visits_of(sent(case))[HOME].visits)


def test_previous_version_cannot_change_a_migrated_pair():
    """The migration changes the version of the pair's item `head` and removes its attribute `through`.

    The previous consumer writes a `head` only if its version is unchanged, and fails on one without `through`.
    """
    case = CASES["many visits"]
    table = old_table(case)
    before = dict(table.stored[HOME_KEY])
    previous_layout.move(table, FakeBus(), HOME, store(table).rule)
    assert not table.put_version(before | {"version": before["version"] + 1}, before["version"])
    assert "through" not in table.stored[HOME_KEY]
    assert "fence_now" not in table.stored[HOME_KEY]


HOME_KEY = previous_layout.head_key(HOME)
