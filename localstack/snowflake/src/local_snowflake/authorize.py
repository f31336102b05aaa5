"""Decide from the roles in use whether a session may run a statement. Sources: Snowflake's page "Access
control privileges", and the section "Access control requirements" of each command's page.

If the roles have no privilege on an object, the error says that the object does not exist. If they have a
privilege but not the required one, the error says that their privileges are insufficient.
"""

from collections.abc import Iterable

from local_snowflake.access import Access
from local_snowflake.actor import Actor
from local_snowflake.catalog_objects import Stage
from local_snowflake.changes import Change, full_name, take_object_name
from local_snowflake.errors import SnowflakeError, missing, no_privilege
from local_snowflake.parse_copy import Copy
from local_snowflake.privileges import IN_A_SCHEMA, OWNERSHIP, PRIVILEGES
from local_snowflake.session import LocalConnection
from local_snowflake.sql import Name, Scope, Words, actor_of, stage_parts

ACCOUNT = ""
CREATED_ON_THE_ACCOUNT = frozenset({"DATABASE", "INTEGRATION", "NETWORK POLICY", "ROLE", "USER", "WAREHOUSE"})
ADMINISTRATOR_ONLY = frozenset({"RESOURCE MONITOR"})
ANY = ()
"""Any privilege is enough."""


class Authority:
    """Checks a session's privileges and raises Snowflake's errors. Raises nothing if privileges are not enforced."""

    def __init__(self, access: Access) -> None:
        self.access = access

    # ---- one object

    def require(self, actor: Actor, wanted: Iterable[str], kind: str, name: str) -> None:
        """Require ownership of an object or one of the given privileges on it (any privilege, if none is
        given), and any privilege on its database and on its schema. If the object does not exist, no error is
        raised here, because the statement itself raises one.
        """
        if self.access.enforced:
            self.require_of(self.access.now.roles_of(actor), frozenset(wanted), kind, name)

    def require_of(self, roles: frozenset[str], wanted: frozenset[str], kind: str, name: str) -> None:
        now = self.access.now
        self._require_containers(roles, kind, name)
        held = now.privileges(roles, kind, name)
        if OWNERSHIP in held or wanted & held or (held and not wanted):
            return
        if held:
            raise no_privilege(kind, name)
        if not self.access.is_there(kind, name):
            return
        if self.access.now is not now:  # `is_there` assigned the object an owner, so check again
            self.require_of(roles, wanted, kind, name)
            return
        raise missing("Object" if kind in ("TABLE", "VIEW") else kind.capitalize(), name)

    def _require_containers(self, roles: frozenset[str], kind: str, name: str) -> None:
        """Require at least one privilege on the object's database and at least one on its schema."""
        if kind != "SCHEMA" and kind not in IN_A_SCHEMA:
            return
        database, schema, *_ = (*name.split("."), "")
        containers = [("DATABASE", database)]
        if kind in IN_A_SCHEMA:
            containers.append(("SCHEMA", f"{database}.{schema}"))
        for container, container_name in containers:
            now = self.access.now
            if not now.privileges(roles, container, container_name) and self.access.is_there(
                container, container_name
            ):
                raise missing(container.capitalize(), container_name)

    def require_account(self, roles: frozenset[str], privilege: str) -> None:
        if privilege not in self.access.now.privileges(roles, "ACCOUNT", ACCOUNT):
            raise no_privilege("ACCOUNT", ACCOUNT)

    def require_warehouse(self, actor: Actor) -> None:
        """Require USAGE on the session's warehouse, because reading and writing rows needs one. A session
        that named no warehouse is not checked, because it is treated as if it had a default warehouse.
        """
        if actor.warehouse is None or not self.access.enforced:
            return
        held = self.access.now.privileges(self.access.now.roles_of(actor), "WAREHOUSE", actor.warehouse)
        if not held & {"USAGE", OWNERSHIP}:
            raise SnowflakeError(
                "000606",
                "57P03",
                "No active warehouse selected in the current session.  Select an active warehouse with the "
                "'use warehouse' command.",
            )

    def enter(self, session: LocalConnection) -> None:
        """Unset a new session's current database, or only its schema, if the session's role may not use it."""
        if not self.access.enforced or not session.database:
            return
        now = self.access.now
        roles, usage = now.roles_of(session.actor), {"USAGE", OWNERSHIP}
        if not now.privileges(roles, "DATABASE", session.database) & usage:
            session.leave(session.database)
        elif session.schema and not (
            now.privileges(roles, "SCHEMA", f"{session.database}.{session.schema}") & usage
        ):
            session.leave_schema()

    def sees(self, actor: Actor, kind: str, name: str) -> bool:
        """Return whether SHOW lists an object for this actor."""
        now = self.access.now
        return not self.access.enforced or bool(now.privileges(now.roles_of(actor), kind, name))

    def owner(self, kind: str, name: str) -> str:
        return self.access.now.owner(kind, name) or ""

    # ---- CREATE, DROP and ALTER … RENAME

    def change(self, actor: Actor, change: Change) -> None:
        if not self.access.enforced:
            return
        now = self.access.now
        roles = now.roles_of(actor)
        if change.verb != "CREATE":
            self.require_of(roles, frozenset({OWNERSHIP}), change.kind, change.name)
            if change.verb == "RENAME" and _home(change.new_name) != _home(change.name):
                self._require_create(now.inherited(frozenset({actor.role})), change.kind, change.new_name)
            return
        if change.replaces and now.owner(change.kind, change.name):
            self.require_of(roles, frozenset({OWNERSHIP}), change.kind, change.name)
        if change.temporary and change.kind == "TABLE":  # "CREATE TABLE", access control requirements
            self._require_containers(roles, change.kind, change.name)
            return
        # "Authorization to execute CREATE <object> statements comes from the primary role": USE SECONDARY ROLES
        self._require_create(now.inherited(frozenset({actor.role})), change.kind, change.name)

    def _require_create(self, roles: frozenset[str], kind: str, name: str) -> None:
        if kind in ADMINISTRATOR_ONLY:
            if "ACCOUNTADMIN" not in roles:
                raise no_privilege("ACCOUNT", ACCOUNT)
        elif kind in CREATED_ON_THE_ACCOUNT:
            self.require_account(roles, f"CREATE {kind}")
        else:
            container = "DATABASE" if kind == "SCHEMA" else "SCHEMA"
            self.require_of(roles, frozenset({f"CREATE {kind}"}), container, _home(name))

    # ---- the other statements that are parsed with `Words`

    def statement(self, statement: tuple[str, ...], words: Words, scope: Scope) -> None:
        """Check the privileges for an ALTER, DESC, USE, LIST or COMMENT statement. Queries are checked in
        `read_privileges.py`, COPY by `load`.
        """
        if not self.access.enforced or not statement:
            return
        verb, kind = statement[0], " ".join(statement[1:])
        words.at = 1
        try:
            if verb in ("ALTER", "DESC", "COMMENT"):
                self._alter_or_describe(verb, words, scope)
            elif verb == "USE":
                self._use(kind, words, scope)
            elif verb in ("LIST", "LS"):
                name, _ = stage_parts(words.take_stage(), scope)
                self.require(actor_of(scope), ("USAGE", "READ"), "STAGE", str(name))
        finally:
            words.at = 0

    def _alter_or_describe(self, verb: str, words: Words, scope: Scope) -> None:
        if verb == "COMMENT":
            words.takes("IF", "EXISTS")
            words.takes("ON")
            if words.takes("COLUMN"):
                name = full_name(words.take_name()[:-1], "TABLE", scope)
                self.require(actor_of(scope), (OWNERSHIP,), self.access.table_or_view(name), name)
                return
        _ = words.takes("STORAGE") or words.takes("NOTIFICATION")
        kind = next((kind for kind in KINDS if words.takes(*kind.split())), "")
        if not kind:
            return
        words.takes("IF", "EXISTS")
        name = full_name(take_object_name(words), kind, scope)
        if kind in ("TABLE", "VIEW"):
            kind = self.access.table_or_view(name)
        wanted: Iterable[str] = (OWNERSHIP,)
        if verb == "DESC":
            wanted = ANY
        elif verb == "ALTER" and kind == "PIPE" and (words.sees("REFRESH") or _only_pauses(words)):
            wanted = ("OPERATE",)
        elif verb == "ALTER" and kind == "WAREHOUSE":
            wanted = ("OPERATE",) if words.sees("SUSPEND") or words.sees("RESUME") else ("MODIFY",)
        elif kind in ("DATABASE", "SCHEMA", "RESOURCE MONITOR"):
            wanted = ("MODIFY",)
        self.require(actor_of(scope), wanted, kind, name)

    def _use(self, kind: str, words: Words, scope: Scope) -> None:
        if kind in ("ROLE", "SECONDARY ROLES") or words.done:
            return
        if kind == "WAREHOUSE":
            words.takes("WAREHOUSE")
            self.require(actor_of(scope), ("USAGE",), "WAREHOUSE", words.take_identifier())
            return
        container = "SCHEMA" if words.takes("SCHEMA") else "DATABASE"
        words.takes("DATABASE")
        parts = words.take_name()
        if len(parts) == 2:
            container = "SCHEMA"
        self.require(actor_of(scope), ("USAGE",), container, full_name(parts, container, scope))

    # ---- loading

    def load(self, actor: Actor, copy: Copy, stage: Stage) -> None:
        """Check the privileges for a COPY INTO that a user runs: INSERT on the table, USAGE or READ on
        the stage, and USAGE on a named file format.
        """
        if self.access.enforced:
            self._load(self.access.now.roles_of(actor), copy, stage)

    def load_by_pipe(self, role: str, copy: Copy, stage: Stage) -> None:
        """Check a pipe's COPY like a user's, but against the privileges of the pipe's owner, which also needs SELECT
        on the table (Snowflake: "Managing Snowpipe").
        """
        if self.access.enforced:
            roles = self.access.now.inherited(frozenset({role}))
            self._load(roles, copy, stage)
            self.require_of(roles, frozenset({"SELECT"}), "TABLE", str(copy.target))

    def _load(self, roles: frozenset[str], copy: Copy, stage: Stage) -> None:
        self.require_of(roles, frozenset({"INSERT"}), "TABLE", str(copy.target))
        self.require_of(roles, frozenset({"USAGE", "READ"}), "STAGE", str(copy.stage))
        formats, home = copy.format_options, copy.target
        if formats is None:
            formats, home = stage.file_format, copy.stage
        named = (formats or {}).get("FORMAT_NAME")
        if named is not None:
            parts = Words(str(named)).take_name()
            name = Name(*(*home[: 3 - len(parts)], *parts))
            self.require_of(roles, frozenset({"USAGE"}), "FILE FORMAT", str(name))


KINDS = tuple(sorted((kind for kind in PRIVILEGES if kind != "ACCOUNT"), key=len, reverse=True))


def _home(name: str) -> str:
    return name.rpartition(".")[0]


def _only_pauses(words: Words) -> bool:
    """Return whether the statement is ALTER PIPE … SET PIPE_EXECUTION_PAUSED and sets nothing else."""
    texts = [token.text.upper() for token in words.tokens[words.at :]]
    return texts[:2] == ["SET", "PIPE_EXECUTION_PAUSED"] and texts.count("=") == 1
