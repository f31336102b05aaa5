"""`python -m ops.osls package --stage dev`: osls, one at a time in this clone.

osls keeps its work in .serverless beside serverless.yml, and two at once would mix theirs: this one waits for a
`make up` that deploys, and the other way round.
"""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ops.outputs import ROOT

OSLS = ROOT / "node_modules" / ".bin" / "osls"


@contextmanager
def alone() -> Iterator[None]:
    """osls keeps its work in .serverless, which two of them must not share."""
    lock = ROOT / ".venvs" / ".deploying"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    with alone():
        return subprocess.run([OSLS, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
