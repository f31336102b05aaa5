"""Measure how compaction and rebuild scale with the archive; each run is a separate process.

    .venvs/spark/bin/python -m tests.spark.growth --events 100000 1000000 --cores 1 2

The command prints one line of JSON per run: engine (python is a naive loop), job, events, cores, seconds without and
with start-up, CPU seconds and peak memory of all its processes, and the megabytes that Spark shuffled. With at least
three sizes it also prints the fitted growth. Compare CPU seconds rather than seconds if the machine is shared.
"""

import argparse
import gzip
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from consumer.visits import visits_of
from contract.archive_object import lines_object, lines_of
from glue import compact, rebuild
from glue.archive import Folder, Hours, objects_of
from glue.jobs import report
from glue.rows import parse_geofence_event

BEGIN = datetime(2026, 11, 16, 6, tzinfo=UTC)
EVENTS_PER_OBJECT = 20
CROSSINGS = ("user.entered_geofence", "user.exited_geofence")
ENGINES = ("python", "duckdb", "spark")
JOBS = ("compact", "rebuild")


def make(folder: Path, events: int, hours: int = 4, seed: int = 1) -> Hours:
    """Write a realistic archive: 300 bytes per event, 20 events per object; one event in sixteen is a geofence
    event. Return its hours.
    """
    pick, store, lines = random.Random(seed), Folder(folder), []
    trucks = max(10, events // 5000)
    for number in range(events):
        at = BEGIN + timedelta(seconds=number * hours * 3600 / events)
        truck = pick.randrange(trucks)
        user = f'"user":{{"userId":"driver-{truck}","deviceId":"van-{truck:05}"}}'
        place = f"{pick.uniform(-64, -63):.6f},{pick.uniform(44, 45):.6f}"
        location = f'"location":{{"type":"Point","coordinates":[{place}]}}'
        type_, more = "user.updated_trip", '"foreground":true,"stopped":false'
        if number % 16 == 0:
            type_ = CROSSINGS[pick.randrange(2)]
            fence = f'{{"tag":"farm","externalId":"farm-{truck % 50}-{pick.randrange(5)}"}}'
            more = f'"geofence":{fence},"confidence":3'
        line = (
            f'{{"_id":"{pick.getrandbits(96):024x}","type":"{type_}","createdAt":"{at:%Y-%m-%dT%H:%M:%S}.000Z",'
            f'"live":true,{user},{location},"locationAccuracy":8,{more}}}'
        )
        lines.append(line.encode())
        if len(lines) == EVENTS_PER_OBJECT or number == events - 1:
            made = lines_object("events", lines, at)
            store.write(made.key, made.body)
            lines = []
    return Hours(BEGIN, BEGIN + timedelta(hours=hours))


def run_naively(folder: Path, job: str, hours: Hours) -> None:
    """Run a job as a naive loop over the files; `compact` keeps a whole hour in memory, `rebuild` all geofence
    events.
    """
    store = Folder(folder)
    if job == "rebuild":
        paths = (store.path / s.key for hour in hours for s in objects_of(store, hour))
        lines = (line for path in paths for line in lines_of(path.read_bytes()))
        visits_of([event for line in lines if (event := parse_geofence_event(line))])
        return
    for hour in hours:
        by_type: dict[str, list[bytes]] = {}
        for stored in objects_of(store, hour):
            for line in lines_of(store.read(stored.key)):
                by_type.setdefault(json.loads(line)["type"], []).append(line)
        for type_, those in by_type.items():
            path = folder / "plain" / f"{hour:%H}.{type_}.ndjson.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(b"\n".join(those), 1))


def run_once(folder: Path, engine: str, job: str, hours: Hours, cores: int) -> None:
    """Run one job in this process; print its seconds, without start-up, and the bytes that Spark shuffled."""
    store = Folder(folder)
    shuffled = 0
    if engine == "spark":
        from glue.session import session
        from glue.spark_compact import compact_with_spark
        from glue.spark_rebuild import rebuild_with_spark

        with session("milkrun-growth", f"local[{cores}]", ui=True) as spark:
            began = time.monotonic()
            if job == "compact":
                list(compact_with_spark(spark, store, compact.stale(store, hours)))
            else:
                rebuild_with_spark(spark, _rebuild(store, hours))
            seconds = time.monotonic() - began
            stages = (
                f"{spark.sparkContext.uiWebUrl}/api/v1/applications/{spark.sparkContext.applicationId}/stages"
            )
            with urllib.request.urlopen(stages) as answer:  # the UI of our own Spark, on loopback
                shuffled = sum(stage["shuffleWriteBytes"] for stage in json.load(answer))
    else:
        os.environ["OMP_NUM_THREADS"] = str(cores)
        began = time.monotonic()
        if engine == "python":
            run_naively(folder, job, hours)
        elif job == "compact":
            list(compact.compact_with_duckdb(store, compact.stale(store, hours)))
        else:
            rebuild.rebuild_with_duckdb(_rebuild(store, hours))
        seconds = time.monotonic() - began
    report("ran", seconds=round(seconds, 2), shuffled_bytes=shuffled)


def _rebuild(store: Folder, hours: Hours) -> rebuild.Rebuild:
    parts = rebuild.parts_of(store, hours, conflicts=False)
    return rebuild.Rebuild(store, "growth", hours, tuple(parts), rebuild.Rule(conflicts=False))


def measured(command: Sequence[str], cores: int) -> dict[str, float]:
    """Run a command on `cores` cores. Return its times, its peak memory and the megabytes that Spark shuffled.

    All its processes are measured ten times per second.
    """
    began, most = time.monotonic(), 0
    ticks: dict[int, int] = {}
    with tempfile.TemporaryFile("w+") as out:
        pinned = ["taskset", "-c", f"0-{cores - 1}", *command]
        job = subprocess.Popen(pinned, stdout=out, stderr=subprocess.DEVNULL)
        while job.poll() is None:
            seen = [found for pid in _family(job.pid) if (found := _process(pid))]
            most = max(most, sum(pages for _, pages, _ in seen))
            ticks |= {pid: used for pid, _, used in seen}
            time.sleep(0.1)
        if job.returncode:
            raise RuntimeError(f"{command} exited with status {job.returncode}")
        out.seek(0)
        printed = json.loads(out.read().splitlines()[-1])
    return {
        "seconds": printed["seconds"],
        "seconds_with_start": round(time.monotonic() - began, 1),
        "processor_seconds": round(sum(ticks.values()) / os.sysconf("SC_CLK_TCK"), 1),
        "memory_mb": most * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "shuffled_mb": printed["shuffled_bytes"] // 2**20,
    }


@dataclass(frozen=True)
class Fit:
    """The fitted line `start + per_million * events / 1e6`, in CPU seconds. It minimises the relative errors."""

    start: float
    per_million: float
    exponent: float  # of the growth from the smallest to the largest size, without `start`; 1 means linear
    largest_error: float  # relative deviation of a measurement from the line


def fitted(sizes: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Fit a line to the CPU seconds by minimising the squared relative errors.

    At least three sizes are required, because a line fits any two of them exactly.
    """
    if len(set(sizes)) < 3:
        raise ValueError("a fit needs at least three sizes")
    weights = [1 / found**2 for found in seconds]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, sizes, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, seconds, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, sizes, strict=True))
    slope = sum(w * (x - mean_x) * y for w, x, y in zip(weights, sizes, seconds, strict=True)) / spread
    start = mean_y - slope * mean_x
    (least_x, least_y), *_, (most_x, most_y) = sorted(zip(sizes, seconds, strict=True))
    work = max(least_y - start, 1e-9), max(most_y - start, 1e-9)
    exponent = math.log(work[1] / work[0]) / math.log(most_x / least_x)
    largest_error = max(abs(y / (start + slope * x) - 1) for x, y in zip(sizes, seconds, strict=True))
    return Fit(start, slope * 1e6, exponent, largest_error)


def report_fits(rows: Sequence[Mapping[str, Any]]) -> None:
    """Fit and print a line for each job, engine and number of cores that was measured with at least three sizes."""
    series: defaultdict[tuple[str, str, int], dict[float, float]] = defaultdict(dict)
    for row in rows:
        series[row["job"], row["engine"], row["cores"]][row["events"]] = row["processor_seconds"]
    for (job, engine, cores), found in series.items():
        if len(found) >= 3:
            fit = fitted(list(found), list(found.values()))
            values = {name: round(value, 2) for name, value in asdict(fit).items()}
            report("fitted", job=job, engine=engine, cores=cores, sizes=sorted(found), **values)


def _family(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _process(pid: int) -> tuple[int, int, int] | None:
    """Return a process's id, its resident pages and its CPU time in ticks; None if it has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return pid, int(fields[21]), int(fields[11]) + int(fields[12])
    return None


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.spark.growth", description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000])
    parser.add_argument("--cores", type=int, nargs="+", default=[2])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=JOBS)
    parser.add_argument(
        "--fit",
        type=Path,
        help="instead of running jobs, fit a line to earlier results in this file (a line of JSON per run)",
    )
    parser.add_argument("--once", nargs=2, metavar=("FOLDER", "HOURS"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.once:
        hours = Hours(BEGIN, BEGIN + timedelta(hours=int(given.once[1])))
        run_once(Path(given.once[0]), given.engines[0], given.jobs[0], hours, given.cores[0])
        return 0
    if given.fit:
        report_fits([json.loads(line) for line in given.fit.read_text().splitlines()])
        return 0
    rows: list[dict[str, object]] = []
    for events in given.events:
        with tempfile.TemporaryDirectory(prefix="milkrun-growth-") as folder:
            make(Path(folder), events)
            for job in given.jobs:
                for engine in given.engines:
                    for cores in given.cores if engine != "python" else given.cores[:1]:
                        Folder(Path(folder)).delete(s.key for s in Folder(Path(folder)).list("compacted/"))
                        what = ["--engines", engine, "--jobs", job, "--cores", str(cores)]
                        command = [sys.executable, "-m", "tests.spark.growth", *what, "--once", folder, "4"]
                        row = {"engine": engine, "job": job, "events": events, "cores": cores}
                        row |= measured(command, cores)
                        rows.append(row)
                        report("grew", **row)
    report_fits(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
