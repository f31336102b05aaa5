"""Collect the tests of the given folders in two processes that share as little as possible, and compare the test ids.

    python -m tests.collection tests/unit tests/e2e

pytest-xdist aborts if its workers collect different ids. The two processes differ in hash seed, date, time zone,
folder, home and environment, so that an id that depends on any of them is detected. The second process collects
the tests of a copy of the clone (tracked and untracked files), because an id may contain the path of the clone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLLECT = """
import contextlib, io, sys
import pytest, time_machine

class Ids:
    def pytest_collection_finish(self, session):
        self.ids = [item.nodeid for item in session.items]

ids, output = Ids(), io.StringIO()
with time_machine.travel(float(sys.argv[1]), tick=True), contextlib.redirect_stdout(output):
    code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[2:]], plugins=[ids])
if code:
    sys.exit(output.getvalue()[output.getvalue().find("= ERRORS") :])
print("\\n".join(ids.ids))
"""


def start(folder: Path, at: int, environment: dict[str, str], suites: list[str]) -> "subprocess.Popen[str]":
    """Start collecting the tests in `folder`, with the clock set to `at` (seconds since 1970)."""
    return subprocess.Popen(
        [sys.executable, "-c", COLLECT, str(at), *suites],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def ids_of(process: "subprocess.Popen[str]") -> list[str]:
    """Wait for the process and return the ids of all tests, in order.

    Exits if the process failed, such as after an import error. The process has printed the reason.
    """
    output = process.communicate()[0]
    if process.returncode:
        sys.exit("collecting the tests failed")
    return output.splitlines()


def copy_of_the_tree(target: Path) -> Path:
    names = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def main(suites: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        copy = copy_of_the_tree(Path(scratch) / "a folder with another name")
        other = {
            "PATH": os.environ["PATH"],
            "HOME": scratch,
            "PYTHONHASHSEED": "2",
            "TZ": "Pacific/Auckland",
            "LANG": "C",
        }
        first = start(ROOT, 1_700_000_000, {**os.environ, "PYTHONHASHSEED": "1"}, suites)
        # No test runs, so this process need not rewrite assertions. (The first one uses modules that pytest rewrote and
        # cached in earlier runs.)
        second = start(copy, 1_830_000_001, other, ["--assert=plain", *suites])
        ids, other_ids = ids_of(first), ids_of(second)
    if ids != other_ids:
        difference = sorted(set(ids) ^ set(other_ids)) or ["the same ids in another order"]
        sys.exit("test ids differ between two processes:\n" + "\n".join(difference))
    print(f"{len(ids)} test ids are the same in two processes")


if __name__ == "__main__":
    main(sys.argv[1:])
