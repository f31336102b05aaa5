"""The privileges of each kind of object. Source: Snowflake's page "Access control privileges". Only
the kinds of object that the local Snowflake has are listed; a grant on any other kind is refused.
"""

from collections.abc import Mapping

SYSTEM_ROLES: Mapping[str, tuple[str, ...]] = {
    "ACCOUNTADMIN": (),
    "SECURITYADMIN": ("ACCOUNTADMIN",),
    "SYSADMIN": ("ACCOUNTADMIN",),
    "USERADMIN": ("SECURITYADMIN",),
    "PUBLIC": (),
}
"""The system-defined roles, each with the roles to which it is granted. Source: "Overview of Access Control".

Every user and role has PUBLIC, although no grant of PUBLIC is stored."""

ROLE_PRIVILEGES: Mapping[str, tuple[str, ...]] = {
    "SYSADMIN": ("CREATE DATABASE", "CREATE WAREHOUSE"),
    "USERADMIN": ("CREATE ROLE", "CREATE USER"),
    "SECURITYADMIN": ("CREATE NETWORK POLICY", "MANAGE GRANTS"),
}
"""Account privileges that the system roles have from the start; ACCOUNTADMIN has all."""

_SCHEMA_OBJECTS = ("TABLE", "VIEW", "STAGE", "FILE FORMAT", "PIPE", "SEQUENCE")

PRIVILEGES: Mapping[str, tuple[str, ...]] = {
    "ACCOUNT": (
        "CREATE DATABASE",
        "CREATE INTEGRATION",
        "CREATE NETWORK POLICY",
        "CREATE ROLE",
        "CREATE USER",
        "CREATE WAREHOUSE",
        "MANAGE GRANTS",
        "MANAGE WAREHOUSES",
        "MONITOR EXECUTION",
        "MONITOR USAGE",
    ),
    "DATABASE": ("CREATE SCHEMA", "MODIFY", "MONITOR", "USAGE"),
    "SCHEMA": (*(f"CREATE {kind}" for kind in _SCHEMA_OBJECTS), "MODIFY", "MONITOR", "USAGE"),
    "TABLE": ("DELETE", "EVOLVE SCHEMA", "INSERT", "REFERENCES", "SELECT", "TRUNCATE", "UPDATE"),
    "VIEW": ("REFERENCES", "SELECT"),
    "STAGE": ("READ", "USAGE", "WRITE"),
    "FILE FORMAT": ("USAGE",),
    "PIPE": ("MONITOR", "OPERATE"),
    "SEQUENCE": ("USAGE",),
    "WAREHOUSE": ("MODIFY", "MONITOR", "OPERATE", "USAGE"),
    "RESOURCE MONITOR": ("MODIFY", "MONITOR"),
    "INTEGRATION": ("USAGE",),
    "NETWORK POLICY": (),
    "USER": ("MONITOR",),
    "ROLE": (),
}
"""The privileges on each kind of object, except OWNERSHIP, which exists for every kind other than ACCOUNT. ROLE has no
others, because the right to use a role is granted with GRANT ROLE."""

OWNERSHIP = "OWNERSHIP"
IN_A_SCHEMA = frozenset(_SCHEMA_OBJECTS)
PLURALS = {"VIEWS": "VIEW", "TABLES": "TABLE", "SCHEMAS": "SCHEMA"} | {
    f"{kind}S": kind for kind in _SCHEMA_OBJECTS
}
"""The kinds of object that GRANT supports after ON ALL and ON FUTURE, keyed by their plural."""

FIRST_WORDS = {
    "ADD", "ALL", "APPLY", "APPLYBUDGET", "ATTACH", "AUDIT", "BIND", "CANCEL", "CREATE", "DELETE", "EVOLVE", "EXECUTE",
    "FAILOVER", "IMPORT", "IMPORTED", "INSERT", "MANAGE", "MODIFY", "MONITOR", "OPERATE", "OVERRIDE", "OWNERSHIP",
    "PURCHASE", "READ", "REBUILD", "REFERENCES", "REFERENCE_USAGE", "REPLICATE", "RESOLVE", "SELECT", "TRUNCATE",
    "UPDATE", "USAGE", "USE", "VIEW", "WRITE",
}  # fmt: skip
"""The first words of all privileges, including those on kinds of object that do not exist here. Any other word is a
syntax error."""


def privileges_of(kind: str) -> tuple[str, ...]:
    """Return the privileges that ALL PRIVILEGES includes for a kind of object: all except OWNERSHIP."""
    return PRIVILEGES[kind]


def has_privilege(kind: str, privilege: str) -> bool:
    return privilege in PRIVILEGES[kind] or (privilege == OWNERSHIP and kind != "ACCOUNT")
