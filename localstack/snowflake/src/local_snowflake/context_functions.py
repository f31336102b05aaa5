"""Replace bound parameters and session functions, such as CURRENT_ROLE(), with their values."""

from fakesnow.conn import FakeSnowflakeConnection
from sqlglot import exp

from local_snowflake.actor import Actor
from local_snowflake.fakesnow_transforms import Params
from local_snowflake.fakesnow_wrong_answers import unsupported


def positions_of_order(statement: exp.Expr) -> list[int]:
    order = statement.args.get("order") if isinstance(statement, exp.Query) else None
    terms = [each.this for each in order.expressions] if order else []
    return [int(each.name) for each in terms if isinstance(each, exp.Literal) and each.is_int]


def with_values(statement: exp.Expr, params: Params) -> Params:
    """Write bound values into the statement as literals, because DuckDB does not know the types of parameters when
    it chooses a macro's overload. Return the parameters that are still to be bound: None, or all of them if none
    could be written, for example because the statement has named parameters or IDENTIFIER(?).
    """
    marks = list(statement.find_all(exp.Placeholder, bfs=False))
    if not isinstance(params, list | tuple) or not marks:
        return params
    if statement.find(exp.DynamicIdentifier) or any(mark.this for mark in marks):
        return params
    if len(marks) != len(params):
        raise ValueError(f"{len(marks)} parameters are needed, but {len(params)} are bound")
    for mark, value in zip(marks, params, strict=True):
        mark.replace(exp.convert(value))
    return None


def refuse_context_functions(statement: exp.Expr) -> None:
    if isinstance(statement, exp.Create) and statement.kind == "VIEW" and statement.find(*CONTEXT_FUNCTIONS):
        raise unsupported("CURRENT_ROLE, CURRENT_USER or CURRENT_WAREHOUSE in a view")


CONTEXT_FUNCTIONS = (exp.CurrentRole, exp.CurrentUser, exp.CurrentWarehouse)


def context_function(node: exp.Expr, actor: Actor, session: FakeSnowflakeConnection) -> exp.Expr:
    """Replace CURRENT_ROLE() and similar functions with their values. The result column is still named after
    the function.
    """
    if isinstance(node, exp.CurrentRole):
        value: str | None = actor.role
    elif isinstance(node, exp.CurrentUser):
        value = actor.user
    elif isinstance(node, exp.CurrentWarehouse):
        value = actor.warehouse
    elif isinstance(node, exp.CurrentDatabase) and not session.database_set:
        value = None  # DuckDB would return its own database
    elif isinstance(node, exp.CurrentSchema) and not session.schema_set:
        value = None
    else:
        return node
    literal = exp.Literal.string(value) if isinstance(value, str) else exp.Null()
    if isinstance(node.parent, exp.Select):
        return exp.alias_(literal, exp.to_identifier(node.sql(dialect="snowflake"), quoted=True))
    return literal
