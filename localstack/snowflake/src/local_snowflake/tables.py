"""Check the options and column definitions of CREATE TABLE, CREATE VIEW and CREATE SEQUENCE, and the changes of ALTER
COLUMN. Rewrite identity columns and CLONE.

An option is accepted if it is implemented or does not affect the results of queries. Any other option is refused with
an error that names it.
"""

import re
import uuid
from collections.abc import Iterator, Mapping

from sqlglot import exp

from local_snowflake.errors import unsupported
from local_snowflake.lengths import columns_of, limit_of
from local_snowflake.sql import hidden, literal, quoted

# Options that are implemented or do not affect the results of queries.
ACCEPTED = (
    exp.ClusterProperty, exp.CopyGrantsProperty, exp.LikeProperty, exp.SchemaCommentProperty, exp.SecureProperty,
    exp.SequenceProperties, exp.TemporaryProperty, exp.TransientProperty,
)  # fmt: skip
WITHOUT_EFFECT = {"DATA_RETENTION_TIME_IN_DAYS", "MAX_DATA_EXTENSION_TIME_IN_DAYS"}
ACCEPTED_IF_FALSE = {"CHANGE_TRACKING", "ENABLE_SCHEMA_EVOLUTION"}
CONSTRAINTS = (
    exp.AutoIncrementColumnConstraint, exp.CommentColumnConstraint, exp.DefaultColumnConstraint,
    exp.GeneratedAsIdentityColumnConstraint, exp.NotNullColumnConstraint, exp.PrimaryKeyColumnConstraint,
    exp.Reference, exp.UniqueColumnConstraint,
)  # fmt: skip
IDENTITY = (exp.AutoIncrementColumnConstraint, exp.GeneratedAsIdentityColumnConstraint)


def refuse_options(create: exp.Create) -> None:
    """Raise an error that names the first option or column constraint that is not accepted. Also refuse a column list
    of CREATE TABLE … AS SELECT if a part of it would be ignored.
    """
    if create.kind not in ("TABLE", "VIEW", "SEQUENCE"):
        return
    properties = create.args.get("properties")
    for each in properties.expressions if properties else ():
        name = each.name.upper() if type(each) is exp.Property else ""
        off = isinstance(each.args.get("value"), exp.Boolean) and not each.args["value"].this
        accepted = isinstance(each, ACCEPTED) or name in WITHOUT_EFFECT or (name in ACCEPTED_IF_FALSE and off)
        if not accepted:
            raise unsupported(f"CREATE {create.kind} with {each.sql(dialect='snowflake')}")
    listed = create.this.expressions if isinstance(create.this, exp.Schema) else []
    if create.kind == "TABLE" and create.expression and not all(map(is_plain, listed)):
        raise unsupported(
            "constraints, lengths or names without a type in the column list of CREATE … AS SELECT"
        )
    for column in columns_of(create.this) if isinstance(create.this, exp.Schema) else ():
        for constraint in column.args.get("constraints") or ():
            if not isinstance(constraint.kind, CONSTRAINTS):
                raise unsupported(f"the column constraint {constraint.sql(dialect='snowflake')}")


TYPES = {exp.DType[name] for name in (
    "ARRAY", "BIGINT", "BINARY", "BOOLEAN", "CHAR", "DATE", "DATETIME", "DECIMAL", "DOUBLE", "FLOAT", "INT", "NCHAR",
    "NVARCHAR", "OBJECT", "SMALLINT", "TEXT", "TIME", "TIMESTAMP", "TIMESTAMPLTZ", "TIMESTAMPNTZ", "TIMESTAMPTZ",
    "TINYINT", "VARBINARY", "VARCHAR", "VARIANT",
)}  # fmt: skip
CLOCKS = {exp.DType[name] for name in (
    "DATETIME", "TIME", "TIMESTAMP", "TIMESTAMPLTZ", "TIMESTAMPNTZ", "TIMESTAMPTZ",
)}  # fmt: skip
MICROSECONDS = 6
SEMI_STRUCTURED = {exp.DType.ARRAY, exp.DType.OBJECT}


def refuse_types(statement: exp.Create | exp.Alter) -> None:
    """Refuse column types that the local Snowflake does not support: structured types; times and timestamps with fewer
    than six fractional digits, because six are always kept; types such as DECFLOAT, which DuckDB would replace.
    """
    for column in statement.find_all(exp.ColumnDef):
        kind = column.args.get("kind")
        if not isinstance(kind, exp.DataType):
            continue
        if kind.this not in TYPES or (kind.this in SEMI_STRUCTURED and kind.expressions):
            raise unsupported(f"the type {kind.sql(dialect='snowflake')}")
        if kind.this in CLOCKS and kind.expressions and int(kind.expressions[0].name) < MICROSECONDS:
            raise unsupported(
                f"the precision of {kind.sql(dialect='snowflake')}, because six digits are always kept"
            )


def refuse_altered_columns(alter: exp.Alter, kinds: Mapping[str, str]) -> None:
    """Refuse ALTER COLUMN with a default or a new type, unless only a NUMBER's precision changes. Snowflake refuses
    most other changes of a type (Snowflake: "ALTER TABLE … ALTER COLUMN"); DuckDB would convert the values. `kinds`
    contains the DuckDB types of the table's columns, keyed by the name in upper case.
    """
    for action in alter.args.get("actions") or ():
        if not isinstance(action, exp.AlterColumn):
            continue
        kind, given = action.args.get("dtype"), kinds.get(action.name.upper())
        if kind and given and (scale_of(given) is None or scale_of(given) != scale_of(kind.sql("duckdb"))):
            raise unsupported(
                f"{alter.sql(dialect='snowflake')}. Only the precision of a NUMBER can be changed."
            )
        if action.args.get("default"):
            raise unsupported(f"a default for an existing column, as in {alter.sql(dialect='snowflake')}")


def scale_of(kind: str) -> str | None:
    """Return the scale of a DuckDB type if it is the type of a NUMBER; otherwise None."""
    found = re.fullmatch(r"DECIMAL(?:\(\d+(?:, ?(\d+))?\))?|(?:TINY|SMALL|BIG|HUGE)?INT(?:EGER)?", kind)
    return (found[1] or "0") if found else None


def is_plain(column: exp.Expr) -> bool:
    """Return whether CREATE TABLE … AS SELECT preserves a column's whole definition."""
    if not isinstance(column, exp.ColumnDef):
        return False
    constraints = [each.kind for each in column.args.get("constraints") or ()]
    return all(isinstance(each, exp.CommentColumnConstraint) for each in constraints) and not limit_of(column)


def ordered_sequence(create: exp.Create) -> None:
    """Remove ORDER and NOORDER, because one process generates the values in order, which satisfies both
    (Snowflake: "CREATE SEQUENCE").
    """
    for properties in create.find_all(exp.SequenceProperties):
        kept = [each for each in properties.args.get("options") or () if each.name.upper() not in ORDERS]
        properties.set("options", kept)


ORDERS = {"ORDER", "NOORDER"}


def identities(create: exp.Create, database: str) -> Iterator[str]:
    """Give each AUTOINCREMENT or IDENTITY column a default, and yield the statement that creates the column's sequence.

    The sequence's name contains its start and step, so that DESC TABLE can show them.
    """
    if create.kind != "TABLE" or not isinstance(create.this, exp.Schema):
        return
    database = create.this.this.catalog or database
    for column in columns_of(create.this):
        for constraint in column.args.get("constraints") or ():
            if not isinstance(constraint.kind, IDENTITY):
                continue
            start, step = (number_of(constraint.kind.args.get(name)) for name in ("start", "increment"))
            name = f"{hidden(database)}.{quoted(f'{SEQUENCE}{start}_{step}_{uuid.uuid4().hex}')}"
            yield f"CREATE SEQUENCE {name} START {start} INCREMENT {step}{LIMITS}"
            value = exp.Anonymous(this="nextval", expressions=[exp.Literal.string(name)])
            constraint.set("kind", exp.DefaultColumnConstraint(this=value))


SEQUENCE = "_local_identity_"
LIMITS = " MINVALUE -9223372036854775808 MAXVALUE 9223372036854775807"
NUMBERS = literal(f"{SEQUENCE}(-?[0-9]+)_(-?[0-9]+)_")
DEFAULT_SHOWN = f"""CASE WHEN contains(column_default, {literal(SEQUENCE)})
    THEN 'IDENTITY START ' || regexp_extract(column_default, {NUMBERS}, 1)
        || ' INCREMENT ' || regexp_extract(column_default, {NUMBERS}, 2) || ' NOORDER'
    WHEN starts_with(column_default, 'nextval(')
    THEN replace(regexp_extract(column_default, '''(.*)''', 1), '"', '') || '.NEXTVAL'
    ELSE column_default END"""
"""An SQL expression for a column's default as DESC TABLE shows it."""


def number_of(node: exp.Expr | None) -> int:
    text = node.sql() if node else "1"
    if not re.fullmatch(r"-?\d+", text):
        raise unsupported(f"an identity column with the start or step {text}")
    return int(text)


def clone(create: exp.Create) -> exp.Create:
    """Rewrite CREATE TABLE … CLONE as CREATE TABLE … AS SELECT. Call this only if the query that
    `loses_by_copy` returns finds no rows.
    """
    source = create.args["clone"].this
    query = exp.Select(expressions=[exp.Star()], from_=exp.From(this=source.copy()))
    kept = {name: create.args.get(name) for name in ("replace", "exists", "properties")}
    return exp.Create(this=create.this, kind="TABLE", expression=query, **kept)


def loses_by_copy(source: exp.Table, database: str, schema: str) -> str:
    """Return a query that finds the defaults and constraints of a table, which CREATE TABLE … AS SELECT does
    not copy.
    """
    name = tuple(part.upper() for part in (source.catalog or database, source.db or schema, source.name))
    where = (
        f"(upper(database_name), upper(schema_name), upper(table_name)) = ({', '.join(map(literal, name))})"
    )
    return (
        f"SELECT 1 FROM duckdb_columns() WHERE {where} AND column_default IS NOT NULL "
        f"UNION ALL SELECT 1 FROM duckdb_constraints() WHERE {where}"
    )
