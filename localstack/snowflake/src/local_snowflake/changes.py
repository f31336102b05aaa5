"""Find the object that a CREATE, DROP or ALTER … RENAME statement changes, and update its owner and grants
afterwards.
"""

from dataclasses import dataclass
from typing import Literal

from local_snowflake.access import Access
from local_snowflake.errors import compilation, unsupported
from local_snowflake.privileges import PRIVILEGES
from local_snowflake.sql import STRINGS, Scope, Words

KINDS = tuple(sorted((kind for kind in PRIVILEGES if kind != "ACCOUNT"), key=len, reverse=True))
ADJECTIVES = (
    "TEMPORARY",
    "TEMP",
    "LOCAL",
    "GLOBAL",
    "TRANSIENT",
    "VOLATILE",
    "SECURE",
    "RECURSIVE",
    "STORAGE",
    "NOTIFICATION",
)


@dataclass(frozen=True)
class Change:
    verb: Literal["CREATE", "DROP", "RENAME"]
    kind: str
    name: str
    new_name: str = ""
    replaces: bool = False
    unless_exists: bool = False
    temporary: bool = False
    keep_grants: bool = False
    managed: bool = False

    def follow(self, access: Access, role: str) -> None:
        """Update the object's owner and grants. Called after the statement has succeeded."""
        if self.verb == "DROP":
            if self.kind in ("TABLE", "VIEW") and access.has_relation(self.name):
                return  # only the temporary relation of the same name was dropped
            access.dropped(self.kind, self.name)
        elif self.verb == "RENAME":
            access.renamed(self.kind, self.name, self.new_name)
        elif not (self.unless_exists and access.now.owner(self.kind, self.name)) and not self.temporary:
            if self.kind in ("SCHEMA", "DATABASE", "USER"):
                access.dropped(self.kind, self.name)
            access.created(self.kind, self.name, role, self.keep_grants)
            if self.kind == "DATABASE":
                access.created("SCHEMA", f"{self.name}.PUBLIC", role, False)
            if self.managed:
                access.set_managed(self.name, True)


def change_of(words: Words, scope: Scope) -> Change | None:
    """Return the change that a CREATE, DROP or RENAME makes to an object that has grants, or None otherwise."""
    words.at = 0
    try:
        if words.takes("CREATE"):
            return _create(words, scope)
        if words.takes("DROP"):
            kind = _take_kind(words)
            words.takes("IF", "EXISTS")
            return Change("DROP", kind, full_name(take_object_name(words), kind, scope)) if kind else None
        if words.takes("ALTER"):
            return _rename(words, scope)
        return None
    finally:
        words.at = 0


def _create(words: Words, scope: Scope) -> Change | None:
    replaces = words.takes("OR", "REPLACE")
    alters = words.takes("OR", "ALTER")
    temporary = False
    while any(words.sees(adjective) for adjective in ADJECTIVES):
        temporary = temporary or words.sees("TEMP") or words.sees("TEMPORARY")
        words.at += 1
    kind = _take_kind(words)
    if not kind:
        return None
    unless_exists = words.takes("IF", "NOT", "EXISTS")
    if replaces and unless_exists:
        raise compilation("options IF NOT EXISTS and OR REPLACE are incompatible.")
    name = full_name(take_object_name(words), kind, scope)
    rest = [token.text.upper() for token in words.tokens[words.at :]]
    return Change(
        "CREATE",
        kind,
        name,
        replaces=replaces or alters,
        unless_exists=unless_exists or alters,
        temporary=temporary,
        keep_grants=_contains(rest, "COPY", "GRANTS"),
        managed=kind == "SCHEMA" and _contains(rest, "WITH", "MANAGED", "ACCESS"),
    )


def _rename(words: Words, scope: Scope) -> Change | None:
    kind = _take_kind(words)
    words.takes("IF", "EXISTS")
    if kind not in ("TABLE", "VIEW"):
        return None
    parts = take_object_name(words)
    if not words.takes("RENAME", "TO"):
        return None
    new_parts = take_object_name(words)
    database, schema, _ = full_name(parts, kind, scope).split(".", 2)
    home = Scope(database, schema)
    return Change("RENAME", kind, full_name(parts, kind, scope), full_name(new_parts, kind, home))


def _take_kind(words: Words) -> str:
    _ = words.takes("STORAGE") or words.takes("NOTIFICATION")
    return next((kind for kind in KINDS if words.takes(*kind.split())), "")


def _contains(texts: list[str], *wanted: str) -> bool:
    return any(tuple(texts[at : at + len(wanted)]) == wanted for at in range(len(texts)))


def take_object_name(words: Words) -> tuple[str, ...]:
    """Parse a name, or IDENTIFIER('name') (Snowflake: "Literals and variables as identifiers")."""
    if not words.sees("IDENTIFIER", "("):
        return words.take_name()
    words.take("IDENTIFIER", "(")
    if words.token.token_type not in STRINGS:
        raise unsupported("IDENTIFIER with an argument that is not a string literal")
    parts = Words(words.take_string()).take_name()
    words.take(")")
    return parts


def full_name(parts: tuple[str, ...], kind: str, scope: Scope) -> str:
    if kind == "SCHEMA" and len(parts) == 1 and scope.database:
        return f"{scope.database}.{parts[0]}"
    if kind in ("TABLE", "VIEW", "STAGE", "FILE FORMAT", "PIPE", "SEQUENCE"):
        return str(scope.resolve(parts))
    return ".".join(parts)
