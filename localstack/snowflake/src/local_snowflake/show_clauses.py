"""Common parts of SHOW and DESC statements."""

import fnmatch

from local_snowflake.results import TEXT
from local_snowflake.sql import Name, Scope, Words

PROPERTIES = {
    "property": TEXT,
    "property_type": TEXT,
    "property_value": TEXT,
    "property_default": TEXT,
}


def take_describe(words: Words, kind: str) -> None:
    if not words.takes("DESC"):
        words.take("DESCRIBE")
    words.take(kind)


def take_filter(words: Words, scope: Scope) -> tuple[str | None, tuple[str, ...]]:
    """Parse the LIKE 'pattern' and IN ACCOUNT|DATABASE|SCHEMA clauses of a SHOW statement. Return the pattern,
    or None, and the parts of the container's name. Without IN, the container is the current database and schema.
    IN ACCOUNT returns no parts.
    """
    like, within = None, tuple(part for part in (scope.database, scope.schema) if part)
    if words.takes("LIKE"):
        like = words.take_string()
    if words.takes("IN"):
        if words.takes("ACCOUNT"):
            within = ()
        else:
            kind = "SCHEMA" if words.takes("SCHEMA") else "DATABASE" if words.takes("DATABASE") else None
            within = words.take_name() if not words.done else within[: 1 if kind == "DATABASE" else 2]
            if kind != "DATABASE" and len(within) == 1 and scope.database:
                within = (scope.database, *within)
    words.finish()
    return like, within


def alike(name: str, like: str | None) -> bool:
    """Return whether a name matches the pattern of SHOW … LIKE, ignoring case."""
    if like is None:
        return True
    pattern = like.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
    pattern = pattern.replace("%", "*").replace("_", "?").replace("\\?", "_")
    return fnmatch.fnmatchcase(name.upper(), pattern.upper())


def inside(name: Name, within: tuple[str, ...]) -> bool:
    return name[: len(within)] == within


def property_of(value: object) -> tuple[str, str, str]:
    if isinstance(value, bool):
        return "Boolean", str(value).lower(), ""
    if isinstance(value, list | tuple):
        return "List", ",".join(str(element) for element in value), "[]"
    return "String", "" if value is None else str(value), ""
