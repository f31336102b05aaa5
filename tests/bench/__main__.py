"""Run the benchmarks (`make bench`), except `marts`, which runs only if --only names it. Write the figures to
.local/bench/latest.json, and the page and plots to docs/.

    python -m tests.bench [--only handler,loader] [--compare EARLIER.json] [--page] [--only marts --rows 1000000]

If a part fails, the other parts still run, and the page shows the last figures of the failed part. `--page`
only writes the page and the plots, without measuring. The figures of parts that are run manually are stored
in by_hand.json, which is committed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import performance_page
from tests.bench.figures import Figures, Part, Parts, exponent, machine

ROOT = Path(__file__).parents[2]
LATEST = ROOT / ".local" / "bench" / "latest.json"
# Parts that compare CPU come first, before the machine heats up.
PARTS = {
    "handler": "tests.bench.handler",
    "cold_start": "tests.bench.cold",
    "consumer": "tests.bench.consumer",
    "units": "tests.bench.units",
    "growth": "tests.bench.growth",
    "cost": "tests.bench.cost",
    "loader": "tests.bench.loader",
    "dbt": "tests.bench.dbt",
    "memory": "tests.bench.memory",
    "end_to_end": "tests.bench.end_to_end",
}
# These run only if --only names them, because they take an hour and gigabytes of disk space.
BY_HAND = {"marts": "tests.bench.marts"}
WITH_ROWS = "marts"  # the only part with the option --rows
KEPT = Path(__file__).with_name("by_hand.json")


def measured(part: str, *options: str) -> tuple[Figures | None, bool]:
    """Run a part in its own process; return the last figures that it printed, if any, and whether it succeeded."""
    command = [sys.executable, "-m", (PARTS | BY_HAND)[part], "--json", *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    printed = done.stdout.splitlines()
    return Figures(**json.loads(printed[-1])) if printed else None, done.returncode == 0


def show(found: Figures, earlier: dict[str, float]) -> None:
    for name, value in {**found.ratios, **found.rates}.items():
        before = f"   before {earlier[name]:12.3f}" if name in earlier else ""
        print(f"  {name:58} {value:12.3f}{before}")
    for name, points in found.series.items():
        if len(points) > 1:
            print(f"  {name:58} grows as x^{exponent(points):.2f}")
    sys.stdout.flush()


def parts_of(path: Path) -> Parts:
    return dict(json.loads(path.read_text())["parts"]) if path.exists() else {}


def figures_of(part: Part) -> Figures:
    return Figures(**{name: part[name] for name in asdict(Figures())})


def whole_of(parts: Parts) -> Figures:
    whole = Figures()
    for each in parts.values():
        whole.add(figures_of(each))
    return whole


def keep(part: str, found: Figures, seconds: float) -> None:
    """Write a part's figures to their JSON file immediately, so that they survive an interrupted run."""
    path = KEPT if part in BY_HAND else LATEST
    parts = parts_of(path)
    if part in BY_HAND and part in parts:  # a run of a larger history adds its figures
        before = figures_of(parts[part])
        before.add(found)
        found = before
    parts[part] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "load": round(os.getloadavg()[1], 1),
        **asdict(found),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"parts": parts}, indent=1) + "\n")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Run the benchmarks.")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run: " + ", ".join(PARTS | BY_HAND))
    parser.add_argument(
        "--compare",
        type=Path,
        help="latest.json of an earlier run, whose figures are printed beside the new ones",
    )
    parser.add_argument(
        "--rows",
        help="sizes of the histories that the part marts measures, in rows, such as 1000000,10000000",
    )
    parser.add_argument(
        "--page",
        action="store_true",
        help="write docs/performance.md and its plots from stored figures, without measuring",
    )
    arguments = parser.parse_args(argv)
    wanted = arguments.only.split(",")
    if unknown := [part for part in wanted if part not in PARTS | BY_HAND]:
        parser.error(f"--only cannot be {unknown[0]}: choose from {', '.join(PARTS | BY_HAND)}")
    if arguments.rows and (arguments.page or WITH_ROWS not in wanted):
        parser.error(f"--rows has no effect with --page, or without --only {WITH_ROWS}")
    if arguments.compare and not arguments.compare.exists():
        parser.error(f"{arguments.compare} does not exist")
    compared = whole_of(parts_of(arguments.compare or LATEST))
    earlier = {**compared.ratios, **compared.rates}
    failed = []
    if not arguments.page:
        print(machine())
        for n, part in enumerate(wanted, 1):
            print(f"{part} ({n} of {len(wanted)})", flush=True)
            began = time.monotonic()
            options = ["--rows", arguments.rows] if arguments.rows and part == WITH_ROWS else []
            found, succeeded = measured(part, *options)
            if not succeeded:
                failed.append(part)
            if found:
                keep(part, found, time.monotonic() - began)
                show(found, earlier)
            print(f"  took {time.monotonic() - began:.0f} s", flush=True)
    now, by_hand = parts_of(LATEST), parts_of(KEPT)
    performance_page.write(now, by_hand, whole_of(by_hand | now))
    print(
        f"Wrote {performance_page.PAGE.relative_to(ROOT)} from {LATEST.relative_to(ROOT)} and by_hand.json."
    )
    if failed:
        print(f"Failed: {', '.join(failed)}. The page shows their last figures.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
