"""Load a million small objects, then ten million events in large objects, with the local loader
(`make bench-large`). It takes an hour and 3 GB of disk space.

    python -m tests.bench.large [--objects N] [--rows N] [--json]
"""

import argparse
import sys

from tests.bench import figures
from tests.bench.figures import Figures
from tests.bench.loader import large_objects, small_objects

ROWS_PER_OBJECT = 2600


def measure(objects: int, rows: int) -> Figures:
    found = small_objects(objects)
    found.add(large_objects(max(1, rows // ROWS_PER_OBJECT), ROWS_PER_OBJECT))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.large", description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    known, rest = parser.parse_known_args()
    sys.exit(figures.main(lambda: measure(known.objects, known.rows), rest))
