"""Compare the DDL's grants with the deployed grants (Snowflake: "GRANT <privileges>", "SHOW GRANTS")."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from snowpipe.ddl_files import Definition
from snowpipe.ddl_objects import Object
from snowpipe.quoting import identifier
from snowpipe.warehouse import Row, Warehouse

_GRANT = re.compile(r"^GRANT (?P<what>.+?) (?:ON (?P<on>.+?) )?TO ROLE (?P<role>\w+)$", re.MULTILINE)
_MANY = re.compile(r"^(?P<many>ALL|FUTURE) (?P<kind>TABLE|VIEW)S IN SCHEMA (?P<schema>[\w.]+)$")


# SHOW GRANTS shows MANAGE GRANTS for the owner of a schema with managed access (behavior change 1397).
_OF_OWNER = ("OWNERSHIP", "MANAGE GRANTS")


class Grant(NamedTuple):
    role: str
    privilege: str
    kind: str
    name: str

    @property
    def text(self) -> str:
        if self.kind == "ROLE":
            return f"role {self.name}"
        if self.name.endswith(">"):
            return f"{self.privilege} on future {self.kind.lower()}s in {self.name.rpartition('.')[0]}"
        return f"{self.privilege} on {self.kind.lower()} {self.name}"

    @property
    def revoke(self) -> str:
        role = identifier(self.role)
        if self.kind == "ROLE":
            return f"REVOKE ROLE {self.name} FROM ROLE {role}"
        if self.name.endswith(">"):
            place = f"FUTURE {self.kind}S IN SCHEMA {self.name.rpartition('.')[0]}"
            return f"REVOKE {self.privilege} ON {place} FROM ROLE {role}"
        return f"REVOKE {self.privilege} ON {self.kind} {self.name} FROM ROLE {role}"


@dataclass(frozen=True)
class Difference:
    """A difference between the deployed objects and the DDL: a missing object, a property or a grant.

    `repair` is the statement or command that resolves the difference, or advice. If `automatic` is true, `apply` runs
    the statement.
    """

    object: str
    what: str
    deployed: str
    ddl: str
    repair: str
    automatic: bool = False


@dataclass(frozen=True)
class Wanted:
    grants: frozenset[Grant]
    tolerated: frozenset[tuple[str, str, str, str]]
    """The role, privilege, kind and schema of each GRANT ON ALL … or ON FUTURE …. Such a grant also covers objects
    outside the DDL, so their grants are not reported as differences.
    """


def wanted_grants(ddl: Sequence[Definition], present: Sequence[Object]) -> Wanted:
    found, tolerated = set[Grant](), set[tuple[str, str, str, str]]()
    for definition in ddl:
        for statement in definition.statements:
            if not (match := _GRANT.search(statement)):
                continue
            role, on = match["role"], match["on"]
            if on is None:
                found.add(Grant(role, "USAGE", "ROLE", match["what"].removeprefix("ROLE ")))
                continue
            for privilege in match["what"].split(", "):
                many = _MANY.match(on)
                if many is None:
                    kind, _, name = on.rpartition(" ")
                    found.add(Grant(role, privilege, kind, name))
                elif many["many"] == "FUTURE":
                    kind = many["kind"]
                    found.add(Grant(role, privilege, kind, f"{many['schema']}.<{kind}>"))
                    tolerated.add((role, privilege, kind, many["schema"]))
                else:
                    tolerated.add((role, privilege, many["kind"], many["schema"]))
                    found |= {
                        Grant(role, privilege, each.kind, each.name)
                        for each in present
                        if each.kind == many["kind"] and each.home == many["schema"]
                    }
    return Wanted(frozenset(found), frozenset(tolerated))


def deployed_grants(warehouse: Warehouse, roles: Sequence[str], present: Sequence[Object]) -> set[Grant]:
    """Return the grants to these roles, and the grants to any role on the objects in `present`, except those that an
    owner has as such (_OF_OWNER).
    """
    rows: list[Row] = []
    for role in roles:
        rows += warehouse.query(f"SHOW GRANTS TO ROLE {role}")
        rows += warehouse.query(f"SHOW FUTURE GRANTS TO ROLE {role}")
    for each in present:
        kind = "INTEGRATION" if each.kind.endswith("INTEGRATION") else each.kind
        rows += warehouse.query(f"SHOW GRANTS {'OF' if kind == 'ROLE' else 'ON'} {kind} {each.name}")
    return {grant for row in rows if (grant := _grant(row)) is not None}


def _grant(row: Row) -> Grant | None:
    if "role" in row:  # SHOW GRANTS OF ROLE
        return (
            Grant(row["grantee_name"], "USAGE", "ROLE", row["role"]) if row["granted_to"] == "ROLE" else None
        )
    if row["privilege"] in _OF_OWNER or row.get("granted_to", row.get("grant_to")) != "ROLE":
        return None
    kind = str(row.get("granted_on") or row["grant_on"]).replace("_", " ")
    return Grant(row["grantee_name"], row["privilege"], kind, str(row["name"]).replace('"', ""))


def grant_differences(
    warehouse: Warehouse, ddl: Sequence[Definition], present: Sequence[Object]
) -> Iterator[Difference]:
    wanted = wanted_grants(ddl, present)
    roles = [each.name for each in present if each.kind == "ROLE"]
    deployed = deployed_grants(warehouse, roles, present)
    there = {each.name for each in present}
    for grant in sorted(wanted.grants - deployed):
        if grant.role in there or grant.name in there:
            yield Difference(f"role {grant.role}", "grant", "missing", grant.text, "milkrun warehouse apply")
    for grant in sorted(deployed - wanted.grants):
        schema = grant.name.rpartition(".")[0]
        if (grant.role, grant.privilege, grant.kind, schema) not in wanted.tolerated:
            yield Difference(f"role {grant.role}", "grant", grant.text, "none", grant.revoke)
