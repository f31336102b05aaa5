"""The command-line options, exit codes and report line that the jobs share, locally and on Glue."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from glue.archive import HOUR, Hours, Stored, floor_hour, hours_between, open_store

# 50 GB of objects contain about a billion events (50 compressed bytes each), which DuckDB would compact in eight hours
# (extrapolated in docs/scale-out.md). Smaller inputs use DuckDB, because Spark takes half a minute to start and about
# twice the CPU time per event (docs/adr/0031-duckdb-first.md).
SPARK_FROM_BYTES = 50 * 10**9
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def parser_of(job: str, about: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m glue.{job}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # otherwise argparse could read Glue's own arguments as abbreviations of ours
    )


def add_archive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--archive", required=True, help="s3://BUCKET, or a folder with the same layout")
    parser.add_argument(
        "--master", help="Spark master, such as local[2]; omit it on Glue, which starts Spark itself"
    )


def add_range(parser: argparse.ArgumentParser) -> None:
    add_archive(parser)
    parser.add_argument("--from", dest="start", help="first hour to include (time of receipt, RFC 3339)")
    parser.add_argument("--to", dest="end", help="end of the range of hours, exclusive (RFC 3339)")
    parser.add_argument(
        "--last-hours", type=at_least(1), help="the last N full hours, instead of --from and --to"
    )
    parser.add_argument("--engine", choices=["auto", "duckdb", "spark"], default="auto")


def name_in_key(text: str) -> str:
    """Return the user's text if it can be a part of object keys. Raises ArgumentTypeError, for example for a path."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: use at most 100 letters, digits, '.', '_', '-'; begin with a letter or digit"
        )
    return text


def at_least(least: int) -> Callable[[str], int]:
    """Return a parser of whole numbers that are not below `least`."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of at least {least}")
        return int(text)

    return number


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse a job's arguments. Unknown arguments are an error, except on Glue, which adds its own (--JOB_NAME, …)."""
    given, others = parser.parse_known_args(argv)
    if others and "--JOB_NAME" not in others:
        parser.error(f"unknown arguments: {' '.join(others)}")
    try:
        given.store = open_store(given.archive)
        if given.archive.startswith("s3://"):
            given.archive = given.archive.rstrip("/")  # because jobs append folders to it
        if "last_hours" in given:
            given.hours = _hours(given)
    except (ValueError, OverflowError) as error:
        parser.error(str(error))
    return given


def _hours(given: argparse.Namespace) -> Hours:
    if given.start and given.end:
        hours = hours_between(given.start, given.end)
        if hours.start >= hours.end:
            raise ValueError("--from must be before --to")
        return hours
    if given.last_hours is None or given.start or given.end:
        raise ValueError("give either --from and --to, or --last-hours")
    end = floor_hour(datetime.now(UTC))
    return Hours(end - given.last_hours * HOUR, end)


def exit_code(main: Callable[[Sequence[str]], int]) -> int:
    """Run a job with the command-line arguments. Return its exit code, or 2 after an AWS error or an OSError."""
    try:
        return main(sys.argv[1:])
    except Exception as error:
        aws = sys.modules.get("botocore.exceptions")
        if not isinstance(error, (OSError, *((aws.BotoCoreError, aws.ClientError) if aws else ()))):
            raise
        print(f"The job could not be completed: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


def choose_engine(asked: str, objects: Iterable[Stored]) -> str:
    if asked != "auto":
        return asked
    return "spark" if sum(stored.size for stored in objects) >= SPARK_FROM_BYTES else "duckdb"


def report(event: str, **facts: object) -> None:
    """Print one line of JSON to standard output, for CloudWatch Logs and scripts."""
    line = {"event": event, "at": datetime.now(UTC).isoformat(), **facts}
    print(json.dumps(line, default=str, allow_nan=False), file=sys.stdout, flush=True)
