{# A text as a UTC timestamp, truncated to microseconds as in the consumer; null if it is not a time with an offset.
   The accepted forms are those of contract/instants.py. For TRY_CAST, all are converted to one form: with a T, seconds
   and an offset +HH:MM or Z. #}
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

{# The hour in which an object was received, from its key; for a key without an hour, the time by S3's clock. #}
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

{# Whether the time `moment` of a phone is plausible: within the handler's bounds around the hour of receipt. #}
{% macro is_plausible(moment, received_hour) -%}
    {{ moment }} BETWEEN DATEADD('day', -{{ var('max_age_days') }}, {{ received_hour }})
    AND DATEADD('hour', {{ var('max_hours_ahead') + 1 }}, {{ received_hour }})
{%- endmacro %}

{# A JSON number, or a text that contains one, between two bounds; null otherwise. A pattern is matched first, because
   engines cast texts differently. It excludes NaN from sums, and the bounds exclude Infinity. #}
{% macro number(text, least, most) -%}
    IFF(
        REGEXP_LIKE({{ text }}, '^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$')
        AND TRY_CAST({{ text }} AS FLOAT) BETWEEN {{ least }} AND {{ most }},
        TRY_CAST({{ text }} AS FLOAT), NULL
    )
{%- endmacro %}

{# A JSON boolean, or a common text or number for one, as a BOOLEAN; null otherwise. #}
{% macro truth(text) -%}
    CASE
        WHEN LOWER({{ text }}) IN ('true', 't', 'yes', 'y', 'on', '1') THEN TRUE
        WHEN LOWER({{ text }}) IN ('false', 'f', 'no', 'n', 'off', '0') THEN FALSE
    END
{%- endmacro %}

{# enter, dwell or exit; null for other events. #}
{% macro crossing_kind(type) -%}
    CASE {{ type }}
        {% for name, kind in var('geofence_kinds').items() %}WHEN '{{ name | replace("'", "''") }}' THEN '{{ kind }}' {% endfor %}
    END
{%- endmacro %}

{# One key for several texts, hashed with their lengths, so that ('a', 'bc') and ('ab', 'c') have different keys. #}
{% macro key_of(columns) -%}
    MD5({% for column in columns %}LENGTH({{ column }}) || ':' || {{ column }}{{ " || " if not loop.last }}{% endfor %})
{%- endmacro %}

{# The identity of an event: its device (or its user if there is none) and its id (contract/events.py, `Owned`). #}
{% macro event_key(device_id, user_id, event_id) -%}
    {{ key_of(["IFF(" ~ device_id ~ " IS NULL, 'u', 'd')", "COALESCE(" ~ device_id ~ ", " ~ user_id ~ ")", event_id]) }}
{%- endmacro %}

{# The first 64 bits of an event's key: half as wide, and in practice different for any two events. #}
{% macro key_head(event_key) -%} LEFT({{ event_key }}, 16) {%- endmacro %}

{# A hash that distinguishes events with the same id but different contents. #}
{% macro content_hash(payload) -%} MD5(TO_JSON({{ payload }})) {%- endmacro %}

{# The litres of a pickup; null outside the bounds, so that no phone can make a farm's sum NaN or negative. #}
{% macro litres(metadata) -%} {{ number(metadata ~ ':litres::VARCHAR', 0, var('max_litres')) }} {%- endmacro %}

{# Whether a column's value is in a list of strings from a dbt variable. False if the list is empty, because SQL has no
   empty list. #}
{% macro is_one_of(column, names) -%}
    {%- if names -%}
        {{ column }} IN ({% for name in names %}'{{ name | replace("'", "''") }}'{{ ", " if not loop.last }}{% endfor %})
    {%- else -%} FALSE
    {%- endif -%}
{%- endmacro %}

{# Whether milk is collected at fences with this tag. #}
{% macro is_collection(tag) -%} {{ is_one_of(tag, var('collection_tags')) }} {%- endmacro %}
