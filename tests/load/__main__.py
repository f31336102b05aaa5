"""Load-test the ingest, redrive and consume functions against a simulated AWS, and then the local stack (`make load`).

    python -m tests.load [--only functions,stack] [--rate 4] [--steady 240] [--write]

The exit code is 1 if a pass criterion is not met (tests/load/pass_criteria.py), for example if memory leaks or an
event is lost. `--write` puts the tables into docs/load.md; the plots in docs/images are drawn even without it. The
test uses the running stack whose outputs file MILKRUN_E2E_OUTPUTS names; without this variable, it starts its own stack
and deletes it afterwards.
"""

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ops.stage_outputs import Outputs
from tests.load import functions, plots, stack, stack_tables
from tests.load.load_profile import DEFAULT_RATE, DEFAULT_STEADY_S
from tests.load.markdown_tables import markdown, put
from tests.load.pass_criteria import DRAIN_S
from tools.stack.settings import Settings
from tools.stack.stack import Stack

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "load.md"
IMAGES = ROOT / "docs" / "images"
# The function, the number of invocations, and the seconds that one invocation takes on Lambda. There are enough
# invocations to distinguish a leak from the growth that allocators cause.
LEAKS = (
    (functions.FUNCTIONS["ingest@20"], 3000, 0.038),
    (functions.FUNCTIONS["redrive"], 300, 0.49),
    (functions.PAIRS, 1000, 0.25),
)


@contextmanager
def running(environment: Mapping[str, str]) -> Iterator[tuple[Settings, Outputs]]:
    if named := environment.get("MILKRUN_E2E_OUTPUTS"):
        settings = Settings.of({**environment, "MILKRUN_LOCAL": str(Path(named).resolve().parent)})
        yield settings, Outputs.read(Path(named))
        return
    own = {"MILKRUN_LOCAL": ".local-load", "MILKRUN_PORT": "4966", **environment}
    with Stack.of(own) as started:
        yield started.settings, started.outputs()


def on_the_stack(rate: float, steady_s: float, seed: int) -> tuple[list[str], dict[str, str]]:
    with running(os.environ) as (settings, outputs):
        load = stack.run(settings, outputs, rate, steady_s, seed)
    plots.draw(load, IMAGES / "load.svg")
    after = "after the last response"
    drained = (
        f"not all empty {DRAIN_S:.0f} s {after}"
        if load.drained_s is None
        else f"empty {load.drained_s:.0f} s {after}"
    )
    complete = "every accepted event was archived and loaded, and every geofence event was consumed"
    found = f"no difference: {complete}" if load.reconciled else "**differences**"
    tables = {
        "latency": markdown(stack_tables.latencies(load)),
        "memory": markdown(stack_tables.memories(load)),
        "queues": markdown(stack_tables.queues(load))
        + f"\n\nThe queues were {drained}. `milkrun reconcile` found {found}.",
    }
    return load.problems, tables


def of_functions() -> tuple[list[str], dict[str, str]]:
    problems, memory = leaks()
    with functions.simulated_aws(cpu=1):
        found = [functions.swept(each) for each in functions.FUNCTIONS.values()]
    plots.draw_sweep(found, IMAGES / "load-functions.svg")
    hidden = ("steps", "events")
    rows: Sequence[Mapping[str, object]] = [{k: v for k, v in f.items() if k not in hidden} for f in found]
    throttled = (
        f"While Kinesis throttles, a request takes {functions.seconds_while_throttled():.3f} s. The first request of "
        "an environment, which detects the throttling, takes up to 4 s."
    )
    return problems, {"functions": f"{markdown(rows)}\n\n{throttled}", **memory}


def leaks() -> tuple[list[str], dict[str, str]]:
    problems, rows = [], []
    with functions.simulated_aws("--scale", "0"):
        for function, calls, seconds in LEAKS:
            leak = functions.leak_of(function, calls, seconds)
            rows.append(
                {
                    "function": function.title,
                    "invocations": calls,
                    "bytes_per_invocation": round(leak.slope),
                    "lower_bound": round(leak.lower_bound),
                    "allowed": round(leak.allowed),
                    "leaks": leak.found,
                }
            )
            if leak.found:
                problems.append(f"{function.title} leaks {leak.slope:.0f} bytes per invocation")
    return problems, {"function memory": markdown(rows)}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--only", default="functions,stack")
    parser.add_argument(
        "--rate", type=float, default=DEFAULT_RATE, help="requests per second, with up to 20 events each"
    )
    parser.add_argument(
        "--steady", type=float, default=DEFAULT_STEADY_S, help="length of the steady phase in seconds"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/load.md")
    given = parser.parse_args(argv)
    problems: list[str] = []
    load_average = os.getloadavg()[0]
    for part in given.only.split(","):
        if part == "stack":
            found, tables = on_the_stack(given.rate, given.steady, given.seed)
        else:
            found, tables = {"functions": of_functions, "leaks": leaks}[part]()
        machine = f"with Python {platform.python_version()} on {os.cpu_count()} CPUs"
        if part != "leaks":
            tables[f"{part} when"] = (
                f"Measured on {datetime.now(UTC):%Y-%m-%d at %H:%MZ} {machine}. "
                f"The load average before the run was {load_average:.0f}."
            )
        for name, table in tables.items():
            print(f"\n{name}\n{table}", flush=True)
            if given.write:
                put(PAGE, name, table)
        problems += found
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
