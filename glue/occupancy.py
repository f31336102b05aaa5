"""Who is inside a fence in each five minutes, and whose exit is overdue: the rule, pure, for one pair.

Spark's stream calls `advance` with what came and how far the watermark is, Beam once with everything.
Both give the same, because a window is decided only when time has passed its end, from all events before
its end in the order of `consumer.visits` (createdAt; enter, dwell, exit; id). An enter opens, an exit
closes, an enter on an open one begins anew. A truck is inside in a window if it was so at any moment of
it. Flapping is not merged: that would need to know the future.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from contract.events import Kind

SECOND_US = 1_000_000
_RANK = {"enter": 0, "dwell": 1, "exit": 2}


@dataclass(frozen=True)
class Times:
    """In microseconds. A visit is overdue after `overdue`, and given up after `given_up`.

    A truck whose exit never comes must not be counted, nor kept in memory, for ever.
    """

    window: int = 300 * SECOND_US
    overdue: int = 2 * 3600 * SECOND_US
    given_up: int = 24 * 3600 * SECOND_US


class Crossing(NamedTuple):
    """An event of one pair, in the order of the walk."""

    at: int
    rank: int
    event_id: str


class State(NamedTuple):
    """What must be remembered of a pair. Empty: nothing."""

    pending: tuple[Crossing, ...] = ()
    since: int | None = None  # when the open visit was entered
    overdue_said: bool = False
    decided_until: int | None = None  # windows before this are decided

    def dumps(self) -> str:
        return json.dumps(self, allow_nan=False)


def loads(text: str) -> State:
    pending, since, overdue_said, decided_until = json.loads(text)
    return State(tuple(Crossing(*each) for each in pending), since, overdue_said, decided_until)


class Found(NamedTuple):
    """`inside`: when windows begin. `overdue`: when visits were entered whose exit did not come in time."""

    inside: tuple[int, ...]
    overdue: tuple[int, ...]


def crossing(at: int, kind: Kind, event_id: str) -> Crossing:
    return Crossing(at, _RANK[kind], event_id)


def advance(state: State, came: Iterable[Crossing], watermark: int, times: Times) -> tuple[State, Found]:
    """Decide all windows that end by `watermark`. What came for decided windows is late, and left out."""
    known = {each.event_id: each for each in state.pending}
    for each in came:
        late = state.decided_until is not None and each.at < state.decided_until
        if not late and (each.event_id not in known or each < known[each.event_id]):
            known[each.event_id] = each
    pending = deque(sorted(known.values()))
    since, said = state.since, state.overdue_said
    inside: list[int] = []
    overdue: list[int] = []
    window = state.decided_until or 0
    limit = max(window, watermark // times.window * times.window)
    while window < limit:
        if since is None:  # nobody inside: straight to the window of the next event
            if not pending:
                break
            window = max(window, pending[0].at // times.window * times.window)
            if window >= limit:
                break
        end = window + times.window
        was_inside = False
        while pending and pending[0].at < end:
            event = pending.popleft()
            was_inside |= since is not None and event.at > window
            since, said = _passed(since, said, event.at, times, overdue)
            if event.rank == _RANK["enter"]:
                since, said = event.at, False
                was_inside = True
            elif event.rank == _RANK["exit"]:
                since, said = None, False
        was_inside |= since is not None
        since, said = _passed(since, said, end, times, overdue)
        if was_inside:
            inside.append(window)
        window = end
    return State(tuple(pending), since, said, limit), Found(tuple(inside), tuple(overdue))


def _passed(
    since: int | None, said: bool, now: int, times: Times, overdue: list[int]
) -> tuple[int | None, bool]:
    """Time has passed until just before `now`."""
    if since is not None and not said and since + times.overdue < now:
        overdue.append(since)
        said = True
    if since is not None and since + times.given_up < now:
        return None, False
    return since, said


def wakes_at(state: State, times: Times) -> int | None:
    """The watermark at which the state must be looked at again although nothing comes; None if never."""
    if state.since is not None:
        return (state.decided_until or 0) + times.window
    return state.pending[0].at // times.window * times.window + times.window if state.pending else None
