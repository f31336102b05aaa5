"""Run every benchmark (`make bench`). Write the figures to .local/bench/latest.json, and the page and plots
to docs/.

    python -m tests.bench [--only handler,loader] [--compare EARLIER.json] [--page]

If a part fails, the others still run, and the page keeps the failed part's previous figures. `--page`
measures nothing and only writes the page from latest.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import page
from tests.bench.figures import Figures, exponent, machine

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
# These run only if --only names them: an hour, and gigabytes of disk.
BY_HAND = {"marts": "tests.bench.marts"}


def measured(part: str) -> Figures:
    command = [sys.executable, "-m", (PARTS | BY_HAND)[part], "--json"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Figures(**json.loads(output.splitlines()[-1]))


def show(found: Figures, earlier: dict[str, float]) -> None:
    for name, value in {**found.ratios, **found.rates}.items():
        before = f"   before {earlier[name]:12.3f}" if name in earlier else ""
        print(f"  {name:58} {value:12.3f}{before}")
    for name, points in found.series.items():
        print(f"  {name:58} x^{exponent(points):.2f}")
    sys.stdout.flush()


def last_run() -> dict[str, Any]:
    return json.loads(LATEST.read_text()) if LATEST.exists() else {}


def keep(part: str, found: Figures, seconds: float) -> None:
    """Write the figures of this part to the file immediately, so that they survive an interrupted run."""
    run = last_run()
    parts = run.get("parts", {})
    parts[part] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(seconds, 1)}
    parts[part] |= {"load": round(os.getloadavg()[1], 1), **asdict(found)}
    whole = Figures()
    for each in parts.values():
        whole.add(Figures(**{name: each[name] for name in asdict(whole)}))
    at = max(each["at"] for each in parts.values())
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    kept = {"at": at, "machine": machine(), **asdict(whole), "parts": parts}
    LATEST.write_text(json.dumps(kept, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Run the benchmarks.")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run: " + ", ".join(PARTS | BY_HAND))
    parser.add_argument(
        "--compare", type=Path, help="latest.json of an earlier run, to print beside this one"
    )
    parser.add_argument("--page", action="store_true", help="measure nothing, only write docs/performance.md")
    arguments = parser.parse_args()
    compared = json.loads(arguments.compare.read_text()) if arguments.compare else last_run()
    earlier = {**compared.get("ratios", {}), **compared.get("rates", {})}
    failed = []
    if not arguments.page:
        print(machine())
        wanted = arguments.only.split(",")
        for n, part in enumerate(wanted, 1):
            print(f"{part} ({n} of {len(wanted)})", flush=True)
            began = time.monotonic()
            try:
                found = measured(part)
            except subprocess.CalledProcessError:
                failed.append(part)
                continue
            keep(part, found, time.monotonic() - began)
            show(found, earlier)
            print(f"  {time.monotonic() - began:.0f} s", flush=True)
    page.write(last_run())
    print(f"{LATEST.relative_to(ROOT)}, {page.PAGE.relative_to(ROOT)}")
    if failed:
        print(f"Failed: {', '.join(failed)}. The page shows their figures of an earlier run.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
