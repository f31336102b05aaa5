-- This run's events that may already be in the ledger (`known_date` is the day of the content there), and those that
-- arrived with different contents. The only scan of the whole ledger reads just the columns key_head and event_date.
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}

{%- set ledger = ledger_before() %}

WITH arrived AS (

    SELECT
        event_key,
        {{ key_head('event_key') }} AS key_head,
        device_id,
        content_hash,
        event_date,
        received_hour
    FROM {{ ref('new_events') }}
    WHERE event_key IS NOT NULL
    GROUP BY event_key, device_id, content_hash, event_date, received_hour

),

known AS (

    {% if ledger %}
        SELECT DISTINCT
            key_head,
            event_date AS known_date
        FROM {{ ledger }}
        WHERE key_head IN (SELECT key_head FROM arrived)
    {% else %}
        SELECT
            '' AS key_head,
            NULL::DATE AS known_date
    {% endif %}

)

SELECT
    arrived.event_key,
    arrived.device_id,
    arrived.content_hash,
    arrived.event_date,
    arrived.received_hour,
    known.known_date
FROM arrived
LEFT JOIN known ON arrived.key_head = known.key_head
QUALIFY
    known.known_date IS NOT NULL
    OR MIN(arrived.content_hash) OVER (PARTITION BY arrived.event_key)
    <> MAX(arrived.content_hash) OVER (PARTITION BY arrived.event_key)
