-- With this table, duplicates are found however old the first delivery is. A run reads every row of it
-- (repeated_events reads `key_head` and `event_date`), so it is narrow and must stay so.
{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['event_date'],
    meta={'restates': 'ledger'}
) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('new_events') }}
-- depends_on: {{ ref('typed_events') }}
-- depends_on: {{ ref('touched_events') }}

WITH arrived AS (

    SELECT
        event_key,
        content_hash,
        event_date,
        received_hour,
        MAX(read_through) AS read_through
    FROM {{ arrivals() }}
    GROUP BY event_key, content_hash, event_date, received_hour

)

SELECT
    {{ key_head('arrived.event_key') }} AS key_head,
    arrived.event_key,
    arrived.content_hash,
    arrived.event_date,
    arrived.received_hour,
    arrived.read_through
FROM arrived
{% if is_incremental() %}
    LEFT JOIN {{ ref('touched_events') }} AS known
        ON
            arrived.event_key = known.event_key
            AND arrived.content_hash = known.content_hash
            AND arrived.received_hour = known.received_hour
            AND known.is_in_ledger
    WHERE known.event_key IS NULL
{% endif %}
