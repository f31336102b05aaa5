-- Set once at the start of a run and used by every other model and test, so that rows loaded meanwhile wait for the next
-- run. `read_from` is before the last complete run's mark, because Snowpipe commits files in any order.
{{ config(materialized='table') }}

{%- set completed = completed_run() %}
{%- set newer = 'scanned_at > ' ~ time_in(completed, 'scanned_through') if completed else 'TRUE' %}

SELECT
    GREATEST(
        {% if completed %}
            -- Always after the last complete run's mark, which separates the rows of this run from those of that
            -- one, even if loading of all new rows began earlier.
            (SELECT DATEADD('microsecond', 1, scanned_through) FROM {{ completed }}),
        {% endif %}
        COALESCE((SELECT MAX(scanned_at) FROM {{ source('raw', 'events') }} WHERE {{ newer }}), '1970-01-01'::TIMESTAMP_LTZ),
        COALESCE((SELECT MAX(scanned_at) FROM {{ source('raw', 'rejected') }} WHERE {{ newer }}), '1970-01-01'::TIMESTAMP_LTZ)
    ) AS scanned_through,
    {% if completed %}
        (
            SELECT DATEADD('minute', -{{ var('lookback_minutes') }}, scanned_through) FROM {{ completed }}
        ) AS read_from,
        (SELECT scanned_through FROM {{ completed }}) AS completed_through
    {% else %}
        '1970-01-01'::TIMESTAMP_LTZ AS read_from,
        '1970-01-01'::TIMESTAMP_LTZ AS completed_through
    {% endif %}
