"""DuckDB macros with Snowflake's semantics where DuckDB's differ.

DuckDB chooses an overload by the types of the arguments when it binds a statement, so each supported
combination of types has its own overload. For other types, DuckDB finds no overload, and its error becomes a refusal
(`duckdb_errors.py`). To add a function, first add a case to `supported_sql_cases.tsv`, because functions without a
case are refused. The macros are in the database `memory`, are created at each start, and are called by their full name.
"""

import re

from local_snowflake.errors import SnowflakeError

HOME = "memory.main."
NOT_SUPPORTED = "LS000002"
ERROR = re.compile(r"\bLS(\d{6}):([0-9A-Z]{5}):(.*)", re.DOTALL)
"""The form in which a macro raises a Snowflake error: code, SQL state and message."""


def raised(code: str, state: str, message: str) -> str:
    """Return SQL that raises an error; `message` is an SQL expression."""
    return f"error('LS{code}:{state}:' || {message})"


NUMBER = r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*"
FLOAT = NUMBER + r"|\s*[+-]?(?i:nan|inf|infinity)\s*"
TRUE, FALSE = "('true', 't', 'yes', 'y', 'on', '1')", "('false', 'f', 'no', 'n', 'off', '0')"
DATE = r"\s*\d{4}-\d{1,2}-\d{1,2}\s*"
TIME = r"([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?"
OFFSET = r"\s*(Z|z|[+-]\d{2}(:?\d{2})?|[+-]\d)"
TIMESTAMP = rf"\s*\d{{4}}-\d{{1,2}}-\d{{1,2}}([Tt ]{TIME}({OFFSET})?)?\s*"
TEXT = "CASE WHEN t = 'JSON' THEN (x::JSON)->>'$' ELSE x END"
OTHER_DATES = r"\s*(\d{1,2}/\d{1,2}/\d{4}|\d{1,2}-[A-Za-z]{3}-\d{4}|[A-Za-z]{3},? ).*"
OTHER_DATES += r"|\s*\d{4}-\d{1,2}-\d{1,2}[Tt ]\d{1,2}\s*"
SCALE = r"regexp_extract(t, ',(\d+)', 1)"
# Snowflake writes a FLOAT with about 15 digits ("Numeric data types"); DuckDB writes up to 17.
LONG_FLOAT = (
    r"length(ltrim(regexp_replace(split_part(x::VARCHAR, 'e', 1), '\.0$|[^0-9]', '', 'g'), '0')) > 15"
)
NO_FLOAT = raised(
    "000002",
    "0A000",
    "'converting a FLOAT with more than 15 digits to text. ROUND it or cast it to a NUMBER first.'",
)
TEXT_BODIES = {
    "VARCHAR": TEXT,
    "BOOLEAN": "x::VARCHAR",
    "BIGINT": "x::VARCHAR",
    "HUGEINT": "x::VARCHAR",
    "DECIMAL(38,12)": f"left(x::VARCHAR, length(x::VARCHAR) - CASE {SCALE} WHEN '0' THEN 13 "
    f"ELSE 12 - {SCALE}::INTEGER END)",
    "DOUBLE": rf"CASE WHEN {LONG_FLOAT} THEN {NO_FLOAT} "
    r"ELSE replace(replace(regexp_replace(x::VARCHAR, '\.0$', ''), 'nan', 'NaN'), 'infinity', 'inf') END",
    "DATE": "x::VARCHAR",
    "TIME": "strftime('2000-01-01'::DATE + x, '%H:%M:%S')",
    "TIMESTAMP": "strftime(x, '%Y-%m-%d %H:%M:%S.%g')",
    "TIMESTAMPTZ": "strftime(x AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S.%g +0000')",
    "BLOB": "hex(x)",
}
NUMBERS = ("BIGINT", "HUGEINT", "DECIMAL(38,12)", "DOUBLE")


def not_recognized(code: str, kind: str, x: str) -> str:
    return raised(code, "22018", f"'{kind} ''' || {x} || ''' is not recognized'")


def converted(pattern: str, kind: str, code: str, convert: str, valid: str = "true") -> tuple[str, str]:
    """Return two SQL expressions that convert text that matches `pattern` and meets the SQL condition `valid`. For
    other text, the first raises an error, and the second, for the TRY_ functions, returns NULL; for a date in a format
    that only Snowflake accepts, both raise a refusal.
    """
    matches = f"regexp_full_match(x, '{pattern}') AND {valid}"
    other = ""
    if kind in ("Date", "Timestamp"):
        # Refuse these formats even in a TRY_ function instead of returning NULL, because Snowflake accepts them.
        refusal = raised("000002", "0A000", "'the format of this date: ' || x")
        other = f"WHEN regexp_full_match(x, '{OTHER_DATES}') THEN {refusal} "
    strict = (
        f"CASE WHEN x IS NULL OR ({matches}) THEN {convert} {other}ELSE {not_recognized(code, kind, 'x')} END"
    )
    return strict, f"CASE WHEN {matches} THEN {convert} {other}END"


def overloads(name: str, bodies: dict[str, str], parameters: str = "") -> str:
    """Return SQL that defines a macro with one overload per type of `x`. Its parameter `t` is the original
    type of `x`. The body needs `t` because DuckDB chooses the same overload for a VARIANT (JSON) and for text,
    and because `t` contains the scale of a NUMBER.
    """
    variants = ", ".join(f"(x {kind}, t{parameters}) AS ({body})" for kind, body in bodies.items())
    return f"CREATE OR REPLACE MACRO {HOME}{name}{variants};\n"


def family(name: str, text: tuple[str, str], others: dict[str, str]) -> str:
    """Return SQL that defines the macros `_ls_{name}` and `_ls_try_{name}`, with overloads for text, VARIANTs and the
    types in `others`.
    """
    made = ""
    for prefix, body in (("", text[0]), ("try_", text[1])):
        of_text = f"_ls_{prefix}{name}_of_text"
        made += f"CREATE OR REPLACE MACRO {HOME}{of_text}(x) AS ({body});\n"
        made += overloads(f"_ls_{prefix}{name}", {"VARCHAR": f"{HOME}{of_text}({TEXT})", **others})
    return made


def number_families() -> str:
    same = {**dict.fromkeys(NUMBERS, "x"), "BOOLEAN": "x::BIGINT"}
    checked = converted(NUMBER, "Numeric value", "100038", "trim(x)")
    return (
        family("number", checked, same)
        # Snowflake rounds a half away from zero; DuckDB rounds a DOUBLE half to even.
        + family("whole", (f"({checked[0]})::DECIMAL(38,12)", f"({checked[1]})::DECIMAL(38,12)"),
                 {**same, "DOUBLE": "round(x)"})
        + family("float", converted(FLOAT, "Numeric value", "100038", "trim(x)::DOUBLE"),
                 dict.fromkeys((*NUMBERS, "BOOLEAN"), "x::DOUBLE"))
        + family(
            "boolean",
            converted(".*", "Boolean value", "100037", f"lower(x) IN {TRUE}", f"lower(x) IN {TRUE[:-1]}, {FALSE[1:]}"),
            {"BOOLEAN": "x", **dict.fromkeys(NUMBERS, "x <> 0")},
        )
    )  # fmt: skip


def time_families() -> str:
    # TIMESTAMP_NTZ ignores the offset of a string and keeps its local time ("Date and time input and output").
    face = rf"regexp_replace(trim(x), '(:\d{{2}}(\.\d+)?){OFFSET}$', '\1')"
    epoch = (
        "make_timestamp(CASE WHEN abs(try_cast(x AS HUGEINT)) < 31536000000 THEN try_cast(x AS BIGINT) * 1000000 "
        "WHEN abs(try_cast(x AS HUGEINT)) < 31536000000000 THEN try_cast(x AS BIGINT) * 1000 "
        "WHEN abs(try_cast(x AS HUGEINT)) < 31536000000000000 THEN try_cast(x AS BIGINT) "
        "ELSE try_cast(x AS BIGINT) // 1000 END)"
    )
    either = rf"{TIMESTAMP}|\s*-?\d+\s*"
    digits = r"regexp_full_match(x, '\s*-?\d+\s*')"

    # DuckDB requires an offset without a space before it and with a colon in it.
    spaced = r"regexp_replace(trim(x), '\s+(Z|z|[+-]\d{1,2}(:?\d{2})?)$', '\1')"
    spaced = rf"regexp_replace({spaced}, '(:\d{{2}}(\.\d+)?[+-])(\d)$', '\10\3')"
    instant = rf"regexp_replace({spaced}, '([+-]\d{{2}})(\d{{2}})$', '\1:\2')"

    def valid(kind: str, text: str) -> str:
        return f"({digits} OR try_cast({text} AS {kind}) IS NOT NULL)"

    stamp = f"CASE WHEN {digits} THEN {epoch} ELSE try_cast({face} AS TIMESTAMP) END"
    zoned = f"CASE WHEN {digits} THEN {epoch} AT TIME ZONE 'UTC' ELSE try_cast({instant} AS TIMESTAMPTZ) END"
    day = f"CASE WHEN {digits} THEN {epoch}::DATE ELSE try_cast({face} AS TIMESTAMP)::DATE END"
    times = {"DATE": "x::TIMESTAMP", "TIMESTAMP": "x", "TIMESTAMPTZ": "x AT TIME ZONE 'UTC'",
             "BIGINT": "make_timestamp(x * 1000000)"}  # fmt: skip
    return (
        family("date", converted(either, "Date", "100040", day, valid("TIMESTAMP", face)),
               {"DATE": "x", "TIMESTAMP": "x::DATE", "TIMESTAMPTZ": "(x AT TIME ZONE 'UTC')::DATE"})
        + family("timestamp", converted(either, "Timestamp", "100035", stamp, valid("TIMESTAMP", face)), times)
        + family("timestamp_tz", converted(either, "Timestamp", "100035", zoned, valid("TIMESTAMPTZ", instant)),
                 {kind: f"({body}) AT TIME ZONE 'UTC'" for kind, body in times.items()} | {"TIMESTAMPTZ": "x"})
        + family("time", converted(rf"\s*{TIME}\s*", "Time", "100108", "trim(x)::TIME"),
                 {"TIME": "x", "TIMESTAMP": "x::TIME"})
    )  # fmt: skip


def any_macros() -> str:
    """Return SQL that defines macros for the results of aggregates and window functions. DuckDB does not know
    the types of these results when it chooses an overload, so the macros branch on `typeof`, which is
    evaluated at run time.
    """
    text = raised(
        "000002",
        "0A000",
        "'a cast of the result of an aggregate over text or VARIANT. Cast its argument instead.'",
    )
    is_text = "typeof(x) IN ('VARCHAR', 'JSON')"
    no_format = raised("000002", "0A000", "'a format for ' || typeof(x)")
    no_date = raised(
        "000002", "0A000", "'date arithmetic with an aggregated DATE. Compute it in an outer query.'"
    )
    clock = "'TIMESTAMP', 'TIMESTAMP WITH TIME ZONE', 'DATE'"
    return f"""
CREATE OR REPLACE MACRO {HOME}_ls_any_text(x) AS (CASE typeof(x)
    WHEN 'JSON' THEN (x::VARCHAR::JSON)->>'$'
    WHEN 'DOUBLE' THEN {TEXT_BODIES["DOUBLE"]}
    WHEN 'TIME' THEN strftime('2000-01-01'::DATE + x::VARCHAR::TIME, '%H:%M:%S')
    WHEN 'TIMESTAMP' THEN strftime(x::VARCHAR::TIMESTAMP, '%Y-%m-%d %H:%M:%S.%g')
    WHEN 'TIMESTAMP WITH TIME ZONE'
        THEN strftime(x::VARCHAR::TIMESTAMPTZ AT TIME ZONE 'UTC', '%Y-%m-%d %H:%M:%S.%g +0000')
    WHEN 'BLOB' THEN hex(x::VARCHAR::BLOB)
    ELSE x::VARCHAR END);
CREATE OR REPLACE MACRO {HOME}_ls_any_cast(x) AS (CASE WHEN {is_text} THEN {text} ELSE x END);
CREATE OR REPLACE MACRO {HOME}_ls_any_whole(x) AS (CASE WHEN {is_text} THEN {text} ELSE round(x) END);
CREATE OR REPLACE MACRO {HOME}_ls_any_format(x, format) AS (CASE WHEN typeof(x) IN ({clock})
    THEN strftime((x::VARCHAR::TIMESTAMPTZ) AT TIME ZONE 'UTC', format) ELSE {no_format} END);
CREATE OR REPLACE MACRO {HOME}_ls_any_dated(x, made) AS (CASE WHEN typeof(x) = 'DATE' THEN {no_date} ELSE made END);
"""


def text_macros() -> str:
    too_long = raised(
        "100078", "22000", "'String ''' || left(x, 100) || ''' is too long and would be truncated'"
    )
    no_date = raised("000002", "0A000", "'date elements in the format of a TIME'")
    formatted = {
        "DATE": "strftime(x, format)",
        "TIMESTAMP": "strftime(x, format)",
        "TIMESTAMPTZ": "strftime(x AT TIME ZONE 'UTC', format)",
        "TIME": f"CASE WHEN regexp_matches(format, '%[YymdbBa]') THEN {no_date} "
        "ELSE strftime('2000-01-01'::DATE + x, format) END",
    }
    return (
        overloads("_ls_text", TEXT_BODIES) + f"CREATE OR REPLACE MACRO {HOME}_ls_fits(x, most) AS "
        f"(CASE WHEN length(x) > most THEN {too_long} ELSE x END);\n"
        + f"CREATE OR REPLACE MACRO {HOME}_ls_try_fits(x, most) AS (CASE WHEN length(x) <= most THEN x END);\n"
        + overloads("_ls_format", formatted, ", format")
        # A DATE plus a whole number of days remains a DATE ("DATEADD", "DATE_TRUNC").
        + overloads("_ls_dated", {"DATE": "made::DATE", "TIMESTAMP": "made", "TIMESTAMPTZ": "made"}, ", made")
    )


def variant_macros() -> str:
    """Return SQL that defines comparisons of VARIANTs, and a macro that refuses text. Two VARIANTs can be compared for
    equality only, and a VARIANT and another value only if that value is a literal.
    """
    no_order = raised("000002", "0A000", "'a VARIANT in ' || what || '. Cast it to a type.'")
    unlike = raised(
        "000002", "0A000", "'a comparison of a VARIANT with a value of another type. Cast one of them.'"
    )
    mixed = "(typeof(a) = 'JSON') <> (typeof(b) = 'JSON')"
    # VARIANTs are compared as text, in which 1 and 1.0 differ.
    digits = raised(
        "000002", "0A000", "'a comparison of two VARIANTs that contain numbers. Cast them to a number.'"
    )
    other_digits = (
        "typeof(a) = 'JSON' AND a::VARCHAR <> b::VARCHAR "
        "AND try_cast(a::VARCHAR AS DOUBLE) = try_cast(b::VARCHAR AS DOUBLE)"
    )
    is_text = raised("000002", "0A000", "'text stored in a VARIANT. Use PARSE_JSON or TO_VARIANT.'")
    # x is compared with a literal, so a VARIANT is read as the literal's type.
    same = ("BOOLEAN", *NUMBERS, "DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "BLOB")
    made = f"""
CREATE OR REPLACE MACRO {HOME}_ls_ordered(x, what) AS (
    CASE WHEN typeof(x) = 'JSON' THEN {no_order} ELSE x END);
CREATE OR REPLACE MACRO {HOME}_ls_no_text(x) AS (CASE WHEN typeof(x) = 'VARCHAR' THEN {is_text} ELSE x END);
CREATE OR REPLACE MACRO {HOME}_ls_alike(a, b, compared) AS (
    CASE WHEN {mixed} THEN {unlike} WHEN {other_digits} THEN {digits} ELSE compared END);
"""
    beside = {
        "text": TEXT,
        "number": f"{HOME}_ls_float_of_text({TEXT})",
        "boolean": f"{HOME}_ls_boolean_of_text({TEXT})",
    }
    for kind, body in beside.items():
        made += overloads(f"_ls_beside_{kind}", {"VARCHAR": body} | dict.fromkeys(same, "x"))
    return made


def division_macros() -> str:
    """Return SQL that defines division and MOD as in Snowflake ("Arithmetic operators"). The scale of
    NUMBER / NUMBER is the dividend's scale plus 6, capped at 12, but never below the dividend's own. The quotient is
    computed with integers and rounded half away from zero.

    `_ls_any_divide`, for aggregates, returns a DOUBLE rounded to that scale, because a CASE can have only one
    type.
    """
    zero = raised("100051", "22012", "'Division by zero'")

    def rounded(dividend: str, divisor: str) -> str:
        return (
            f"(sign({dividend}) * sign({divisor}))::HUGEINT * "
            f"((2 * abs({dividend}) + abs({divisor})) // (2 * abs({divisor})))"
        )

    def guarded(body: str) -> str:
        return f"CASE WHEN a IS NULL OR b IS NULL THEN NULL WHEN b = 0 THEN {zero} ELSE {body} END"

    # Twenty digits before the decimal point, because DuckDB reduces the scale if a CASE has two DECIMALs of 38 digits.
    whole = (
        f"(({rounded('(a::HUGEINT * 1000000)', 'b::HUGEINT')})::DECIMAL(38,0) "
        "* 0.000001::DECIMAL(7,6))::DECIMAL(26,6)"
    )
    digits = f"coalesce(try_cast({SCALE} AS INTEGER), 0)"
    scale = f"greatest({digits}, least({digits} + 6, 12))"
    tens = f"(CASE {scale} " + " ".join(f"WHEN {n} THEN {10**n}::HUGEINT" for n in range(6, 13)) + " END)"
    dividend, divisor = (
        f"((a * 1000000000000::DECIMAL(13,0))::HUGEINT * {tens})",
        "(b * 1000000000000::DECIMAL(13,0))::HUGEINT",
    )
    exact = (
        f"((({rounded(dividend, divisor)}) * (1000000000000::HUGEINT // {tens}))::DECIMAL(38,0) "
        "* 0.000000000001::DECIMAL(13,12))::DECIMAL(32,12)"
    )
    decimal = "'DECIMAL(%'"
    any_exact = re.sub(r"\b([ab])\b", r"\1::DECIMAL(38,12)", exact)
    no_number = raised(
        "000002",
        "0A000",
        "'MOD or a division of text or a VARIANT. Cast it to a number first.'",
    )
    either = "(typeof(a) IN ('VARCHAR', 'JSON') OR typeof(b) IN ('VARCHAR', 'JSON'))"
    at_once = (
        f"CASE WHEN {either} THEN {no_number} WHEN a IS NULL OR b IS NULL THEN NULL WHEN b::DOUBLE = 0 THEN {zero} "
        "WHEN typeof(a) = 'DOUBLE' OR typeof(b) = 'DOUBLE' THEN a::DOUBLE / b::DOUBLE "
        f"WHEN typeof(a) LIKE {decimal} OR typeof(b) LIKE {decimal} THEN ({any_exact})::DOUBLE "
        f"ELSE ({whole})::DOUBLE END"
    )
    bodies = [
        ("BIGINT", "BIGINT", guarded(whole)),
        ("HUGEINT", "HUGEINT", guarded(whole)),
        ("DECIMAL(38,12)", "DECIMAL(38,12)", guarded(exact)),
        ("DOUBLE", "DOUBLE", guarded("a / b")),
    ]
    variants = ", ".join(f"(a {one}, b {other}, t) AS ({body})" for one, other, body in bodies)
    return (
        f"CREATE OR REPLACE MACRO {HOME}_ls_divide{variants};\n"
        f"CREATE OR REPLACE MACRO {HOME}_ls_any_divide(a, b, t) AS ({at_once});\n"
        f"CREATE OR REPLACE MACRO {HOME}_ls_remainder(a, b) AS "
        f"(CASE WHEN {either} THEN {no_number} ELSE {guarded('a % b')} END);\n"
    )


def function_macros() -> str:
    """Return SQL that defines macros for SUBSTR with a position before the text, for converting a quotient to text, for
    functions for which DuckDB returns NaN or an infinity, and for a value's form within a VARIANT.
    """
    scale = f"coalesce(try_cast({SCALE.replace('(t,', '(typeof(a),')} AS INTEGER), 0)"
    infinite = raised("000002", "0A000", "name || ' with the result ' || made")
    return f"""
CREATE OR REPLACE MACRO {HOME}_ls_substr(made, x, start) AS (
    CASE WHEN start < -length(x) THEN left(made, 0) ELSE made END);
CREATE OR REPLACE MACRO {HOME}_ls_quotient_text(x, a, b) AS (
    CASE WHEN typeof(a) = 'DOUBLE' OR typeof(b) = 'DOUBLE' THEN {HOME}_ls_any_text(x)
    WHEN typeof(x) LIKE 'DECIMAL%' THEN left(x::VARCHAR,
        length(x::VARCHAR) - {scale.replace("typeof(a)", "typeof(x)")} + greatest({scale}, least({scale} + 6, 12)))
    ELSE format('{{:.' || greatest({scale}, least({scale} + 6, 12)) || 'f}}', x) END);
CREATE OR REPLACE MACRO {HOME}_ls_finite(made, name) AS (
    CASE WHEN isfinite(made::DOUBLE) OR made IS NULL THEN made ELSE {infinite} END);
CREATE OR REPLACE MACRO {HOME}_ls_as_variant(x) AS (CASE WHEN x IS NULL THEN NULL
    WHEN typeof(x) LIKE 'TIMESTAMP%' THEN to_json({HOME}_ls_any_text(x)) ELSE to_json(x) END);
"""


def json_macros() -> str:
    """Return SQL that defines PARSE_JSON and TRY_PARSE_JSON for strings that are known only at run time. The keys of
    each object are sorted.

    `json_tree` returns one row per value. The path of a value is the list of the keys and indexes that lead
    to it. If the parts of the text are sorted by path, they are in the right order, because a closing bracket
    sorts after everything inside it.
    """
    invalid = raised("100069", "22P02", "'Error parsing JSON: ' || left(x, 100)")
    twice = raised(
        "100069", "22P02", "'Error parsing JSON: duplicate object attribute ' || to_json(key)::VARCHAR"
    )
    return rf"""
CREATE OR REPLACE MACRO {HOME}_ls_place(fullkey) AS list_transform(
    regexp_extract_all(fullkey, '\."(?:[^"\\]|\\.)*"|\.[^.\["]+|\[\d+\]'),
    s -> CASE WHEN s[1] = '[' THEN lpad(s[2:-2], 12, '0') WHEN s[2] = '"' THEN (s[2:])::JSON->>'$' ELSE s[2:] END);
CREATE OR REPLACE MACRO {HOME}_ls_in_order(x) AS (
    SELECT string_agg(part, '' ORDER BY place)::JSON FROM (
        SELECT
            unnest([place, list_append(place, chr(1114111))]) AS place,
            unnest([
                CASE WHEN lag(place) OVER siblings = place THEN {twice} WHEN row_number() OVER siblings > 1 THEN ','
                    ELSE '' END
                    || CASE WHEN fullkey[-1] = ']' OR fullkey = '$' THEN '' ELSE to_json(key)::VARCHAR || ':' END
                    || CASE type WHEN 'OBJECT' THEN '{{' WHEN 'ARRAY' THEN '[' ELSE value::VARCHAR END,
                CASE type WHEN 'OBJECT' THEN '}}' WHEN 'ARRAY' THEN ']' ELSE '' END
            ]) AS part
        FROM (SELECT *, {HOME}_ls_place(fullkey) AS place FROM json_tree(x))
        WINDOW siblings AS (PARTITION BY parent ORDER BY place)
    )
);
CREATE OR REPLACE MACRO {HOME}_ls_parse_json(x) AS ({HOME}_ls_in_order(
    CASE WHEN x IS NULL OR trim(x) = '' THEN NULL WHEN try_cast(x AS JSON) IS NULL THEN {invalid}::JSON
        ELSE try_cast(x AS JSON) END));
CREATE OR REPLACE MACRO {HOME}_ls_try_parse_json(x) AS ({HOME}_ls_in_order(try_cast(x AS JSON)));
"""


def creation_sql() -> str:
    parts = (
        json_macros,
        number_families,
        time_families,
        text_macros,
        any_macros,
        variant_macros,
        division_macros,
        function_macros,
    )
    return "".join(part() for part in parts)


def error_of(message: str) -> SnowflakeError | None:
    """Return the Snowflake error that a macro raised, parsed from DuckDB's message; None if no macro raised
    the error.
    """
    found = ERROR.search(message)
    if found is None:
        return None
    code, state, text = found.groups()
    text = text.splitlines()[0]
    if code == "000002":
        text = f"Not supported by the local Snowflake: {text}"
    return SnowflakeError(code, state, text)
