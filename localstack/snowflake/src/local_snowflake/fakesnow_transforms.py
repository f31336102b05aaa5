"""fakesnow's translation of a statement, without the passes that change nothing.

fakesnow 0.12.1 walks the whole statement once for each of its seventy transforms, most of which look at one
or two kinds of nodes. Here a transform runs only if the statement has such a node, and only on the root if
only a root can match.

The transforms and their order are those of `FakeSnowflakeCursor._transform`, except for those that give wrong
answers. Four are left out: `numeric_agg_implicit_cast` makes SUM of whole numbers return a DOUBLE, and SUM of
non-numeric text return NULL; `trim_cast_varchar` replaces LTRIM(x, '0') with TRIM(x); `sequence_nextval`, which
`next_value` replaces, loses a sequence's schema and gives a column's default an alias; `create_clone`, which `clone` in
`tables.py` replaces, loses OR REPLACE. `comment_on_table` corrects `extract_comment_on_table`; `primary_keys` and
`other_keys` correct `show_keys`.
"""

from collections.abc import Callable

from fakesnow import transforms
from fakesnow.cursor import FakeSnowflakeCursor
from sqlglot import exp, parse_one

from local_snowflake.fakesnow_wrong_answers import unsupported
from local_snowflake.sql import literal

type Params = list[object] | dict[str, object] | None
type Transform = Callable[[exp.Expr], exp.Expr]

TEXT_OF_JSON = (exp.JSONExtract, exp.JSONExtractScalar)


def passes(cursor: FakeSnowflakeCursor, params: Params) -> list[tuple[tuple[type[exp.Expr], ...], Transform]]:
    """Return each transform with the node types that it may change."""
    conn = cursor._conn
    database, schema = conn.database, conn.schema
    stages = conn.table_stages
    t = transforms

    return [
        ((exp.Table,), lambda e: t.identifier(e, params)),
        ((exp.Identifier,), t.upper_case_unquoted_identifiers),
        ((exp.Alter,), t.alter_session),
        ((exp.Set, exp.Command, exp.Alter), lambda e: t.update_variables(e, variables=conn.variables)),
        ((exp.CurrentVersion,), t.current_version),
        ((exp.Use,), lambda e: t.set_schema(e, current_database=database)),
        ((exp.Create,), lambda e: t.create_database(e, db_path=conn.db_path)),
        ((exp.Create, exp.Comment, exp.Alter), lambda e: comment_on_table(e, cursor)),
        ((exp.Alter,), t.extract_comment_on_columns),
        ((exp.Table,), t.information_schema_fs),
        ((exp.Table,), lambda e: t.information_schema_databases(e, current_schema=schema)),
        ((exp.Drop,), t.drop_schema_cascade),
        ((exp.Alter, exp.Command, exp.Create, exp.Drop), t.tag),
        ((exp.DataType,), t.semi_structured_types),
        ((exp.Anonymous,), t.try_parse_json),
        ((exp.Split,), t.split),
        ((exp.Bracket,), t.indices_to_json_extract),
        ((exp.JSONExtract,), t.json_extract_cast_as_varchar),
        ((exp.JSONExtract,), t.json_extract_cased_as_varchar),
        (TEXT_OF_JSON, t.json_extract_precedence),
        ((exp.Explode,), t.flatten_value_cast_as_varchar),
        ((exp.Explode,), t.flatten),
        ((exp.RegexpReplace,), t.regex_replace),
        ((exp.RegexpExtract,), t.regex_substr),
        ((exp.TableFromRows,), t.result_scan),
        ((exp.Column,), next_value),
        ((exp.Values,), t.values_columns),
        ((exp.Anonymous,), t.to_date),
        ((exp.Cast,), t.timestamp_offsets),
        ((exp.ToNumber,), t.to_decimal),
        ((exp.UnixToTime, exp.Anonymous, exp.Cast), t.to_timestamp),
        ((exp.ToVariant,), t.to_variant),
        ((exp.StarMap, exp.Struct, exp.JSONObject), t.object_construct),
        ((exp.DataType,), t.timestamp_ntz),
        ((exp.DataType,), t.float_to_double),
        ((exp.DataType,), t.integer_precision),
        ((exp.Create, exp.Alter), t.extract_text_length),
        ((exp.TableSample,), t.sample),
        ((exp.ArraySize,), t.array_size),
        ((exp.Rand,), t.random),
        ((exp.WithinGroup,), t.array_agg_within_group),
        ((exp.ArrayAgg,), t.array_agg),
        ((exp.ObjectAgg,), t.object_agg),
        ((exp.Array, exp.ArrayConstructCompact, exp.ArrayConcat), t.array_construct_etc),
        ((exp.DateAdd,), t.dateadd_date_cast),
        ((exp.DateAdd,), t.dateadd_string_literal_timestamp_cast),
        ((exp.DateDiff,), t.datediff_string_literal_timestamp_cast),
        ((exp.Show,), t.show_databases),
        ((exp.Show, exp.Command), t.show_functions),
        ((exp.Show,), t.show_procedures),
        ((exp.Show, exp.Command), t.show_parameters),
        ((exp.Show,), t.show_warehouses),
        ((exp.Show,), lambda e: t.show_schemas(e, database)),
        ((exp.Show,), lambda e: t.show_tables_etc(e, database, schema)),
        ((exp.Show,), lambda e: t.show_columns(e, database, schema)),
        ((exp.Show,), lambda e: t.show_stages(e, database, schema)),
        ((exp.Show,), lambda e: t.show_sequences(e, database, schema)),
        ((exp.Show,), lambda e: primary_keys(e, database, schema)),
        ((exp.Show,), lambda e: other_keys(e, cursor)),
        ((exp.Show,), t.show_users),
        ((exp.Command,), t.create_user),
        ((exp.Anonymous,), t.haversine),
        ((exp.HexString,), t.hex_string),
        ((exp.SHA2, exp.SHA2Digest, exp.Anonymous), t.sha256),
        ((exp.Join,), t.alias_in_join),
        ((exp.Where,), t.alias_in_where),
        ((exp.Alter, exp.Command), t.alter_table_strip_cluster_by),
        ((exp.Create,), lambda e: t.create_stage(e, database, schema)),
        ((exp.Create,), lambda e: t.create_file_format(e, database, schema)),
        ((exp.ListStage,), lambda e: t.list_stage(e, database, schema, stages)),
        ((exp.Put,), lambda e: t.put_stage(e, database, schema, params, stages)),
        ((exp.Create,), lambda e: t.create_table_as(e, cursor._duck_conn)),
    ]


def next_value(node: exp.Expr) -> exp.Expr:
    """Rewrite seq.NEXTVAL as DuckDB's nextval('seq') (Snowflake: "Using sequences")."""
    if not isinstance(node, exp.Column) or node.name.upper() != "NEXTVAL" or not node.table:
        return node
    name = ".".join(f'"{part.name}"' for part in node.parts[:-1])
    call = exp.Anonymous(this="nextval", expressions=[exp.Literal.string(name)])
    if isinstance(node.parent, exp.Select):
        return exp.Alias(this=call, alias=exp.to_identifier("NEXTVAL"))
    return call


def comment_on_table(statement: exp.Expr, cursor: FakeSnowflakeCursor) -> exp.Expr:
    """Record a table's comment correctly. fakesnow's own transform stores NULL as 'None', fails on quotes, and keeps
    the comment of a table that has been replaced.
    """
    made = transforms.extract_comment_on_table(statement)
    table, comment = made.args.get("table_comment") or (None, None)
    if table is not None and comment is not None:
        made.set("table_comment", (table, str(comment).replace("'", "''")))
    elif isinstance(made, exp.Create) and made.kind in ("TABLE", "VIEW") and not made.args.get("exists"):
        table = made.find(exp.Table)
        made.set("table_comment", (table, "") if table and had_comment(table, cursor) else None)
    return made


def had_comment(table: exp.Table, cursor: FakeSnowflakeCursor) -> bool:
    found = cursor._duck_conn.execute(
        """SELECT 1 FROM _fs_global._fs_information_schema._fs_tables_ext
           WHERE (ext_table_catalog, ext_table_schema, ext_table_name) = (?, ?, ?)""",
        [table.catalog or cursor._conn.database, table.db or cursor._conn.schema, table.name],
    )
    return bool(found.fetchall())


def other_keys(show: exp.Expr, cursor: FakeSnowflakeCursor) -> exp.Expr:
    """Answer SHOW UNIQUE KEYS and SHOW IMPORTED KEYS with no rows, or refuse them if such keys exist.
    fakesnow finds no unique keys, and lists the primary keys instead of the foreign keys.
    """
    kind = OTHER_KEYS.get(show.name.upper()) if isinstance(show, exp.Show) else None
    if kind is None:
        return show
    found = "SELECT 1 FROM duckdb_constraints() WHERE constraint_type = ? LIMIT 1"
    if cursor._duck_conn.execute(found, [kind]).fetchall():
        raise unsupported(f"SHOW {show.name.upper()} while a table has a {kind} constraint")
    asked = "FOREIGN" if kind == "FOREIGN KEY" else "UNIQUE"
    query = transforms.show_keys(show, cursor._conn.database, kind=asked)  # type: ignore[arg-type]  # two literals
    assert isinstance(query, exp.Select)
    return query.where("FALSE")


OTHER_KEYS = {"UNIQUE KEYS": "UNIQUE", "IMPORTED KEYS": "FOREIGN KEY"}


def primary_keys(show: exp.Expr, database: str | None, schema: str | None) -> exp.Expr:
    """Answer SHOW PRIMARY KEYS for a table, schema, database or account. fakesnow ignores the schema of
    the table and searches the session's database for its name. DuckDB does not store the names of keys, so each key is
    shown with a name of the form that Snowflake generates.
    """
    if not isinstance(show, exp.Show) or show.name.upper() != "PRIMARY KEYS":
        return show
    kind, named = show.args.get("scope_kind"), show.args.get("scope")
    parts = [part.name for part in named.parts] if isinstance(named, exp.Table) else []
    home = [part for part in (database, schema) if part]
    if kind == "TABLE":
        within = [*home[: 3 - len(parts)], *parts]
    elif kind == "SCHEMA":
        within = [*home[: 2 - len(parts)], *parts]
    else:
        within = [] if kind == "ACCOUNT" else parts or home[:1]
    columns = ("database_name", "schema_name", "table_name")
    wanted = "".join(f" AND {name} = {literal(value)}" for name, value in zip(columns, within, strict=False))
    return parse_one(PRIMARY_KEYS + wanted, read="duckdb")


PRIMARY_KEYS = """
SELECT NULL::TIMESTAMPTZ AS created_on, database_name, schema_name, table_name,
    unnest(constraint_column_names) AS column_name, generate_subscripts(constraint_column_names, 1) AS key_sequence,
    'SYS_CONSTRAINT_' || md5(concat_ws('.', database_name, schema_name, table_name)) AS constraint_name,
    'false' AS rely, NULL::VARCHAR AS "comment"
FROM duckdb_constraints()
WHERE constraint_type = 'PRIMARY KEY' AND table_name NOT LIKE '_fs_%' AND schema_name NOT LIKE '_local%'"""


def kinds_of(statement: exp.Expr) -> set[type]:
    return {kind for node in {type(node) for node in statement.walk()} for kind in node.__mro__}


# A statement has at most one of these nodes, as its root.
ROOTS = {exp.Alter, exp.Command, exp.Comment, exp.Create, exp.Drop, exp.Put, exp.Set, exp.Show, exp.Use}


def transformed(cursor: FakeSnowflakeCursor, statement: exp.Expr, params: Params) -> exp.Expr:
    kinds = kinds_of(statement)
    for wanted, transform in passes(cursor, params):
        if kinds.isdisjoint(wanted):
            continue
        before = statement
        if ROOTS.issuperset(wanted):
            statement = transform(statement)
            if statement is before:
                continue
        else:
            statement = statement.transform(transform, copy=False)
        if wanted != (exp.Identifier,):
            kinds = kinds_of(statement)
    return statement
