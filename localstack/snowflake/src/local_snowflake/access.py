"""Who may do what: roles, what was granted to them, and who owns what.

Every object has one row with the privilege OWNERSHIP, so the grants alone tell which objects exist, whose they are
and who may see them. Source: Snowflake's page "Overview of Access Control".
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from local_snowflake.actor import Actor
from local_snowflake.catalog import OURS, Catalog
from local_snowflake.errors import missing
from local_snowflake.privileges import OWNERSHIP, PRIVILEGES, ROLE_PRIVILEGES, SYSTEM_ROLES
from local_snowflake.session import TEMPORARY

ADMINISTRATOR = "ACCOUNTADMIN"
EVERYBODY = "PUBLIC"


class Grant(NamedTuple):
    privilege: str
    kind: str
    name: str
    grantee_kind: str
    grantee: str
    grant_option: bool
    granted_by: str
    created_on: datetime

    @property
    def is_ownership(self) -> bool:
        return self.privilege == OWNERSHIP


@dataclass(frozen=True)
class Grants:
    """All grants at one moment."""

    rows: tuple[Grant, ...]
    managed: frozenset[str]
    """Schemas with managed access."""
    _closures: dict[frozenset[str], frozenset[str]] = field(default_factory=dict)

    @cached_property
    def on(self) -> Mapping[tuple[str, str], tuple[Grant, ...]]:
        found: defaultdict[tuple[str, str], list[Grant]] = defaultdict(list)
        for row in self.rows:
            found[row.kind, row.name].append(row)
        return {securable: tuple(rows) for securable, rows in found.items()}

    @cached_property
    def roles_granted_to(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """The roles granted directly to a ("ROLE" | "USER", name)."""
        found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for row in self.rows:
            if row.kind == "ROLE" and row.privilege == "USAGE":
                found[row.grantee_kind, row.grantee].add(row.name)
        return {grantee: frozenset(roles) for grantee, roles in found.items()}

    def inherited(self, roles: frozenset[str]) -> frozenset[str]:
        """The roles with all that are granted to them, directly or through others, and PUBLIC."""
        if roles not in self._closures:
            reached, ahead = set(roles), list(roles)
            while ahead:
                fresh = self.roles_granted_to.get(("ROLE", ahead.pop()), frozenset()) - reached
                reached |= fresh
                ahead += fresh
            self._closures[roles] = frozenset(reached | {EVERYBODY})
        return self._closures[roles]

    def roles_of_user(self, user: str) -> frozenset[str]:
        return self.inherited(self.roles_granted_to.get(("USER", user), frozenset()))

    def roles_of(self, actor: Actor) -> frozenset[str]:
        """The roles whose privileges a session has. CREATE is authorized by the primary role alone."""
        if actor.all_secondary:
            return self.inherited(frozenset({actor.role})) | self.roles_of_user(actor.user)
        return self.inherited(frozenset({actor.role}))

    def owner(self, kind: str, name: str) -> str | None:
        """The role that owns an object; None if there is no such object."""
        return next((row.grantee for row in self.on.get((kind, name), ()) if row.is_ownership), None)

    def privileges(self, roles: frozenset[str], kind: str, name: str) -> frozenset[str]:
        return frozenset(
            row.privilege
            for row in self.on.get((kind, name), ())
            if row.grantee_kind == "ROLE" and row.grantee in roles
        )


class Access:
    """Keeps the grants, in the database and in memory."""

    def __init__(self, catalog: Catalog, enforced: bool = True) -> None:
        self.catalog = catalog
        self.enforced = enforced
        self._lock = threading.Lock()
        self.now = Grants((), frozenset())
        self._seed()

    def _read(self) -> Grants:
        rows = self.catalog.rows(
            f"""SELECT privilege, granted_on, name, granted_to, grantee, coalesce(grant_option, FALSE),
                       coalesce(granted_by, ''), created_on FROM {OURS}.grants ORDER BY ALL"""
        )
        managed = self.catalog.rows(f"SELECT name FROM {OURS}.managed_schemas")
        return Grants(tuple(Grant(*row) for row in rows), frozenset(row[0] for row in managed))

    def _seed(self) -> None:
        """Make the system roles of a new account."""
        known = self._owned()
        rows = []
        if ("ROLE", ADMINISTRATOR) not in known:
            for role, parents in SYSTEM_ROLES.items():
                rows.append(_owned("ROLE", role, ""))
                rows += [("USAGE", "ROLE", role, "ROLE", parent, False, "") for parent in parents]
            privileges = {**ROLE_PRIVILEGES, ADMINISTRATOR: PRIVILEGES["ACCOUNT"]}
            rows += [
                (privilege, "ACCOUNT", "", "ROLE", role, False, "")
                for role, given in privileges.items()
                for privilege in given
            ]
        with self.catalog.transaction() as cursor:
            cursor.execute(f"DELETE FROM {OURS}.grants WHERE granted_on LIKE 'ALL % IN %'")
            if rows:
                cursor.executemany(INSERT, [[*row, self.catalog.clock()] for row in rows])
        self._adopt()

    def _owned(self) -> set[tuple[str, str]]:
        rows = self.catalog.rows(
            f"SELECT granted_on, name FROM {OURS}.grants WHERE privilege = '{OWNERSHIP}'"
        )
        return {(kind, name) for kind, name in rows}

    def _adopt(self) -> None:
        """Give an owner to each object that has none: its folder was written before there were owners."""
        with self._lock:
            known = self._owned()
            now = self.catalog.clock()
            rows = [
                [*_owned(kind, name, role), now]
                for kind, name, role in self._objects()
                if (kind, name) not in known
            ]
            if rows:
                with self.catalog.transaction() as cursor:
                    cursor.executemany(INSERT, rows)
            self.now = self._read()

    def _objects(self) -> Iterable[tuple[str, str, str]]:
        """Everything there is, as kind, full name and the owner that it gets if it has none."""
        for database in self.catalog.databases() - {"memory", "_fs_global"}:
            yield "DATABASE", database, "SYSADMIN"
        temporary = {
            row[0] for row in self.catalog.rows(f"SELECT replace(relation, '\"', '') FROM {TEMPORARY}")
        }
        for sql, kind in (
            ("SELECT database_name || '.' || schema_name FROM duckdb_schemas()", "SCHEMA"),
            (_NAMES.format("table_name", "duckdb_tables()"), "TABLE"),
            (_NAMES.format("view_name", "duckdb_views()"), "VIEW"),
            (_NAMES.format("sequence_name", "duckdb_sequences()"), "SEQUENCE"),
        ):
            where = "database_name NOT IN ('system', 'temp', 'memory', '_fs_global')"
            hidden = "lower(schema_name) NOT IN ('main', '_fs_information_schema', 'information_schema', 'pg_catalog')"
            for (name,) in self.catalog.rows(f"{sql} WHERE {where} AND {hidden}"):
                if name not in temporary:
                    yield kind, name, "SYSADMIN"
        for name in self.catalog.names_of_schema_objects():
            yield *name, "SYSADMIN"
        for kind, name in self.catalog.rows(f"SELECT kind, name FROM {OURS}.unenforced"):
            yield kind, name, "USERADMIN" if kind == "ROLE" else "SYSADMIN"
        for integration in self.catalog.integrations():
            yield "INTEGRATION", integration.name, ADMINISTRATOR

    # ---- questions

    def existing(self, kind: str, name: str) -> str:
        """The owner of an object that must be there."""
        owner = self.now.owner(kind, name)
        if owner is None:
            self._adopt()
            owner = self.now.owner(kind, name)
        if owner is None:
            raise missing(kind.capitalize(), name)
        return owner

    def is_there(self, kind: str, name: str) -> bool:
        """Whether there is such an object; one that had no owner has one afterwards."""
        if self.now.owner(kind, name) is not None:
            return True
        if kind in ("TABLE", "VIEW") and not self._has_relation(name):
            return False
        self._adopt()
        return self.now.owner(kind, name) is not None

    def _has_relation(self, name: str) -> bool:
        return bool(
            self.catalog.rows(
                """SELECT 1 FROM information_schema.tables
                   WHERE table_catalog || '.' || table_schema || '.' || table_name = ?""",
                [name],
            )
        )

    def table_or_view(self, name: str) -> str:
        return "VIEW" if self.now.owner("VIEW", name) else "TABLE"

    def names_in(self, kind: str, container: str) -> list[str]:
        return [
            row.name
            for row in self.now.rows
            if row.is_ownership and row.kind == kind and row.name.startswith(f"{container}.")
        ]

    # ---- changes

    def change(self, *statements: tuple[str, list[object]]) -> None:
        """Run statements on the grants in one transaction, and read the grants again."""
        with self._lock:
            with self.catalog.transaction() as cursor:
                for sql, values in statements:
                    cursor.execute(sql, values)
            self.now = self._read()

    def grant(self, rows: Iterable[tuple[str, str, str, str, str]], by: str, option: bool = False) -> None:
        now = self.catalog.clock()
        statements: list[tuple[str, list[object]]] = []
        for row in rows:
            statements.append((f"DELETE FROM {OURS}.grants WHERE {SAME_GRANT}", list(row)))
            statements.append((INSERT, [*row, option, by, now]))
        self.change(*statements)

    def revoke(self, rows: Iterable[tuple[str, str, str, str, str]]) -> None:
        statements: list[tuple[str, list[object]]] = [
            (f"DELETE FROM {OURS}.grants WHERE {SAME_GRANT}", [*row]) for row in rows
        ]
        self.change(*statements)

    def created(self, kind: str, name: str, owner: str, keep_grants: bool = False) -> None:
        """Note the owner of a new object, which gets the future grants of its schema or else of its database.

        An object that took the place of another has none of its grants, unless they were copied.
        """
        rows: list[tuple[str, list[object]]] = [
            (
                f"DELETE FROM {OURS}.grants WHERE granted_on = ? AND name = ? {KEPT if keep_grants else ''}",
                [kind, name],
            ),
        ]
        now = self.catalog.clock()
        rows.append((INSERT, [*_owned(kind, name, owner), now]))
        future = [] if keep_grants else self._future_grants(kind, name)
        rows += [
            (INSERT, [f.privilege, kind, name, "ROLE", f.grantee, f.grant_option, f.granted_by, now])
            for f in future
            if not f.is_ownership
        ]
        self.change(*rows)

    def _future_grants(self, kind: str, name: str) -> tuple[Grant, ...]:
        """Where a schema has future grants of the kind, its database's do not count ("GRANT", future grants)."""
        database, _, rest = name.partition(".")
        schema = f"{database}.{rest.rpartition('.')[0]}"
        return self.now.on.get((f"FUTURE {kind}S IN SCHEMA", schema)) or self.now.on.get(
            (f"FUTURE {kind}S IN DATABASE", database), ()
        )

    def dropped(self, kind: str, name: str) -> None:
        """Forget an object's grants, and with a container those of all that was in it."""
        values: list[object] = [kind, name]
        where = "(granted_on = ? AND name = ?)"
        if kind in ("DATABASE", "SCHEMA"):
            where += " OR starts_with(name, ? || '.') OR (granted_on LIKE 'FUTURE %' AND name = ?)"
            values += [name, name]
        if kind in ("ROLE", "USER"):
            where += " OR (granted_to = ? AND grantee = ?)"
            values += [kind, name]
        self.change(
            (f"DELETE FROM {OURS}.grants WHERE {where}", values),
            (
                f"DELETE FROM {OURS}.managed_schemas WHERE name = ? OR starts_with(name, ? || '.')",
                [name, name],
            ),
        )

    def renamed(self, kind: str, name: str, new_name: str) -> None:
        self.change(
            (f"UPDATE {OURS}.grants SET name = ? WHERE granted_on = ? AND name = ?", [new_name, kind, name])
        )

    def transferred(self, kind: str, name: str, role: str, keep_grants: bool) -> None:
        statements: list[tuple[str, list[object]]] = [
            (
                f"UPDATE {OURS}.grants SET grantee = ?, granted_by = ? WHERE privilege = '{OWNERSHIP}' "
                "AND granted_on = ? AND name = ?",
                [role, role, kind, name],
            )
        ]
        if not keep_grants and kind != "ROLE":
            statements.append(
                (
                    f"DELETE FROM {OURS}.grants WHERE privilege <> '{OWNERSHIP}' AND granted_on = ? AND name = ?",
                    [kind, name],
                )
            )
        self.change(*statements)

    def set_managed(self, schema: str, managed: bool) -> None:
        statements: list[tuple[str, list[object]]] = [
            (f"DELETE FROM {OURS}.managed_schemas WHERE name = ?", [schema])
        ]
        if managed:
            statements.append((f"INSERT INTO {OURS}.managed_schemas VALUES (?)", [schema]))
        self.change(*statements)


INSERT = (
    f"INSERT INTO {OURS}.grants (privilege, granted_on, name, granted_to, grantee, grant_option, granted_by, "
    "created_on) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
SAME_GRANT = "(privilege, granted_on, name, granted_to, grantee) = (?, ?, ?, ?, ?)"
KEPT = f"AND privilege = '{OWNERSHIP}'"
_NAMES = "SELECT database_name || '.' || schema_name || '.' || {} FROM {}"


def _owned(kind: str, name: str, role: str) -> tuple[str, str, str, str, str, bool, str]:
    return OWNERSHIP, kind, name, "ROLE", role, True, role
