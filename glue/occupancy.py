"""The rule for `trucks_inside` and `overdue_exits`, as pure functions over the events of one (device, fence) pair.

The rule decides in which five-minute windows a device was inside a fence, and which visits did not end with an
exit in time. Spark's stream calls `advance` for every micro-batch with its events and the watermark; Beam calls
it once with all events. Unless an event arrives after its window is decided, both produce the same result, because a
window is decided only after the watermark has passed its end. The decision uses all events before that end, in the
order of `consumer.visits` (by createdAt, then enter before dwell before exit, then id). An enter starts a visit, an
exit ends it, and an enter during a visit starts a new one. A device counts in a window if it was inside the fence at
any moment of the window. Unlike the warehouse, neither merges visits that only a short gap separates, because this
would need later events.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from contract.geofence_event_types import Kind

SECOND_US = 1_000_000
_RANK = {"enter": 0, "dwell": 1, "exit": 2}


@dataclass(frozen=True)
class Times:
    """The length of a window, and the time limits for a visit without an exit, in microseconds.

    Such a visit is reported as overdue after `overdue`. After `abandoned`, it no longer counts and its state is
    dropped, so that neither counts nor memory grow without bound.
    """

    window: int = 300 * SECOND_US
    overdue: int = 2 * 3600 * SECOND_US
    abandoned: int = 24 * 3600 * SECOND_US


class Crossing(NamedTuple):
    """A geofence event of a (device, fence) pair. Events are processed in the sort order of these tuples: by time
    (microseconds), rank of the type, and id.
    """

    at: int
    rank: int
    event_id: str


class State(NamedTuple):
    """The state of a pair between two calls of `advance`. It need not be stored if it has neither a visit nor pending
    events.
    """

    pending: tuple[Crossing, ...] = ()
    since: int | None = None  # when the current visit was entered
    overdue_reported: bool = False
    decided_until: int | None = None  # windows before this are decided

    def dumps(self) -> str:
        return json.dumps(self, allow_nan=False)


def loads(text: str) -> State:
    pending, since, overdue_reported, decided_until = json.loads(text)
    return State(tuple(Crossing(*each) for each in pending), since, overdue_reported, decided_until)


class Found(NamedTuple):
    """The result of `advance`.

    `inside` holds the start times of the windows in which the device was inside the fence, and `overdue` the
    entry times of the visits whose exit did not arrive in time.
    """

    inside: tuple[int, ...]
    overdue: tuple[int, ...]


def crossing(at: int, kind: Kind, event_id: str) -> Crossing:
    return Crossing(at, _RANK[kind], event_id)


def advance(state: State, arrived: Iterable[Crossing], watermark: int, times: Times) -> tuple[State, Found]:
    """Decide all windows that end by `watermark`; return the new state and the result.

    Late events, which belong to windows that are already decided, are ignored.
    """
    known = {each.event_id: each for each in state.pending}
    for each in arrived:
        late = state.decided_until is not None and each.at < state.decided_until
        if not late and (each.event_id not in known or each < known[each.event_id]):
            known[each.event_id] = each
    pending = deque(sorted(known.values()))
    since, reported = state.since, state.overdue_reported
    inside: list[int] = []
    overdue: list[int] = []
    window = state.decided_until or 0
    limit = max(window, watermark // times.window * times.window)
    while window < limit:
        if since is None:  # the device is outside, so continue at the window of the next event
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
            since, reported = _expire(since, reported, event.at, times, overdue)
            if event.rank == _RANK["enter"]:
                since, reported = event.at, False
                was_inside = True
            elif event.rank == _RANK["exit"]:
                since, reported = None, False
        was_inside |= since is not None
        since, reported = _expire(since, reported, end, times, overdue)
        if was_inside:
            inside.append(window)
        window = end
    return State(tuple(pending), since, reported, limit), Found(tuple(inside), tuple(overdue))


def _expire(
    since: int | None, reported: bool, now: int, times: Times, overdue: list[int]
) -> tuple[int | None, bool]:
    """Add the visit that began at `since` to `overdue` if it is overdue at `now`, and end it if it is abandoned.

    Returns the entry time of the visit (None after its end), and whether it has been reported as overdue.
    """
    if since is not None and not reported and since + times.overdue < now:
        overdue.append(since)
        reported = True
    if since is not None and since + times.abandoned < now:
        return None, False
    return since, reported


def next_timeout(state: State, times: Times) -> int | None:
    """Return the watermark at which `advance` must run even without new events, or None if it need not run."""
    if state.since is not None:
        return (state.decided_until or 0) + times.window
    return state.pending[0].at // times.window * times.window + times.window if state.pending else None
