"""`make bench`: every bench in turn, its figures kept in .local/bench/latest.json.

python -m tests.bench [--only handler,cold_start,consumer,loader] [--compare EARLIER.json]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "handler": ("tests.bench.handler", "--json"),
    "cold_start": ("tests.bench.cold", "--json"),
    "consumer": ("tests.bench.consumer", "--json"),
    "loader": ("tests.bench.loader", "--json", "--quick"),
}


def measured(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", *COMMANDS[name]]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def flat(found: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios, and all the rest: some benches say which is which, the others nest or mix them."""
    if "ratios" in found:
        return found["ratios"], {k: v for k, v in found["figures"].items() if k not in found["ratios"]}
    if any(isinstance(value, dict) for value in found.values()):
        return {}, {f"{name}/{field}": v for name, each in found.items() for field, v in each.items()}
    return {k: v for k, v in found.items() if "/" in k}, {k: v for k, v in found.items() if "/" not in k}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure.")
    parser.add_argument("--only", default=",".join(COMMANDS))
    parser.add_argument("--compare", type=Path, help="a latest.json of an earlier run")
    arguments = parser.parse_args()
    earlier = json.loads(arguments.compare.read_text()) if arguments.compare else {}
    machine = f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs"
    print(machine)
    ratios: dict[str, float] = {}
    rates: dict[str, float] = {}
    for name in arguments.only.split(","):
        for kept, new in zip((ratios, rates), flat(measured(name)), strict=True):
            kept.update(new)
            for key, value in new.items():
                before = {**earlier.get("ratios", {}), **earlier.get("rates", {})}.get(key)
                print(f"{key:55} {value:10.2f}" + (f"   before {before:10.2f}" if before else ""), flush=True)
    target = ROOT / ".local" / "bench" / "latest.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    target.write_text(json.dumps({"at": at, "machine": machine, "ratios": ratios, "rates": rates}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
