WITH visits AS (

    SELECT
        visit_key,
        entered_at,
        LAG(exited_at) OVER (PARTITION BY device_fence_key ORDER BY entered_at, entered_event_id) AS exited_before_at
    FROM {{ ref('geofence_visits') }}
    WHERE {{ restated_part('geofence_visits') }}

)

SELECT visit_key
FROM visits
WHERE entered_at <= DATEADD('second', {{ var('merge_gap_seconds') }}, exited_before_at)
