"""Keep the grants in the database and in memory, so that a privilege check needs no query."""

import threading
from collections.abc import Callable, Iterable

from local_snowflake.catalog import Catalog
from local_snowflake.errors import missing
from local_snowflake.grants import ADMINISTRATOR, Grant, Grants, Right
from local_snowflake.privileges import PRIVILEGES, ROLE_PRIVILEGES, SYSTEM_ROLES
from local_snowflake.sql import OURS
from local_snowflake.temporary import TEMPORARY


class Access:
    def __init__(self, catalog: Catalog, enforced: bool = True) -> None:
        self.catalog = catalog
        self.enforced = enforced
        self._lock = threading.Lock()
        self.now = self._read()
        self._make_system_roles()
        self._adopt()

    def _read(self) -> Grants:
        rows = self.catalog.rows(
            f"""SELECT privilege, granted_on, name, granted_to, grantee, coalesce(grant_option, FALSE),
                       coalesce(granted_by, ''), created_on
                FROM {OURS}.grants WHERE granted_on NOT LIKE 'ALL % IN %'"""
        )
        managed = self.catalog.rows(f"SELECT name FROM {OURS}.managed_schemas")
        return Grants(frozenset(Grant(*row) for row in rows), frozenset(row[0] for row in managed))

    def _make_system_roles(self) -> None:
        if self.now.owner("ROLE", ADMINISTRATOR) is not None:
            return
        moment = self.catalog.clock()
        now = self.now
        rights = []
        for role, parents in SYSTEM_ROLES.items():
            now = now.owned("ROLE", role, "", moment)
            rights += [Right("USAGE", "ROLE", role, "ROLE", parent) for parent in parents]
        privileges = {**ROLE_PRIVILEGES, ADMINISTRATOR: PRIVILEGES["ACCOUNT"]}
        rights += [
            Right(privilege, "ACCOUNT", "", "ROLE", role)
            for role, given in privileges.items()
            for privilege in given
        ]
        self._change(lambda _: now.granted(rights, "", False, moment))

    def _adopt(self) -> None:
        """Assign the default owner to each object that has no owner. A folder created by an earlier
        version contains no owners.
        """
        moment = self.catalog.clock()
        found = list(self._objects())

        def adopted(now: Grants) -> Grants:
            for kind, name, role in found:
                if now.owner(kind, name) is None:
                    now = now.owned(kind, name, role, moment)
            return now

        self._change(adopted)

    def _objects(self) -> Iterable[tuple[str, str, str]]:
        """Yield the kind, full name and default owner of every object that is not temporary."""
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

    # ---- lookups

    def existing(self, kind: str, name: str) -> str:
        """Return the owner of an object, or raise an error if the object does not exist."""
        owner = self.now.owner(kind, name)
        if owner is None:
            self._adopt()
            owner = self.now.owner(kind, name)
        if owner is None:
            raise missing(kind.capitalize(), name)
        return owner

    def is_there(self, kind: str, name: str) -> bool:
        """Return whether an object exists. An existing object without an owner is assigned one."""
        if self.now.owner(kind, name) is not None:
            return True
        if kind in ("TABLE", "VIEW") and not self.has_relation(name):
            return False
        self._adopt()
        return self.now.owner(kind, name) is not None

    def has_relation(self, name: str) -> bool:
        return bool(
            self.catalog.rows(
                """SELECT 1 FROM information_schema.tables
                   WHERE table_catalog || '.' || table_schema || '.' || table_name = ?""",
                [name],
            )
        )

    def table_or_view(self, name: str) -> str:
        return "VIEW" if self.now.owner("VIEW", name) else "TABLE"

    # ---- changes

    def _change(self, changed: Callable[[Grants], Grants]) -> None:
        with self._lock:
            before, after = self.now, changed(self.now)
            gone, fresh = before.rows - after.rows, after.rows - before.rows
            if gone or fresh or before.managed != after.managed:
                with self.catalog.transaction() as cursor:
                    for row in gone:
                        cursor.execute(f"DELETE FROM {OURS}.grants WHERE {SAME_RIGHT}", list(row.right))
                    for row in fresh:
                        cursor.execute(INSERT, list(row))
                    for schema in before.managed - after.managed:
                        cursor.execute(f"DELETE FROM {OURS}.managed_schemas WHERE name = ?", [schema])
                    for schema in after.managed - before.managed:
                        cursor.execute(f"INSERT INTO {OURS}.managed_schemas VALUES (?)", [schema])
            self.now = after

    def grant(self, rights: Iterable[Right], by: str, option: bool = False) -> None:
        rights = list(rights)
        self._change(lambda now: now.granted(rights, by, option, self.catalog.clock()))

    def revoke(self, rights: Iterable[Right]) -> None:
        rights = list(rights)
        self._change(lambda now: now.revoked(rights))

    def revoke_option(self, rights: Iterable[Right], dependent: Iterable[Right], by: str) -> None:
        """Revoke the grant option of rights, and the grants that depend on it."""
        rights, dependent = list(rights), list(dependent)
        self._change(
            lambda now: now.revoked([*rights, *dependent]).granted(rights, by, False, self.catalog.clock())
        )

    def created(self, kind: str, name: str, owner: str, keep_grants: bool = False) -> None:
        self._change(lambda now: now.created(kind, name, owner, keep_grants, self.catalog.clock()))

    def dropped(self, kind: str, name: str) -> None:
        self._change(lambda now: now.dropped(kind, name))

    def renamed(self, kind: str, name: str, new_name: str) -> None:
        self._change(lambda now: now.renamed(kind, name, new_name))

    def transferred(self, kind: str, name: str, role: str, keep_grants: bool) -> None:
        self._change(lambda now: now.transferred(kind, name, role, keep_grants, self.catalog.clock()))

    def set_managed(self, schema: str, managed: bool) -> None:
        def changed(now: Grants) -> Grants:
            schemas = now.managed | {schema} if managed else now.managed - {schema}
            return Grants(now.rows, schemas)

        self._change(changed)


INSERT = (
    f"INSERT INTO {OURS}.grants (privilege, granted_on, name, granted_to, grantee, grant_option, granted_by, "
    "created_on) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
SAME_RIGHT = "(privilege, granted_on, name, granted_to, grantee) = (?, ?, ?, ?, ?)"
_NAMES = "SELECT database_name || '.' || schema_name || '.' || {} FROM {}"
