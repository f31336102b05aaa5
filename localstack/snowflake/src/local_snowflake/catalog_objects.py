"""The objects in the catalog, and the tables that store them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from local_snowflake.column_types import type_of_column
from local_snowflake.expression_types import VARIANT
from local_snowflake.names import Columns
from local_snowflake.sql import OURS, Name, Options

PIPE_HISTORY = timedelta(days=14)
TABLE_HISTORY = timedelta(days=64)

OBJECTS = f"""
CREATE SCHEMA IF NOT EXISTS {OURS};
CREATE TABLE IF NOT EXISTS {OURS}.account (locator VARCHAR, created_on TIMESTAMPTZ);
CREATE TABLE IF NOT EXISTS {OURS}.pipes (
    pipe_id VARCHAR, database_name VARCHAR, schema_name VARCHAR, name VARCHAR, definition VARCHAR,
    auto_ingest BOOLEAN, topic VARCHAR, channel VARCHAR, integration VARCHAR, error_integration VARCHAR,
    comment VARCHAR, stage_id VARCHAR, location VARCHAR, paused_on TIMESTAMPTZ, created_on TIMESTAMPTZ);
CREATE TABLE IF NOT EXISTS {OURS}.stages (
    stage_id VARCHAR, database_name VARCHAR, schema_name VARCHAR, name VARCHAR,
    file_format VARCHAR, integration VARCHAR, integration_id VARCHAR);
CREATE TABLE IF NOT EXISTS {OURS}.integrations (
    integration_id VARCHAR, name VARCHAR, options VARCHAR, created_on TIMESTAMPTZ);
CREATE TABLE IF NOT EXISTS {OURS}.unenforced (
    kind VARCHAR, name VARCHAR, options VARCHAR, created_on TIMESTAMPTZ);
CREATE TABLE IF NOT EXISTS {OURS}.grants (
    privilege VARCHAR, granted_on VARCHAR, name VARCHAR, granted_to VARCHAR, grantee VARCHAR,
    created_on TIMESTAMPTZ);
ALTER TABLE {OURS}.grants ADD COLUMN IF NOT EXISTS grant_option BOOLEAN;
ALTER TABLE {OURS}.grants ADD COLUMN IF NOT EXISTS granted_by VARCHAR;
ALTER TABLE {OURS}.pipes ADD COLUMN IF NOT EXISTS transferred BOOLEAN;
CREATE TABLE IF NOT EXISTS {OURS}.managed_schemas (name VARCHAR);
CREATE TABLE IF NOT EXISTS {OURS}.view_texts (name VARCHAR, text VARCHAR);
CREATE TABLE IF NOT EXISTS {OURS}.users (name VARCHAR, options VARCHAR, created_on TIMESTAMPTZ);
"""

HISTORIES = """
CREATE TABLE IF NOT EXISTS {hidden}._local_history (
    PIPE_ID VARCHAR, PIPE_CATALOG VARCHAR, PIPE_SCHEMA VARCHAR, PIPE_NAME VARCHAR,
    TABLE_SCHEMA VARCHAR, TABLE_NAME VARCHAR, STAGE_LOCATION VARCHAR, FILE_NAME VARCHAR, ETAG VARCHAR,
    LAST_LOAD_TIME TIMESTAMPTZ, ROW_COUNT BIGINT, ROW_PARSED BIGINT, FILE_SIZE BIGINT,
    FIRST_ERROR_MESSAGE VARCHAR, FIRST_ERROR_LINE_NUMBER BIGINT, FIRST_ERROR_CHARACTER_POS BIGINT,
    FIRST_ERROR_COLUMN_NAME VARCHAR, ERROR_COUNT BIGINT, ERROR_LIMIT BIGINT, STATUS VARCHAR,
    PIPE_RECEIVED_TIME TIMESTAMPTZ, FIRST_COMMIT_TIME TIMESTAMPTZ, forgotten BOOLEAN);
CREATE TABLE IF NOT EXISTS {hidden}._local_pending (
    pipe_id VARCHAR, bucket VARCHAR, key VARCHAR, file_name VARCHAR, file_size BIGINT,
    created_on TIMESTAMPTZ, received_on TIMESTAMPTZ);
"""


class Location(NamedTuple):
    """The location from which a COPY statement reads files."""

    bucket: str
    base: str
    """The key prefix of the stage's URL; file names are relative to it."""
    prefix: str
    """The key prefix including the statement's path within the stage."""
    pattern: str | None

    def file_name(self, bucket: str, key: str) -> str | None:
        """Return an object's path as the load histories record it, or None if the object is outside this
        location or does not match its pattern.

        The prefix is compared as text, so a stage URL without a trailing slash also matches longer prefixes.
        """
        if bucket != self.bucket or not key.startswith(self.prefix):
            return None
        name = key[len(self.base) :]
        return name if self.pattern is None or re.fullmatch(self.pattern, name) else None


@dataclass(frozen=True)
class Pipe:
    pipe_id: str
    name: Name
    definition: str
    auto_ingest: bool
    topic: str | None
    channel: str | None
    integration: str | None
    error_integration: str | None
    comment: str | None
    stage_id: str
    location: Location
    paused_on: datetime | None
    created_on: datetime
    transferred: bool = False
    """Whether the owner changed while the pipe was paused; then only SYSTEM$PIPE_FORCE_RESUME resumes the pipe."""


def pipe_of(row: tuple[Any, ...]) -> Pipe:
    pipe_id, database, schema, name, *written, location, paused_on, created_on, transferred = row
    where = Location(*json.loads(location))
    fields = [
        pipe_id,
        Name(database, schema, name),
        *written,
        where,
        paused_on,
        created_on,
        bool(transferred),
    ]
    return Pipe(*fields)


@dataclass(frozen=True)
class Stage:
    stage_id: str
    name: Name
    url: str
    file_format: Options
    integration: str | None
    integration_id: str | None


def columns_of(rows: Sequence[tuple[str, ...]]) -> Columns:
    names = frozenset(name for *parts, _ in rows for name in parts)
    mixed = frozenset(name.upper() for name in names if name != name.upper())
    types: dict[str, set[str]] = {}
    tables: dict[tuple[str, ...], dict[str, str]] = {}
    for *parts, duck_type in rows:
        *table, column = (part.upper() for part in parts)
        types.setdefault(column, set()).add(type_of_column(duck_type))
        tables.setdefault(tuple(table), {})[column] = duck_type
    variants = frozenset(column for column, found in types.items() if VARIANT in found)
    return Columns(variants, names, mixed, {name: frozenset(found) for name, found in types.items()}, tables)


class Integration(NamedTuple):
    integration_id: str
    name: str
    options: dict[str, Any]
    created_on: datetime
