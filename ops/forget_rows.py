"""`milkrun forget` for Snowflake: delete rows from RAW, and find tables that still contain the person's ids afterwards.

The statements contain the ids, so Snowflake's query history keeps the ids for a year (see `ops/forget_remaining.py`).
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import batched

from glue.person import Names, Subject, in_line, names_in
from ops.read_stores import NAMES_PER_QUERY, placeholders
from snowpipe.warehouse import Row, Warehouse

TABLES = {"events": "EVENTS", "rejected": "REJECTED"}
BODIES_PER_QUERY = 100
IDS_PER_QUERY = 20
_FIELDS = {
    name: f"payload:{name}::VARCHAR"
    for name in (
        "userId",
        "user_id",
        "deviceId",
        "device_id",
        "user.userId",
        "user.user_id",
        "user._id",
        "user.id",
        "user.deviceId",
        "user.device_id",
        "metadata.userId",
        "metadata.user_id",
    )
}


def _by_table(names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the names of these objects in groups that fit into one query, each with the table of RAW that Snowflake
    loads the objects into.
    """
    every = list(names)
    for prefix, table in TABLES.items():
        ours = [name for name in every if name.startswith(f"{prefix}/")]
        yield from ((table, some) for some in batched(ours, NAMES_PER_QUERY, strict=False))


def not_loaded(warehouse: Warehouse, database: str, pairs: Iterable[Row]) -> list[str]:
    """Return the keys of new objects that Snowflake has not loaded completely."""
    lines = {pair["new"]: pair["lines_after"] for pair in pairs if pair["new"] is not None}
    missing = []
    for table, some in _by_table(lines):
        sql = (
            f"SELECT file_name, COUNT(*) AS n FROM {database}.RAW.{table}"
            f" WHERE file_name IN ({placeholders(some)}) GROUP BY file_name"
        )
        counts = {row["file_name"]: row["n"] for row in warehouse.query(sql, some)}
        missing += [name for name in some if counts.get(name, 0) < lines[name]]
    return missing


def forget_objects(warehouse: Warehouse, database: str, names: Iterable[str]) -> int:
    """Delete the rows of these objects from RAW; return the number of deleted rows."""
    deleted = 0
    for table, some in _by_table(names):
        where = f"FROM {database}.RAW.{table} WHERE file_name IN ({placeholders(some)})"
        deleted += warehouse.query(f"SELECT COUNT(*) AS n {where}", some)[0]["n"]
        warehouse.query(f"DELETE {where}", some)
    return deleted


def seen_in_raw(warehouse: Warehouse, database: str, subject: Subject) -> set[Names]:
    """Return the ids in each row of RAW.EVENTS that mentions the subject.

    They are needed in addition to the ids in the archive, because RAW also contains rows of objects that have expired.
    """
    columns = ", ".join(f"{field} AS field_{n}" for n, field in enumerate(_FIELDS.values()))
    seen = set()
    for where, parameters in _mentions("payload", subject):
        sql = f"SELECT DISTINCT {columns} FROM {database}.RAW.EVENTS WHERE {where}"
        seen |= {_names(row) for row in warehouse.query(sql, parameters)}
    return seen


def _names(row: Row) -> Names:
    event: dict[str, object] = {}
    nested: dict[str, dict[str, object]] = {}
    for n, path in enumerate(_FIELDS):
        *outer, name = path.split(".")
        (nested.setdefault(outer[0], {}) if outer else event)[name] = row[f"field_{n}"]
    return names_in(event | nested)._replace(texts=frozenset())


def rows_of(warehouse: Warehouse, database: str, subject: Subject) -> list[Row]:
    """Return the subject's rows in RAW, including those of expired objects, as table, file and line numbers."""
    found: list[Row] = []
    for table in TABLES.values():
        theirs: dict[str, set[int]] = {}
        for row in _candidates(warehouse, f"{database}.RAW.{table}", subject):
            if in_line(subject, row["line"].encode(errors="surrogatepass")):
                theirs.setdefault(row["file_name"], set()).add(int(row["file_row_number"]))
        found += [{"table": table, "file": file, "lines": sorted(theirs[file])} for file in sorted(theirs)]
    return found


def delete_rows(warehouse: Warehouse, database: str, rows: Iterable[Row]) -> int:
    """Delete the rows that `rows_of` returned; return the number of deleted rows."""
    deleted = 0
    for row in rows:
        lines = ", ".join(str(int(number)) for number in row["lines"])
        where = f"FROM {database}.RAW.{row['table']} WHERE file_name = %s AND file_row_number IN ({lines})"
        deleted += warehouse.query(f"SELECT COUNT(*) AS n {where}", [row["file"]])[0]["n"]
        warehouse.query(f"DELETE {where}", [row["file"]])
    return deleted


def _candidates(warehouse: Warehouse, table: str, subject: Subject) -> Iterator[Row]:
    columns = "SELECT file_name, file_row_number, TO_JSON(payload) AS line"
    for where, parameters in _mentions("payload", subject):
        yield from warehouse.query(f"{columns} FROM {table} WHERE {where}", parameters)
    # Base64 text cannot be searched for an id, so every row with such text is a candidate.
    hidden = "payload:body_base64 IS NOT NULL"
    files = [
        row["file_name"] for row in warehouse.query(f"SELECT DISTINCT file_name FROM {table} WHERE {hidden}")
    ]
    for some in batched(files, BODIES_PER_QUERY, strict=False):
        sql = f"{columns} FROM {table} WHERE {hidden} AND file_name IN ({placeholders(some)})"
        yield from warehouse.query(sql, some)


def tables_that_name(warehouse: Warehouse, database: str, subject: Subject) -> list[str]:
    """Return the tables that contain an id of the subject in a column for devices or users.

    After the marts are built again, such tables are copies that people made, or belong to former dbt models.
    """
    sql = (
        f"SELECT c.table_schema, c.table_name, c.column_name FROM {database}.INFORMATION_SCHEMA.COLUMNS AS c"
        f" JOIN {database}.INFORMATION_SCHEMA.TABLES AS t"
        " ON c.table_schema = t.table_schema AND c.table_name = t.table_name"
        " WHERE t.table_type = 'BASE TABLE' AND c.data_type = 'TEXT'"
    )
    columns: dict[str, list[str]] = {}
    for row in warehouse.query(sql):
        if "DEVICE" in row["column_name"].upper() or "USER" in row["column_name"].upper():
            table = ".".join([database, _identifier(row["table_schema"]), _identifier(row["table_name"])])
            columns.setdefault(table, []).append(_identifier(row["column_name"]))
    found = set()
    for table, names in columns.items():
        for some in batched(_forms(subject), IDS_PER_QUERY, strict=False):
            where = " OR ".join(f"{name} IN ({placeholders(some)})" for name in names)
            if warehouse.query(f"SELECT 1 AS n FROM {table} WHERE {where} LIMIT 1", [*some] * len(names)):
                found.add(table)
    return sorted(found)


def _identifier(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _mentions(column: str, subject: Subject) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield SQL conditions with their parameters.

    A condition matches the rows whose VARIANT contains one of up to IDS_PER_QUERY ids. Together, the conditions cover
    all ids.
    """
    forms = [json.dumps(form, ensure_ascii=False, allow_nan=False)[1:-1] for form in _forms(subject)]
    for some in batched(forms, IDS_PER_QUERY, strict=False):
        yield " OR ".join(f"CONTAINS(TO_JSON({column}), %s)" for _ in some), some


def _forms(subject: Subject) -> list[str]:
    """Return the subject's ids in the composed and the decomposed Unicode normal form."""
    return sorted({unicodedata.normalize(form, each) for each in subject.ids for form in ("NFC", "NFD")})
