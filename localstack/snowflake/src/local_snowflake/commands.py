"""Decide which statements the local Snowflake answers itself, which it passes to fakesnow, and which it
refuses.
"""

from itertools import groupby

import structlog
from sqlglot.tokenizer_core import TokenType

from local_snowflake.access import Access
from local_snowflake.authorize import Authority
from local_snowflake.changes import Change, change_of
from local_snowflake.copy_by_hand import Bulk
from local_snowflake.databases import Databases
from local_snowflake.errors import SnowflakeError, compilation, missing, unsupported
from local_snowflake.grant_statements import Granting
from local_snowflake.integrations import Integrations
from local_snowflake.pipes import Pipes
from local_snowflake.read_privileges import Reading
from local_snowflake.results import Handler, Result
from local_snowflake.roles import Roles
from local_snowflake.session import LocalConnection
from local_snowflake.show_clauses import take_describe
from local_snowflake.sql import STRINGS, Scope, Words, literal, quoted
from local_snowflake.stages import Stages
from local_snowflake.system_functions import Functions
from local_snowflake.unenforced import Unenforced
from local_snowflake.visible import Visible

log = structlog.get_logger()


class Commands:
    def __init__(
        self,
        access: Access,
        authority: Authority,
        reading: Reading,
        roles: Roles,
        pipes: Pipes,
        stages: Stages,
        integrations: Integrations,
        databases: Databases,
        unenforced: Unenforced,
        functions: Functions,
        bulk: Bulk,
    ) -> None:
        self.access = access
        self.authority = authority
        self.reading = reading
        self.databases = databases
        self.visible = Visible(access)
        self.functions = functions
        self.bulk = bulk
        self.handlers: dict[tuple[str, ...], Handler] = {
            **pipes.handlers,
            **stages.handlers,
            **integrations.handlers,
            **databases.handlers,
            **unenforced.handlers,
            **roles.handlers,
            **Granting(access, authority).handlers,
        }

    def __call__(self, sql: str, scope: Scope, session: LocalConnection) -> Result | str | None:
        """Handle a statement: return its result, or other SQL for fakesnow to run instead, or None if
        fakesnow should run the statement unchanged.
        """
        words = Words(sql)
        if any(token.token_type == TokenType.SEMICOLON for token in words.tokens):
            if words.start(1) in (("BEGIN",), ("DECLARE",)):
                raise unsupported("Snowflake Scripting")
            ends = (token.token_type == TokenType.SEMICOLON for token in words.tokens)
            statements = sum(not end for end, _ in groupby(ends))
            message = f"Actual statement count {statements} did not match the desired statement count 1."
            raise SnowflakeError("000008", "0A000", message)
        refuse_internals(words)
        statement = leading(words)
        change = change_of(words, scope)
        role = session.actor.role
        if change:
            self.authority.change(session.actor, change)
            if change.verb == "CREATE" and change.kind in ("STAGE", "FILE FORMAT", "PIPE"):
                self.access.catalog.require_schema(change.name)
            session.when_done = lambda: self._follow(change, role, sql, session)
        else:
            self.authority.statement(statement, words, scope)
        answer = self._answer(statement, words, scope, session)
        if isinstance(answer, Result):
            session.done()
        return answer

    def _follow(self, change: Change, role: str, sql: str, session: LocalConnection) -> None:
        made_view = change.kind == "VIEW" and change.verb == "CREATE" and not change.unless_exists
        if change.kind == "VIEW" and not change.temporary:
            self._keep_text(change, sql)
        if change.verb == "DROP" and change.kind == "SCHEMA":
            self.databases.forget_schema(change.name)
        change.follow(self.access, role)
        self.reading.forget(change.name)
        if made_view and session.view_reads is not None:
            self.reading.learn(change.name, session.view_reads)

    def _keep_text(self, change: Change, sql: str) -> None:
        """Store a view's text, unless CREATE VIEW IF NOT EXISTS found an existing view; if a view is renamed,
        rename its stored text. Must be called before the owner of a new view is recorded, because a view with
        an owner counts as existing.
        """
        if change.verb == "RENAME":
            self.access.catalog.rename_view_text(change.name, change.new_name)
        elif change.verb == "CREATE" and not (
            change.unless_exists and self.access.now.owner("VIEW", change.name)
        ):
            self.access.catalog.put_view_text(change.name, sql)

    def _answer(
        self, statement: tuple[str, ...], words: Words, scope: Scope, session: LocalConnection
    ) -> Result | str | None:
        if words.start(3)[1:] == ("OR", "ALTER") and statement != ("CREATE", "FILE", "FORMAT"):
            raise unsupported(
                f"CREATE OR ALTER {' '.join(statement[1:])}; only CREATE OR ALTER FILE FORMAT is supported"
            )
        if statement == ("SET",) and words.start(3)[1:2] != ("(",) and words.start(3)[2:] != ("=",):
            raise unsupported(f"the statement {' '.join(words.start(3))} …")
        if words.start(4)[2:] == ("AS", "PROCEDURE"):
            raise unsupported("anonymous procedures")
        if statement[:1] == ("SHOW",):
            self._require_container(words, scope)
        if statement == ("DESC", "SEQUENCE"):
            return self._describe_sequence(words, scope)
        if handler := self.handlers.get(statement):
            if statement[0] in DDL:
                session.refuse_to_commit_aborted()
                session.commit_open()
            return handler(words, scope)
        if statement[:2] == ("COPY", "INTO"):
            return self.bulk.copy(words, scope, session)
        if not fakesnow_has(statement):
            raise unsupported(f"the statement {' '.join(statement)} ({' '.join(words.sql.split())[:100]})")
        return self.functions.rewritten(words, scope)

    def _require_container(self, words: Words, scope: Scope) -> None:
        """Raise Snowflake's error if SHOW … IN names a database or schema that does not exist."""
        while not (words.done or words.takes("IN")):
            words.at += 1
        kind = next((kind for kind in ("DATABASE", "SCHEMA") if words.takes(kind)), "")
        parts = words.take_name() if kind and not words.done and not words.sees("LIKE") else ()
        words.at = 0
        if parts:
            database = parts[0] if kind == "DATABASE" or len(parts) == 2 else scope.database or ""
            is_there = self.access.catalog.has_schema(database, parts[-1] if kind == "SCHEMA" else None)
            if not is_there:
                message = "Object does not exist, or operation cannot be performed."
                raise compilation(message, "002043", "02000")

    def _describe_sequence(self, words: Words, scope: Scope) -> str:
        """Return the SHOW SEQUENCES statement that answers DESC SEQUENCE, because both return the same columns
        (Snowflake: "DESCRIBE SEQUENCE"). Raises Snowflake's error if the sequence does not exist.
        """
        take_describe(words, "SEQUENCE")
        name = scope.resolve(words.take_name())
        found = self.access.catalog.rows(
            "SELECT 1 FROM duckdb_sequences() WHERE (database_name, schema_name, sequence_name) = (?, ?, ?)",
            name,
        )
        if not found:
            raise missing("Sequence", name)
        return f"SHOW SEQUENCES LIKE {literal(name.name)} IN SCHEMA {quoted(name.database)}.{quoted(name.schema)}"


def refuse_internals(words: Words) -> None:
    """Refuse statements that name DuckDB's or fakesnow's own catalogs, which list the tables of every
    database regardless of privileges.
    """
    for token in words.tokens:
        if token.token_type not in STRINGS and token.text.lower() in INTERNALS:
            raise missing("Object", token.text.upper())


INTERNALS = {
    "sqlite_master",
    "sqlite_schema",
    "sqlite_temp_master",
    "sqlite_temp_schema",
    "pragma_database_list",
    "pg_catalog",
    "_fs_global",
    "_fs_information_schema",
}
FILLERS = (
    ("OR", "REPLACE"),
    ("OR", "ALTER"),
    ("IF", "NOT", "EXISTS"),
    ("TEMPORARY",),
    ("TEMP",),
    ("LOCAL",),
    ("TRANSIENT",),
    ("VOLATILE",),
    ("SECURE",),
    ("RECURSIVE",),
    ("TERSE",),
)
TWO_WORDS = {
    "STORAGE",
    "NOTIFICATION",
    "RESOURCE",
    "NETWORK",
    "FILE",
    "SECONDARY",
    "PRIMARY",
    "UNIQUE",
    "IMPORTED",
}


def leading(words: Words) -> tuple[str, ...]:
    """Return the words that identify the kind of statement, such as CREATE STAGE for CREATE OR REPLACE TEMP STAGE."""
    start = list(words.start(10))
    if not start:
        return ()
    verb = "DESC" if start[0] == "DESCRIBE" else start[0]
    if verb in ONE_WORD:
        return (verb,)
    rest = start[1:]
    for filler in FILLERS:
        if tuple(rest[: len(filler)]) == filler:
            rest = rest[len(filler) :]
    if rest and (rest[0] in TWO_WORDS or rest[:2] == ["DATABASE", "ROLE"]):
        return (verb, *rest[:2])
    return (verb, *rest[:1])


DDL = {"CREATE", "ALTER", "DROP", "GRANT", "REVOKE"}
"""These statements commit the open transaction (Snowflake: "Transactions", "DDL")."""
ONE_WORD = {
    "SELECT",
    "WITH",
    "(",
    "VALUES",
    "UPDATE",
    "DELETE",
    "MERGE",
    "INSERT",
    "TRUNCATE",
    "BEGIN",
    "START",
    "COMMIT",
    "ROLLBACK",
    "SET",
    "UNSET",
    "COMMENT",
    "GRANT",
    "REVOKE",
}
FAKESNOWS_OWN: dict[str, set[tuple[str, ...]]] = {
    "CREATE": {
        ("TABLE",),
        ("VIEW",),
        ("SCHEMA",),
        ("DATABASE",),
        ("SEQUENCE",),
        ("FILE", "FORMAT"),
    },
    "ALTER": {("TABLE",), ("SESSION",), ("VIEW",)},
    "DROP": {("TABLE",), ("VIEW",), ("SCHEMA",), ("SEQUENCE",)},
    "SHOW": {
        ("TABLES",),
        ("VIEWS",),
        ("OBJECTS",),
        ("COLUMNS",),
        ("SCHEMAS",),
        ("DATABASES",),
        ("STAGES",),
        ("SEQUENCES",),
        ("PARAMETERS",),
        ("FUNCTIONS",),
        ("PROCEDURES",),
        ("USER",),
        ("PRIMARY", "KEYS"),
        ("UNIQUE", "KEYS"),
        ("IMPORTED", "KEYS"),
    },
}
NOT_OBJECTS = {"TASK", "STREAM", "PROCEDURE", "FUNCTION", "WAREHOUSE", "ROLE", "USER", "SHARE"}


def fakesnow_has(statement: tuple[str, ...]) -> bool:
    if not statement:
        return True
    verb, kind = statement[0], statement[1:]
    if verb in FAKESNOWS_OWN:
        return kind in FAKESNOWS_OWN[verb]
    if verb in ("DESC", "USE"):
        return not kind or kind[0] not in NOT_OBJECTS
    return verb in ONE_WORD
