"""SQL that tells the external table over the compacted Parquet (glue/compacted.sql) what the manifests name.

    python -m glue.tables --archive s3://BUCKET --last-hours 26 --create | snow sql --stdin

It only prints: this machine needs no right on the warehouse. The hours' files are added; those of the
same hours that no manifest names any more are removed.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from glue.archive import Hours, Store
from glue.compact import PREFIX, compacted_files, superseded_files
from glue.jobs import add_range, arguments, parser_of

DDL = Path(__file__).with_name("compacted.sql")
_FILES_A_STATEMENT = 1000  # Snowflake's limit for ADD FILES


def statements(store: Store, hours: Hours, database: str) -> Iterator[str]:
    table = f"{database}.RAW.COMPACTED_EVENTS"
    for verb, files in (("ADD", compacted_files(store, hours)), ("REMOVE", superseded_files(store, hours))):
        relative = [key.removeprefix(f"{PREFIX}/").replace("'", "''") for key in files]
        for start in range(0, len(relative), _FILES_A_STATEMENT):
            listed = ", ".join(f"'{key}'" for key in relative[start : start + _FILES_A_STATEMENT])
            yield f"ALTER EXTERNAL TABLE {table} {verb} FILES ({listed});"


def main(argv: Sequence[str]) -> int:
    parser = parser_of("tables", __doc__)
    add_range(parser)
    parser.add_argument("--database", default="MILKRUN")
    parser.add_argument("--create", action="store_true", help="the table first")
    given = arguments(parser, argv)
    if given.create:
        bucket = given.archive.removeprefix("s3://")
        print(DDL.read_text().replace("{database}", given.database).replace("{bucket}", bucket))
    for statement in statements(given.store, given.hours, given.database):
        print(statement)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
