"""What the jobs' command lines share, here and on Glue."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from glue.archive import HOUR, Hours, Stored, floor_hour, hours_between, open_store

# A thousand million events of 50 compressed bytes: what DuckDB compacts in a night of eight hours, by extrapolation
# (docs/scale-out.md). Below it Spark only adds its start.
SPARK_FROM_BYTES = 50 * 10**9


def parser_of(job: str, about: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m glue.{job}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # Glue's own arguments must not be taken for the beginnings of ours
    )


def add_archive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--archive", required=True, help="s3://BUCKET, or a folder that holds the same")
    parser.add_argument(
        "--master", help="Spark's master, such as local[2]; none on Glue, which brings its own"
    )


def add_range(parser: argparse.ArgumentParser) -> None:
    add_archive(parser)
    parser.add_argument("--from", dest="start", help="RFC 3339; when events were received")
    parser.add_argument("--to", dest="end", help="RFC 3339; before this")
    parser.add_argument("--last-hours", type=int, help="instead of both: so many full hours until now")
    parser.add_argument("--engine", choices=["auto", "duckdb", "spark"], default="auto")


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Glue adds arguments of its own (--JOB_NAME, …) to ours: those are passed over, a typo is not."""
    given, others = parser.parse_known_args(argv)
    if others and "--JOB_NAME" not in others:
        parser.error(f"unknown: {' '.join(others)}")
    try:
        given.store = open_store(given.archive)
        if "last_hours" in given:
            given.hours = _hours(given)
    except ValueError as error:
        parser.error(str(error))
    return given


def _hours(given: argparse.Namespace) -> Hours:
    if given.start and given.end:
        hours = hours_between(given.start, given.end)
        if hours.start >= hours.end:
            raise ValueError("--from must be before --to")
        return hours
    if given.last_hours is None or given.start or given.end:
        raise ValueError("name --from and --to, or --last-hours")
    if given.last_hours < 1:
        raise ValueError("--last-hours must be at least 1")
    end = floor_hour(datetime.now(UTC))
    return Hours(end - given.last_hours * HOUR, end)


def choose_engine(asked: str, objects: Iterable[Stored]) -> str:
    if asked != "auto":
        return asked
    return "spark" if sum(stored.size for stored in objects) >= SPARK_FROM_BYTES else "duckdb"


def report(event: str, **facts: object) -> None:
    """One line of JSON on standard output: CloudWatch keeps it, scripts read it."""
    line = {"event": event, "at": datetime.now(UTC).isoformat(), **facts}
    print(json.dumps(line, default=str, allow_nan=False), file=sys.stdout, flush=True)
