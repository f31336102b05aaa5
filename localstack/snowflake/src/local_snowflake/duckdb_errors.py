"""Translate errors of DuckDB's binder, catalog and casts into Snowflake's errors, or into refusals that name
the missing feature. DuckDB has one exception class for many errors, so the errors are distinguished by their
messages.
"""

import re

import duckdb

from local_snowflake.duckdb_macros import OTHER_DATES, TIMESTAMP
from local_snowflake.errors import SnowflakeError, compilation, exists, missing, unsupported

CANCELED = SnowflakeError("000604", "57014", "SQL execution canceled")
UNKNOWN_COLUMNS = (
    re.compile(r'Referenced column "(?P<column>[^"]+)" (?:not found|was not found)'),
    re.compile(r'(?:Table|Values list) "(?P<table>[^"]+)" does not have a column named "(?P<column>[^"]+)"'),
    re.compile(r'Referenced (?:table|update column) (?P<column>"?[^" ]+"?) not found'),
    re.compile(r'Table "(?P<table>[^"]+)" does not have a column with name "(?P<column>[^"]+)"'),
)
MISSING = (
    ("Database", re.compile(r'Catalog "([^"]+)" does not exist')),
    ("Database", re.compile(r'"([^"]+)" is not a catalog or schema')),
    ("Schema", re.compile(r'Schema with name "?([^" ]+)"? does not exist')),
    ("Object", re.compile(r'(?:Table|View|Sequence) with name "?([^" ]+)"? does not exist')),
)
NOT_USED = "SET schema: No catalog + schema named"
EXISTING = re.compile(r'with name "?([^" ]+)"? already exists')

UNKNOWN_TYPE = re.compile(r'Type with name "?([^" ]+)"? does not exist')
TIME_TEXT = re.compile(r'(timestamp|date|time) field (?:format|value)(?: out of range)?: ?"([^"]*)"')
TIME_OFFSET = re.compile(r'(timestamp) field value "([^"]*)" has a timestamp that is not UTC')
OTHER_TEXT = re.compile(
    r"Could not convert string '(.*)' to (?:(BOOL)|(?:U?INT|HUGEINT|DOUBLE|FLOAT|DECIMAL))"
)
TOO_LARGE = re.compile(
    r"cast value (\S+) to (\S+)|with value (\S+) can't be cast because the value is out of range .* type (\S+)"
)


def not_converted(message: str) -> SnowflakeError:
    """Return Snowflake's error for a string or number that DuckDB cannot cast. Return a refusal instead if the
    kind of error is unknown, or if the string is a date or time in a format that Snowflake may accept although DuckDB
    does not (Snowflake: "Date and time input and output formats").
    """
    if found := TIME_TEXT.search(message) or TIME_OFFSET.search(message):
        kind, text = found[1].capitalize(), found[2]
        if re.fullmatch(TIMESTAMP, text) or re.fullmatch(OTHER_DATES, text):
            return unsupported(f"the format of this {found[1]} without a cast: {text}")
        code = {"Timestamp": "100035", "Date": "100040", "Time": "100108"}[kind]
        return SnowflakeError(code, "22007", f"{kind} '{text}' is not recognized")
    if found := OTHER_TEXT.search(message):
        code, kind = ("100037", "Boolean") if found[2] else ("100038", "Numeric")
        return SnowflakeError(code, "22018", f"{kind} value '{found[1]}' is not recognized")
    if found := TOO_LARGE.search(message):
        value, kind = found[1] or found[3], found[2] or found[4]
        return SnowflakeError(
            "100046", "22003", f"Number out of representable range: type {kind}, value {value}"
        )
    return unsupported(message.partition(": ")[2] or message)


def unknown_or_existing(message: str) -> SnowflakeError | None:
    """Return Snowflake's error for a name that does not exist or already exists; None for any other message."""
    for pattern in UNKNOWN_COLUMNS:
        if found := pattern.search(message):
            parts = [part.strip('"').upper() for part in found.groupdict().values() if part]
            return compilation(f"invalid identifier '{'.'.join(parts)}'", "000904")
    if NOT_USED in message:
        return compilation("Object does not exist, or operation cannot be performed.", "002043", "02000")
    for kind, pattern in MISSING:
        if found := pattern.search(message):
            return missing(kind, found[1].upper())
    found = EXISTING.search(message)
    return exists(found[1].upper()) if found else None


def worded(error: duckdb.Error) -> SnowflakeError | None:
    """Return Snowflake's error, or a refusal, for an error of DuckDB's binder, catalog or casts, or for a cancelled
    statement. Return None for any other kind of error.
    """
    if isinstance(error, duckdb.ConversionException):
        return not_converted(str(error).splitlines()[0])
    if not isinstance(error, duckdb.BinderException | duckdb.CatalogException):
        return CANCELED if isinstance(error, duckdb.InterruptException) else None
    message = str(error).splitlines()[0]
    if known := unknown_or_existing(message):
        return known
    found = UNKNOWN_TYPE.search(message)
    return unsupported(f"the type {found[1].upper()}" if found else message.partition(": ")[2] or message)
