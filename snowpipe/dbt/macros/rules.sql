{# A text as a UTC timestamp, cut to microseconds as the consumer cuts it; null for what is no time with an offset.
   Forms and pattern are those of contract/instants.py. All become one that TRY_CAST reads: a T, seconds, +HH:MM. #}
{% macro instant(text) -%}
    {%- set upper -%} REPLACE(REPLACE(UPPER({{ text }}), ',', '.'), '−', '-') {%- endset -%}
    {%- set time -%}
        REGEXP_REPLACE(REPLACE(SUBSTR({{ upper }}, 12), ' ', ''), '^([0-9]{2}:[0-9]{2})([-+Z])', '\\1:00\\2')
    {%- endset -%}
    {%- set cut -%} REGEXP_REPLACE({{ time }}, '([.][0-9]{6})[0-9]+', '\\1') {%- endset -%}
    {%- set offset -%}
        REGEXP_REPLACE(REGEXP_REPLACE({{ cut }}, '([-+][0-9]{2})([0-9]{2})$', '\\1:\\2'), '([-+][0-9]{2})$', '\\1:00')
    {%- endset -%}
    IFF(
        REGEXP_LIKE(
            {{ text }},
            '^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?'
            || ' ?([Zz]|[-+−]([01][0-9]|2[0-3])(:?[0-5][0-9])?)$'
        ),
        CONVERT_TIMEZONE(
            'UTC', TRY_CAST(SUBSTR({{ text }}, 1, 10) || 'T' || {{ offset }} AS TIMESTAMP_TZ)
        )::TIMESTAMP_NTZ,
        NULL
    )
{%- endmacro %}

{# The hour in which an object was received, by its key; a key that does not say so leaves S3's clock. #}
{% macro received_hour(file_name, file_modified_at) -%}
    COALESCE(
        TRY_CAST(
            REGEXP_REPLACE(
                REGEXP_SUBSTR({{ file_name }}, 'dt=[0-9]{4}-[0-9]{2}-[0-9]{2}/hh=[0-9]{2}/'),
                'dt=(.{10})/hh=(.{2})/', '\\1 \\2:00:00'
            ) AS TIMESTAMP_NTZ
        ),
        {{ file_modified_at }}
    )
{%- endmacro %}

{# Whether a phone's clock is believed: the handler's own bounds, counted from the hour of receipt. #}
{% macro is_plausible(moment, received_hour) -%}
    {{ moment }} BETWEEN DATEADD('day', -{{ var('max_age_days') }}, {{ received_hour }})
    AND DATEADD('hour', {{ var('max_hours_ahead') + 1 }}, {{ received_hour }})
{%- endmacro %}

{# A JSON number, or a text that is one, between two bounds; null otherwise. Texts are matched first, because engines
   differ in what they cast, and the bounds keep NaN and Infinity out of every sum. #}
{% macro number(text, least, most) -%}
    IFF(
        REGEXP_LIKE({{ text }}, '^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$')
        AND TRY_CAST({{ text }} AS FLOAT) BETWEEN {{ least }} AND {{ most }},
        TRY_CAST({{ text }} AS FLOAT), NULL
    )
{%- endmacro %}

{# true, false, or a text or number that is usual for one of them; null otherwise. #}
{% macro truth(text) -%}
    CASE
        WHEN LOWER({{ text }}) IN ('true', 't', 'yes', 'y', 'on', '1') THEN TRUE
        WHEN LOWER({{ text }}) IN ('false', 'f', 'no', 'n', 'off', '0') THEN FALSE
    END
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

{# What tells events apart: whose it is, a device's or else a user's, and its id (contract/events.py, `Owned`). #}
{% macro event_key(device_id, user_id, event_id) -%}
    {{ key_of(["IFF(" ~ device_id ~ " IS NULL, 'u', 'd')", "COALESCE(" ~ device_id ~ ", " ~ user_id ~ ")", event_id]) }}
{%- endmacro %}

{# What tells two contents of one event id apart. #}
{% macro content_hash(payload) -%} MD5(TO_JSON({{ payload }})) {%- endmacro %}

{# The litres that a pickup says; one phone must not make a farm's sum NaN or negative. #}
{% macro litres(metadata) -%} {{ number(metadata ~ ':litres::VARCHAR', 0, var('max_litres')) }} {%- endmacro %}

{# Fences where milk is collected. #}
{% macro is_collection(tag) -%}
    {{ tag }} IN ({% for name in var('collection_tags') %}'{{ name }}'{{ ", " if not loop.last }}{% endfor %})
{%- endmacro %}
