"""`python -m ops.osls package --stage dev`: osls, one at a time in this clone.

osls keeps its work in .serverless beside serverless.yml, and two at once would mix theirs: this one waits for a
`make up` that deploys, and the other way round.
"""

import subprocess
import sys

from ops.stack.deploy import OSLS, alone
from ops.stack.settings import ROOT


def main(arguments: list[str]) -> int:
    with alone():
        return subprocess.run([OSLS, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
