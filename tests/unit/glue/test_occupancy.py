"""Test the windows in which a device counts as inside a fence, and the overdue visits.

The expected results come from a simple simulation. Events in several batches must give the same results as in one
batch, unless an event arrives after its window is decided.
"""

import random
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from contract.geofence_event_types import Kind
from glue.occupancy import SECOND_US, Crossing, Found, State, Times, advance, crossing, loads, next_timeout

MINUTE = 60 * SECOND_US
TIMES = Times(window=5 * MINUTE, overdue=12 * MINUTE, abandoned=40 * MINUTE)
END = 200 * MINUTE

KINDS: tuple[Kind, ...] = get_args(Kind)
crossings = st.lists(
    st.builds(
        crossing,
        st.integers(0, 120).map(lambda minute: minute * MINUTE),
        st.sampled_from(KINDS),
        st.integers(0, 40).map(lambda n: f"e{n}"),
    ),
    max_size=25,
)


def simulated(events: list[Crossing], until: int) -> Found:
    """Simulate the stays and return the expected windows and overdue visits. The event times are whole minutes."""
    least: dict[str, Crossing] = {}
    for each in events:
        least[each.event_id] = min(each, least.get(each.event_id, each))
    stays: list[tuple[int, int]] = []  # entered, left
    overdue, since = [], None
    for each in [*sorted(least.values()), None]:
        if since is not None and (each is None or each.rank != 1):
            left = min(each.at if each else until + TIMES.abandoned, since + TIMES.abandoned + 1)
            stays.append((since, left))
            if since + TIMES.overdue < (each.at if each else until):
                overdue.append(since)
        if each is not None and each.rank != 1:
            since = each.at if each.rank == 0 else None
    windows = range(0, until - TIMES.window + 1, TIMES.window)
    inside = [w for w in windows if any(a < w + TIMES.window and (b > w or a >= w) for a, b in stays)]
    return Found(tuple(inside), tuple(overdue))


@settings(max_examples=300, deadline=None)
@given(crossings)
def test_one_batch_with_all_events_gives_the_simulated_windows_and_overdue_visits(
    events: list[Crossing],
) -> None:
    assert advance(State(), events, END, TIMES)[1] == simulated(events, END)


@settings(max_examples=200, deadline=None)
@given(crossings, st.integers(0, 10**6))
def test_order_and_batching_within_the_allowed_lateness_do_not_change_windows_or_overdue_visits(
    events: list[Crossing], seed: int
) -> None:
    """Events arrive up to ten minutes late, and the watermark is ten minutes behind the newest event."""
    pick = random.Random(seed)
    coming = sorted(events, key=lambda each: each.at + pick.randrange(0, 10 * MINUTE))
    state, inside, overdue, newest = State(), [], [], 0
    seen: set[str] = set()
    for each in coming:
        if each.event_id in seen:
            continue  # a late event with a known id but different content would make the results differ
        seen.add(each.event_id)
        newest = max(newest, each.at)
        state, found = advance(loads(state.dumps()), [each], newest - 10 * MINUTE, TIMES)
        inside += found.inside
        overdue += found.overdue
    state, found = advance(state, [], END, TIMES)
    used = [each for n, each in enumerate(coming) if each.event_id not in {c.event_id for c in coming[:n]}]
    assert (
        Found((*inside, *found.inside), (*overdue, *found.overdue)) == advance(State(), used, END, TIMES)[1]
    )


def test_repeated_events_do_not_change_the_windows() -> None:
    events = [crossing(0, "enter", "a"), crossing(7 * MINUTE, "exit", "b")]
    state, first = advance(State(), events, 5 * MINUTE, TIMES)
    state, second = advance(state, events, 20 * MINUTE, TIMES)
    assert (first.inside, second.inside) == ((0,), (5 * MINUTE,))


def test_device_inside_a_fence_counts_in_every_window_even_without_events() -> None:
    _, found = advance(
        State(), [crossing(MINUTE, "enter", "a"), crossing(17 * MINUTE, "exit", "b")], END, TIMES
    )
    assert found.inside == tuple(n * 5 * MINUTE for n in range(4))


def test_visit_without_an_exit_is_reported_as_overdue_once_and_then_abandoned() -> None:
    state, found = advance(State(), [crossing(MINUTE, "enter", "a")], END, TIMES)
    assert found.overdue == (MINUTE,)
    assert found.inside[-1] <= MINUTE + TIMES.abandoned
    assert next_timeout(state, TIMES) is None


def test_event_for_a_window_whose_result_is_final_is_ignored() -> None:
    state, _ = advance(
        State(), [crossing(0, "enter", "a"), crossing(MINUTE, "exit", "b")], 10 * MINUTE, TIMES
    )
    _, found = advance(state, [crossing(2 * MINUTE, "enter", "late")], END, TIMES)
    assert found == Found((), ())


def test_result_of_a_window_is_not_final_before_its_end() -> None:
    state, found = advance(State(), [crossing(MINUTE, "enter", "a")], 4 * MINUTE, TIMES)
    assert found == Found((), ())
    assert next_timeout(state, TIMES) == 5 * MINUTE
