"""Set column comments, which DuckDB supports but fakesnow and sqlglot drop (Snowflake: "COMMENT")."""

from collections.abc import Iterator

from sqlglot import exp

from local_snowflake.lengths import columns_of


def column_comments(statement: exp.Expr) -> list[str]:
    """Return the DuckDB statements that set the column comments of a CREATE TABLE or ALTER TABLE statement."""
    return [
        exp.Comment(
            this=exp.column(column, table.this, table.args.get("db"), table.args.get("catalog")),
            kind="COLUMN",
            expression=text,
        ).sql(dialect="duckdb")
        for table, column, text in _given(statement)
    ]


def _given(statement: exp.Expr) -> Iterator[tuple[exp.Table, exp.Identifier, exp.Expr]]:
    if isinstance(statement, exp.Create) and isinstance(statement.this, exp.Schema):
        for column in columns_of(statement.this):
            for constraint in column.args.get("constraints") or ():
                if isinstance(constraint.kind, exp.CommentColumnConstraint):
                    yield statement.this.this, column.this, constraint.kind.this
    elif isinstance(statement, exp.Alter) and isinstance(statement.this, exp.Table):
        for action in statement.args.get("actions") or ():
            if isinstance(action, exp.AlterColumn) and action.args.get("comment"):
                yield statement.this, action.this, action.args["comment"]
