"""The tables of the load test on the local stack: latencies and queues per phase, and memory per part of the stack."""

from collections import Counter
from collections.abc import Sequence

from ops.percentile import percentile
from tests.load.load_profile import STEADY, window
from tests.load.pass_criteria import Load
from tests.load.watch import KEEPERS, Sample


def latencies(load: Load) -> list[dict[str, object]]:
    """Return a table row per phase with the latencies that phones saw, measured from the time at which each
    request was due.
    """
    rows = []
    for phase in load.plan:
        of = [each for each in load.sent if each.phase == phase.name]
        seconds = [each.seconds for each in of]
        answers = Counter(str(status or "no response") for each in of for status in each.statuses)
        rows.append(
            {
                "phase": phase.name,
                "requests": len(of),
                "events": sum(each.events for each in of),
                "requests_per_s": round(len(of) / phase.seconds, 1),
                **{f"p{p:g}_ms": round(percentile(seconds, p) * 1000) for p in (50, 90, 99, 100)},
                "not_2xx": sum(n for status, n in answers.items() if not status.startswith("2")),
                "undelivered": sum(not each.delivered for each in of),
            }
        )
    return rows


def memories(load: Load) -> list[dict[str, object]]:
    """Return a table row per part of the stack: its number of processes, its memory at the start and end of
    the steady phase, its maximum, and its growth.
    """
    first, last = window(load.plan, STEADY)
    steady = [sample for sample in load.samples if first <= sample.at <= last]
    parts = sorted({name.rpartition(" ")[0] for sample in load.samples for name in sample.memory})
    requests = sum(each.phase == STEADY for each in load.sent)
    rows = []
    for part in parts:
        estimates = [leak for name, leak in load.leaks.items() if name.rpartition(" ")[0] == part]
        begin, end = (sum(of(sample, part)) / 2**20 for sample in (steady[0], steady[-1]))
        rows.append(
            {
                "part": part,
                "processes": max(len(of(sample, part)) for sample in load.samples),
                "mib_at_start": round(begin),
                "mib_at_end": round(end),
                "mib_max": round(max(sum(of(sample, part)) for sample in load.samples) / 2**20),
                "kib_per_request": round((end - begin) * 1024 / requests, 1) if part in KEEPERS else None,
                "mib_per_hour_max": _mib_per_hour([leak.slope for leak in estimates]),
                "mib_per_hour_allowed": _mib_per_hour(
                    [min(leak.allowed for leak in estimates)] if estimates else []
                ),
                "leaks": any(leak.found for leak in estimates),
            }
        )
    return rows


def of(sample: Sample, part: str) -> list[int]:
    return [size for name, size in sample.memory.items() if name.rpartition(" ")[0] == part]


def _mib_per_hour(slopes: Sequence[float]) -> float | None:
    return round(max(slopes) * 3600 / 2**20, 1) if slopes else None


def queues(load: Load) -> list[dict[str, object]]:
    """Return a table row per phase with the maximum length of each queue."""
    rows = []
    for phase in load.plan:
        first, last = window(load.plan, phase.name)
        inside = [sample.queues for sample in load.samples if first <= sample.at <= last]
        names = inside[0] if inside else {}
        rows.append({"phase": phase.name, **{name: round(max(q[name] for q in inside), 1) for name in names}})
    return rows
