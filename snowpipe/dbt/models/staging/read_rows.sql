-- The rows within the look-back that complete runs have read, so that the next run does not read them again. Built
-- after completed_run, so that a run that fails in between makes the next run read too many rows, never too few.
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('completed_run') }}

{%- set completed_through = time_in(ref('completed_run'), 'scanned_through') %}
{%- set oldest = "DATEADD('minute', -" ~ var('lookback_minutes') ~ ", " ~ completed_through ~ ")" %}
{%- set before = adapter.get_relation(this.database, this.schema, this.identifier) if execute and not reads_everything() %}

SELECT
    file_name,
    file_row_number,
    scanned_at
FROM {{ ref('new_events') }}
WHERE scanned_at > {{ oldest }} AND {{ mark('scanned_through') }} = {{ completed_through }}
{% if before %}
    UNION
    SELECT
        file_name,
        file_row_number,
        scanned_at
    FROM {{ before }}
    WHERE scanned_at > {{ oldest }}
{% endif %}
