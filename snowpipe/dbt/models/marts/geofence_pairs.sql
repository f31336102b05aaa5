{{ config(materialized='table') }}

WITH events AS (

    SELECT
        device_fence_key,
        MAX(device_id) AS device_id,
        MAX(geofence_tag) AS geofence_tag,
        MAX(geofence_external_id) AS geofence_external_id,
        COUNT_IF(kind = 'enter') AS enters,
        COUNT_IF(kind = 'dwell') AS dwells,
        COUNT_IF(kind = 'exit') AS exits
    FROM {{ ref('stg_geofence_events') }}
    WHERE COALESCE(confidence, 3) >= {{ var('min_confidence') }}
    GROUP BY device_fence_key

),

visits AS (

    SELECT
        device_fence_key,
        COUNT(*) AS visits,
        COUNT_IF(exit_missed) AS missed_exits,
        COUNT_IF(is_there_now) AS open_visits,
        SUM(crossings) - COUNT_IF(exited_at IS NULL) AS closing_exits
    FROM {{ ref('geofence_visits') }}
    GROUP BY device_fence_key

)

SELECT
    events.device_fence_key,
    events.device_id,
    events.geofence_tag,
    events.geofence_external_id,
    events.enters,
    events.dwells,
    events.exits,
    COALESCE(visits.visits, 0) AS visits,
    COALESCE(visits.missed_exits, 0) AS missed_exits,
    COALESCE(visits.open_visits, 0) AS open_visits,
    (events.exits - COALESCE(visits.closing_exits, 0))::INTEGER AS orphan_exits
FROM events
LEFT JOIN visits ON events.device_fence_key = visits.device_fence_key
