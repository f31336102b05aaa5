-- Set once at the start of a run and used by the other models and tests, so that rows loaded meanwhile wait for the next
-- run. `read_from` is earlier than the last complete run's mark, because Snowpipe commits files in any order.
{{ config(materialized='table') }}

{%- set completed = completed_run() %}
{%- set newer = 'scanned_at > ' ~ time_in(completed, 'scanned_through') if completed else 'TRUE' %}

SELECT
    GREATEST(
        {% if completed %}
            -- This run's mark is always later than the last complete run's, even if Snowflake began to load all new
            -- rows earlier, because the earlier mark separates the rows of the two runs.
            (SELECT DATEADD('microsecond', 1, scanned_through) FROM {{ completed }}),
        {% endif %}
        COALESCE((SELECT MAX(scanned_at) FROM {{ source('raw', 'events') }} WHERE {{ newer }}), {{ epoch() }}),
        COALESCE((SELECT MAX(scanned_at) FROM {{ source('raw', 'rejected') }} WHERE {{ newer }}), {{ epoch() }})
    ) AS scanned_through,
    {% if completed %}
        (
            SELECT DATEADD('minute', -{{ var('lookback_minutes') }}, scanned_through) FROM {{ completed }}
        ) AS read_from,
        (SELECT scanned_through FROM {{ completed }}) AS completed_through
    {% else %}
        {{ epoch() }} AS read_from,
        {{ epoch() }} AS completed_through
    {% endif %}
