"""Print the SQL that makes the external table (glue/compacted.sql) list the files that the hours' manifests name.

    python -m glue.tables --archive s3://BUCKET --last-hours 26 --create | snow sql --stdin

For these hours, the SQL adds to the table the files that the manifests name, and removes all others. The command only
prints the SQL, so it needs no access to the warehouse.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from glue.archive import Hours, Store
from glue.compact import PREFIX, compacted_files, superseded_files
from glue.jobs import add_range, arguments, exit_code, parser_of

DDL = Path(__file__).with_name("compacted.sql")
_FILES_PER_STATEMENT = 1000  # Snowflake's limit for ADD FILES


def statements(store: Store, hours: Hours, database: str) -> Iterator[str]:
    table = f"{database}.RAW.COMPACTED_EVENTS"
    named = compacted_files(store, hours)
    known = set(named)
    # If a compaction replaces a manifest meanwhile, its previous files stay in the table until the next run.
    unnamed = [key for key in superseded_files(store, hours) if key not in known]
    for verb, files in (("ADD", named), ("REMOVE", unnamed)):
        relative = [_escaped(key.removeprefix(f"{PREFIX}/")) for key in files]
        for start in range(0, len(relative), _FILES_PER_STATEMENT):
            listed = ", ".join(f"'{key}'" for key in relative[start : start + _FILES_PER_STATEMENT])
            yield f"ALTER EXTERNAL TABLE {table} {verb} FILES ({listed});"


def _escaped(text: str) -> str:
    """Escape quotes and backslashes (Snowflake documentation: "String & binary data types", escape sequences)."""
    return text.replace("\\", "\\\\").replace("'", "''")


def main(argv: Sequence[str]) -> int:
    parser = parser_of("tables", __doc__)
    add_range(parser)
    parser.add_argument("--database", default="MILKRUN")
    parser.add_argument("--create", action="store_true", help="print the CREATE statements first")
    given = arguments(parser, argv)
    if given.create:
        bucket = given.archive.removeprefix("s3://")
        print(DDL.read_text().replace("{database}", given.database).replace("{bucket}", bucket))
    for statement in statements(given.store, given.hours, given.database):
        print(statement)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
