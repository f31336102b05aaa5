"""Refuse queries that Snowflake refuses although DuckDB runs them. DuckDB silently renames columns with the same name,
names columns without a name, and evaluates window functions without an order and every correlated subquery.
"""

from collections.abc import Callable, Mapping, Sequence

from sqlglot import exp

from local_snowflake.errors import SnowflakeError, compilation, unsupported
from local_snowflake.names import stored

type Names = Sequence[str] | None
"""A query's column names; None if they are unknown."""
type ColumnsOf = Callable[[exp.Table], Mapping[str, str]]

NEED_ORDER = (
    exp.CumeDist, exp.DenseRank, exp.FirstValue, exp.Lag, exp.LastValue, exp.Lead, exp.NthValue, exp.Ntile,
    exp.PercentRank, exp.Rank, exp.RowNumber,
)  # fmt: skip

MAKE_VARIANTS = (exp.Array, exp.JSONObject, exp.ParseJSON, exp.Struct, exp.ToVariant)


def refuse_invalid(statement: exp.Expr, columns_of: ColumnsOf) -> None:
    """Raise Snowflake's error for the first invalid part of a query. `columns_of` returns the columns of a table, keyed
    by name.
    """
    for window in statement.find_all(exp.Window):
        check_window(window)
    for select in statement.find_all(exp.Select):
        check_order_of_distinct(select)
    for node in statement.find_all(*MAKE_VARIANTS):
        if isinstance(node.find_ancestor(exp.Values, exp.Select), exp.Values):
            written = node.sql(dialect="snowflake")
            raise compilation(f"Invalid expression [{written}] in VALUES clause", "002014", "22000")
    for subquery in statement.find_all(exp.Subquery):
        check_scalar_subquery(subquery)
    Outputs(columns_of).check(statement)


def check_window(window: exp.Window) -> None:
    """Snowflake: "Window function syntax and usage"."""
    function = (
        window.this.this if isinstance(window.this, exp.IgnoreNulls | exp.RespectNulls) else window.this
    )
    if isinstance(function, NEED_ORDER) and not (window.args.get("order") or window.alias):
        raise compilation(
            f"Window function type [{function.sql_name()}] requires ORDER BY in window specification."
        )
    is_distinct = isinstance(function, exp.AggFunc) and isinstance(function.this, exp.Distinct)
    if is_distinct and not isinstance(function, exp.Count) and window.args.get("order"):
        raise compilation("distinct cannot be used with a window frame or an order.")


def check_order_of_distinct(select: exp.Select) -> None:
    """ORDER BY may name only selected columns if the rows are DISTINCT."""
    order, outputs = select.args.get("order"), select.selects
    if not order or not select.args.get("distinct") or any(each.is_star for each in outputs):
        return
    allowed = {each.alias_or_name.upper() for each in outputs}
    allowed |= {each.unalias().name.upper() for each in outputs if isinstance(each.unalias(), exp.Column)}
    for term in order.expressions:
        if isinstance(term.this, exp.Column) and term.this.name.upper() not in allowed:
            raise compilation(f"[{term.this.sql('snowflake').upper()}] is not a valid order by expression")


def check_scalar_subquery(subquery: exp.Subquery) -> None:
    """A scalar subquery that refers to columns of the outer query must return one row because of an aggregate, and
    compare these columns only for equality (Snowflake: "Working with Subqueries").
    """
    select = subquery.this
    if not isinstance(select, exp.Select) or isinstance(subquery.parent, NOT_SCALAR):
        return
    own = {
        table.alias_or_name.upper()
        for table in select.find_all(exp.Table, exp.Subquery, exp.CTE, exp.Lateral)
    }
    outer = [c for c in select.find_all(exp.Column) if c.table and c.table.upper() not in own and not c.db]
    if not outer:
        return
    returns_one_row = all(each.find(exp.AggFunc) for each in select.selects) and not select.args.get("group")
    if (
        not returns_one_row
        or select.args.get("limit")
        or not all(isinstance(c.parent, exp.EQ) for c in outer)
    ):
        raise SnowflakeError(
            "002031", "42601", "SQL compilation error:\nUnsupported subquery type cannot be evaluated"
        )


NOT_SCALAR = (exp.From, exp.Join, exp.Lateral, exp.CTE, exp.Create, exp.SetOperation, exp.Insert, exp.Exists, exp.In,
              exp.Merge, exp.Subquery)  # fmt: skip


class Outputs:
    """The column names of the queries within a statement."""

    def __init__(self, columns_of: ColumnsOf) -> None:
        self.columns_of = columns_of

    def check(self, statement: exp.Expr) -> None:
        if isinstance(statement, exp.Create):
            query = statement.expression.unnest() if statement.expression else None
            if isinstance(query, exp.Query):
                names = self.of(query, {})
                if not (isinstance(statement.this, exp.Schema) and statement.this.expressions):
                    check_columns(query, names)
        elif isinstance(statement, exp.Query):
            self.of(statement, {})
        elif isinstance(statement, exp.Insert | exp.Merge):
            for query in (statement.expression, statement.args.get("using")):
                if isinstance(query, exp.Query):
                    self.of(query, {})

    def of(self, query: exp.Expr, outer: Mapping[str, Names]) -> Names:
        """Return the column names of a query. Raise an error if two columns of a query within it have the same name."""
        query = query.unnest()
        known = dict(outer)
        with_ = query.args.get("with_")
        for cte in with_.expressions if with_ else ():
            known[stored(cte.args["alias"].this)] = self.within(cte, known)
        if isinstance(query, exp.SetOperation):
            self.of(query.expression, known)
            return self.of(query.this, known)
        if not isinstance(query, exp.Select):
            return None
        sources = self.sources(query, known)
        found: list[str] = []
        for item in query.selects:
            names = self.selected(item, query, sources)
            if names is None:
                return None
            found += names
        return found

    def sources(self, select: exp.Select, known: Mapping[str, Names]) -> dict[str, Names]:
        from_ = select.args.get("from_")
        found: dict[str, Names] = {}
        for each in (from_, *select.args.get("joins", ()), *select.args.get("laterals", ())):
            source = each.this if isinstance(each, exp.From | exp.Join) else each
            if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
                name = stored(source.this)
                found[source.alias_or_name.upper()] = (
                    known[name] if not source.db and name in known else list(self.columns_of(source)) or None
                )
            elif isinstance(source, exp.Subquery):
                found[source.alias_or_name.upper() or str(len(found))] = self.within(source, known)
            elif source is not None:
                found[source.alias_or_name.upper() or str(len(found))] = None
        return found

    def within(self, named: exp.CTE | exp.Subquery, known: Mapping[str, Names]) -> Names:
        names = self.of(named.this, known)
        alias = named.args.get("alias")
        listed = [stored(each) for each in alias.args.get("columns") or ()] if alias else []
        if not listed and (twice := repeated(names)):
            raise unsupported(f"a subquery or common table expression with two columns {twice}")
        return listed or names

    def selected(self, item: exp.Expr, select: exp.Select, sources: Mapping[str, Names]) -> Names:
        star = item.this if isinstance(item, exp.Column) else item
        if not isinstance(star, exp.Star):
            given = item.args.get("alias") or (item.this if isinstance(item, exp.Column) else None)
            given = given.this if isinstance(given, exp.TableAlias) else given
            return [stored(given) if isinstance(given, exp.Identifier) else ""]
        if any(star.args.values()) or any(
            j.args.get("using") or j.method for j in select.args.get("joins", ())
        ):
            return None
        named = [item.table.upper()] if isinstance(item, exp.Column) else list(sources)
        found: list[str] = []
        for name in named:
            columns = sources.get(name)
            if columns is None:
                return None
            found += columns
        return found


def repeated(names: Names) -> str:
    """Return the first name that occurs twice, or an empty string. An empty name is a column without a name."""
    seen: set[str] = set()
    for name in names or ():
        if name in seen:
            return name
        seen |= {name} - {""}
    return ""


def check_columns(query: exp.Query, names: Names) -> None:
    """Raise Snowflake's error if two columns of a new table or view would have the same name, or one has none."""
    if twice := repeated(names):
        raise SnowflakeError("002025", "42S21", f"SQL compilation error:\nduplicate column name '{twice}'")
    if names is not None and "" in names and not any(each.is_star for each in query.selects):
        raise compilation("Missing column specification", "002022", "42601")
