-- Set once at the start of a run and read by every other model and test, so that what Snowpipe loads meanwhile waits
-- for the next run. `read_from` goes back behind the last complete run: Snowpipe commits files in any order.
{{ config(materialized='table') }}

{%- set completed = completed_run() %}

SELECT
    GREATEST(
        {% if completed %}
            -- Always behind the last complete run's mark: what this run reads for the first time is told from what
            -- that one read by it, also where all of it began to be read earlier.
            (SELECT DATEADD('microsecond', 1, scanned_through) FROM {{ completed }}),
        {% endif %}
        COALESCE((SELECT MAX(scanned_at) FROM {{ source('raw', 'events') }}), '1970-01-01'::TIMESTAMP_LTZ),
        COALESCE((SELECT MAX(scanned_at) FROM {{ source('raw', 'rejected') }}), '1970-01-01'::TIMESTAMP_LTZ)
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
