"""Mutate the packages contract, handler and consumer, run the packages' unit tests on a random sample of the mutants,
and list those that the tests do not detect: `python -m tools.mutate --sample 60`.

The mutants are created in a copy of the last commit. cosmic-ray runs in its own environment, so it is not a
dependency of the project. A mutant survives if the tests of its package pass; it may be equivalent to the original.
"""

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
COSMIC_RAY = (str(ROOT / ".venv/bin/uvx"), "--from", "cosmic-ray==8.7.0", "cosmic-ray")
CONFIG = """
[cosmic-ray]
module-path = ["{package}"]
timeout = 900.0
test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
"""
# Tests that start servers are excluded, because all tests run again for each mutant.
TESTS = {
    "contract": "tests/unit/contract tests/unit/handler/test_location_pings.py",
    "handler": "tests/unit/handler",
    "consumer": "tests/unit/consumer --ignore-glob=*test_aws.py --ignore-glob=*test_operators.py",
}
# A mutant of `X | None` in an annotation fails at import, because annotations are evaluated. A mutant with `is` instead
# of `==` is equivalent for most values.
TRIVIAL = "operator_name LIKE '%BitOr%' OR operator_name LIKE '%\\_Is%' ESCAPE '\\'"


def mutants(package: str, sample: int, seed: int, copy: Path) -> Iterator[tuple[str, str]]:
    """Run the tests on a random sample of a package's mutants, leaving out TRIVIAL ones; yield the outcome
    (such as "killed", "survived" or "incompetent") and the diff of each mutant.
    """
    session = copy / f"{package}.sqlite"
    config = copy / f"{package}.toml"
    python = ROOT / ".venv/bin/python"
    config.write_text(CONFIG.format(python=python, package=package, tests=TESTS[package]))
    _run(copy, "init", config.name, session.name)
    with sqlite3.connect(session) as database:
        found = database.execute(f"SELECT job_id FROM mutation_specs WHERE NOT ({TRIVIAL})").fetchall()
        chosen = random.Random(seed).sample(sorted(found), min(sample, len(found)))
        for table in ("mutation_specs", "work_items"):
            marks = ",".join("?" * len(chosen))
            database.execute(
                f"DELETE FROM {table} WHERE job_id NOT IN ({marks})",
                [job for (job,) in chosen],
            )
    _run(copy, "exec", config.name, session.name)
    for line in _run(copy, "dump", session.name).splitlines():
        _, result = json.loads(line)
        yield result["test_outcome"] or result["worker_outcome"], result["diff"] or ""


def _run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*COSMIC_RAY, *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=__doc__)
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="mutants per package")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--package", action="append", choices=list(TESTS))
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        subprocess.run(["git", "clone", "-q", ROOT, copy], check=True)
        (copy / ".venv").symlink_to(ROOT / ".venv")
        for package in given.package or TESTS:
            outcomes = list(mutants(package, given.sample, given.seed, copy))
            survivors = [diff for outcome, diff in outcomes if outcome == "survived"]
            killed = len(outcomes) - len(survivors)
            report = [f"{package}: {killed} of {len(outcomes)} mutants did not survive", *survivors, ""]
            sys.stdout.write("\n".join(report))
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
