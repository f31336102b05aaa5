"""Find the tables and views that a query or DML statement uses, and the privilege that each requires."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError

from local_snowflake.authorize import Authority
from local_snowflake.errors import SnowflakeError, compilation
from local_snowflake.session import LocalConnection
from local_snowflake.sql import Name, Scope

HIDDEN = ("_FS_INFORMATION_SCHEMA", "_LOCAL")
TEMPORARY = "TEMP"


class Need(NamedTuple):
    privilege: str
    """Empty if any privilege is enough."""
    name: Name


class Reading:
    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.access = authority.access
        self._sources: dict[str, tuple[Need, ...]] = {}

    def __call__(self, statement: exp.Expr, session: LocalConnection) -> None:
        """Raise Snowflake's error if the session lacks a privilege on a table or view that the statement
        reads or changes, or on the session's warehouse.
        """
        if not self.access.enforced:
            return
        scope = Scope(session.database, session.schema)
        found = list(needs_of(statement, scope))
        if is_view(statement):
            session.view_reads = (*found, *histories_of(statement, scope.database or ""))
        needs = [need for need in found if need.name.sql not in session.temporary]
        roles = self.access.now.roles_of(session.actor)
        for need in needs:
            self._require(roles, need)
        if needs and not isinstance(statement, exp.Describe | exp.TruncateTable) and not is_view(statement):
            self.authority.require_warehouse(session.actor)

    def _require(self, roles: frozenset[str], need: Need) -> None:
        name = need.name
        if name.schema == "INFORMATION_SCHEMA":
            self.authority.require_of(roles, frozenset(), "DATABASE", name.database)
            return
        kind = self.access.table_or_view(str(name))
        wanted = frozenset({need.privilege} if need.privilege else ())
        self.authority.require_of(roles, wanted, kind, str(name))
        if kind == "VIEW":
            self._expand(name, roles)

    def _expand(self, view: Name, reader: frozenset[str]) -> None:
        """Check the privileges of the view's owner on the tables that the view reads (Snowflake: "Overview of
        Views"). For a table whose COPY_HISTORY the view reads, check the privileges of the reader's roles instead.
        """
        owner = self.access.now.owner("VIEW", str(view))
        if owner is None:
            return
        roles = self.access.now.inherited(frozenset({owner}))
        try:
            for need in self.sources(view):
                self._require(roles if need.privilege else reader, need)
        except SnowflakeError as error:
            raise compilation(
                f"Failure during expansion of view '{view.name}': {error.message}", "002037", "42601"
            ) from None

    def sources(self, view: Name) -> tuple[Need, ...]:
        key = str(view)
        known = self._sources.get(key)
        if known is not None:
            return known
        rows = self.access.catalog.rows(
            "SELECT sql FROM duckdb_views() WHERE (database_name, schema_name, view_name) = (?, ?, ?)", view
        )
        try:
            tree = sqlglot.parse_one(rows[0][0], read="duckdb") if rows else None
        except ParseError:  # sqlglot cannot parse DuckDB's own syntax, so only the view itself is checked
            tree = None
        scope = Scope(view.database, view.schema)
        needs = [*needs_of(tree, scope), *histories_of(tree, view.database)] if tree else []
        found = self._sources[key] = tuple(dict.fromkeys(needs))
        return found

    def forget(self, name: str) -> None:
        """Discard the cached list of tables of a changed view, or of every view in a changed schema or database.
        `name` is the full name of the view, schema or database.
        """
        for key in list(self._sources):  # a copy, because other sessions may add keys meanwhile
            if key == name or key.startswith(f"{name}."):
                self._sources.pop(key, None)

    def learn(self, view: str, reads: Iterable[object]) -> None:
        """Cache the list of the tables that a new view reads. Otherwise DuckDB's text of the view, in which
        all macros are expanded, would have to be parsed, which takes longer.
        """
        self._sources[view] = tuple(dict.fromkeys(each for each in reads if isinstance(each, Need)))


def histories_of(view: exp.Expr, database: str) -> Iterator[Need]:
    """Yield the tables whose COPY_HISTORY a view reads; any privilege on such a table is enough
    (Snowflake: "COPY_HISTORY", usage notes).
    """
    for table in view.find_all(exp.Table):
        select = table.find_ancestor(exp.Select)
        where = select and select.args.get("where")
        if table.name.lower() != "_local_history" or not where:
            continue
        named = {
            equal.this.name.lower(): equal.expression.name
            for equal in where.find_all(exp.EQ)
            if isinstance(equal.this, exp.Column) and equal.expression.is_string
        }
        yield Need("", Name(table.catalog or database, named["table_schema"], named["table_name"]))


def is_view(statement: exp.Expr) -> bool:
    return isinstance(statement, exp.Create) and statement.kind == "VIEW"


def needs_of(statement: exp.Expr, scope: Scope) -> Iterator[Need]:
    if isinstance(statement, exp.Describe):
        if isinstance(statement.this, exp.Query):
            yield from needs_of(statement.this, scope)
        elif isinstance(statement.this, exp.Table):
            yield from _needs(statement.this, ("",), scope)
        return
    if isinstance(statement, exp.Create):
        clone = statement.args.get("clone")
        for part in (statement.expression, clone):
            if part is not None:
                yield from _reads(part, None, scope)
        for like in statement.find_all(exp.LikeProperty):
            yield from _needs(like.this, ("",), scope)
        return
    if isinstance(statement, exp.TruncateTable):
        for table in statement.expressions:
            yield from _needs(table, ("TRUNCATE",), scope)
        return
    if isinstance(statement, exp.Insert | exp.Update | exp.Delete | exp.Merge):
        target = statement.this.this if isinstance(statement.this, exp.Schema) else statement.this
        if isinstance(target, exp.Table):
            yield from _needs(target, tuple(_changes(statement)), scope)
        yield from _reads(statement, target, scope)
    elif isinstance(statement, exp.Query):
        yield from _reads(statement, None, scope)


def _changes(statement: exp.Expr) -> Iterator[str]:
    if isinstance(statement, exp.Insert):
        yield "INSERT"
        if statement.args.get("overwrite"):  # OVERWRITE also requires DELETE ("INSERT", usage notes).
            yield "DELETE"
    elif isinstance(statement, exp.Update):
        yield "UPDATE"
    elif isinstance(statement, exp.Delete):
        yield "DELETE"
    else:
        yield "SELECT"  # MERGE reads the target to match its rows with the source's
        for kind, privilege in ((exp.Insert, "INSERT"), (exp.Update, "UPDATE")):
            if statement.find(kind):
                yield privilege
        if any(str(when.args["then"]).upper() == "DELETE" for when in statement.find_all(exp.When)):
            yield "DELETE"


def _reads(tree: exp.Expr, target: exp.Expr | None, scope: Scope) -> Iterator[Need]:
    for table in tree.find_all(exp.Table):
        if table is not target and not _is_of_the_query(table):
            yield from _needs(table, ("SELECT",), scope)


def _needs(table: exp.Table, privileges: tuple[str, ...], scope: Scope) -> Iterator[Need]:
    name = name_of(table, scope)
    if name and name.database != TEMPORARY and name.schema not in HIDDEN:
        for privilege in privileges:
            yield Need(privilege, name)


def name_of(table: exp.Table, scope: Scope) -> Name | None:
    """Return a table's full name. Return None for a stage, a function, or a name that cannot be resolved
    without a current schema.
    """
    parts = [part for part in (table.args.get("catalog"), table.args.get("db"), table.this) if part]
    if not all(isinstance(part, exp.Identifier) for part in parts):
        return None
    named = [part.name if part.args.get("quoted") else part.name.upper() for part in parts]
    try:
        return scope.resolve(tuple(named))
    except SnowflakeError:
        return None


def _is_of_the_query(table: exp.Table) -> bool:
    """Return whether a name refers to a common table expression in scope."""
    if table.args.get("db"):
        return False
    name, node = table.name.upper(), table.parent
    inside: exp.Expr = table
    while node is not None:
        with_ = node.args.get("with_")
        if isinstance(with_, exp.With) and inside is not with_:
            if any(cte.alias.upper() == name for cte in with_.expressions):
                return True
        elif isinstance(node, exp.With):
            for cte in node.expressions:
                if cte is inside:
                    if node.args.get("recursive") and cte.alias.upper() == name:
                        return True
                    break
                if cte.alias.upper() == name:
                    return True
        inside, node = node, node.parent
    return False
