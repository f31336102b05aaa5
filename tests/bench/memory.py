"""Peak memory of the commands that read the whole archive: `python -m tests.bench.memory [--json]`.

A million synthetic objects of ten events each; S3 and Snowflake are generators. The baseline is the process before.
"""

import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from contract.objects import ObjectName
from ops.object_sets import ObjectSets
from snowpipe import loading
from snowpipe.archive import Object
from snowpipe.pipes import Kind, Pipe
from tests.bench import figures
from tests.bench.figures import Figures, progress

OBJECTS, HOURS = 1_000_000, 240
START = datetime(2026, 11, 1, tzinfo=UTC)


def objects() -> Iterator[Object]:
    for hour in range(HOURS):
        at = START + timedelta(hours=hour)
        for n in range(OBJECTS // HOURS):
            yield Object(ObjectName("events", at, f"{n:064x}", 10).key, at + timedelta(minutes=30), 900)


class Loaded:
    """A warehouse that has every object of the range that it is asked for, except each thousandth."""

    def __init__(self) -> None:
        self._all = objects()

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        if "COPY_HISTORY" in sql.upper():
            return []
        rows = []
        for n, each in enumerate(self._all):
            if n % 1000:
                rows.append({"file_name": each.key})
            if each.key == parameters[-1]:
                break
        return rows


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure() -> Figures:
    before = peak_mib()
    progress("memory: unloaded objects, as backfill, refresh and resume ask for them")
    pipe = Pipe("D", Kind.events)
    missing = sum(1 for _ in loading.unloaded(Loaded(), pipe, objects()))
    of_loading = peak_mib() - before
    progress("memory: reconcile's comparison of log, S3 and RAW")
    with (
        tempfile.TemporaryDirectory() as folder,
        ObjectSets(Path(folder) / "sets", START, START + timedelta(hours=HOURS)) as sets,
    ):
        sets.logged((each.key, each.modified_at) for each in objects())
        sets.archived((each.key, each.modified_at) for each in objects())
        sets.loaded((each.key, 10) for each in objects())
        differences = sum(1 for _ in sets.differences(START + timedelta(days=99)))
        spans = sum(1 for _ in sets.spans(START + timedelta(days=99)))
    of_sets = peak_mib() - before
    return Figures(
        rates={
            "memory/objects": float(OBJECTS),
            "memory/missing": float(missing),
            "memory/differences": float(differences),
            "memory/spans": float(spans),
            "memory/unloaded_mib": of_loading,
            "memory/reconcile_mib": of_sets,
            "memory/baseline_mib": before,
        }
    )


if __name__ == "__main__":
    sys.exit(figures.main(measure, sys.argv[1:]))
