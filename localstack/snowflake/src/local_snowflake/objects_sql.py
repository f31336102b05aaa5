"""DuckDB macros for FLATTEN and OBJECT_CONSTRUCT. They are created in each database and replace fakesnow's macros,
which return wrong results or fail in some cases.
"""

from local_snowflake.sql import quoted

FLATTEN = r"""
CREATE OR REPLACE MACRO {catalog}._fs_flatten(input) AS TABLE
    SELECT (hash(to_json(input)) >> 1)::BIGINT AS SEQ,
        CASE json_type(to_json(input)) WHEN 'OBJECT' THEN e.key END AS KEY,
        CASE WHEN json_type(to_json(input)) = 'ARRAY' THEN '[' || e.key || ']'
            WHEN regexp_full_match(e.key, '[A-Za-z_][A-Za-z0-9_$]*') THEN e.key
            ELSE '[''' || e.key || ''']' END AS PATH,
        CASE json_type(to_json(input)) WHEN 'ARRAY' THEN e.key::BIGINT END AS INDEX,
        e.value AS VALUE,
        to_json(input) AS THIS
    FROM json_each(to_json(input)) AS e
    WHERE json_type(to_json(input)) IN ('OBJECT', 'ARRAY');
CREATE OR REPLACE MACRO {catalog}._local_flatten_outer(input) AS TABLE
    SELECT * FROM {catalog}.main._fs_flatten(input)
    UNION ALL
    SELECT (hash(to_json(input)) >> 1)::BIGINT, NULL::VARCHAR, NULL::VARCHAR, NULL::BIGINT, NULL::JSON,
           to_json(input)
    WHERE coalesce(CASE json_type(to_json(input))
        WHEN 'OBJECT' THEN len(json_keys(to_json(input)))
        WHEN 'ARRAY' THEN json_array_length(to_json(input)) END, 0) = 0
"""
"""The macros for FLATTEN without and with OUTER. `_fs_flatten` replaces fakesnow's macro, which returns a JSON null in
an array as NULL, treats a name that starts with a slash or a dollar sign as a path, and fails for a VARIANT that is
neither an array nor an object."""

OBJECT_CONSTRUCT = """
CREATE OR REPLACE MACRO {catalog}._fs_object_construct(keys, vals, keep_nulls) AS (
    SELECT ('{{' || coalesce(string_agg(
        to_json(key)::VARCHAR || ':' || coalesce(list_extract(vals, idx)::VARCHAR, 'null'), ',' ORDER BY key), '')
        || '}}')::JSON
    FROM unnest(keys) WITH ORDINALITY AS u(key, idx)
    WHERE key IS NOT NULL AND (keep_nulls OR list_extract(vals, idx) IS NOT NULL)
);
"""
"""Replaces fakesnow's macro for OBJECT_CONSTRUCT in order to sort the keys."""


def macros_of(database: str) -> str:
    return (FLATTEN + ";" + OBJECT_CONSTRUCT).format(catalog=quoted(database))
