"""Account objects that are only names here: warehouses, resource monitors and network policies.

They exist, have an owner and can be granted; what they would do in Snowflake is not done.
"""

import json

import structlog

from local_snowflake.authorize import Authority
from local_snowflake.catalog import OURS, Catalog
from local_snowflake.errors import compilation, exists, missing
from local_snowflake.results import SUCCEEDED, TEXT, TIME, Handlers, Result, status
from local_snowflake.show import alike, take_filter
from local_snowflake.sql import Scope, Words, actor_of

log = structlog.get_logger()

KINDS = (("WAREHOUSE",), ("RESOURCE", "MONITOR"), ("NETWORK", "POLICY"))


class Unenforced:
    def __init__(self, catalog: Catalog, authority: Authority) -> None:
        self.catalog = catalog
        self.authority = authority
        self.handlers: Handlers = {
            ("SHOW", "RESOURCE", "MONITORS"): self.show_monitors,
            ("SHOW", "WAREHOUSES"): self.show_warehouses,
            ("USE", "WAREHOUSE"): self.use_warehouse,
            **{("CREATE", *kind): self.create for kind in KINDS},
            **{("ALTER", *kind): self.alter for kind in KINDS},
            **{("DROP", *kind): self.drop for kind in KINDS},
        }

    def note(self, words: Words) -> None:
        log.info("statement_accepted_not_enforced", statement=" ".join(words.start(8)))

    def use_warehouse(self, words: Words, scope: Scope) -> Result:
        words.take("USE", "WAREHOUSE")
        name = words.take_identifier()
        words.finish()
        if not self._exists("WAREHOUSE", name):
            raise compilation("Object does not exist, or operation cannot be performed.", "002043", "02000")
        actor_of(scope).warehouse = name
        return SUCCEEDED

    def create(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("CREATE")
        replaces = words.takes("OR", "REPLACE")
        kind = self.take_kind(words)
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        name = words.take_identifier()
        words.takes("WITH")
        options = json.dumps(words.take_options(until=["TRIGGERS"]), default=list, allow_nan=False)
        self.note(words)
        if self._exists(kind, name) and not replaces:
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

    def alter(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("ALTER")
        kind = self.take_kind(words)
        if_exists = words.takes("IF", "EXISTS")
        name = words.take_identifier()
        self.note(words)
        if not if_exists and not self._exists(kind, name):
            raise missing(kind.capitalize(), name)
        return SUCCEEDED

    def drop(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("DROP")
        kind = self.take_kind(words)
        if_exists = words.takes("IF", "EXISTS")
        name = words.take_identifier()
        words.finish()
        self.note(words)
        found = self.catalog.rows(
            f"DELETE FROM {OURS}.unenforced WHERE kind = ? AND name = ? RETURNING name", [kind, name]
        )
        if not found and not if_exists:
            raise missing(kind.capitalize(), name)
        return status(f"{name} successfully dropped.")

    def _exists(self, kind: str, name: str) -> bool:
        return bool(
            self.catalog.rows(f"SELECT 1 FROM {OURS}.unenforced WHERE kind = ? AND name = ?", [kind, name])
        )

    def take_kind(self, words: Words) -> str:
        for kind in KINDS:
            if words.takes(*kind):
                return " ".join(kind)
        raise words.unexpected()

    def show_monitors(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW", "RESOURCE", "MONITORS")
        return self._show("RESOURCE MONITOR", words, scope)

    def show_warehouses(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW", "WAREHOUSES")
        return self._show("WAREHOUSE", words, scope)

    def _show(self, kind: str, words: Words, scope: Scope) -> Result:
        like, _ = take_filter(words, scope)
        rows = self.catalog.rows(
            f"SELECT created_on, name, options FROM {OURS}.unenforced WHERE kind = ? ORDER BY name", [kind]
        )
        shown = [
            (c, n, json.loads(o))
            for c, n, o in rows
            if alike(n, like) and self.authority.sees(actor_of(scope), kind, n)
        ]
        if kind == "WAREHOUSE":
            columns = dict.fromkeys(("name", "state", "type", "size", "comment"), TEXT)
            return Result(
                {**columns, "created_on": TIME},
                [
                    (
                        name,
                        "STARTED",
                        "STANDARD",
                        str(options.get("WAREHOUSE_SIZE", "XSMALL")),
                        options.get("COMMENT", ""),
                        created,
                    )
                    for created, name, options in shown
                ],
            )
        return Result(
            {"created_on": TIME, "name": TEXT, "comment": TEXT},
            [(created, name, options.get("COMMENT", "")) for created, name, options in shown],
        )
