"""Measure DynamoDB units per geofence event on real delivery rounds, or on those in FILE (gzipped NDJSON):
`python -m tests.bench.units [--json] [FILE]`.

Events are delivered in time order with one event per batch, the most expensive case. The write units include
those of the indexes.
"""

import gzip
import sys
from collections.abc import Iterable
from pathlib import Path

from consumer.consume import consume
from consumer.records import records_of
from contract.geofence_event_types import GEOFENCE_KINDS
from contract.strict_json import parse_json
from tests.bench import consumer, figures
from tests.bench.fake_aws import Aws, Inline
from tests.bench.figures import Figures, progress
from tests.unit.consumer.strategies import batch_of

ROUNDS = Path(__file__).parents[3] / "shared" / "data" / "delivery-rounds.ndjson.gz"


def geofence_events(lines: Iterable[bytes]) -> list[bytes]:
    """Return the geofence events among these lines, sorted by `createdAt`."""
    found = [
        (event["createdAt"], line)
        for line in lines
        for event in [parse_json(line)]
        if event["type"] in GEOFENCE_KINDS
    ]
    return [line.rstrip() for _, line in sorted(found)]


def units_of(events: Iterable[bytes]) -> dict[str, float]:
    """Consume the events in batches of one; return the DynamoDB units, calls and notifications per event."""
    aws, count = Aws(0, billed=True), 0
    wired = consumer.ports(aws, Inline())
    for count, event in enumerate(events, 1):
        outcome = consume(records_of(batch_of([event], first=count)), wired)
        assert (outcome.stopped_at, outcome.added) == (None, 1)
    per_event = {
        "write_units": aws.units["write"] + aws.units["index write"],
        "read_units": aws.units["read"],
        "calls": aws.calls.total(),
        "notifications": aws.units["entry"],
    }
    return {name: value / count for name, value in per_event.items()}


def measure(path: Path = ROUNDS) -> Figures:
    if not path.exists():
        progress(f"units: skipped, because {path} does not exist")
        return Figures()
    with gzip.open(path) as lines:
        found = units_of(geofence_events(lines))
    return Figures(rates={f"consumer/{name}_per_event rounds": value for name, value in found.items()})


if __name__ == "__main__":
    files = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    sys.exit(figures.main(lambda: measure(*map(Path, files)), sys.argv[1:]))
