SELECT device_fence_key
FROM {{ ref('geofence_visits') }}
WHERE is_there_now AND {{ restated_part('geofence_visits') }}
GROUP BY device_fence_key
HAVING COUNT(*) > 1
