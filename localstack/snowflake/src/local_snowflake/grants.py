"""An immutable set of all grants; each change returns a new set. Source: "Overview of Access Control".

Every object has one row with the privilege OWNERSHIP, so the grants alone determine which objects exist, who
owns them and who may see them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from local_snowflake.actor import Actor
from local_snowflake.privileges import OWNERSHIP

ADMINISTRATOR = "ACCOUNTADMIN"
EVERYBODY = "PUBLIC"


class Right(NamedTuple):
    """The key of a grant: privilege, object and grantee."""

    privilege: str
    kind: str
    name: str
    grantee_kind: str
    grantee: str


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
    def right(self) -> "Right":
        return Right(*self[:5])

    @property
    def is_ownership(self) -> bool:
        return self.privilege == OWNERSHIP


@dataclass(frozen=True)
class Grants:
    """All grants at one point in time."""

    rows: frozenset[Grant] = frozenset()
    managed: frozenset[str] = frozenset()
    """Schemas with managed access."""
    _closures: dict[frozenset[str], frozenset[str]] = field(default_factory=dict, compare=False)

    @cached_property
    def on(self) -> Mapping[tuple[str, str], tuple[Grant, ...]]:
        found: defaultdict[tuple[str, str], list[Grant]] = defaultdict(list)
        for row in self.rows:
            found[row.kind, row.name].append(row)
        return {securable: tuple(rows) for securable, rows in found.items()}

    @cached_property
    def roles_granted_to(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """The roles granted directly to each grantee, keyed by ("ROLE" or "USER", name)."""
        found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for row in self.rows:
            if row.kind == "ROLE" and row.privilege == "USAGE":
                found[row.grantee_kind, row.grantee].add(row.name)
        return {grantee: frozenset(roles) for grantee, roles in found.items()}

    def inherited(self, roles: frozenset[str]) -> frozenset[str]:
        """Return the given roles, all roles that are granted to them directly or indirectly, and PUBLIC."""
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
        """Return the roles whose privileges a session has. Only the primary role, however, authorizes CREATE."""
        if actor.all_secondary:
            return self.inherited(frozenset({actor.role})) | self.roles_of_user(actor.user)
        return self.inherited(frozenset({actor.role}))

    def owner(self, kind: str, name: str) -> str | None:
        """Return the role that owns an object, or None if the object does not exist."""
        return next((row.grantee for row in self.on.get((kind, name), ()) if row.is_ownership), None)

    def privileges(self, roles: frozenset[str], kind: str, name: str) -> frozenset[str]:
        return frozenset(
            row.privilege
            for row in self.on.get((kind, name), ())
            if row.grantee_kind == "ROLE" and row.grantee in roles
        )

    def names_in(self, kind: str, container: str) -> list[str]:
        return sorted(
            row.name
            for row in self.rows
            if row.is_ownership and row.kind == kind and row.name.startswith(f"{container}.")
        )

    # ---- the grants after a change

    def _without(self, removed: Callable[[Grant], bool], *added: Grant) -> "Grants":
        kept = frozenset(row for row in self.rows if not removed(row))
        return replace(self, rows=kept | frozenset(added), _closures={})

    def granted(self, rights: Iterable[Right], by: str, option: bool, now: datetime) -> "Grants":
        held = {row.right: row for row in self.rows}
        # Granting a privilege again does not remove its grant option.
        fresh = tuple(
            Grant(*right, option, by, now)
            for right in rights
            if right not in held or (option and not held[right].grant_option)
        )
        replaced = {row.right for row in fresh}
        return self._without(lambda row: row.right in replaced, *fresh)

    def dependent(self, right: Right) -> list[Grant]:
        """Return the grants of the same privilege that the grantee of `right` made with the grant option, directly or
        through further grants.
        """
        found: list[Grant] = []
        ahead = [row for row in self.on.get((right.kind, right.name), ()) if row.right == right]
        while ahead:
            granting = ahead.pop()
            for row in self.on.get((right.kind, right.name), ()) if granting.grant_option else ():
                by = row.privilege == right.privilege and row.granted_by == granting.grantee
                if by and row.right != right and row not in found:
                    found.append(row)
                    ahead.append(row)
        return found

    def revoked(self, rights: Iterable[Right]) -> "Grants":
        gone = frozenset(rights)
        return self._without(lambda row: row.right in gone)

    def owned(self, kind: str, name: str, role: str, now: datetime) -> "Grants":
        """Return the grants after making a role the object's owner."""
        return self._without(
            lambda row: row.is_ownership and (row.kind, row.name) == (kind, name),
            Grant(OWNERSHIP, kind, name, "ROLE", role, True, role, now),
        )

    def created(self, kind: str, name: str, owner: str, keep_grants: bool, now: datetime) -> "Grants":
        """Return the grants after an object was created. The object receives the future grants of its schema
        or, if there are none, of its database. With `keep_grants`, it keeps the grants of the object that it
        replaces instead.
        """
        future: Iterable[Grant] = () if keep_grants else self._future(kind, name)
        received = [
            Right(row.privilege, kind, name, "ROLE", row.grantee) for row in future if not row.is_ownership
        ]
        before = self.on.get((kind, name), ())
        held = {row.right for row in before if not row.is_ownership}
        if self.owner(kind, name) == owner and (keep_grants or held == set(received)):
            return self
        base = self if keep_grants else self._without(lambda row: (row.kind, row.name) == (kind, name))
        return base.owned(kind, name, owner, now).granted(received, owner, False, now)

    def _future(self, kind: str, name: str) -> tuple[Grant, ...]:
        """Return the future grants that apply to an object. The future grants of its database do not apply if
        its schema has future grants on the same kind of object (Snowflake: "GRANT <privileges>").
        """
        database, _, rest = name.partition(".")
        schema = f"{database}.{rest.rpartition('.')[0]}"
        return self.on.get((f"FUTURE {kind}S IN SCHEMA", schema)) or self.on.get(
            (f"FUTURE {kind}S IN DATABASE", database), ()
        )

    def dropped(self, kind: str, name: str) -> "Grants":
        """Return the grants after dropping an object. Dropping a container drops everything in it, and dropping a role
        or user also drops the grants to it.
        """

        def gone(row: Grant) -> bool:
            if (row.kind, row.name) == (kind, name):
                return True
            if kind in ("DATABASE", "SCHEMA"):
                return row.name.startswith(f"{name}.") or (
                    row.kind.startswith("FUTURE ") and row.name == name
                )
            return kind in ("ROLE", "USER") and (row.grantee_kind, row.grantee) == (kind, name)

        managed = frozenset(s for s in self.managed if s != name and not s.startswith(f"{name}."))
        return replace(
            self._without(gone), managed=managed if kind in ("DATABASE", "SCHEMA") else self.managed
        )

    def renamed(self, kind: str, name: str, new_name: str) -> "Grants":
        moved = [row._replace(name=new_name) for row in self.on.get((kind, name), ())]
        return self._without(lambda row: (row.kind, row.name) == (kind, name), *moved)

    def transferred(self, kind: str, name: str, role: str, keep_grants: bool, now: datetime) -> "Grants":
        """Return the grants after a transfer of ownership. The object's other grants are kept if `keep_grants` is set
        or the object is a role.
        """
        kept = self
        if not keep_grants and kind != "ROLE":
            kept = self._without(lambda row: (row.kind, row.name) == (kind, name))
        return kept.owned(kind, name, role, now)
