-- The devices, days and hours of receipt of this run's rows, and of the known contents that conflict with them or that
-- they may replace.
{{ config(materialized='table') }}

WITH touched AS (

    SELECT
        event_key,
        MAX(IFF(has_conflict OR NOT is_known, 1, 0)) = 1 AS is_changed
    FROM {{ ref('touched_events') }}
    GROUP BY event_key

)

SELECT DISTINCT
    IFF(arrived.invalid_code IS NULL, arrived.event_date, NULL) AS event_date,
    arrived.device_id,
    arrived.received_hour,
    -- Whether the content used in stg_events may have changed; a mere repetition changes nothing.
    COALESCE(touched.is_changed, arrived.invalid_code IS NULL) AS is_changed
FROM {{ ref('new_events') }} AS arrived
LEFT JOIN touched ON arrived.event_key = touched.event_key
UNION
SELECT
    event_date,
    device_id,
    received_hour,
    has_conflict AS is_changed
FROM {{ ref('touched_events') }}
WHERE has_conflict OR may_replace
