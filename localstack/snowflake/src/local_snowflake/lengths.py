"""Enforce the maximum length of VARCHAR(n) columns with CHECK constraints, because DuckDB ignores n. A VARCHAR(n)
column cannot be added to an existing table.
"""

from collections.abc import Iterator

from sqlglot import exp

from local_snowflake.errors import unsupported

TEXT_TYPES = {exp.DType.VARCHAR, exp.DType.TEXT, exp.DType.CHAR, exp.DType.NVARCHAR}
MOST = 16_777_216


def keep_lengths(statement: exp.Expr) -> None:
    if isinstance(statement, exp.Alter):
        if any(limit_of(column) for column in statement.find_all(exp.ColumnDef)):
            raise unsupported("adding a VARCHAR(n) column")
        return
    schema = statement.this if isinstance(statement, exp.Create) and statement.kind == "TABLE" else None
    if not isinstance(schema, exp.Schema) or statement.expression:
        return
    for column in columns_of(schema):
        if limit := limit_of(column):
            fits = exp.LTE(
                this=exp.Length(this=exp.column(column.this.copy())), expression=exp.Literal.number(limit)
            )
            schema.append("expressions", exp.CheckColumnConstraint(this=fits))


def columns_of(schema: exp.Schema) -> Iterator[exp.ColumnDef]:
    return (each for each in schema.expressions if isinstance(each, exp.ColumnDef))


def limit_of(column: exp.ColumnDef) -> int | None:
    kind = column.args.get("kind")
    if not isinstance(kind, exp.DataType) or kind.this not in TEXT_TYPES or not kind.expressions:
        return None
    limit = int(kind.expressions[0].name)
    return limit if limit < MOST else None
