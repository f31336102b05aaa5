-- Finds duplicates at any distance in time, and is the only table that a run reads completely. It must stay narrow for
-- that reason.
{{ config(materialized='incremental', incremental_strategy='append') }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('new_events') }}
-- depends_on: {{ ref('typed_events') }}

WITH arrived AS (

    SELECT
        event_key,
        content_hash,
        event_date,
        received_hour
    FROM {{ arrivals() }}
    GROUP BY event_key, content_hash, event_date, received_hour

)

SELECT
    arrived.event_key,
    arrived.content_hash,
    arrived.event_date,
    arrived.received_hour,
    {{ mark('scanned_through') }} AS read_through
FROM arrived
{% if is_incremental() %}
    LEFT JOIN {{ this }} AS known
        ON
            arrived.event_key = known.event_key
            AND arrived.content_hash = known.content_hash
            AND arrived.received_hour = known.received_hour
    WHERE known.event_key IS NULL
{% endif %}
