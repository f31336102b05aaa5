"""Handle statements about roles and users, and choose the role of a session. Sources: Snowflake's pages
"CREATE ROLE", "USE ROLE", "USE SECONDARY ROLES", "CREATE USER", "ALTER USER".
"""

import json
from typing import Any

from local_snowflake.access import Access
from local_snowflake.actor import Actor
from local_snowflake.errors import SnowflakeError, compilation, exists, missing, unsupported
from local_snowflake.grants import ADMINISTRATOR, EVERYBODY, Right
from local_snowflake.privileges import SYSTEM_ROLES
from local_snowflake.results import SUCCEEDED, TEXT, TIME, Handlers, Result, status
from local_snowflake.show_clauses import alike, take_filter
from local_snowflake.sql import OURS, Options, Scope, Words, actor_of, flag_of

LOGIN_REFUSED = "08001"


class Roles:
    def __init__(self, access: Access) -> None:
        self.access = access
        self.catalog = access.catalog
        self.handlers: Handlers = {
            ("CREATE", "ROLE"): self.create_role,
            ("ALTER", "ROLE"): self.alter_role,
            ("DROP", "ROLE"): self.drop_role,
            ("SHOW", "ROLES"): self.show_roles,
            ("USE", "ROLE"): self.use_role,
            ("USE", "SECONDARY", "ROLES"): self.use_secondary_roles,
            ("CREATE", "USER"): self.create_user,
            ("ALTER", "USER"): self.alter_user,
            ("DROP", "USER"): self.drop_user,
            ("SHOW", "USERS"): self.show_users,
        }

    # ---- sessions

    def log_in(self, name: str | None, role: str | None, warehouse: str | None) -> Actor:
        """Return the actor of a new session, with the role from the connection string or, if it names none, the
        user's default role. A user who does not exist yet is created with the role ACCOUNTADMIN, like the first
        user of a new Snowflake account. Raises Snowflake's error if the user is disabled or does not have the role.
        """
        user = (name or "UNKNOWN").upper()
        options = self._options(user)
        if options is None:
            self._put_user(user, {"DEFAULT_ROLE": ADMINISTRATOR, "DEFAULT_SECONDARY_ROLES": ()})
            self.access.created("USER", user, ADMINISTRATOR)
            self.access.grant([Right("USAGE", "ROLE", ADMINISTRATOR, "USER", user)], ADMINISTRATOR)
            options = self._options(user) or {}
        if flag_of(options, "DISABLED"):
            raise SnowflakeError(
                "390101",
                LOGIN_REFUSED,
                "User access disabled. Contact your local system administrator.",
            )
        granted = self.access.now.roles_of_user(user)
        default = str(options.get("DEFAULT_ROLE") or EVERYBODY).upper()
        if role and named(role) not in granted:
            raise SnowflakeError(
                "390189",
                LOGIN_REFUSED,
                f"Role '{role}' specified in the connect string does not exist or not authorized. Contact your "
                "local system administrator, or attempt to login with another role, e.g. PUBLIC.",
            )
        if not role and default not in granted:
            raise SnowflakeError(
                "390186",
                LOGIN_REFUSED,
                f"User's configured default role '{default}' is not granted to this user. Contact your local "
                "system administrator, or attempt to login using a CLI client with a connect string selecting "
                "another role, e.g. PUBLIC.",
            )
        secondary = options.get("DEFAULT_SECONDARY_ROLES", ["ALL"])
        return Actor(
            user,
            named(role) if role else default,
            "ALL" in [str(each).upper() for each in secondary],
            named(warehouse or str(options.get("DEFAULT_WAREHOUSE") or "")) or None,
        )

    def use_role(self, words: Words, scope: Scope) -> Result:
        words.take("USE", "ROLE")
        role = words.take_identifier()
        words.finish()
        actor = actor_of(scope)
        if self.access.now.owner("ROLE", role) is None:
            raise compilation("Object does not exist, or operation cannot be performed.", "002043", "02000")
        if role not in self.access.now.roles_of_user(actor.user):
            raise SnowflakeError(
                "003013",
                "42501",
                f"SQL access control error:\nRequested role '{role}' is not assigned to the executing user. "
                "Specify another role to activate.",
            )
        actor.role = role
        return SUCCEEDED

    def use_secondary_roles(self, words: Words, scope: Scope) -> Result:
        words.take("USE", "SECONDARY", "ROLES")
        chosen = words.take_identifier()
        words.finish()
        if chosen not in ("ALL", "NONE"):
            raise unsupported(f"USE SECONDARY ROLES {chosen}; only ALL and NONE are supported")
        actor_of(scope).all_secondary = chosen == "ALL"
        return SUCCEEDED

    # ---- roles

    def create_role(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("CREATE")
        if words.takes("OR", "REPLACE"):
            raise unsupported("CREATE OR REPLACE ROLE")
        words.take("ROLE")
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        role = words.take_identifier()
        options = take_comment(words)
        if self.access.now.owner("ROLE", role) is not None:
            if unless_exists:
                return status(f"{role} already exists, statement succeeded.")
            raise exists(role)
        self.catalog.rows(
            f"INSERT INTO {OURS}.unenforced VALUES ('ROLE', ?, ?, ?)",
            [role, json.dumps(options, default=list, allow_nan=False), self.catalog.clock()],
        )
        return status(f"Role {role} successfully created.")

    def alter_role(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("ALTER", "ROLE")
        if_exists = words.takes("IF", "EXISTS")
        role = words.take_identifier()
        if self.access.now.owner("ROLE", role) is None:
            if if_exists:
                return SUCCEEDED
            raise missing("Role", role)
        if not words.takes("SET"):
            raise unsupported("ALTER ROLE other than SET COMMENT")
        options = take_comment(words)
        self.catalog.rows(
            f"UPDATE {OURS}.unenforced SET options = ? WHERE kind = 'ROLE' AND name = ?",
            [json.dumps(options, default=list, allow_nan=False), role],
        )
        return SUCCEEDED

    def drop_role(self, words: Words, scope: Scope) -> Result:
        """Drop a role. The session's role becomes the owner of the objects that the dropped role owned (Snowflake:
        "DROP ROLE", usage notes).
        """
        words.take("DROP", "ROLE")
        if_exists = words.takes("IF", "EXISTS")
        role = words.take_identifier()
        words.finish()
        if self.access.now.owner("ROLE", role) is None:
            if if_exists:
                return status(f"Drop statement executed successfully ({role} already dropped).")
            raise missing("Role", role)
        if role in SYSTEM_ROLES:
            raise compilation(f"Cannot drop the system role '{role}'.")
        self.catalog.rows(f"DELETE FROM {OURS}.unenforced WHERE kind = 'ROLE' AND name = ?", [role])
        for row in self.access.now.rows:
            if row.is_ownership and row.grantee == role:
                self.access.transferred(row.kind, row.name, actor_of(scope).role, keep_grants=True)
        return status(f"{role} successfully dropped.")

    def show_roles(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW", "ROLES")
        like, _ = take_filter(words, scope)
        actor, now = actor_of(scope), self.access.now
        comments = dict(self.catalog.rows(f"SELECT name, options FROM {OURS}.unenforced WHERE kind = 'ROLE'"))
        default = str((self._options(actor.user) or {}).get("DEFAULT_ROLE") or EVERYBODY).upper()
        inherited = now.inherited(frozenset({actor.role})) - {actor.role}
        rows = [
            (
                row.created_on,
                row.name,
                "Y" if row.name == default else "N",
                "Y" if row.name == actor.role else "N",
                "Y" if row.name in inherited else "N",
                row.grantee,
                json.loads(comments.get(row.name, "{}")).get("COMMENT", ""),
            )
            for row in now.rows
            if row.kind == "ROLE" and row.is_ownership and alike(row.name, like)
        ]
        columns = dict.fromkeys(
            ("name", "is_default", "is_current", "is_inherited", "owner", "comment"), TEXT
        )
        return Result({"created_on": TIME, **columns}, sorted(rows, key=lambda row: str(row[1])))

    # ---- users

    def create_user(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("CREATE")
        replaces = words.takes("OR", "REPLACE")
        words.take("USER")
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        user = words.take_identifier()
        options = words.take_options()
        words.finish()
        if self._options(user) is not None and not replaces:
            if unless_exists:
                return status(f"{user} already exists, statement succeeded.")
            raise exists(user)
        check_user_options(options)
        self._put_user(user, options)
        return status(f"User {user} successfully created.")

    def alter_user(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("ALTER", "USER")
        if_exists = words.takes("IF", "EXISTS")
        user = words.take_identifier()
        options = self._options(user)
        if options is None:
            if if_exists:
                return SUCCEEDED
            raise missing("User", user)
        if not words.takes("SET"):
            raise unsupported("ALTER USER without SET")
        options |= words.take_options()
        words.finish()
        check_user_options(options)
        self._put_user(user, options)
        return SUCCEEDED

    def drop_user(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("DROP", "USER")
        if_exists = words.takes("IF", "EXISTS")
        user = words.take_identifier()
        words.finish()
        if self._options(user) is None:
            if if_exists:
                return status(f"Drop statement executed successfully ({user} already dropped).")
            raise missing("User", user)
        self.catalog.rows(f"DELETE FROM {OURS}.users WHERE name = ?", [user])
        return status(f"{user} successfully dropped.")

    def show_users(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW", "USERS")
        like, _ = take_filter(words, scope)
        rows = [
            (
                name,
                created,
                *(str(json.loads(options).get(option) or "") for option in USER_COLUMNS.values()),
                self.access.now.owner("USER", name),
            )
            for name, options, created in self.catalog.rows(
                f"SELECT name, options, created_on FROM {OURS}.users ORDER BY name"
            )
            if alike(name, like)
        ]
        return Result(
            {"name": TEXT, "created_on": TIME, **dict.fromkeys(USER_COLUMNS, TEXT), "owner": TEXT}, rows
        )

    def _options(self, user: str) -> dict[str, Any] | None:
        rows = self.catalog.rows(f"SELECT options FROM {OURS}.users WHERE name = ?", [user])
        return json.loads(rows[0][0]) if rows else None

    def _put_user(self, user: str, options: object) -> None:
        with self.catalog.transaction() as cursor:
            cursor.execute(f"DELETE FROM {OURS}.users WHERE name = ?", [user])
            cursor.execute(
                f"INSERT INTO {OURS}.users VALUES (?, ?, ?)",
                [user, json.dumps(options, default=list, allow_nan=False), self.catalog.clock()],
            )


PERSONAL = {
    "FIRST_NAME",
    "MIDDLE_NAME",
    "LAST_NAME",
    "PASSWORD",
    "MUST_CHANGE_PASSWORD",
    "MINS_TO_BYPASS_MFA",
}
USER_OPTIONS = PERSONAL | {
    "COMMENT", "DAYS_TO_EXPIRY", "DEFAULT_NAMESPACE", "DEFAULT_ROLE", "DEFAULT_SECONDARY_ROLES", "DEFAULT_WAREHOUSE",
    "DISABLED", "DISPLAY_NAME", "EMAIL", "LOGIN_NAME", "MINS_TO_UNLOCK", "NETWORK_POLICY", "RSA_PUBLIC_KEY",
    "RSA_PUBLIC_KEY_2", "TYPE", "WORKLOAD_IDENTITY",
}  # fmt: skip
"""The properties in Snowflake's page "CREATE USER". A user of TYPE = SERVICE cannot have those in PERSONAL."""


def check_user_options(options: Options) -> None:
    is_service = str(options.get("TYPE")).upper() == "SERVICE"
    for option in options:
        if option not in USER_OPTIONS:
            raise unsupported(f"the user option {option}")
        if is_service and option in PERSONAL:
            raise compilation(f"Cannot set {option} on users with TYPE=SERVICE.")


USER_COLUMNS = {
    "default_warehouse": "DEFAULT_WAREHOUSE",
    "default_role": "DEFAULT_ROLE",
    "default_secondary_roles": "DEFAULT_SECONDARY_ROLES",
    "comment": "COMMENT",
}


def take_comment(words: Words) -> Options:
    """Consume and return the options of a role, of which only COMMENT is supported."""
    options = words.take_options()
    words.finish()
    for option in options:
        if option != "COMMENT":
            raise compilation(f"invalid property '{option}' for 'ROLE'", "001006", "42601")
    return options


def named(identifier: str) -> str:
    """Return the name that an identifier in the connection string denotes, in upper case unless it is quoted."""
    if identifier.startswith('"'):
        return identifier.strip('"').replace('""', '"')
    return identifier.upper()
