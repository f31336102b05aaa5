"""Name a result's columns as Snowflake does: a column without an alias is named after the text of its
expression, in upper case.
"""

from sqlglot import exp

NAMED = (exp.Alias, exp.Column, exp.Star, exp.Aliases)


def keep_headings(statement: exp.Expr) -> None:
    """Name each unnamed column of a query after its expression. Must be called before the expressions are
    rewritten.
    """
    for select in statement.find_all(exp.Select):
        for column in select.expressions:
            if not isinstance(column, NAMED) and not is_sequence(column):
                heading = column.sql(dialect="snowflake").upper()
                column.replace(exp.alias_(column.copy(), exp.to_identifier(heading, quoted=True)))


def is_sequence(column: exp.Expr) -> bool:
    return isinstance(column, exp.Dot)
