"""Parse COPY INTO <table> FROM @stage, run by a pipe or by a user, and check its options. A pipe supports
fewer options than a user. Sources: Snowflake's pages "COPY INTO <table>" and "CREATE PIPE" (Usage notes:
unsupported copy options).
"""

from dataclasses import dataclass, field

from sqlglot import exp

from local_snowflake.errors import SnowflakeError, compilation, unsupported
from local_snowflake.sql import STRINGS, Name, Options, Scope, Words, flag_of, parsed, stage_parts, text_of

REFUSED_IN_A_PIPE = (
    "FILES",
    "SIZE_LIMIT",
    "PURGE",
    "FORCE",
    "RETURN_FAILED_ONLY",
    "VALIDATION_MODE",
)
UNDERSTOOD = {
    "FILE_FORMAT", "ON_ERROR", "PATTERN", "FILES", "FORCE", "SIZE_LIMIT", "PURGE", "LOAD_UNCERTAIN_FILES",
}  # fmt: skip
METADATA_COLUMNS = {
    "METADATA$FILENAME",
    "METADATA$FILE_ROW_NUMBER",
    "METADATA$FILE_CONTENT_KEY",
    "METADATA$FILE_LAST_MODIFIED",
    "METADATA$START_SCAN_TIME",
}
BATCH = "_snowpipe_batch"


@dataclass(frozen=True)
class OnError:
    """The effect of errors in a file (ON_ERROR). SKIP_FILE skips a file that has at least `limit` errors, or
    errors in more than `limit` percent of its rows.
    """

    kind: str
    """CONTINUE, SKIP_FILE or ABORT_STATEMENT."""
    limit: int = 1
    percent: bool = False

    @classmethod
    def of(cls, text: str) -> "OnError":
        word = text.upper()
        if word in ("CONTINUE", "SKIP_FILE", "ABORT_STATEMENT"):
            return cls(word)
        number = word.removeprefix("SKIP_FILE_")
        limit = number.removesuffix("%")
        if number == word or not limit.isdecimal():
            raise compilation(f"invalid value ['{text}'] for parameter 'ON_ERROR'", "001008", "42601")
        return cls("SKIP_FILE", int(limit), number.endswith("%"))

    def skips(self, errors: int, parsed_rows: int) -> bool:
        if self.kind == "CONTINUE" or not errors:
            return False
        if self.percent:
            return errors * 100 > self.limit * parsed_rows
        return errors >= self.limit


@dataclass(frozen=True)
class FileFormat:
    """The file format options that affect how JSON is loaded. `of` refuses options that would change the result
    but are not implemented, such as STRIP_NULL_VALUES = TRUE, and options that Snowflake does not have. It ignores
    other options, such as DATE_FORMAT.
    """

    compression: str = "AUTO"
    """AUTO, GZIP or NONE."""
    strip_outer_array: bool = False
    allow_duplicate: bool = False

    @classmethod
    def of(cls, options: Options) -> "FileFormat":
        kind = str(options.get("TYPE", "CSV")).upper()
        if kind != "JSON":
            raise unsupported(f"FILE_FORMAT TYPE = {kind} on an S3 stage; only JSON can be loaded")
        compression = str(options.get("COMPRESSION", "AUTO")).upper()
        if compression not in ("AUTO", "GZIP", "NONE"):
            raise unsupported(f"COMPRESSION = {compression}; only AUTO, GZIP and NONE are supported")
        for name, value in options.items():
            if name in IGNORED_WHEN_FALSE and value is not False and str(value).upper() != "FALSE":
                raise unsupported(f"file format option {name} = {value}")
            if name in IGNORED_WHEN_TRUE and value is not True and str(value).upper() != "TRUE":
                raise unsupported(f"file format option {name} = {value}")
            if name not in KNOWN_FORMAT_OPTIONS:
                raise compilation(f"invalid parameter '{name}'", "001006", "42601")
        return cls(
            compression,
            flag_of(options, "STRIP_OUTER_ARRAY"),
            flag_of(options, "ALLOW_DUPLICATE"),
        )


IGNORED_WHEN_FALSE = {
    "STRIP_NULL_VALUES",
    "IGNORE_UTF8_ERRORS",
    "REPLACE_INVALID_CHARACTERS",
    "ENABLE_OCTAL",
    "TRIM_SPACE",
}
IGNORED_WHEN_TRUE = {"MULTI_LINE", "SKIP_BYTE_ORDER_MARK"}
# Some of these options are ignored. The formats of dates and times, for example, control conversions while a file is
# read, and JSON values are not converted.
KNOWN_FORMAT_OPTIONS = (
    IGNORED_WHEN_FALSE
    | IGNORED_WHEN_TRUE
    | {
        "TYPE",
        "COMPRESSION",
        "STRIP_OUTER_ARRAY",
        "ALLOW_DUPLICATE",
        "DATE_FORMAT",
        "TIME_FORMAT",
        "TIMESTAMP_FORMAT",
        "BINARY_FORMAT",
        "FILE_EXTENSION",
        "NULL_IF",
        "COMMENT",
        "FORMAT_NAME",
    }
)


@dataclass(frozen=True)
class Copy:
    text: str
    target: Name
    columns: tuple[str, ...]
    stage: Name
    path: str
    select: exp.Select | None
    options: Options = field(default_factory=dict)

    @property
    def pattern(self) -> str | None:
        return text_of(self.options, "PATTERN")

    @property
    def files(self) -> tuple[str, ...]:
        files = self.options.get("FILES", ())
        return tuple(str(name) for name in files) if isinstance(files, tuple) else (str(files),)

    @property
    def format_options(self) -> Options | None:
        """The value of FILE_FORMAT: the options, or {"FORMAT_NAME": name}, or None if there is no FILE_FORMAT;
        then the stage's format applies.
        """
        value = self.options.get("FILE_FORMAT")
        if value is None:
            return None
        return {"FORMAT_NAME": value} if isinstance(value, str) else dict(value)  # type: ignore[arg-type]


def copy_of(sql: str, scope: Scope) -> Copy:
    words = Words(sql)
    words.take("COPY", "INTO")
    if words.sees("@") or words.token.token_type in STRINGS:
        raise unsupported("COPY INTO <location>")
    target = scope.resolve(words.take_name())
    columns: tuple[str, ...] = ()
    if words.takes("("):
        columns = (words.take_identifier(),)
        while words.takes(","):
            columns += (words.take_identifier(),)
        words.take(")")
    words.take("FROM")
    select = None
    inline: Options = {}
    if words.sees("("):
        select, reference, inline = select_of(words.take_brackets())
    elif words.sees("@"):
        reference = words.take_stage()
    else:
        raise unsupported("COPY from a source that is not a stage")
    stage, path = stage_parts(reference, scope)
    options = {**inline, **words.take_options()}
    words.finish()
    for name in options:
        if name not in UNDERSTOOD and name not in REFUSED_IN_A_PIPE:
            raise unsupported(f"copy option {name}")
    return Copy(sql, target, columns, stage, path, select, options)


def select_of(sql: str) -> tuple[exp.Select, str, Options]:
    """Parse the SELECT of a COPY statement that transforms data. It may have only a select list and a FROM clause
    with one stage, and may contain no aggregate, window function or subquery (Snowflake: "COPY INTO <table>").
    """
    select = parsed(sql)
    if not isinstance(select, exp.Select):
        raise compilation("COPY statement only supports simple SELECT from stage statements for import.")
    for clause, value in select.args.items():
        if value and clause not in ("expressions", "from_", "kind", "operation_modifiers"):
            raise compilation(
                "COPY statement only supports simple SELECT from stage statements for import. "
                f"Not allowed here: {CLAUSES.get(clause, clause.upper())}."
            )
    for node in select.walk():
        if isinstance(node, exp.AggFunc | exp.Window | exp.Subquery | exp.Explode | exp.UDTF | exp.Star) or (
            isinstance(node, exp.Select) and node is not select
        ):
            raise compilation(
                "COPY statement only supports simple SELECT from stage statements for import. "
                f"Not allowed here: {node.sql(dialect='snowflake')}"
            )
    source = select.args.get("from_")
    table = source.this if source else None
    if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Var):
        raise compilation("COPY statement only supports simple SELECT from stage statements for import.")
    inline: dict[str, str] = {}
    if pattern := table.args.get("pattern"):
        inline["PATTERN"] = pattern.name
    if file_format := table.args.get("format"):
        inline["FILE_FORMAT"] = file_format.name
    return select, table.this.name.removeprefix("@"), inline


CLAUSES = {
    "where": "WHERE",
    "joins": "JOIN or FLATTEN",
    "laterals": "FLATTEN",
    "group": "GROUP BY",
    "having": "HAVING",
    "qualify": "QUALIFY",
    "order": "ORDER BY",
    "limit": "LIMIT",
    "distinct": "DISTINCT",
    "with_": "WITH",
}


def check_for_pipe(copy: Copy) -> None:
    for name in REFUSED_IN_A_PIPE:
        if name in copy.options:
            raise SnowflakeError(
                "002139",
                "42601",
                f"SQL compilation error:\ninvalid parameter '{name}' for PIPE COPY statement",
            )
    if "LOAD_UNCERTAIN_FILES" in copy.options:
        raise unsupported("copy option LOAD_UNCERTAIN_FILES in a pipe")
    if on_error_of(copy, "SKIP_FILE").kind == "ABORT_STATEMENT":
        raise SnowflakeError(
            "002140",
            "42601",
            "SQL compilation error:\n"
            "ABORT_STATEMENT is not a supported ON_ERROR value for PIPE COPY statement",
        )


def on_error_of(copy: Copy, default: str) -> OnError:
    return OnError.of(text_of(copy.options, "ON_ERROR") or default)


def projections(copy: Copy) -> list[str]:
    """Return the select list in Snowflake's SQL. `$1` becomes C1, and C1 and the METADATA$ columns are columns of the
    view BATCH, which contains the rows to load.
    """
    if copy.select is None:
        return ["C1"]
    return [
        expression.unalias().copy().transform(_as_batch_column).sql(dialect="snowflake")
        for expression in copy.select.expressions
    ]


def _as_batch_column(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.Parameter):
        # `$1` itself, or the `$1` in `t.$1`, which sqlglot parses as a column that contains a parameter (see below).
        if node.name != "1":
            raise compilation(
                f"invalid identifier '${node.name}': a JSON file has only the column $1", "000904"
            )
        return exp.column("C1")
    if isinstance(node, exp.Column):
        if isinstance(node.this, exp.Parameter):
            return _as_batch_column(node.this)
        name = node.name.upper()
        if name not in METADATA_COLUMNS:
            raise compilation(f"invalid identifier '{node.sql(dialect='snowflake')}'", "000904")
        return exp.column(exp.to_identifier(name, quoted=True))
    return node
