"""Handle GRANT, REVOKE, SHOW GRANTS, SHOW FUTURE GRANTS and ALTER SCHEMA … MANAGED ACCESS. Sources: Snowflake's pages
"GRANT <privileges>", "GRANT OWNERSHIP", "GRANT ROLE".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from local_snowflake.access import Access
from local_snowflake.actor import Actor
from local_snowflake.authorize import Authority
from local_snowflake.errors import SnowflakeError, compilation, missing, no_privilege, unsupported
from local_snowflake.grants import Grant, Right
from local_snowflake.privileges import (
    FIRST_WORDS,
    IN_A_SCHEMA,
    OWNERSHIP,
    PLURALS,
    PRIVILEGES,
    has_privilege,
    privileges_of,
)
from local_snowflake.results import SUCCEEDED, TEXT, TIME, Handlers, Result
from local_snowflake.sql import Scope, Words, actor_of


@dataclass(frozen=True)
class Target:
    """The target of a grant: the account, one object, all existing objects of a kind in a container, or all future
    objects of a kind in a container.
    """

    kind: str
    name: str
    of: str | None = None
    """The kind of object to which ALL or FUTURE refers, such as TABLE; `kind` is then the whole phrase, such as FUTURE
    TABLES IN SCHEMA."""
    all: bool = False

    @property
    def privileged_kind(self) -> str:
        return self.of or self.kind


class Granting:
    def __init__(self, access: Access, authority: Authority) -> None:
        self.access = access
        self.authority = authority
        self.handlers: Handlers = {
            ("GRANT",): self.grant,
            ("REVOKE",): self.revoke,
            ("SHOW", "GRANTS"): self.show_grants,
            ("SHOW", "FUTURE"): self.show_future_grants,
            ("ALTER", "SCHEMA"): self.alter_schema,
        }

    def _take_target(self, words: Words, scope: Scope) -> Target:
        """Parse the target of a grant. A name without a kind denotes a table or a view, because dbt omits the kind,
        although Snowflake's page "GRANT <privileges> … TO ROLE" requires it.
        """
        start = words.at
        if not any(words.sees(word) for word in _START_OF_TARGET):
            name = words.take_name()
            if words.done or words.sees("TO") or words.sees("FROM"):
                full_name = str(scope.resolve(name))
                return Target(self.access.table_or_view(full_name), full_name)
            words.at = start
        return take_target(words, scope)

    # ---- GRANT

    def grant(self, words: Words, scope: Scope) -> Result:
        actor = actor_of(scope)
        words.take("GRANT")
        if self._takes_role(words):
            self._grant_role(words, actor)
            return SUCCEEDED
        privileges = take_privileges(words)
        target = self._take_target(words, scope)
        words.take("TO")
        role = self._take_role(words)
        if OWNERSHIP in privileges:
            if len(privileges) > 1:
                raise compilation("OWNERSHIP cannot be granted together with other privileges.")
            self._grant_ownership(words, actor, target, role)
            return SUCCEEDED
        option = words.takes("WITH", "GRANT", "OPTION")
        words.finish()
        rows = self._rows(actor, privileges, target, role)
        self.access.grant(rows, actor.role, option)
        return SUCCEEDED

    def _takes_role(self, words: Words) -> bool:
        if words.sees("DATABASE", "ROLE"):
            raise unsupported("database roles")
        return words.takes("ROLE")

    def _grant_role(self, words: Words, actor: Actor) -> None:
        row = self._role_row(words, actor, "TO")
        _, _, role, grantee_kind, grantee = row
        if grantee_kind == "ROLE" and grantee in self.access.now.inherited(frozenset({role})):
            raise compilation(f"Cannot grant role '{role}' to '{grantee}': a role cannot inherit itself.")
        self.access.grant([row], actor.role)

    def _role_row(self, words: Words, actor: Actor, preposition: str) -> Right:
        role = words.take_identifier()
        self.access.existing("ROLE", role)
        words.take(preposition)
        kind = "USER" if words.takes("USER") else "ROLE"
        if kind == "ROLE":
            words.takes("ROLE")
        grantee = words.take_identifier()
        words.finish()
        self.access.existing(kind, grantee)
        self._check_may_grant(actor, "USAGE", Target("ROLE", role))
        return Right("USAGE", "ROLE", role, kind, grantee)

    def _take_role(self, words: Words) -> str:
        for other in ("USER", "SHARE", "APPLICATION", "DATABASE"):
            if words.sees(other):
                raise unsupported(f"GRANT or REVOKE with a grantee of the kind {other}")
        words.takes("ROLE")
        role = words.take_identifier()
        self.access.existing("ROLE", role)
        return role

    def _rows(self, actor: Actor, privileges: Sequence[str], target: Target, role: str) -> list[Right]:
        """Return the rights that a statement grants or revokes, one per object and privilege. Raises
        Snowflake's error if the target does not exist or one of the rights cannot be granted.
        """
        self._check_container(target)
        if privileges == ["ALL"]:
            privileges = privileges_of(target.privileged_kind)
        for privilege in privileges:
            if not has_privilege(target.privileged_kind, privilege):
                raise compilation(
                    f"Privilege '{privilege}' cannot be granted on an object of kind "
                    f"'{target.privileged_kind.lower()}'."
                )
        rows = []
        for one in self._each(target):
            for privilege in privileges:
                self._check_may_grant(actor, privilege, one)
                rows.append(Right(privilege, one.kind, one.name, "ROLE", role))
        return rows

    def _check_container(self, target: Target) -> None:
        if target.kind == "ACCOUNT":
            return
        if target.of is None:
            self.access.existing(target.kind, target.name)
        else:
            self.access.existing("SCHEMA" if "." in target.name else "DATABASE", target.name)

    def _each(self, target: Target) -> list[Target]:
        if not target.all or target.of is None:
            return [target]
        return [Target(target.of, name) for name in self.access.now.names_in(target.of, target.name)]

    def _check_may_grant(self, actor: Actor, privilege: str, target: Target) -> None:
        """Raise an error unless the actor's roles have MANAGE GRANTS, own the object, or hold the privilege with the
        grant option. In a schema with managed access, only MANAGE GRANTS or ownership of the schema is enough;
        in other schemas and in databases, grants on future objects require MANAGE GRANTS.
        """
        if not self.access.enforced:
            return
        now = self.access.now
        roles = now.roles_of(actor)
        if self._may_manage_grants(actor):
            return
        schema = target.name.rpartition(".")[0] if target.kind in IN_A_SCHEMA else target.name
        if schema in now.managed and (target.kind in IN_A_SCHEMA or target.of):
            allowed = now.owner("SCHEMA", schema) in roles
        elif target.of:
            allowed = False
        else:
            allowed = now.owner(target.kind, target.name) in roles or any(
                row.grant_option and row.privilege == privilege and row.grantee in roles
                for row in now.on.get((target.kind, target.name), ())
            )
        if not allowed:
            raise no_privilege(target.kind, target.name)

    # ---- GRANT OWNERSHIP

    def _grant_ownership(self, words: Words, actor: Actor, target: Target, role: str) -> None:
        keeps = words.takes("COPY", "CURRENT", "GRANTS")
        revokes = not keeps and words.takes("REVOKE", "CURRENT", "GRANTS")
        words.finish()
        if target.of and not target.all:
            raise unsupported("GRANT OWNERSHIP ON FUTURE")
        self._check_container(target)
        if not has_privilege(target.privileged_kind, OWNERSHIP):
            raise compilation("OWNERSHIP cannot be granted on an account.")
        each = self._each(target)
        self._check_may_receive(actor, target, role)
        for one in each:
            self._check_may_grant(actor, OWNERSHIP, one)
            self._check_is_paused(one)
            dependent = self._dependent(one)
            if dependent and not (keeps or revokes):
                raise dependent_grant(one.name, dependent[0])
        for one in each:
            self.access.transferred(one.kind, one.name, role, keep_grants=keeps)
            if one.kind == "PIPE" and (pipe := self.access.catalog.pipe_named(one.name)):
                self.access.catalog.set_pipe(pipe.name, "transferred", True)

    def _check_may_receive(self, actor: Actor, target: Target, role: str) -> None:
        """Raise an error unless the new owner is a role of the session, or the session's roles have MANAGE GRANTS
        (Snowflake: "GRANT OWNERSHIP: Transferring ownership requires the target role to be active", bundle 2026_07).
        """
        is_active = role in self.access.now.roles_of(actor)
        if self.access.enforced and not is_active and not self._may_manage_grants(actor):
            raise compilation(
                f"{target.privileged_kind} ownership can only be transferred to a role that is activated in the "
                "current session or by a role with account-level MANAGE GRANTS."
            )

    def _check_is_paused(self, target: Target) -> None:
        """Raise an error if the target is a pipe that is not paused (Snowflake: "GRANT OWNERSHIP", usage notes)."""
        pipe = self.access.catalog.pipe_named(target.name) if target.kind == "PIPE" else None
        if pipe and pipe.paused_on is None:
            raise SnowflakeError(
                "003098",
                "55000",
                f"Pipe {target.name} must be paused before its ownership can be transferred.",
            )

    def _dependent(self, target: Target) -> list[Grant]:
        rows = self.access.now.on.get((target.kind, target.name), ())
        return [row for row in rows if not row.is_ownership and target.kind != "ROLE"]

    # ---- REVOKE

    def revoke(self, words: Words, scope: Scope) -> Result:
        actor = actor_of(scope)
        words.take("REVOKE")
        option_only = words.takes("GRANT", "OPTION", "FOR")
        if self._takes_role(words):
            if option_only:
                raise unsupported("the grant option of a role")
            self.access.revoke([self._role_row(words, actor, "FROM")])
            return SUCCEEDED
        privileges = take_privileges(words)
        if OWNERSHIP in privileges:
            raise compilation("OWNERSHIP cannot be revoked. Transfer it with GRANT OWNERSHIP.")
        target = self._take_target(words, scope)
        words.take("FROM")
        role = self._take_role(words)
        cascades = words.takes("CASCADE")
        if not cascades:
            words.takes("RESTRICT")
        words.finish()
        rows = self._rows(actor, privileges, target, role)
        dependent = [grant for row in rows for grant in self.access.now.dependent(row)]
        if dependent and not cascades:
            raise dependent_grant(target.name, dependent[0])
        rights = [grant.right for grant in dependent]
        if option_only:
            held = {row.right for row in self.access.now.rows}
            self.access.revoke_option([row for row in rows if row in held], rights, actor.role)
        else:
            self.access.revoke([*rows, *rights])
        return SUCCEEDED

    # ---- SHOW GRANTS

    def show_grants(self, words: Words, scope: Scope) -> Result:
        actor = actor_of(scope)
        words.take("SHOW", "GRANTS")
        now = self.access.now
        if words.takes("ON"):
            target = self._take_target(words, scope)
            if target.of:
                raise words.unexpected()
            words.finish()
            self._check_container(target)
            self._check_may_show(actor, target)
            rows: Sequence[Grant] = self._grants_on(target)
        elif words.takes("TO") or words.done:
            kind, grantee = "USER", actor.user
            if not words.done:
                kind = "USER" if words.takes("USER") else "ROLE"
                words.takes("ROLE")
                grantee = words.take_identifier()
                words.finish()
                self.access.existing(kind, grantee)
            rows = [row for row in now.rows if (row.grantee_kind, row.grantee) == (kind, grantee)]
            if kind == "USER":
                return user_result(rows)
        elif words.takes("OF", "ROLE"):
            role = words.take_identifier()
            words.finish()
            self.access.existing("ROLE", role)
            return role_result([row for row in now.on.get(("ROLE", role), ()) if not row.is_ownership])
        else:
            raise unsupported("SHOW GRANTS other than ON, TO and OF ROLE")
        return grants_result([row for row in rows if not row.kind.startswith("FUTURE ")])

    def _may_manage_grants(self, actor: Actor) -> bool:
        now = self.access.now
        return "MANAGE GRANTS" in now.privileges(now.roles_of(actor), "ACCOUNT", "")

    def _check_may_show(self, actor: Actor, target: Target) -> None:
        """Raise an error unless the actor's roles have MANAGE GRANTS or any privilege on the object."""
        if target.kind not in ("ACCOUNT", "ROLE", "USER") and not self._may_manage_grants(actor):
            self.authority.require(actor, (), target.kind, target.name)

    def _grants_on(self, target: Target) -> list[Grant]:
        """Return the grants on an object as SHOW GRANTS shows them: the owner of a schema with managed access has
        MANAGE GRANTS on it, and no other role can grant privileges on the schema's objects (Snowflake: "SHOW GRANTS
        command: Updates for managed access schema").
        """
        now = self.access.now
        rows = list(now.on.get((target.kind, target.name), ()))
        if target.kind == "SCHEMA" and target.name in now.managed:
            rows += [row._replace(privilege="MANAGE GRANTS") for row in rows if row.is_ownership]
        elif target.kind in IN_A_SCHEMA and target.name.rpartition(".")[0] in now.managed:
            rows = [row._replace(grant_option=False) for row in rows]
        return rows

    def show_future_grants(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW", "FUTURE", "GRANTS")
        to_role = words.takes("TO", "ROLE")
        if to_role:
            role = words.take_identifier()
            self.access.existing("ROLE", role)
            rows = [row for row in self.access.now.rows if row.grantee == role]
        else:
            words.take("IN")
            kind, name = take_container(words, scope)
            self.access.existing(kind, name)
            rows = [row for row in self.access.now.rows if row.name == name]
        words.finish()
        return future_result([row for row in rows if row.kind.startswith("FUTURE ")])

    def alter_schema(self, words: Words, scope: Scope) -> Result:
        words.take("ALTER", "SCHEMA")
        if_exists = words.takes("IF", "EXISTS")
        name = take_full_name(words, "SCHEMA", scope)
        if not (words.sees("ENABLE") or words.sees("DISABLE")):
            raise unsupported("ALTER SCHEMA other than ENABLE or DISABLE MANAGED ACCESS")
        managed = words.takes("ENABLE") or not words.takes("DISABLE")
        words.take("MANAGED", "ACCESS")
        words.finish()
        if not if_exists or self.access.now.owner("SCHEMA", name):
            self.access.existing("SCHEMA", name)
            self.access.set_managed(name, managed)
        return SUCCEEDED


def dependent_grant(name: str, grant: Grant) -> SnowflakeError:
    return SnowflakeError(
        "003036",
        "42501",
        f"SQL execution error: Dependent grant of privilege '{grant.privilege}' on securable '{name}' to role "
        f"'{grant.grantee}' exists. It must be revoked first. To revoke all dependent grants, use GRANT OWNERSHIP "
        "… REVOKE CURRENT GRANTS or REVOKE … CASCADE.",
    )


def future_result(rows: Sequence[Grant]) -> Result:
    """Return the rows of SHOW FUTURE GRANTS: a grant on FUTURE TABLES IN SCHEMA A.B is shown as a grant on
    TABLE A.B.<TABLE> (Snowflake: "SHOW GRANTS").
    """
    columns = dict.fromkeys(
        ("privilege", "grant_on", "name", "grant_to", "grantee_name", "grant_option"), TEXT
    )
    shown = []
    for row in sorted(rows):
        kind = PLURALS[row.kind.removeprefix("FUTURE ").partition(" IN ")[0]]
        shown.append(
            (
                row.created_on,
                row.privilege,
                kind.replace(" ", "_"),
                f"{row.name}.<{kind}>",
                row.grantee_kind,
                row.grantee,
                str(row.grant_option).lower(),
            )
        )
    return Result({"created_on": TIME, **columns}, shown)


def user_result(rows: Sequence[Grant]) -> Result:
    """Return the rows of SHOW GRANTS TO USER: like those of SHOW GRANTS TO ROLE, but with the column `role`."""
    shown = grants_result(rows)
    names = list(shown.columns)
    at = names.index("name") + 1
    columns = dict.fromkeys([*names[:at], "role", *names[at:]], TEXT) | {"created_on": TIME}
    return Result(columns, [(*row[:at], row[at - 1], *row[at:]) for row in shown.rows])


def role_result(rows: Sequence[Grant]) -> Result:
    """Return the rows of SHOW GRANTS OF ROLE."""
    columns = dict.fromkeys(("role", "granted_to", "grantee_name", "granted_by"), TEXT)
    return Result(
        {"created_on": TIME, **columns},
        [(row.created_on, row.name, row.grantee_kind, row.grantee, row.granted_by) for row in sorted(rows)],
    )


def grants_result(rows: Sequence[Grant]) -> Result:
    columns = dict.fromkeys(
        ("privilege", "granted_on", "name", "granted_to", "grantee_name", "grant_option", "granted_by"), TEXT
    )
    return Result(
        {"created_on": TIME, **columns},
        [
            (
                row.created_on,
                row.privilege,
                row.kind.replace(" ", "_"),
                row.name,
                row.grantee_kind,
                row.grantee,
                str(row.grant_option).lower(),
                row.granted_by,
            )
            for row in sorted(rows)
        ],
    )


def take_privileges(words: Words) -> list[str]:
    """Parse the privileges before ON, such as CREATE TABLE or SELECT; ALL PRIVILEGES is returned as ALL."""
    privileges = [""]
    while not words.takes("ON"):
        if words.takes(","):
            privileges.append("")
        elif words.sees("("):
            raise unsupported("grants on columns")
        elif not privileges[-1] and words.token.text.upper() not in FIRST_WORDS:
            raise words.unexpected()
        else:
            privileges[-1] = f"{privileges[-1]} {words.take_identifier()}".strip()
    return ["ALL" if privilege == "ALL PRIVILEGES" else privilege for privilege in privileges]


def take_target(words: Words, scope: Scope) -> Target:
    """Parse the target of a grant: `PIPE a.b.c`, `SCHEMA a.b`, `ACCOUNT`, `FUTURE TABLES IN SCHEMA a.b`."""
    if words.takes("ACCOUNT"):
        return Target("ACCOUNT", "")
    for many in ("ALL", "FUTURE"):
        if words.takes(many):
            plural = take_kind(words, PLURALS)
            if (many, plural) == ("ALL", "PIPES"):
                raise compilation("Bulk grants on pipes are not allowed.")
            words.take("IN")
            container, name = take_container(words, scope)
            if plural == "SCHEMAS" and container != "DATABASE":
                raise words.unexpected()
            return Target(f"{many} {plural} IN {container}", name, PLURALS[plural], all=many == "ALL")
    kind = take_kind(words, PRIVILEGES)
    return Target(kind, take_full_name(words, kind, scope))


_START_OF_TARGET = {"ACCOUNT", "ALL", "FUTURE"} | {kind.partition(" ")[0] for kind in PRIVILEGES}


def take_kind(words: Words, kinds: Iterable[str]) -> str:
    for kind in sorted(kinds, key=len, reverse=True):
        if words.takes(*kind.split()):
            return kind
    if words.done:
        raise words.unexpected()
    raise unsupported(
        f"grants on {words.token.text.upper()}: privileges on this kind of object cannot be granted"
    )


def take_container(words: Words, scope: Scope) -> tuple[str, str]:
    kind = "SCHEMA" if words.takes("SCHEMA") else "DATABASE"
    if kind == "DATABASE":
        words.take("DATABASE")
    return kind, take_full_name(words, kind, scope)


def take_full_name(words: Words, kind: str, scope: Scope) -> str:
    parts = words.take_name()
    if kind in IN_A_SCHEMA:
        return str(scope.resolve(parts))
    if kind == "SCHEMA" and len(parts) == 1 and scope.database:
        parts = (scope.database, *parts)
    if len(parts) != (2 if kind == "SCHEMA" else 1):
        raise missing(kind.capitalize(), ".".join(parts))
    return ".".join(parts)
