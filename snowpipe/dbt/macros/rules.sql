{# An RFC 3339 text as a UTC timestamp, cut to microseconds as the consumer cuts it; null for what is none. #}
{% macro instant(text) -%}
    CONVERT_TIMEZONE(
        'UTC', TRY_CAST(REGEXP_REPLACE(UPPER({{ text }}), '([.][0-9]{6})[0-9]+', '\\1') AS TIMESTAMP_TZ)
    )::TIMESTAMP_NTZ
{%- endmacro %}

{# enter, dwell or exit; null for what is no geofence event. #}
{% macro crossing_kind(type) -%}
    CASE {{ type }}
        {% for name, kind in var('geofence_kinds').items() %}WHEN '{{ name }}' THEN '{{ kind }}' {% endfor %}
    END
{%- endmacro %}

{# One key for several texts. Lengths keep ('a', 'bc') from ('ab', 'c'), whatever characters a client sends. #}
{% macro key_of(columns) -%}
    MD5({% for column in columns %}LENGTH({{ column }}) || ':' || {{ column }}{{ " || " if not loop.last }}{% endfor %})
{%- endmacro %}

{# What an incremental run reads of its source: all that is as new as its newest row, less the look-back. #}
{% macro newly_loaded(column, model, watermark) -%}
    {{ column }} >= (
        SELECT COALESCE(DATEADD('minute', -{{ var('lookback_minutes') }}, MAX({{ watermark }})), '1970-01-01'::TIMESTAMP_LTZ)
        FROM {{ model }}
    )
{%- endmacro %}

{# What tells two contents of one event id apart. #}
{% macro content_hash(payload) -%} MD5(TO_JSON({{ payload }})) {%- endmacro %}

{# The litres that a pickup says, null where they cannot be: one phone must not make a farm's sum NaN or negative. #}
{% macro litres(metadata) -%}
    IFF(
        TRY_CAST({{ metadata }}:litres::VARCHAR AS FLOAT) BETWEEN 0 AND {{ var('max_litres') }},
        TRY_CAST({{ metadata }}:litres::VARCHAR AS FLOAT), NULL
    )
{%- endmacro %}

{# Fences where milk is collected. #}
{% macro is_collection(tag) -%}
    {{ tag }} IN ({% for name in var('collection_tags') %}'{{ name }}'{{ ", " if not loop.last }}{% endfor %})
{%- endmacro %}
