"""Translate errors of DuckDB's binder and catalog to Snowflake's errors, or to refusals that name what is
missing. DuckDB has one exception class for many errors, so its message is read here, and only here.
"""

import re

import duckdb

from local_snowflake.errors import SnowflakeError, compilation, exists, missing, unsupported

UNKNOWN_COLUMNS = (
    re.compile(r'Referenced column "(?P<column>[^"]+)" (?:not found|was not found)'),
    re.compile(r'(?:Table|Values list) "(?P<table>[^"]+)" does not have a column named "(?P<column>[^"]+)"'),
    re.compile(r'Referenced (?:table|update column) (?P<column>"?[^" ]+"?) not found'),
    re.compile(r'Table "(?P<table>[^"]+)" does not have a column with name "(?P<column>[^"]+)"'),
)
MISSING = (
    ("Database", re.compile(r'Catalog "([^"]+)" does not exist')),
    ("Schema", re.compile(r'Schema with name "?([^" ]+)"? does not exist')),
    ("Object", re.compile(r'(?:Table|View|Sequence) with name "?([^" ]+)"? does not exist')),
)
EXISTING = re.compile(r'with name "?([^" ]+)"? already exists')

UNKNOWN_TYPE = re.compile(r'Type with name "?([^" ]+)"? does not exist')


def worded(error: duckdb.Error) -> SnowflakeError | None:
    """Return Snowflake's error for an error of the binder or the catalog; None for any other kind of error."""
    if not isinstance(error, duckdb.BinderException | duckdb.CatalogException):
        return None
    message = str(error).splitlines()[0]
    for pattern in UNKNOWN_COLUMNS:
        if found := pattern.search(message):
            parts = [part.strip('"').upper() for part in found.groupdict().values() if part]
            return compilation(f"invalid identifier '{'.'.join(parts)}'", "000904")
    for kind, pattern in MISSING:
        if found := pattern.search(message):
            return missing(kind, found[1].upper())
    if found := EXISTING.search(message):
        return exists(found[1].upper())
    if found := UNKNOWN_TYPE.search(message):
        return unsupported(f"the type {found[1].upper()}")
    return unsupported(message.partition(": ")[2] or message)
