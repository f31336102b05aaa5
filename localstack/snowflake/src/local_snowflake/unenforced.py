"""Warehouses, resource monitors and network policies. The local Snowflake stores them, but does not enforce their
limits and rules. They have an owner, and privileges on them can be granted.
"""

import json

import structlog

from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog
from local_snowflake.errors import compilation, exists, missing, unsupported
from local_snowflake.results import NUMBER, SUCCEEDED, TEXT, TIME, Handlers, Result, status
from local_snowflake.show_clauses import alike, take_filter
from local_snowflake.sql import OURS, Options, Scope, Words, actor_of

log = structlog.get_logger()

KINDS = (("WAREHOUSE",), ("RESOURCE", "MONITOR"), ("NETWORK", "POLICY"))


class Unenforced:
    def __init__(self, catalog: Catalog, authority: Authority) -> None:
        self.catalog = catalog
        self.authority = authority
        self.handlers: Handlers = {
            ("SHOW", "RESOURCE", "MONITORS"): self.show_monitors,
            ("SHOW", "WAREHOUSES"): self.show_warehouses,
            ("SHOW", "PARAMETERS"): self.show_parameters,
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
        given = words.take_options(until=["TRIGGERS"])
        self._check_options(kind, given)
        options = json.dumps(given, default=list, allow_nan=False)
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
        if not self._exists(kind, name):
            if if_exists:
                return SUCCEEDED
            raise missing(kind.capitalize(), name)
        words.takes("SET")
        if self._sets_options(words):
            given = words.take_options(until=["TRIGGERS"])
            self._check_options(kind, given)
            changed = self._options(kind, name) | given
            self.catalog.rows(
                f"UPDATE {OURS}.unenforced SET options = ? WHERE kind = ? AND name = ?",
                [json.dumps(changed, default=list, allow_nan=False), kind, name],
            )
        elif not any(words.sees(action) for action in ("SUSPEND", "RESUME", "ABORT")):
            raise unsupported(f"ALTER {kind} … {words.token.text.upper()}")
        return SUCCEEDED

    def _check_options(self, kind: str, options: Options) -> None:
        if kind != "WAREHOUSE":
            return
        for option in options:
            if option not in WAREHOUSE_OPTIONS:
                raise compilation(f"invalid property '{option}' for 'WAREHOUSE'", "001006", "42601")
        size = options.get("WAREHOUSE_SIZE")
        if size is not None and str(size).upper() not in SIZES:
            raise compilation(f"invalid value [{size}] for parameter 'WAREHOUSE_SIZE'", "001008", "42601")
        monitor = str(options.get("RESOURCE_MONITOR", "NULL"))
        if monitor.upper() != "NULL" and not self._exists("RESOURCE MONITOR", monitor):
            raise missing("Resource monitor", monitor)

    def _sets_options(self, words: Words) -> bool:
        """Return whether an option (NAME = value) follows, rather than SUSPEND, RENAME TO or UNSET."""
        following = words.tokens[words.at + 1 : words.at + 2]
        return bool(following) and following[0].text == "="

    def _options(self, kind: str, name: str) -> dict[str, object]:
        ((options,),) = self.catalog.rows(
            f"SELECT options FROM {OURS}.unenforced WHERE kind = ? AND name = ?", [kind, name]
        )
        found: dict[str, object] = json.loads(options)
        return found

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
            return Result(WAREHOUSE_COLUMNS, [_warehouse(*each) for each in shown])
        return Result(
            MONITOR_COLUMNS,
            [
                (
                    c,
                    n,
                    o.get("COMMENT", ""),
                    str(o.get("CREDIT_QUOTA", "")),
                    str(o.get("FREQUENCY", "MONTHLY")),
                )
                for c, n, o in shown
            ],
        )

    def show_parameters(self, words: Words, scope: Scope) -> Result | None:
        """Answer SHOW PARAMETERS IN WAREHOUSE (Snowflake: "SHOW PARAMETERS"). For other objects, return None,
        so that fakesnow answers, or refuse a parameter that fakesnow does not know.
        """
        words.take("SHOW", "PARAMETERS")
        like = words.take_string() if words.takes("LIKE") else None
        if not (words.takes("IN", "WAREHOUSE") or words.takes("FOR", "WAREHOUSE")):
            if like and "%" not in like and like.upper() not in SESSION_PARAMETERS:
                raise unsupported(f"SHOW PARAMETERS LIKE '{like}'")  # fakesnow's answer would have no rows
            return None
        name = words.take_identifier()
        words.finish()
        self.authority.require(actor_of(scope), (), "WAREHOUSE", name)
        if not self._exists("WAREHOUSE", name):
            raise missing("Warehouse", name)
        options = self._options("WAREHOUSE", name)
        return Result(
            dict.fromkeys(("key", "value", "default", "level", "description", "type"), TEXT),
            [
                (
                    key,
                    str(options.get(key, default)),
                    str(default),
                    "WAREHOUSE" if key in options else "",
                    "",
                    "NUMBER",
                )
                for key, default in PARAMETERS.items()
                if alike(key, like)
            ],
        )


WAREHOUSE_OPTIONS = {
    "WAREHOUSE_TYPE", "WAREHOUSE_SIZE", "RESOURCE_CONSTRAINT", "GENERATION", "MAX_CLUSTER_COUNT", "MIN_CLUSTER_COUNT",
    "SCALING_POLICY", "AUTO_SUSPEND", "AUTO_RESUME", "INITIALLY_SUSPENDED", "RESOURCE_MONITOR", "COMMENT",
    "ENABLE_QUERY_ACCELERATION", "QUERY_ACCELERATION_MAX_SCALE_FACTOR", "MAX_CONCURRENCY_LEVEL",
    "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS", "STATEMENT_TIMEOUT_IN_SECONDS", "WAIT_FOR_COMPLETION",
}  # fmt: skip
"""The properties and parameters in Snowflake's pages "CREATE WAREHOUSE" and "ALTER WAREHOUSE"."""


SESSION_PARAMETERS = {"QUOTED_IDENTIFIERS_IGNORE_CASE", "TIMEZONE"}
"""The session parameters that fakesnow shows."""

PARAMETERS = {
    "MAX_CONCURRENCY_LEVEL": 8,
    "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS": 0,
    "STATEMENT_TIMEOUT_IN_SECONDS": 172800,
}
"""A warehouse's parameters and their defaults (Snowflake: "Parameters")."""

WAREHOUSE_COLUMNS = {
    **dict.fromkeys(("name", "state", "type", "size"), TEXT),
    "auto_suspend": NUMBER,
    **dict.fromkeys(("auto_resume", "resource_monitor", "comment"), TEXT),
    "created_on": TIME,
}
MONITOR_COLUMNS = {
    "created_on": TIME,
    **dict.fromkeys(("name", "comment", "credit_quota", "frequency"), TEXT),
}


def _warehouse(created: object, name: str, options: dict[str, object]) -> tuple[object, ...]:
    return (
        name,
        "STARTED",
        "STANDARD",
        SIZES[str(options.get("WAREHOUSE_SIZE", "XSMALL")).upper()],
        options.get("AUTO_SUSPEND", 600),
        str(options.get("AUTO_RESUME", True)).lower(),
        str(options.get("RESOURCE_MONITOR", "null")),
        options.get("COMMENT", ""),
        created,
    )


SIZES = {
    "XSMALL": "X-Small", "SMALL": "Small", "MEDIUM": "Medium", "LARGE": "Large", "XLARGE": "X-Large",
    "XXLARGE": "2X-Large", "X2LARGE": "2X-Large", "XXXLARGE": "3X-Large", "X3LARGE": "3X-Large", "X4LARGE": "4X-Large",
    "X5LARGE": "5X-Large", "X6LARGE": "6X-Large",
}  # fmt: skip
SIZES |= {shown.upper(): shown for shown in SIZES.values()}
"""The sizes as SHOW WAREHOUSES spells them, keyed by each spelling that CREATE WAREHOUSE accepts."""
