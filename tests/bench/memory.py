"""Measure the peak memory of the commands that read the whole archive, and of the pipe check:
`python -m tests.bench.memory [--json]`.

The archive has a million synthetic objects of ten events each; fakes of S3 and Snowflake generate them. Each
command runs in its own process. The results are the peak memory of that process (`mib`) and its increase during
the command (`grown_mib`). For backfill and recreate, nothing is loaded, which is their worst case; for validate,
one object in a thousand failed.
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, cast

from contract.archive_object import ObjectName
from ops.object_sets import ObjectSets
from snowpipe import loading
from snowpipe.archive import Archive, Object
from snowpipe.history import validate
from snowpipe.pipe_check.main import newest_archived_at
from snowpipe.pipes import Kind, Pipe
from snowpipe.recreate import Recreation
from snowpipe.warehouse import Row
from tests.bench import figures
from tests.bench.figures import Figures, progress

OBJECTS, HOURS = 1_000_000, 240
START = datetime(2026, 11, 1, tzinfo=UTC)
END = START + timedelta(hours=HOURS)
PIPE = Pipe("D", Kind.events)
FILES = re.compile(r"'([^']*[.]gz)'")


def objects() -> Iterator[Object]:
    for hour in range(HOURS):
        at = START + timedelta(hours=hour)
        for n in range(OBJECTS // HOURS):
            yield Object(ObjectName("events", at, f"{n:064x}", 10).key, at + timedelta(minutes=30), 900)


class Bucket:
    """A fake archive that contains a million objects."""

    bucket = "bench"

    def received(self, prefix: str, start: datetime, end: datetime) -> Iterator[Object]:
        return objects()

    def body(self, key: str) -> bytes:
        return b'{"_id":"1","type":"t"}\n' * 9 + b'{"_id":NaN}\n'


class Loaded:
    """A fake warehouse that has loaded every object whose number satisfies `is_loaded`. COPY reports every
    file as loaded; COPY_HISTORY reports one object in a thousand as failed.
    """

    def __init__(self, is_loaded: Callable[[int], bool]) -> None:
        self._is_loaded = is_loaded
        self._all = enumerate(objects())

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        if "PIPE_STATUS" in sql:
            return [{"status": json.dumps({"executionState": "RUNNING", "pendingFileCount": 0})}]
        if "COPY_HISTORY" in sql:
            return [self._failed(n, each) for n, each in self._failures(sql)]
        if "CURRENT_TIMESTAMP() AS NOW" in sql:
            return [{"now": END}]
        if "COPY INTO" in sql:
            return [self._copied(name) for name in FILES.findall(sql)]
        first, last = cast("tuple[str, str]", parameters)
        here = dropwhile(lambda found: found[1].key < first, self._all)
        found = []
        for n, each in here:
            if self._is_loaded(n):
                found.append({"file_name": each.key})
            if each.key == last:
                break
        return found

    def _failures(self, sql: str) -> Iterator[tuple[int, Object]]:
        if "Load failed" not in sql:
            return iter(())
        return ((n, each) for n, each in enumerate(objects()) if n % 1000 == 0)

    def _failed(self, n: int, each: Object) -> Row:
        return {
            "file_name": each.key.removeprefix("events/"), "status": "Load failed", "row_count": 0,
            "row_parsed": 10, "error_count": 1, "last_load_time": START, "file_size": 900, "pipe_name": "P",
            "first_error_line_number": 10, "first_error_message": f"Error parsing JSON: {n}",
        }  # fmt: skip

    def _copied(self, name: str) -> Row:
        return {"file": name, "status": "LOADED", "rows_loaded": 10}


def unloaded() -> int:
    """Return the number of objects that are not loaded: one in a thousand."""
    return sum(1 for _ in loading.unloaded(Loaded(lambda n: n % 1000 != 0), PIPE, objects()))


def backfill() -> int:
    done = loading.backfill(
        Loaded(lambda _: False), PIPE, cast("Archive", Bucket()), "COPY INTO T", START, END
    )
    return done.copied


def recreate() -> int:
    """Run the part of recreate that reads the archive; return the number of objects that neither the old nor
    the new pipe has loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        recreation = Recreation(
            Loaded(lambda _: False),
            PIPE,
            cast("Any", None),
            cast("Archive", Bucket()),
            Path(folder),
            progress,
        )
        recreation.progress = cast(
            "Any", type("P", (), {"border": END, "unloaded_since": START, "failed": []})()
        )
        return len(recreation._missing())


def validated() -> int:
    return len(validate(Loaded(lambda _: True), PIPE, cast("Archive", Bucket()), START))


def monitor() -> int:
    """Return the number of objects whose write times the pipe check reads: at most a thousand for each of two hours."""

    class S3:
        def list_objects_v2(self, **_: str) -> Mapping[str, object]:
            page = takewhile(lambda found: found[0] < 1000, enumerate(objects()))
            return {"Contents": [{"Key": each.key, "LastModified": each.modified_at} for _, each in page]}

    return len(newest_archived_at(cast("Any", S3()), "bench", "events", END))


def reconcile() -> int:
    with tempfile.TemporaryDirectory() as folder, ObjectSets(Path(folder) / "sets", START, END) as sets:
        sets.logged((each.key, each.modified_at) for each in objects())
        sets.archived((each.key, each.modified_at) for each in objects())
        sets.loaded((each.key, 10) for each in objects())
        differences = sum(1 for _ in sets.differences(END))
        return differences + sum(1 for _ in sets.spans(END))


COMMANDS: Mapping[str, Callable[[], int]] = {
    "unloaded": unloaded,
    "backfill": backfill,
    "recreate": recreate,
    "validate": validated,
    "monitor": monitor,
    "reconcile": reconcile,
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(name: str) -> None:
    before = peak_mib()
    found = COMMANDS[name]()
    print(json.dumps({"found": found, "mib": peak_mib(), "grown": peak_mib() - before}))


def measure() -> Figures:
    measured = Figures(rates={"client_memory/objects": float(OBJECTS)})
    for name in COMMANDS:
        progress(f"memory: measuring {name}")
        command = [sys.executable, "-m", "tests.bench.memory", "--alone", name]
        said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        measured.rates |= {
            f"client_memory/mib {name}": said["mib"],
            f"client_memory/grown_mib {name}": said["grown"],
            f"client_memory/found {name}": float(said["found"]),
        }
    return measured


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(sys.argv[2])
        sys.exit()
    sys.exit(figures.main(measure, sys.argv[1:]))
