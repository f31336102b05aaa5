"""Statements that are accepted, logged and noted, and change nothing: here everybody may do everything.

What was granted can still be shown, because a pipe that is made again must get its grants again.
"""

import json

import structlog

from local_snowflake.catalog import OURS, Catalog
from local_snowflake.errors import exists, missing, unsupported
from local_snowflake.results import SUCCEEDED, TEXT, TIME, Handlers, Result, status
from local_snowflake.show import alike, take_filter
from local_snowflake.sql import Scope, Words

log = structlog.get_logger()

KINDS = (("ROLE",), ("WAREHOUSE",), ("RESOURCE", "MONITOR"), ("NETWORK", "POLICY"), ("DATABASE", "ROLE"))
IN_A_SCHEMA = {"TABLE", "VIEW", "STAGE", "PIPE", "FILE FORMAT", "SEQUENCE"}


class Unenforced:
    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.handlers: Handlers = {
            ("GRANT",): self.grant,
            ("REVOKE",): self.revoke,
            ("SHOW", "GRANTS"): self.show_grants,
            ("SHOW", "ROLES"): self.show,
            ("SHOW", "RESOURCE", "MONITORS"): self.show,
            ("ALTER", "USER"): self.accept,
            ("USE", "ROLE"): self.accept,
            ("USE", "WAREHOUSE"): self.accept,
            ("USE", "SECONDARY", "ROLES"): self.accept,
            **{("CREATE", *kind): self.create for kind in KINDS},
            **{("ALTER", *kind): self.accept for kind in KINDS},
            **{("DROP", *kind): self.drop for kind in KINDS},
        }

    def accept(self, words: Words, scope: Scope) -> Result:
        del scope
        self.note(words)
        return SUCCEEDED

    def note(self, words: Words) -> None:
        log.info("statement_accepted_not_enforced", statement=" ".join(words.start(8)))

    # ---- roles, warehouses, monitors

    def create(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("CREATE")
        replaces = words.takes("OR", "REPLACE")
        kind = self.take_kind(words)
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        name = ".".join(words.take_name())
        words.takes("WITH")
        options = json.dumps(words.take_options(until=["TRIGGERS"]), default=list)
        self.note(words)
        there = self.catalog.rows(
            f"SELECT 1 FROM {OURS}.unenforced WHERE kind = ? AND name = ?", [kind, name]
        )
        if there and not replaces:
            if unless_exists:
                return status(f"{name} already exists, statement succeeded.")
            raise exists(name)
        with self.catalog.transaction() as cursor:
            cursor.execute(f"DELETE FROM {OURS}.unenforced WHERE kind = ? AND name = ?", [kind, name])
            cursor.execute(
                f"INSERT INTO {OURS}.unenforced VALUES (?, ?, ?, ?)",
                [kind, name, options, self.catalog.clock()],
            )
        return status(f"{kind.capitalize()} {name} successfully created.")

    def drop(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("DROP")
        kind = self.take_kind(words)
        if_exists = words.takes("IF", "EXISTS")
        name = ".".join(words.take_name())
        words.finish()
        self.note(words)
        found = self.catalog.rows(
            f"DELETE FROM {OURS}.unenforced WHERE kind = ? AND name = ? RETURNING name", [kind, name]
        )
        if not found and not if_exists:
            raise missing(kind.capitalize(), name)
        return status(f"{name} successfully dropped.")

    def take_kind(self, words: Words) -> str:
        for kind in KINDS:
            if words.takes(*kind):
                return " ".join(kind)
        raise words.unexpected()

    def show(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW")
        kind = "ROLE" if words.takes("ROLES") else "RESOURCE MONITOR"
        if kind != "ROLE":
            words.take("RESOURCE", "MONITORS")
        like, _ = take_filter(words, scope)
        rows = self.catalog.rows(
            f"SELECT created_on, name, options FROM {OURS}.unenforced WHERE kind = ? ORDER BY name", [kind]
        )
        return Result(
            {"created_on": TIME, "name": TEXT, "comment": TEXT},
            [
                (created, name, json.loads(options).get("COMMENT", ""))
                for created, name, options in rows
                if alike(name, like)
            ],
        )

    # ---- grants

    def grant(self, words: Words, scope: Scope) -> Result:
        words.take("GRANT")
        for row in self.grants_of(words, "TO", scope):
            with self.catalog.transaction() as cursor:
                cursor.execute(f"DELETE FROM {OURS}.grants WHERE {SAME_GRANT}", list(row))
                cursor.execute(
                    f"INSERT INTO {OURS}.grants VALUES (?, ?, ?, ?, ?, ?)", [*row, self.catalog.clock()]
                )
        self.note(words)
        return SUCCEEDED

    def revoke(self, words: Words, scope: Scope) -> Result:
        words.take("REVOKE")
        words.takes("GRANT", "OPTION", "FOR")
        for row in self.grants_of(words, "FROM", scope):
            self.catalog.rows(f"DELETE FROM {OURS}.grants WHERE {SAME_GRANT}", row)
        self.note(words)
        return SUCCEEDED

    def grants_of(self, words: Words, to: str, scope: Scope) -> list[tuple[str, str, str, str, str]]:
        """GRANT privilege, … ON kind name TO ROLE r, or GRANT ROLE x TO ROLE|USER r."""
        if words.takes("ROLE") or words.takes("DATABASE", "ROLE"):
            privileges, kind, name = ["USAGE"], "ROLE", ".".join(words.take_name())
        else:
            privileges = take_privileges(words)
            kind, name = take_securable(words, scope)
        words.take(to)
        grantee_kind = "USER" if words.takes("USER") else "ROLE"
        words.takes("DATABASE")
        words.takes("ROLE")
        grantee = ".".join(words.take_name())
        words.takes("WITH", "GRANT", "OPTION")
        words.takes("REVOKE", "CURRENT", "GRANTS")
        words.takes("COPY", "CURRENT", "GRANTS")
        words.takes("CASCADE")
        words.finish()
        return [(privilege, kind, name, grantee_kind, grantee) for privilege in privileges]

    def show_grants(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW", "GRANTS")
        if words.takes("ON"):
            kind, name = take_securable(words, scope)
            where, values = "granted_on = ? AND name = ?", [kind, name]
        elif words.takes("TO"):
            kind = "USER" if words.takes("USER") else "ROLE"
            words.takes("ROLE")
            where, values = "granted_to = ? AND grantee = ?", [kind, ".".join(words.take_name())]
        elif words.takes("OF", "ROLE"):
            where, values = "granted_on = 'ROLE' AND name = ?", [".".join(words.take_name())]
        else:
            raise unsupported("SHOW GRANTS without ON, TO or OF")
        words.finish()
        rows = self.catalog.rows(
            f"""SELECT created_on, privilege, granted_on, name, granted_to, grantee, 'false', 'SYSADMIN'
                FROM {OURS}.grants WHERE {where} ORDER BY ALL""",
            values,
        )
        columns = dict.fromkeys(
            ("privilege", "granted_on", "name", "granted_to", "grantee_name", "grant_option", "granted_by"),
            TEXT,
        )
        return Result({"created_on": TIME, **columns}, rows)


SAME_GRANT = "(privilege, granted_on, name, granted_to, grantee) = (?, ?, ?, ?, ?)"


def take_privileges(words: Words) -> list[str]:
    privileges = [""]
    while not words.sees("ON"):
        if words.takes(","):
            privileges.append("")
        elif words.sees("("):
            raise unsupported("grants on columns")
        else:
            privileges[-1] = f"{privileges[-1]} {words.take_identifier()}".strip()
    words.take("ON")
    return privileges


def take_securable(words: Words, scope: Scope) -> tuple[str, str]:
    """`PIPE a.b.c`, `SCHEMA a.b`, `ACCOUNT`, `FUTURE TABLES IN SCHEMA a.b` as kind and full name."""
    if words.takes("ACCOUNT"):
        return "ACCOUNT", ""
    prefix = ""
    for many in ("ALL", "FUTURE"):
        if words.takes(many):
            prefix = many + " "
    kind = words.take_identifier()
    for second in ("FORMAT", "FORMATS", "MONITOR", "INTEGRATION", "VIEWS", "VIEW", "TABLES", "ROLE"):
        if words.takes(second):
            kind += f" {second}"
    if prefix:
        words.take("IN")
        kind = f"{prefix}{kind} IN {words.take_identifier()}"
    parts = words.take_name()
    if kind in IN_A_SCHEMA:
        return kind, str(scope.resolve(parts))
    if kind == "SCHEMA" and len(parts) == 1 and scope.database:
        parts = (scope.database, *parts)
    return kind, ".".join(parts)
